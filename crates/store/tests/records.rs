//! The records of runs. Garbage is what no record names at the time of its removal.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use hemlock_store::{Identity, Keep, ManifestDraft, Record, Store, StoreErrorKind};
use serde_json::json;
use tempfile::TempDir;

fn identity(seed: u64) -> Identity {
    Identity {
        stage: "invert".into(),
        stage_version: 1,
        params: json!({}),
        seed: Some(seed),
        source: None,
        inputs: BTreeMap::new(),
    }
}

/// A store with one artifact per seed.
fn store(seeds: &[u64]) -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path().join("store"));
    for identity in seeds.iter().map(|seed| identity(*seed)) {
        let lock = store.lock("invert", &identity.key(), || panic!("the lock is free")).unwrap();
        let about = ManifestDraft {
            identity,
            inputs: BTreeMap::new(),
            device: "cpu".into(),
            deterministic: true,
            hemlock_version: "0.1.0".into(),
            pipeline: "one".into(),
            seconds: 0.0,
            summary: json!(null),
        };
        lock.begin().unwrap().publish(about).unwrap();
    }
    (dir, store)
}

fn record(spec: &str, seeds: &[u64]) -> Record {
    let tasks = seeds.iter().map(|seed| ("invert".to_owned(), identity(*seed).key())).collect();
    Record { pipeline: "one".to_owned(), spec: PathBuf::from(spec), tasks }
}

/// What a collector keeps that knows the pipeline `one` and reads all records.
fn keep(store: &Store) -> Keep {
    let reachable = store.records().unwrap().into_iter().flat_map(|r| r.tasks).collect();
    Keep { reachable, known: ["one".to_owned()].into(), only: false }
}

fn is_there(store: &Store, seed: u64) -> bool {
    store.lookup("invert", &identity(seed).key()).unwrap().is_some()
}

#[test]
fn a_spec_has_one_record_and_its_last_one_counts() {
    let (_dir, store) = store(&[]);
    assert_eq!(store.records().unwrap(), []);
    store.claim(&record("/a/one.toml", &[1, 2]), || ()).unwrap();
    store.claim(&record("/a/one.toml", &[3]), || ()).unwrap();
    // Another spec may have the same name.
    store.claim(&record("/b/one.toml", &[4]), || ()).unwrap();
    let mut records = store.records().unwrap();
    records.sort_by(|a, b| a.spec.cmp(&b.spec));
    assert_eq!(records, [record("/a/one.toml", &[3]), record("/b/one.toml", &[4])]);
    let sweep = store.sweep(|| ()).unwrap();
    sweep.forget(&records[0]).unwrap();
    assert_eq!(store.records().unwrap(), [record("/b/one.toml", &[4])]);
}

#[test]
fn any_damage_to_a_record_is_an_error() {
    let (_dir, store) = store(&[]);
    store.claim(&record("/a/one.toml", &[1]), || ()).unwrap();
    let folder = store.root().join(".pipelines");
    let path = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let good = fs::read(&path).unwrap();
    let refused = |what: &str| {
        let e = store.records().expect_err(what);
        assert_eq!(e.kind(), StoreErrorKind::Corrupt, "{what}: {e}");
        assert!(e.to_string().contains("run its pipeline again"), "{e}");
    };
    for at in 0..good.len() {
        for bit in [1, 8, 32, 128] {
            let mut bad = good.clone();
            bad[at] ^= bit;
            fs::write(&path, bad).unwrap();
            refused(&format!("bit {bit} of byte {at} flipped unnoticed"));
        }
        fs::write(&path, &good[..at]).unwrap();
        refused(&format!("cut to {at} bytes"));
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    refused("a folder");
    fs::remove_dir(&path).unwrap();
    store.claim(&record("/a/one.toml", &[1]), || ()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), good);
}

/// A run finds an artifact after garbage was listed and before it is removed.
#[test]
fn what_a_run_recorded_meanwhile_is_no_garbage() {
    let (_dir, store) = store(&[1, 2]);
    assert_eq!(store.garbage(&keep(&store)).unwrap().len(), 2);
    drop(store.claim(&record("/a/one.toml", &[1]), || ()).unwrap());
    let sweep = store.sweep(|| ()).unwrap();
    let removal = sweep.remove(&keep(&store)).unwrap();
    assert_eq!(removal.removed.iter().map(|g| g.key).collect::<Vec<_>>(), [identity(2).key()]);
    assert!(is_there(&store, 1));
}

#[test]
fn a_run_waits_for_a_sweep_and_finds_what_it_left() {
    let (_dir, store) = store(&[1]);
    let sweep = store.sweep(|| ()).unwrap();
    let keep = keep(&store);
    let (waiting, waits) = mpsc::channel();
    let run = {
        let store = store.clone();
        thread::spawn(move || {
            let _claim = store.claim(&record("/a/one.toml", &[1]), || waiting.send(()).unwrap()).unwrap();
            is_there(&store, 1)
        })
    };
    waits.recv_timeout(Duration::from_secs(20)).unwrap();
    sweep.remove(&keep).unwrap();
    assert!(!run.is_finished());
    drop(sweep);
    assert!(!run.join().unwrap(), "found what was removed");
}

/// A later run of the same spec replaces the record, and the earlier run goes on.
#[test]
fn what_a_run_claims_stays_until_its_end() {
    let (_dir, store) = store(&[1, 2]);
    let first = store.claim(&record("/a/one.toml", &[1]), || ()).unwrap();
    let same = store.claim(&record("/a/one.toml", &[1]), || ()).unwrap();
    drop(store.claim(&record("/a/one.toml", &[2]), || ()).unwrap());
    let sweep = || store.sweep(|| ()).unwrap().remove(&keep(&store)).unwrap().removed.len();
    assert_eq!(sweep(), 0);
    drop(first);
    assert_eq!(sweep(), 0, "another run of that plan goes on");
    drop(same);
    assert_eq!(sweep(), 1);
    assert_eq!((is_there(&store, 1), is_there(&store, 2)), (false, true));
    assert_eq!(fs::read_dir(store.root().join(".pipelines")).unwrap().count(), 1);
}

/// A process that was killed leaves its copy, and the kernel its lock to others.
#[test]
fn copies_of_dead_runs_count_for_nothing() {
    let (_dir, store) = store(&[1]);
    store.claim(&record("/a/one.toml", &[]), || ()).unwrap();
    let folder = store.root().join(".pipelines");
    fs::write(folder.join(".live-0123456789ab"), b"half a rec").unwrap();
    fs::write(folder.join(".new-1-0"), b"half a rec").unwrap();
    assert_eq!(store.sweep(|| ()).unwrap().remove(&keep(&store)).unwrap().removed.len(), 1);
    assert_eq!(fs::read_dir(folder).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn a_root_that_cannot_be_written_to_can_be_claimed_where_it_was_before() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, store) = store(&[1]);
    store.claim(&record("/a/one.toml", &[1]), || ()).unwrap();
    let folders = [".pipelines", ".locks"].map(|name| store.root().join(name));
    let set = |mode| folders.iter().for_each(|f| fs::set_permissions(f, fs::Permissions::from_mode(mode)).unwrap());
    set(0o555);
    let may_write_anyway = fs::write(folders[0].join("probe"), b"").is_ok();
    let known = store.claim(&record("/a/one.toml", &[1]), || ()).map(drop);
    let other = store.claim(&record("/a/one.toml", &[2]), || ()).map(drop);
    set(0o755);
    known.unwrap();
    assert_eq!(other.is_ok(), may_write_anyway);
}
