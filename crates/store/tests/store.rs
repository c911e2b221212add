//! The life of an artifact: it is made, found, replaced, damaged and removed.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Seek, SeekFrom, Write};

use hemlock_store::{
    Artifact, Identity, InputRecord, Keep, Key, Lock, Manifest, ManifestDraft, PayloadReader, PayloadWriter, Remains,
    Result, Store, StoreErrorKind,
};
use serde_json::json;
use tempfile::TempDir;

#[derive(Debug, PartialEq)]
struct Numbers(Vec<f32>);

impl Artifact for Numbers {
    const KIND: &'static str = "numbers";

    fn write(&self, writer: &mut PayloadWriter) -> Result<()> {
        writer.array("all", &[self.0.len()], &self.0)
    }

    fn read(reader: &PayloadReader) -> Result<Self> {
        Ok(Self(reader.array("all")?.data))
    }
}

fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path().join("store"));
    (dir, store)
}

fn identity(seed: u64) -> Identity {
    Identity {
        stage: "target-params".into(),
        stage_version: 1,
        params: json!({ "radius": 0.1, "tiny": 1e-20 }),
        seed: Some(seed),
        source: None,
        inputs: BTreeMap::from([("data".into(), Key::new([1; 16]))]),
    }
}

fn about(identity: &Identity, pipeline: &str) -> ManifestDraft {
    let record = |(role, key): (&String, &Key)| {
        let content = blake3::hash(b"data").into();
        (role.clone(), InputRecord { stage: "dataset".into(), key: *key, content })
    };
    ManifestDraft {
        identity: identity.clone(),
        inputs: identity.inputs.iter().map(record).collect(),
        device: "cpu".into(),
        deterministic: true,
        hemlock_version: "0.1.0".into(),
        pipeline: pipeline.into(),
        seconds: 1.25,
        summary: json!({ "mean": 0.1, "note": "a\u{1f}b" }),
    }
}

fn lock(store: &Store, identity: &Identity) -> Lock {
    store.lock(&identity.stage, &identity.key(), || panic!("the lock is free")).unwrap()
}

fn publish(store: &Store, identity: &Identity, pipeline: &str, numbers: &[f32]) -> Manifest {
    let lock = lock(store, identity);
    let mut draft = lock.begin().unwrap();
    draft.write(&Numbers(numbers.to_vec())).unwrap();
    draft.publish(about(identity, pipeline)).unwrap()
}

fn find(store: &Store, identity: &Identity) -> Result<Option<Manifest>> {
    store.lookup(&identity.stage, &identity.key())
}

#[test]
fn what_is_published_is_found() {
    let (_dir, store) = store();
    let identity = identity(1);
    assert_eq!(find(&store, &identity).unwrap(), None);
    assert_eq!(store.verify("target-params", &identity.key()).unwrap_err().kind(), StoreErrorKind::Missing);

    let published = publish(&store, &identity, "one", &[1.0, 2.0]);
    assert_eq!(find(&store, &identity).unwrap().as_ref(), Some(&published));
    assert_eq!(store.verify("target-params", &identity.key()).unwrap(), published);
    assert_eq!(store.read::<Numbers>(&published).unwrap(), Numbers(vec![1.0, 2.0]));
    assert_eq!(published.files["all"].bytes, 136);
    assert_eq!(fs::read_dir(store.root().join(".partial")).unwrap().count(), 0);
}

#[test]
fn equal_contents_have_equal_digests() {
    let (_dir, store) = store();
    let first = publish(&store, &identity(1), "one", &[1.0]);
    let second = publish(&store, &identity(2), "two", &[1.0]);
    let third = publish(&store, &identity(3), "two", &[2.0]);
    assert_eq!(first.content, second.content);
    assert_ne!(first.content, third.content);
}

#[test]
fn an_older_artifact_is_replaced() {
    let (_dir, store) = store();
    let identity = identity(1);
    publish(&store, &identity, "one", &[1.0]);
    let lock = lock(&store, &identity);
    let mut draft = lock.begin().unwrap();
    draft.write(&Numbers(vec![2.0])).unwrap();
    let before = find(&store, &identity).unwrap().unwrap();
    assert_eq!(store.read::<Numbers>(&before).unwrap(), Numbers(vec![1.0]));
    draft.publish(about(&identity, "one")).unwrap();
    let after = find(&store, &identity).unwrap().unwrap();
    assert_eq!(store.read::<Numbers>(&after).unwrap(), Numbers(vec![2.0]));
    assert_eq!(store.read::<Numbers>(&before).unwrap_err().kind(), StoreErrorKind::Corrupt);
    assert_eq!(fs::read_dir(store.root().join(".partial")).unwrap().count(), 0);
}

#[test]
fn a_dropped_draft_leaves_nothing() {
    let (_dir, store) = store();
    let identity = identity(1);
    let lock = lock(&store, &identity);
    lock.save_checkpoint(b"half way").unwrap();
    let mut draft = lock.begin().unwrap();
    draft.write(&Numbers(vec![1.0])).unwrap();
    drop(draft);
    assert_eq!(find(&store, &identity).unwrap(), None);
    assert!(store.list().unwrap().is_empty());
    let scratch = store.root().join(".partial").join(format!("target-params-{}", identity.key()));
    assert_eq!(fs::read_dir(scratch).unwrap().count(), 1, "only the checkpoint");
    assert_eq!(lock.load_checkpoint().unwrap().unwrap(), b"half way");
}

/// What a crash in the middle of an attempt leaves must not get into the next attempt.
#[test]
fn leftovers_are_not_published() {
    let (_dir, store) = store();
    let identity = identity(1);
    let lock = lock(&store, &identity);
    let mut draft = lock.begin().unwrap();
    draft.writer("numbers").bytes("stray", b"?").unwrap();
    std::mem::forget(draft);
    let mut draft = lock.begin().unwrap();
    draft.write(&Numbers(vec![1.0])).unwrap();
    draft.publish(about(&identity, "one")).unwrap();
    assert!(!store.artifact_dir("target-params", &identity.key()).join("stray").exists());
}

#[test]
fn a_draft_cannot_be_published_as_something_else() {
    let (_dir, store) = store();
    let lock = lock(&store, &identity(1));
    let no_inputs = ManifestDraft { inputs: BTreeMap::new(), ..about(&identity(1), "one") };
    let endless = ManifestDraft { seconds: f64::INFINITY, ..about(&identity(1), "one") };
    for wrong in [about(&identity(2), "one"), no_inputs, endless] {
        assert_eq!(lock.begin().unwrap().publish(wrong).unwrap_err().kind(), StoreErrorKind::Refused);
    }
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn no_stage_leaves_the_store() {
    let (_dir, store) = store();
    let key = identity(1).key();
    for stage in ["..", ".partial", "a/b", "A", ""] {
        assert_eq!(store.lookup(stage, &key).unwrap_err().kind(), StoreErrorKind::Refused, "{stage}");
        assert_eq!(store.lock(stage, &key, || ()).unwrap_err().kind(), StoreErrorKind::Refused, "{stage}");
    }
}

#[test]
fn checkpoints_last_until_the_artifact_is_there() {
    let (_dir, store) = store();
    let identity = identity(1);
    let lock = lock(&store, &identity);
    assert_eq!(lock.load_checkpoint().unwrap(), None);
    lock.save_checkpoint(b"one").unwrap();
    lock.save_checkpoint(b"two").unwrap();
    assert_eq!(lock.load_checkpoint().unwrap().unwrap(), b"two");

    let path = store.root().join(".partial").join(format!("target-params-{}", identity.key())).join("checkpoint");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(lock.load_checkpoint().unwrap(), None);

    lock.save_checkpoint(b"three").unwrap();
    let draft = lock.begin().unwrap();
    draft.publish(about(&identity, "one")).unwrap();
    assert_eq!(lock.load_checkpoint().unwrap(), None);
}

#[test]
fn any_damage_to_a_manifest_is_an_error() {
    let (_dir, store) = store();
    let identity = identity(1);
    publish(&store, &identity, "one", &[1.0]);
    let path = store.artifact_dir("target-params", &identity.key()).join("manifest.json");
    let good = fs::read(&path).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    let put = |at: usize, byte: u8| {
        (&file).seek(SeekFrom::Start(at as u64)).unwrap();
        (&file).write_all(&[byte]).unwrap();
    };
    for bit in 0..good.len() * 8 {
        let at = bit / 8;
        put(at, good[at] ^ 1 << (bit % 8));
        let kind = find(&store, &identity).expect_err(&format!("bit {bit} flipped unnoticed")).kind();
        assert!(matches!(kind, StoreErrorKind::Corrupt | StoreErrorKind::NewerFormat), "bit {bit}");
        put(at, good[at]);
    }
    assert!(find(&store, &identity).unwrap().is_some());
    for len in (0..good.len()).rev() {
        file.set_len(len as u64).unwrap();
        assert_eq!(find(&store, &identity).unwrap_err().kind(), StoreErrorKind::Corrupt, "cut to {len} bytes");
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(find(&store, &identity).unwrap_err().kind(), StoreErrorKind::Missing);
}

/// Edits a manifest and corrects its `check`, as another version of hemlock would.
fn with_format(store: &Store, identity: &Identity, format: &str) {
    let path = store.artifact_dir(&identity.stage, &identity.key()).join("manifest.json");
    let mut fields: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    fields["format"] = format.into();
    fields["novelty"] = json!({ "of": "a later minor" });
    fields.as_object_mut().unwrap().remove("check");
    fields["check"] = blake3::hash(fields.to_string().as_bytes()).to_hex().as_str().into();
    fs::write(&path, serde_json::to_string_pretty(&fields).unwrap() + "\n").unwrap();
}

#[test]
fn a_newer_major_manifest_is_refused_and_a_newer_minor_is_not() {
    let (_dir, store) = store();
    let identity = identity(1);
    publish(&store, &identity, "one", &[1.0]);
    with_format(&store, &identity, "1.9");
    assert_eq!(find(&store, &identity).unwrap().unwrap().format, "1.9");
    with_format(&store, &identity, "2.0");
    assert_eq!(find(&store, &identity).unwrap_err().kind(), StoreErrorKind::NewerFormat);
    with_format(&store, &identity, "0.9");
    assert_eq!(find(&store, &identity).unwrap_err().kind(), StoreErrorKind::Corrupt);
}

#[test]
fn damaged_payloads_are_found_and_can_be_replaced() {
    let (_dir, store) = store();
    let identity = identity(1);
    publish(&store, &identity, "one", &[1.0]);
    let path = store.artifact_dir("target-params", &identity.key()).join("all");
    let good = fs::read(&path).unwrap();

    let mut bad = good.clone();
    bad[130] ^= 4;
    fs::write(&path, bad).unwrap();
    let manifest = find(&store, &identity).unwrap().unwrap();
    assert_eq!(store.verify("target-params", &manifest.key).unwrap_err().kind(), StoreErrorKind::Corrupt);
    assert_eq!(store.read::<Numbers>(&manifest).unwrap_err().kind(), StoreErrorKind::Corrupt);

    fs::write(&path, &good[..130]).unwrap();
    assert_eq!(find(&store, &identity).unwrap_err().kind(), StoreErrorKind::Corrupt);
    fs::remove_file(&path).unwrap();
    assert_eq!(find(&store, &identity).unwrap_err().kind(), StoreErrorKind::Missing);

    publish(&store, &identity, "one", &[1.0]);
    store.verify("target-params", &identity.key()).unwrap();
}

#[test]
fn a_moved_artifact_is_not_taken_for_another() {
    let (_dir, store) = store();
    let (here, there) = (identity(1), identity(2));
    publish(&store, &here, "one", &[1.0]);
    let dir = |i: &Identity| store.artifact_dir(&i.stage, &i.key());
    fs::rename(dir(&here), dir(&there)).unwrap();
    assert_eq!(find(&store, &there).unwrap_err().kind(), StoreErrorKind::Corrupt);
}

#[test]
fn garbage_keeps_what_is_reachable_or_in_use() {
    let (_dir, store) = store();
    let [kept, other, lost, damaged, busy] = [1, 2, 3, 4, 5].map(identity);
    publish(&store, &kept, "one", &[1.0]);
    publish(&store, &other, "two", &[1.0]);
    publish(&store, &lost, "one", &[1.0]);
    publish(&store, &damaged, "one", &[1.0]);
    fs::write(store.artifact_dir("target-params", &damaged.key()).join("manifest.json"), b"{").unwrap();
    lock(&store, &lost).save_checkpoint(b"stale").unwrap();
    lock(&store, &kept).save_checkpoint(b"to be resumed").unwrap();
    let busy_lock = lock(&store, &busy);
    busy_lock.save_checkpoint(b"running").unwrap();
    assert_eq!(store.list().unwrap().iter().filter(|e| e.manifest.is_ok()).count(), 3);

    let reachable = BTreeSet::from([("target-params".to_owned(), kept.key())]);
    let keep = |known: &[&str], only| {
        let known = known.iter().map(|name| (*name).to_owned()).collect();
        Keep { reachable: reachable.clone(), known, only }
    };
    let ids = |keep: &Keep| -> BTreeSet<_> {
        store.garbage(keep).unwrap().iter().map(|g| (g.key, g.what == Remains::Scratch)).collect()
    };
    assert_eq!(ids(&keep(&["one"], true)), BTreeSet::from([(lost.key(), false)]));
    // The artifacts of a pipeline that is not known stay.
    let of_one = [(lost.key(), false), (damaged.key(), false), (lost.key(), true)];
    assert_eq!(ids(&keep(&["one"], false)), BTreeSet::from(of_one));
    let all = keep(&["one", "two"], false);
    assert_eq!(ids(&all), BTreeSet::from(of_one).union(&[(other.key(), false)].into()).copied().collect());

    assert!(store.garbage(&all).unwrap().iter().all(|g| g.bytes > 0 && g.path.is_dir()));
    let other_lock = lock(&store, &other);
    let removal = store.sweep(|| ()).unwrap().remove(&all).unwrap();
    assert_eq!(removal.in_use.iter().map(|g| g.key).collect::<Vec<_>>(), [other.key()]);
    assert_eq!(removal.removed.len(), 3);
    assert!(removal.removed.iter().all(|g| !g.path.exists()));
    drop(other_lock);
    store.sweep(|| ()).unwrap().remove(&all).unwrap();

    assert_eq!(store.list().unwrap().iter().map(|e| e.key).collect::<Vec<_>>(), [kept.key()]);
    assert_eq!(lock(&store, &kept).load_checkpoint().unwrap().unwrap(), b"to be resumed");
    assert_eq!(busy_lock.load_checkpoint().unwrap().unwrap(), b"running");
}

/// A killed attempt leaves half an output, and possibly the older artifact that it was to replace.
#[test]
fn leftovers_of_a_task_that_is_done_are_garbage_and_its_checkpoint_is_not() {
    let (_dir, store) = store();
    let identity = identity(1);
    publish(&store, &identity, "one", &[1.0]);
    let key = identity.key();
    let scratch = store.root().join(".partial").join(format!("target-params-{key}"));
    let killed = || {
        let lock = lock(&store, &identity);
        lock.save_checkpoint(b"half way").unwrap();
        let mut draft = lock.begin().unwrap();
        draft.write(&Numbers(vec![1.0])).unwrap();
        std::mem::forget(draft);
        fs::write(scratch.join("checkpoint.new"), b"half").unwrap();
    };
    let keep = Keep { reachable: [("target-params".to_owned(), key)].into(), ..Keep::default() };
    killed();
    let garbage = store.garbage(&keep).unwrap();
    assert_eq!(garbage.iter().map(|g| (g.what, g.bytes)).collect::<Vec<_>>(), [(Remains::Leftovers, 132 + 4)]);
    store.sweep(|| ()).unwrap().remove(&keep).unwrap();
    assert!(store.garbage(&keep).unwrap().is_empty());
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 1);
    assert_eq!(lock(&store, &identity).load_checkpoint().unwrap().unwrap(), b"half way");

    killed();
    let busy = lock(&store, &identity);
    store.tidy("target-params", &key).unwrap();
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 3, "somebody works on it");
    drop(busy);
    store.tidy("target-params", &key).unwrap();
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 1);
    fs::remove_file(scratch.join("checkpoint")).unwrap();
    store.tidy("target-params", &key).unwrap();
    assert!(!scratch.exists());
    assert_eq!(store.verify("target-params", &key).unwrap().pipeline, "one");
}

/// Several processes add pieces at a time, while nobody works on the whole task, and nobody removes them.
#[test]
fn pieces_are_added_together_and_stay_until_the_artifact_is_there() {
    let (_dir, store) = store();
    let (identity, other) = (identity(1), identity(2));
    let key = identity.key();
    let share = || store.try_shared_lock("target-params", &key).unwrap();
    let (one, two) = (share().unwrap(), share().unwrap());
    one.add_piece(b"one").unwrap();
    two.add_piece(b"two").unwrap();
    two.add_piece(b"two").unwrap();
    assert!(store.try_lock("target-params", &key).unwrap().is_none(), "parts are being computed");
    let keep = Keep { reachable: [("target-params".to_owned(), key)].into(), ..Keep::default() };
    assert!(store.garbage(&Keep::default()).unwrap().is_empty(), "somebody works on it");
    drop((one, two));
    let scratch = store.root().join(".partial").join(format!("target-params-{key}"));
    fs::write(scratch.join("piece-0.new"), b"half").unwrap();
    store.sweep(|| ()).unwrap().remove(&keep).unwrap();
    let whole = lock(&store, &identity);
    assert!(share().is_none(), "somebody works on the whole task");
    let mut pieces = whole.load_pieces().unwrap();
    pieces.sort();
    assert_eq!(pieces, [b"one", b"two"]);
    // A damaged piece is as good as none.
    let piece = fs::read_dir(&scratch).unwrap().next().unwrap().unwrap().path();
    fs::write(piece, b"damaged").unwrap();
    assert_eq!(whole.load_pieces().unwrap().len(), 1);
    drop(whole);
    publish(&store, &identity, "one", &[1.0]);
    assert_eq!(lock(&store, &identity).load_pieces().unwrap(), Vec::<Vec<u8>>::new());
    assert_eq!(lock(&store, &other).load_pieces().unwrap(), Vec::<Vec<u8>>::new());
}

/// Opening one of these files would never end; each is made anew.
#[cfg(unix)]
#[test]
#[expect(clippy::print_stderr, reason = "a thread that hangs leaves no other way to say so")]
fn what_is_no_file_is_refused_unopened() {
    use std::{path::Path, process::Command, sync::mpsc, thread, time::Duration};
    let (_dir, store) = store();
    let identity = identity(1);
    let key = identity.key();
    let put = |name: &str, path: &Path| {
        let _ = fs::remove_file(path).or_else(|_| fs::remove_dir_all(path));
        match name {
            "a fifo" => assert!(Command::new("mkfifo").arg(path).status().unwrap().success()),
            "a folder" => fs::create_dir(path).unwrap(),
            _ => std::os::unix::fs::symlink("/dev/zero", path).unwrap(),
        }
    };
    let in_time = |what: &str, work: &(dyn Fn() + Sync)| {
        let (done, is_done) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                work();
                done.send(()).unwrap();
            });
            if is_done.recv_timeout(Duration::from_secs(20)).is_err() {
                // The thread never ends, so the process must not wait for it.
                eprintln!("hangs at {what}");
                std::process::abort();
            }
        });
    };
    let artifact = store.artifact_dir("target-params", &key);
    for name in ["a fifo", "a folder", "a device"] {
        for file in ["all", "manifest.json"] {
            let manifest = publish(&store, &identity, "one", &[1.0]);
            put(name, &artifact.join(file));
            in_time(name, &|| {
                let e = find(&store, &identity).unwrap_err();
                assert_eq!(e.kind(), StoreErrorKind::Corrupt);
                assert!(e.to_string().contains(&format!("it is {name}, where a file was expected")), "{e}");
                assert_eq!(store.read::<Numbers>(&manifest).is_err(), file == "all");
                assert!(store.list().unwrap()[0].manifest.is_err());
            });
        }
        if name != "a folder" {
            publish(&store, &identity, "one", &[1.0]);
            put(name, &artifact);
            in_time(name, &|| assert_eq!(find(&store, &identity).unwrap_err().kind(), StoreErrorKind::Corrupt));
            store.sweep(|| ()).unwrap().remove(&Keep::default()).unwrap();
            assert!(!artifact.exists());
        }
        publish(&store, &identity, "one", &[1.0]);
        let lock_file = store.root().join(".locks").join(format!("target-params-{key}.lock"));
        put(name, &lock_file);
        in_time(name, &|| {
            assert_eq!(store.try_lock("target-params", &key).unwrap_err().kind(), StoreErrorKind::Refused);
        });
        fs::remove_file(&lock_file).or_else(|_| fs::remove_dir(&lock_file)).unwrap();

        let lock = lock(&store, &identity);
        lock.save_checkpoint(b"half way").unwrap();
        put(name, &store.root().join(".partial").join(format!("target-params-{key}")).join("checkpoint"));
        in_time(name, &|| assert_eq!(lock.load_checkpoint().unwrap(), None));
        lock.begin().unwrap();
        drop(lock);
        store.sweep(|| ()).unwrap().remove(&Keep { known: ["one".to_owned()].into(), ..Keep::default() }).unwrap();
    }
}
