//! One task and several workers: threads and processes.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use hemlock_store::{Identity, Keep, Manifest, ManifestDraft, Remains, Store};
use serde_json::json;

fn identity() -> Identity {
    Identity {
        stage: "invert".into(),
        stage_version: 1,
        params: json!({}),
        seed: None,
        source: None,
        inputs: BTreeMap::new(),
    }
}

fn about() -> ManifestDraft {
    ManifestDraft {
        identity: identity(),
        inputs: BTreeMap::new(),
        device: "cpu".into(),
        deterministic: true,
        hemlock_version: "0.1.0".into(),
        pipeline: "one".into(),
        seconds: 0.0,
        summary: json!(null),
    }
}

#[test]
fn the_second_thread_waits_and_finds_the_result() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    let key = identity().key();
    let (waiting, waits) = mpsc::channel();

    let first = store.lock("invert", &key, || panic!("the lock is free")).unwrap();
    let mut draft = first.begin().unwrap();
    assert!(store.try_lock("invert", &key).unwrap().is_none());
    let second = {
        let store = store.clone();
        thread::spawn(move || -> Option<Manifest> {
            let _lock = store.lock("invert", &key, || waiting.send(()).unwrap()).unwrap();
            store.lookup("invert", &key).unwrap()
        })
    };
    waits.recv_timeout(Duration::from_secs(20)).unwrap();
    draft.writer("images").bytes("all", b"done").unwrap();
    let manifest = draft.publish(about()).unwrap();
    assert!(!second.is_finished());
    drop(first);
    assert_eq!(second.join().unwrap(), Some(manifest));
}

const HOLDER: &str = "HEMLOCK_TEST_HOLD_LOCK_IN";

/// Starts this test in another process, which takes the lock, reports it and sleeps.
fn holder(root: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_process_gives_up_its_lock", "--nocapture"])
        .env(HOLDER, root)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "locked"));
    child
}

#[test]
#[expect(clippy::print_stderr, reason = "how the child tells its parent that it holds the lock")]
fn a_killed_process_gives_up_its_lock() {
    let key = identity().key();
    if let Some(root) = std::env::var_os(HOLDER) {
        let lock = Store::new(root).lock("invert", &key, || ()).unwrap();
        let mut draft = lock.begin().unwrap();
        draft.writer("images").bytes("all", b"half").unwrap();
        eprintln!("locked");
        thread::sleep(Duration::from_secs(60));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    let mut child = holder(dir.path());
    let scratch = |store: &Store| {
        let garbage = store.garbage(&Keep::default()).unwrap();
        garbage.iter().filter(|g| g.what == Remains::Scratch).count()
    };
    assert!(store.try_lock("invert", &key).unwrap().is_none());
    assert_eq!(scratch(&store), 0, "in use");

    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(store.lookup("invert", &key).unwrap(), None);
    assert_eq!(scratch(&store), 1, "left by the dead");
    let lock = store.try_lock("invert", &key).unwrap().expect("the kernel released the lock");
    lock.begin().unwrap().publish(about()).unwrap();
    assert_eq!(scratch(&store), 0);
}
