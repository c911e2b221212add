//! Fetching of the published datasets: by HTTP, or from a local archive or folder.
//!
//! All work is done in a temporary folder next to the target, which is renamed at the end. A target folder therefore
//! exists only with checked contents, and a failure leaves nothing behind. A temporary folder of a process that was
//! killed is removed by the next fetch.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hemlock_stage::open_file;
use sha2::Digest as _;
use ureq::Agent;

use crate::checksum::{Checksum, ChecksumAlgorithm};
use crate::error::DataError;
use crate::sources::cifar::{Cifar, Files, check_version};
use crate::temporary::{Temporary, remove_stale};

/// The place to get a dataset from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveOrigin {
    /// The dataset's own site, <https://www.cs.toronto.edu/~kriz/cifar.html>.
    Official,
    /// A `.tar.gz` archive at an `http` or `https` address.
    Url(String),
    /// A local `.tar.gz` archive, or a local folder: the unpacked one or its parent.
    Path(PathBuf),
}

/// The data to accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// The published archives, and class-balanced subsets of 20,000 training and 4,000 test records, as archives or
    /// unpacked.
    Known,
    /// Data with this checksum: SHA-256 or MD5 of an archive, BLAKE3 of an unpacked folder's
    /// contents.
    Expected(Checksum),
    /// Anything in the right layout.
    Any,
}

/// A dataset that is in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The dataset's folder under the data directory.
    pub folder: PathBuf,
    /// Number of training records.
    pub train: usize,
    /// Number of test records.
    pub test: usize,
    /// Checksums of the data that was fetched: of the archive, or of the folder's contents.
    pub checksums: Vec<Checksum>,
    /// Whether the folder existed before. If so, its records were checked and nothing was fetched.
    pub already_there: bool,
}

/// The data that [`Trust::Known`] accepts. The published archives are given by MD5, the only checksum that is
/// published; the subsets by SHA-256 of the archive and by BLAKE3 of the folder.
const KNOWN: [(Cifar, &str); 6] = [
    (Cifar::Cifar10, "md5:c32a1d4ab5d03f1284b67883e8d87530"),
    (Cifar::Cifar10, "sha256:2eac1edc4080043c9051ae8124ffb276b07082de9e050944647c8c49f7449347"),
    (Cifar::Cifar10, "blake3:df98f263dbd604f902318c102446fb31e7ce004dcaccf0742680d83a23c2ac88"),
    (Cifar::Cifar100, "md5:03b5dce01913d631647c71ecec9e9cb8"),
    (Cifar::Cifar100, "sha256:3ef96364152a3593dc89818f3bdd8a85edc2cf0f0111fca4f73e1e3554c4456e"),
    (Cifar::Cifar100, "blake3:a1e4dffdb077dbcc1fb4259f1248434b27960f58de7d68c89be9b424296c3de1"),
];

/// Largest size of an archive, in bytes; the published ones have 170 MB.
const MAX_ARCHIVE: u64 = 1 << 30;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);

/// Puts a dataset into its folder under `data_root`, which is created if necessary.
///
/// `progress` is called with the number of bytes that were downloaded or read, and the total if it is known. If it
/// returns false, fetching stops.
///
/// # Errors
/// - [`DataError::Download`] if a download fails, and [`DataError::Io`] if the file system fails.
/// - [`DataError::ChecksumMismatch`] if `trust` does not accept the data.
/// - Other errors if an archive is unreadable or unsafe, if the data is another version, or if records are malformed.
/// - [`DataError::Interrupted`] if `progress` returned false.
pub fn fetch(
    cifar: Cifar,
    origin: &ArchiveOrigin,
    trust: &Trust,
    data_root: &Path,
    progress: &dyn Fn(u64, Option<u64>) -> bool,
) -> Result<Fetched, DataError> {
    // A path that does not exist is an error even if the dataset is in place and nothing is read from the path.
    if let ArchiveOrigin::Path(path) = origin {
        fs::metadata(path).map_err(DataError::io("read", path))?;
    }
    remove_stale(data_root);
    let target = data_root.join(cifar.folder());
    if target.exists() {
        let files = Files::read_folder(cifar, &target)?;
        return fetched(&files, target, vec![content_checksum(&files)], true);
    }
    fs::create_dir_all(data_root).map_err(DataError::io("create", data_root))?;
    let temporary = Temporary::new(data_root).map_err(DataError::io("create a temporary folder in", data_root))?;
    let request = Request { cifar, trust, progress };
    let (files, checksums) = match origin {
        ArchiveOrigin::Official => request.download(&official_url(cifar), temporary.path())?,
        ArchiveOrigin::Url(url) => request.download(url, temporary.path())?,
        ArchiveOrigin::Path(path) if path.is_dir() => request.read_folder(path)?,
        ArchiveOrigin::Path(path) => request.read_archive(path)?,
    };
    let fetched = fetched(&files, target, checksums, false)?;
    let folder = temporary.path().join(cifar.folder());
    fs::create_dir(&folder).map_err(DataError::io("create", &folder))?;
    for (name, bytes) in files.iter() {
        write_through(&folder.join(name), bytes)?;
    }
    fs::rename(&folder, &fetched.folder).map_err(DataError::io("create", &fetched.folder))?;
    tracing::info!(dataset = %cifar, folder = %fetched.folder.display(), "dataset in place");
    Ok(fetched)
}

fn fetched(
    files: &Files,
    folder: PathBuf,
    checksums: Vec<Checksum>,
    already_there: bool,
) -> Result<Fetched, DataError> {
    let records = files.check()?;
    Ok(Fetched { folder, train: records.train, test: records.test, checksums, already_there })
}

fn official_url(cifar: Cifar) -> String {
    format!("https://www.cs.toronto.edu/~kriz/{}", cifar.archive())
}

fn content_checksum(files: &Files) -> Checksum {
    Checksum::new(ChecksumAlgorithm::Blake3, files.digest().as_bytes())
}

/// Writes a new file and waits until it is on the disk.
fn write_through(path: &Path, bytes: &[u8]) -> Result<(), DataError> {
    let write = || -> io::Result<()> {
        let mut file = File::create_new(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(DataError::io("write", path))
}

/// The dataset to fetch, and the data to accept.
struct Request<'a> {
    cifar: Cifar,
    trust: &'a Trust,
    progress: &'a dyn Fn(u64, Option<u64>) -> bool,
}

impl Request<'_> {
    fn transfer(&self) -> Transfer<'_> {
        Transfer { progress: self.progress, limit: MAX_ARCHIVE }
    }

    fn download(&self, url: &str, temporary: &Path) -> Result<(Files, Vec<Checksum>), DataError> {
        let archive = temporary.join(self.cifar.archive());
        let checksums = self.transfer().download(url, &archive)?;
        check_version(self.cifar, &archive).map_err(|error| error.at(url))?;
        self.accept(url.to_owned(), &checksums)?;
        Ok((Files::read_archive(self.cifar, &archive)?, checksums))
    }

    fn read_archive(&self, archive: &Path) -> Result<(Files, Vec<Checksum>), DataError> {
        open_file(archive).map_err(DataError::io("open", archive))?;
        check_version(self.cifar, archive)?;
        let checksums = self.transfer().checksums(archive)?;
        self.accept(archive.display().to_string(), &checksums)?;
        Ok((Files::read_archive(self.cifar, archive)?, checksums))
    }

    fn read_folder(&self, path: &Path) -> Result<(Files, Vec<Checksum>), DataError> {
        let nested = path.join(self.cifar.folder());
        let folder = if nested.is_dir() { &nested } else { path };
        let files = Files::read_folder(self.cifar, folder)?;
        let checksums = vec![content_checksum(&files)];
        self.accept(folder.display().to_string(), &checksums)?;
        Ok((files, checksums))
    }

    fn accept(&self, what: String, found: &[Checksum]) -> Result<(), DataError> {
        let known = |checksum: &Checksum| KNOWN.contains(&(self.cifar, checksum.to_string().as_str()));
        let published = || format!("that of the published {}, or of a known subset", self.cifar.archive());
        accept(what, found, self.trust, known, published)
    }
}

/// Refuses what has none of the checksums that are accepted. `published` describes those of [`Trust::Known`].
pub(crate) fn accept(
    what: String,
    found: &[Checksum],
    trust: &Trust,
    known: impl Fn(&Checksum) -> bool,
    published: impl FnOnce() -> String,
) -> Result<(), DataError> {
    let is = |checksum: &Checksum| match trust {
        Trust::Any => true,
        Trust::Expected(expected) => checksum == expected,
        Trust::Known => known(checksum),
    };
    if found.iter().any(is) {
        return Ok(());
    }
    // The found checksum of the expected algorithm is the one to compare.
    let (expected, algorithm) = match trust {
        Trust::Expected(checksum) => (checksum.to_string(), Some(checksum.algorithm())),
        _ => (published(), None),
    };
    let alike = found.iter().find(|checksum| Some(checksum.algorithm()) == algorithm).or(found.first());
    let found = alike.map(Checksum::to_string).unwrap_or_default();
    Err(DataError::ChecksumMismatch { what, found, expected })
}

/// Reads files, and counts their bytes.
pub(crate) struct Transfer<'a> {
    /// Called with the number of bytes that were read, and the total if it is known. If it returns false, reading
    /// stops.
    pub progress: &'a dyn Fn(u64, Option<u64>) -> bool,
    /// Largest size of a file, in bytes.
    pub limit: u64,
}

impl Transfer<'_> {
    /// Downloads a file that does not exist yet, and returns its checksums.
    pub fn download(&self, url: &str, path: &Path) -> Result<Vec<Checksum>, DataError> {
        let failed = |reason: String| DataError::Download { url: url.to_owned(), reason };
        let agent: Agent = Agent::config_builder()
            .user_agent(concat!("hemlock/", env!("CARGO_PKG_VERSION")))
            // The checksum is that of the stored archive, so the server must not compress it once more.
            .accept_encoding("identity")
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_read(Some(SILENCE_TIMEOUT))
            .build()
            .into();
        let response = agent.get(url).call().map_err(|error| failed(error.to_string()))?;
        let body = response.into_body();
        let total = body.content_length();
        let mut file = File::create_new(path).map_err(DataError::io("create", path))?;
        let (bytes, checksums) = self.pass(
            body.into_reader(),
            total,
            |error| failed(error.to_string()),
            |chunk| file.write_all(chunk).map_err(DataError::io("write", path)),
        )?;
        match total.filter(|total| *total != bytes) {
            None => Ok(checksums),
            Some(total) => Err(failed(format!("got {bytes} of {total} bytes"))),
        }
    }

    /// Returns the checksums of a file.
    pub fn checksums(&self, path: &Path) -> Result<Vec<Checksum>, DataError> {
        let file = open_file(path).map_err(DataError::io("open", path))?;
        let metadata = file.metadata().map_err(DataError::io("read", path))?;
        Ok(self.pass(file, Some(metadata.len()), DataError::io("read", path), |_| Ok(()))?.1)
    }

    /// Reads to the end, which must come within the limit. Calls `sink` with every chunk, and returns the
    /// length and the checksums.
    fn pass(
        &self,
        mut reader: impl Read,
        total: Option<u64>,
        failed: impl FnOnce(io::Error) -> DataError,
        mut sink: impl FnMut(&[u8]) -> Result<(), DataError>,
    ) -> Result<(u64, Vec<Checksum>), DataError> {
        let mut sha256 = sha2::Sha256::new();
        let mut md5 = md5::Md5::new();
        let mut chunk = vec![0; 1 << 16];
        let mut bytes = 0;
        loop {
            if !(self.progress)(bytes, total) {
                return Err(DataError::Interrupted);
            }
            let read = match reader.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            };
            if bytes + read as u64 > self.limit {
                let message = format!("it is longer than {} MiB, as no published archive is", self.limit >> 20);
                return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, message)));
            }
            sha256.update(&chunk[..read]);
            md5.update(&chunk[..read]);
            sink(&chunk[..read])?;
            bytes += read as u64;
        }
        let checksums = vec![
            Checksum::new(ChecksumAlgorithm::Sha256, &sha256.finalize()),
            Checksum::new(ChecksumAlgorithm::Md5, &md5.finalize()),
        ];
        Ok((bytes, checksums))
    }
}
