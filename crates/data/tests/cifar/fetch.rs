//! Fetching datasets from archives, folders and a local server.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::thread;

use hemlock_data::{
    ArchiveOrigin, Checksum, Cifar, Cifar10, DataError, DataErrorKind, Fetched, Folders, Preparation, Source,
    SplitSpec, Trust, digest, fetch, load,
};
use tar::EntryType;
use tempfile::tempdir;

use crate::support;

fn get(origin: &ArchiveOrigin, trust: &Trust, root: &Path) -> Result<Fetched, DataError> {
    fetch(Cifar::Cifar10, origin, trust, root, &|_, _| true)
}

/// Writes an archive into `folder` and returns it as an origin.
fn local(folder: &Path, bytes: &[u8]) -> ArchiveOrigin {
    let path = folder.join("local.tar.gz");
    fs::write(&path, bytes).unwrap();
    ArchiveOrigin::Path(path)
}

fn archive() -> Vec<u8> {
    support::archive(Cifar::Cifar10, &support::cifar10())
}

fn is_empty(folder: &Path) -> bool {
    !folder.exists() || fs::read_dir(folder).unwrap().next().is_none()
}

/// Serves one request with `head`, an empty line and `body`, and returns the address.
fn serve(head: &str, body: Vec<u8>) -> ArchiveOrigin {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/archive.tar.gz", listener.local_addr().unwrap());
    let head = format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n");
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
            request.push(byte[0]);
        }
        stream.write_all(head.as_bytes()).unwrap();
        // A client that has read enough may close the connection.
        let _ = stream.write_all(&body);
    });
    ArchiveOrigin::Url(url)
}

#[test]
fn an_archive_is_put_in_place() {
    let (home, root) = (tempdir().unwrap(), tempdir().unwrap());
    // The data directory itself does not have to exist.
    let root = root.path().join("data");
    let origin = local(home.path(), &archive());
    let fetched = get(&origin, &Trust::Any, &root).unwrap();
    assert_eq!(fetched.folder, root.join("cifar-10-batches-bin"));
    assert_eq!((fetched.train, fetched.test), (100, 10));
    assert!(!fetched.already_there);
    assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
    load(
        &Source::Cifar10(Cifar10 {}),
        &Preparation::default(),
        &SplitSpec::default(),
        Folders::data(&root),
        &|_, _| true,
    )
    .unwrap();

    // A folder that a killed process left, even if it was killed after its last step.
    fs::create_dir(root.join(".fetch-killed")).unwrap();
    fs::write(root.join(".fetch-killed/lock"), "").unwrap();
    let again = get(&origin, &Trust::Known, &root).unwrap();
    assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
    assert!(again.already_there);
    assert_eq!((again.train, again.test), (100, 10));
    // A file that does not exist is an error, although nothing would be read from it.
    let error = get(&ArchiveOrigin::Path("nowhere".into()), &Trust::Known, &root).unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (DataErrorKind::Missing, "cannot read nowhere"));
}

#[test]
fn other_versions_are_named_and_what_to_get() {
    let entry = |path| support::archive_of_entry(path, EntryType::Regular);
    for (path, words) in [
        ("cifar-10-batches-py/data_batch_4", "the Python version of CIFAR-10"),
        ("./cifar-10-batches-py/data_batch_4", "the Python version of CIFAR-10"),
        ("cifar-10-batches-mat/batches.meta.mat", "the MATLAB version of CIFAR-10"),
        ("cifar-100-python/train", "the Python version of CIFAR-100"),
        ("cifar-100-binary/train.bin", "holds CIFAR-100"),
    ] {
        let (home, root) = (tempdir().unwrap(), tempdir().unwrap());
        let archive = local(home.path(), &entry(path));
        let served = serve("200 OK", entry(path));
        let place = home.path().join("local.tar.gz").display().to_string();
        let file = home.path().join("unpacked").join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        // Whether or not the file itself identifies the version, its folder does.
        fs::write(&file, "").unwrap();
        let parent = ArchiveOrigin::Path(home.path().join("unpacked"));
        for (origin, trust, place) in [
            (&archive, Trust::Known, place.as_str()),
            (&archive, Trust::Any, place.as_str()),
            (&served, Trust::Known, "http://127.0.0.1"),
            (&parent, Trust::Any, "unpacked"),
        ] {
            let error = get(origin, &trust, root.path()).unwrap_err().to_string();
            assert!(error.contains(place) && error.contains(words), "{error}");
            assert!(error.contains("cifar-10-binary.tar.gz") && error.len() < 300 + place.len(), "{error}");
            assert!(is_empty(root.path()));
        }
        // The place where datasets are looked for. Incomplete data of the Python version has an error of its own.
        if words.contains("Python") {
            continue;
        }
        let error = digest(&Source::Cifar10(Cifar10 {}), Some(&home.path().join("unpacked"))).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    // The dataset's own folder, given directly.
    let home = tempdir().unwrap();
    fs::write(home.path().join("data_batch_1"), "").unwrap();
    let error = get(&ArchiveOrigin::Path(home.path().into()), &Trust::Any, &home.path().join("data")).unwrap_err();
    assert!(error.to_string().contains("the Python version of CIFAR-10"), "{error}");
}

#[cfg(unix)]
#[test]
fn endless_and_special_files_are_refused_unopened() {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    let (home, root) = (tempdir().unwrap(), tempdir().unwrap());
    let socket = home.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    symlink("/dev/zero", home.path().join("endless")).unwrap();
    for path in [Path::new("/dev/zero"), &home.path().join("endless"), &socket] {
        let error = get(&ArchiveOrigin::Path(path.into()), &Trust::Any, root.path()).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(source, "it is a pipe, a socket or a device; expected a file");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        assert!(is_empty(root.path()));
    }
    let mut files = support::cifar10();
    files.remove(2);
    support::unpacked(Cifar::Cifar10, &files, home.path());
    symlink("/dev/zero", home.path().join("cifar-10-batches-bin/data_batch_3.bin")).unwrap();
    let load = || {
        load(
            &Source::Cifar10(Cifar10 {}),
            &Preparation::default(),
            &SplitSpec::default(),
            Folders::data(home.path()),
            &|_, _| true,
        )
        .map(|_| ())
    };
    for result in [load(), digest(&Source::Cifar10(Cifar10 {}), Some(home.path())).map(|_| ())] {
        let error = result.unwrap_err();
        assert!(error.to_string().contains("data_batch_3.bin"), "{error}");
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("a device"));
    }
}

#[test]
fn a_folder_or_its_parent_is_copied() {
    let home = tempdir().unwrap();
    support::unpacked(Cifar::Cifar10, &support::cifar10(), home.path());
    let expected = digest(&Source::Cifar10(Cifar10 {}), Some(home.path())).unwrap();
    for path in [home.path().to_path_buf(), home.path().join("cifar-10-batches-bin")] {
        let root = tempdir().unwrap();
        let origin = ArchiveOrigin::Path(path);
        let error = get(&origin, &Trust::Known, root.path()).unwrap_err();
        assert!(error.to_string().contains("blake3:"), "{error}");
        assert!(is_empty(root.path()));
        let fetched = get(&origin, &Trust::Any, root.path()).unwrap();
        assert_eq!(digest(&Source::Cifar10(Cifar10 {}), Some(root.path())).unwrap(), expected);
        // The checksum of the first fetch is accepted by the second.
        let trust = Trust::Expected(fetched.checksums[0].clone());
        let root = tempdir().unwrap();
        assert!(get(&origin, &trust, root.path()).is_ok());
    }
}

#[test]
fn an_unknown_checksum_is_refused_with_both_values() {
    let (home, root) = (tempdir().unwrap(), tempdir().unwrap());
    let origin = local(home.path(), &archive());
    let error = get(&origin, &Trust::Known, root.path()).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("local.tar.gz has the checksum sha256:"));
    assert!(message.contains("that of the published cifar-10-binary.tar.gz"));
    assert!(message.len() < 400, "{message}");
    assert_eq!(error.kind(), DataErrorKind::Invalid);
    assert!(is_empty(root.path()));

    let wrong: Checksum = "md5:00000000000000000000000000000000".parse().unwrap();
    let error = get(&origin, &Trust::Expected(wrong), root.path()).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("has the checksum md5:") && message.contains("expected md5:0000"), "{message}");
    assert!(is_empty(root.path()));
}

#[test]
fn checksums_are_those_of_the_standard_tools() {
    let (home, root) = (tempdir().unwrap(), tempdir().unwrap());
    // The output of `printf abc | sha256sum` and `printf abc | md5sum`.
    for text in [
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "md5:900150983cd24fb0d6963f7d28e17f72",
    ] {
        let trust = Trust::Expected(text.parse().unwrap());
        let error = get(&local(home.path(), b"abc"), &trust, root.path()).unwrap_err();
        // The checksum is accepted, and only then the file turns out to be no archive.
        assert!(matches!(error, DataError::Archive { .. }), "{error}");
        assert!(is_empty(root.path()));
    }
}

#[test]
fn unsafe_archives_are_refused() {
    for (path, kind, words) in [
        ("../escaped", EntryType::Regular, ".."),
        ("cifar-10-batches-bin/../../escaped", EntryType::Regular, ".."),
        ("/tmp/escaped", EntryType::Regular, "absolute"),
        ("cifar-10-batches-bin/a", EntryType::Symlink, "is a link"),
        ("cifar-10-batches-bin/a", EntryType::Link, "is a link"),
        ("cifar-10-batches-bin/a", EntryType::Fifo, "neither a file"),
        ("cifar-10-batches-bin/a", EntryType::Char, "neither a file"),
    ] {
        let (home, outer) = (tempdir().unwrap(), tempdir().unwrap());
        let root = outer.path().join("data");
        let origin = local(home.path(), &support::archive_of_entry(path, kind));
        let error = get(&origin, &Trust::Any, &root).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(path) && message.contains(words), "{message}");
        assert!(is_empty(&root));
        assert!(!outer.path().join("escaped").exists());
    }
}

#[test]
fn a_sound_archive_of_a_broken_dataset_leaves_nothing() {
    let (home, root) = (tempdir().unwrap(), tempdir().unwrap());
    let mut truncated = support::cifar10();
    truncated[0].1.pop();
    let mut incomplete = support::cifar10();
    incomplete.pop();
    for (files, words) in [
        (truncated, "data_batch_1.bin is truncated"),
        (incomplete, "batches.meta.txt is missing"),
        (Vec::new(), "is missing"),
    ] {
        let origin = local(home.path(), &support::archive(Cifar::Cifar10, &files));
        let error = get(&origin, &Trust::Any, root.path()).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.to_string().contains("local.tar.gz"), "{error}");
        assert!(is_empty(root.path()));
    }
    let nowhere = ArchiveOrigin::Path(home.path().join("nowhere"));
    let error = get(&nowhere, &Trust::Any, root.path()).unwrap_err();
    assert_eq!(error.kind(), DataErrorKind::Missing);
}

#[test]
fn a_download_is_put_in_place() {
    let root = tempdir().unwrap();
    let body = archive();
    let length = body.len() as u64;
    let origin = serve(&format!("200 OK\r\nContent-Length: {length}"), body);
    let last = std::cell::Cell::new((0, None));
    let fetched = fetch(Cifar::Cifar10, &origin, &Trust::Any, root.path(), &|done, total| {
        last.set((done, total));
        true
    })
    .unwrap();
    assert_eq!((fetched.train, fetched.test), (100, 10));
    assert_eq!(last.get(), (length, Some(length)));
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
}

#[test]
fn failed_downloads_leave_nothing() {
    let body = archive();
    let (length, half) = (body.len(), body.len() / 2);
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        ArchiveOrigin::Url(format!("http://{}/", listener.local_addr().unwrap()))
    };
    for (origin, words) in [
        (serve("404 Not Found\r\nContent-Length: 0", Vec::new()), "404"),
        (serve(&format!("200 OK\r\nContent-Length: {length}"), body[..half].to_vec()), "http://127.0.0.1"),
        (closed, "http://127.0.0.1"),
        (ArchiveOrigin::Url("gopher".into()), "gopher"),
    ] {
        let root = tempdir().unwrap();
        let error = get(&origin, &Trust::Any, root.path()).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, DataError::Download { .. }), "{message}");
        assert!(message.contains(words), "{message}");
        assert_eq!(error.kind(), DataErrorKind::Io);
        assert!(is_empty(root.path()));
    }
    // Without a content length, only the checksum shows that the body is too short.
    let root = tempdir().unwrap();
    let origin = serve("200 OK", body[..half].to_vec());
    let error = get(&origin, &Trust::Known, root.path()).unwrap_err();
    assert!(matches!(error, DataError::ChecksumMismatch { .. }), "{error}");
    assert!(is_empty(root.path()));
}

#[test]
fn an_interruption_leaves_nothing() {
    let (home, root) = (tempdir().unwrap(), tempdir().unwrap());
    let origin = local(home.path(), &archive());
    for stop_at_end in [false, true] {
        let error =
            fetch(Cifar::Cifar10, &origin, &Trust::Any, root.path(), &|done, total| stop_at_end && Some(done) != total);
        assert_eq!(error.unwrap_err().kind(), DataErrorKind::Interrupted);
        assert!(is_empty(root.path()));
    }
}
