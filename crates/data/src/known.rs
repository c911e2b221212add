//! Published datasets, by name: where their files are, what these are checked with, and how a spec reads them.
//!
//! Addresses and MD5 sums are those of torchvision 0.29 and of MedMNIST 3.0.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use hemlock_stage::open_file;
use tar::{Archive, EntryType};
use zip::ZipArchive;

use crate::archive::safe_path;
use crate::checksum::Checksum;
use crate::error::DataError;
use crate::fetch::{ArchiveOrigin, Transfer, Trust, accept};
use crate::temporary::{Temporary, remove_stale};

/// A published dataset that is read by one of the sources.
#[derive(Debug, PartialEq, Eq)]
pub struct KnownDataset {
    /// The name, which is that of its folder in the data directory, too.
    pub name: &'static str,
    /// Its training, validation and test images, and its classes, in words.
    pub about: &'static str,
    /// How a spec reads it.
    pub source: &'static str,
    /// Address that the names of its files are appended to.
    base: &'static str,
    /// Names of its files, with their MD5 sums. Archives are unpacked.
    files: &'static [(&'static str, &'static str)],
}

/// A dataset that is in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedFiles {
    /// The dataset's folder in the data directory.
    pub folder: PathBuf,
    /// Whether the folder existed before. If so, nothing was fetched.
    pub already_there: bool,
}

/// Largest size of a file, in bytes; the largest published one has 5 GB.
const MAX_FILE: u64 = 16 << 30;
/// Largest size of what an archive unpacks to, in bytes.
const MAX_UNPACKED: u64 = 64 << 30;

const MEDMNIST: &str = "https://zenodo.org/records/10519652/files/";

macro_rules! medmnist {
    ($name:literal, $about:literal, $md5:literal) => {
        KnownDataset {
            name: $name,
            about: $about,
            source: concat!("{ kind = \"npz\", path = \"", $name, "/", $name, ".npz\" }"),
            base: MEDMNIST,
            files: &[(concat!($name, ".npz"), $md5)],
        }
    };
}

/// All datasets that are known, in the order of their names.
const KNOWN: &[KnownDataset] = &[
    medmnist!("bloodmnist", "11,959 + 1,712 + 3,421, 28 px, 8 classes", "7053d0359d879ad8a5505303e11de1dc"),
    medmnist!("breastmnist", "546 + 78 + 156, 28 px, grey, 2 classes", "750601b1f35ba3300ea97c75c52ff8f6"),
    medmnist!("dermamnist", "7,007 + 1,003 + 2,005, 28 px, 7 classes", "0744692d530f8e62ec473284d019b0c7"),
    KnownDataset {
        name: "dtd",
        about: "1,880 + 1,880 + 1,880 (split 1 of 10), 47 classes of textures",
        source: "{ kind = \"image-folder\", path = \"dtd/dtd\", train = \"labels/train1.txt\", \
                 validation = \"labels/val1.txt\", test = \"labels/test1.txt\" }",
        base: "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/",
        files: &[("dtd-r1.0.1.tar.gz", "fff73e5086ae6bdbea199a49dfb8a4c1")],
    },
    KnownDataset {
        name: "eurosat",
        about: "27,000 in one pool, 64 px, 10 classes of land use",
        source: "{ kind = \"image-folder\", path = \"eurosat/2750\" }",
        base: "https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/",
        files: &[("EuroSAT.zip", "c8fa014336c82ac7804f0398fcb19387")],
    },
    KnownDataset {
        name: "fashion-mnist",
        about: "60,000 + 10,000, 28 px, grey, 10 classes of clothes",
        source: "{ kind = \"idx\", path = \"fashion-mnist\" }",
        base: "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        files: &[
            ("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            ("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
            ("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
            ("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
        ],
    },
    KnownDataset {
        name: "food101",
        about: "75,750 + 25,250, 101 classes of dishes",
        source: "{ kind = \"image-folder\", path = \"food101/food-101\", train = \"meta/train.txt\", \
                 test = \"meta/test.txt\" }",
        base: "http://data.vision.ee.ethz.ch/cvl/",
        files: &[("food-101.tar.gz", "85eeb15f3717b99a5da872d97d918f87")],
    },
    KnownDataset {
        name: "imagenette",
        about: "10 easy classes of ImageNet, train + val, 320 px",
        source: "{ kind = \"image-folder\", path = \"imagenette/imagenette2-320\" }",
        base: "https://s3.amazonaws.com/fast-ai-imageclas/",
        files: &[("imagenette2-320.tgz", "3df6f0d01a2c9592104656642f5e78a3")],
    },
    KnownDataset {
        name: "kmnist",
        about: "60,000 + 10,000, 28 px, grey, 10 classes of Japanese characters",
        source: "{ kind = \"idx\", path = \"kmnist\" }",
        base: "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
        files: &[
            ("train-images-idx3-ubyte.gz", "bdb82020997e1d708af4cf47b453dcf7"),
            ("train-labels-idx1-ubyte.gz", "e144d726b3acfaa3e44228e80efcd344"),
            ("t10k-images-idx3-ubyte.gz", "5c965bf0a639b31b8f53240b1b52f4d7"),
            ("t10k-labels-idx1-ubyte.gz", "7320c461ea6c1c855c0b718fb2a4b134"),
        ],
    },
    KnownDataset {
        name: "mnist",
        about: "60,000 + 10,000, 28 px, grey, 10 digits",
        source: "{ kind = \"idx\", path = \"mnist\" }",
        base: "https://ossci-datasets.s3.amazonaws.com/mnist/",
        files: &[
            ("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            ("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
            ("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
            ("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
        ],
    },
    medmnist!("octmnist", "97,477 + 10,832 + 1,000, 28 px, grey, 4 classes", "c68d92d5b585d8d81f7112f81e2d0842"),
    medmnist!("organamnist", "34,561 + 6,491 + 17,778, 28 px, grey, 11 classes", "68e3f8846a6bd62f0c9bf841c0d9eacc"),
    medmnist!("organcmnist", "12,975 + 2,392 + 8,216, 28 px, grey, 11 classes", "b9ceb9546e10131b32923c5bbeaea2b1"),
    medmnist!("organsmnist", "13,932 + 2,452 + 8,827, 28 px, grey, 11 classes", "9ab87b696fb54e2a387ebe992d6ed5f1"),
    medmnist!("pathmnist", "89,996 + 10,004 + 7,180, 28 px, 9 classes", "a8b06965200029087d5bd730944a56c1"),
    KnownDataset {
        name: "pets",
        about: "3,680 + 3,669, 37 classes of cats and dogs",
        source: "{ kind = \"table\", path = \"pets/annotations/trainval.txt\", test = \"pets/annotations/test.txt\", \
                 images = \"pets/images\", ending = \".jpg\", separator = \" \", header = false, image = \"1\", \
                 label = \"2\" }",
        base: "https://www.robots.ox.ac.uk/~vgg/data/pets/data/",
        files: &[
            ("images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c"),
            ("annotations.tar.gz", "95a8c909bbe2e81eed6a22bccdf3f68f"),
        ],
    },
    medmnist!("pneumoniamnist", "4,708 + 524 + 624, 28 px, grey, 2 classes", "28209eda62fecd6e6a2d98b1501bb15f"),
    medmnist!("retinamnist", "1,080 + 120 + 400, 28 px, 5 classes", "bd4c0672f1bba3e3a89f0e4e876791e4"),
    KnownDataset {
        name: "stl10",
        about: "5,000 + 8,000, 96 px, 10 classes, and 100,000 without labels",
        source: "{ kind = \"stl10\", path = \"stl10\" }",
        base: "http://ai.stanford.edu/~acoates/stl10/",
        files: &[("stl10_binary.tar.gz", "91f7769df0f17e558f3565bffb0c7dfb")],
    },
    KnownDataset {
        name: "svhn",
        about: "73,257 + 26,032, 32 px, 10 digits",
        source: "{ kind = \"mat\", path = \"svhn\" }",
        base: "http://ufldl.stanford.edu/housenumbers/",
        files: &[
            ("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"),
            ("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"),
        ],
    },
    medmnist!("tissuemnist", "165,466 + 23,640 + 47,280, 28 px, grey, 8 classes", "ebe78ee8b05294063de985d821c1c34b"),
];

impl KnownDataset {
    /// All datasets that are known, in the order of their names.
    pub fn all() -> &'static [Self] {
        KNOWN
    }

    /// The dataset of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        KNOWN.iter().find(|known| known.name == name)
    }

    /// Puts the dataset into its folder under `data`, which is created if necessary.
    ///
    /// A path of `origin` is that of its file, or of a folder of its files; an address is that of its file or, if it
    /// has several, of what their names are appended to. `progress` is called with the number of bytes that were
    /// downloaded or read, and the total if it is known. If it returns false, fetching stops.
    ///
    /// # Errors
    /// - [`DataError::Download`] if a download fails, and [`DataError::Io`] if the file system fails.
    /// - [`DataError::ChecksumMismatch`] if `trust` does not accept a file.
    /// - Other errors if an archive is unreadable or unsafe.
    /// - [`DataError::Interrupted`] if `progress` returned false.
    pub fn fetch(
        &self,
        origin: &ArchiveOrigin,
        trust: &Trust,
        data: &Path,
        progress: &dyn Fn(u64, Option<u64>) -> bool,
    ) -> Result<FetchedFiles, DataError> {
        if let ArchiveOrigin::Path(path) = origin {
            fs::metadata(path).map_err(DataError::io("read", path))?;
        }
        remove_stale(data);
        let folder = data.join(self.name);
        if folder.exists() {
            return Ok(FetchedFiles { folder, already_there: true });
        }
        fs::create_dir_all(data).map_err(DataError::io("create", data))?;
        let temporary = Temporary::new(data).map_err(DataError::io("create a temporary folder in", data))?;
        let unpacked = temporary.path().join(self.name);
        fs::create_dir(&unpacked).map_err(DataError::io("create", &unpacked))?;
        let transfer = Transfer { progress, limit: MAX_FILE };
        for (name, md5) in self.files {
            let (path, what, checksums) = self.obtain(name, origin, temporary.path(), &transfer)?;
            let known = |checksum: &Checksum| checksum.to_string() == format!("md5:{md5}");
            accept(what, &checksums, trust, known, || format!("md5:{md5}, that of the published {name}"))?;
            place(name, &path, &unpacked)?;
            if path.starts_with(temporary.path()) && path.exists() {
                fs::remove_file(&path).map_err(DataError::io("remove", &path))?;
            }
        }
        fs::rename(&unpacked, &folder).map_err(DataError::io("create", &folder))?;
        tracing::info!(dataset = self.name, folder = %folder.display(), "dataset in place");
        Ok(FetchedFiles { folder, already_there: false })
    }

    /// Returns the path of a file, what it was obtained from, and its checksums. Downloads it into a folder, if need
    /// be.
    fn obtain(
        &self,
        name: &str,
        origin: &ArchiveOrigin,
        folder: &Path,
        transfer: &Transfer,
    ) -> Result<(PathBuf, String, Vec<Checksum>), DataError> {
        let alone = self.files.len() == 1;
        let url = match origin {
            ArchiveOrigin::Path(path) => {
                let path = if path.is_dir() { path.join(name) } else { path.clone() };
                if !alone && !path.ends_with(name) {
                    let files = self.files.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
                    let reason = format!("is one file; expected a folder of {files}");
                    return Err(DataError::Layout { path, reason });
                }
                let checksums = transfer.checksums(&path)?;
                return Ok((path.clone(), path.display().to_string(), checksums));
            }
            ArchiveOrigin::Official => format!("{}{name}", self.base),
            ArchiveOrigin::Url(url) if alone => url.clone(),
            ArchiveOrigin::Url(url) => format!("{}/{name}", url.trim_end_matches('/')),
        };
        let path = folder.join(name);
        let checksums = transfer.download(&url, &path)?;
        Ok((path, url, checksums))
    }
}

/// Unpacks an archive into a folder, or copies any other file there.
fn place(name: &str, path: &Path, folder: &Path) -> Result<(), DataError> {
    if name.ends_with(".tar.gz") || name.ends_with(".tgz") {
        return unpack_tar(path, folder);
    }
    if name.ends_with(".zip") {
        return unpack_zip(path, folder);
    }
    let target = folder.join(name);
    fs::copy(path, &target).map_err(DataError::io("write", &target))?;
    Ok(())
}

fn unsafe_entry(archive: &Path, entry: String, reason: &'static str) -> DataError {
    DataError::UnsafeEntry { archive: archive.to_path_buf(), entry, reason }
}

/// Writes a file below a folder, and the folders that it lies in.
fn write(target: &Path, content: &mut impl io::Read) -> Result<(), DataError> {
    let mut written = || -> io::Result<()> {
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        io::copy(content, &mut File::create_new(target)?).map(|_| ())
    };
    written().map_err(DataError::io("unpack", target))
}

fn unpack_tar(archive: &Path, folder: &Path) -> Result<(), DataError> {
    use io::Read as _;
    let broken = |source| DataError::Archive { archive: archive.to_path_buf(), source };
    let file = open_file(archive).map_err(DataError::io("open", archive))?;
    let mut tar = Archive::new(GzDecoder::new(file).take(MAX_UNPACKED));
    for entry in tar.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let name = || String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let path = safe_path(&entry).map_err(|reason| unsafe_entry(archive, name(), reason))?;
        if entry.header().entry_type() == EntryType::Regular {
            write(&folder.join(path), &mut entry)?;
        }
    }
    // The checksum of the compressed data is at the end of the file, so that only reading all of it checks it.
    io::copy(&mut tar.into_inner(), &mut io::sink()).map_err(broken)?;
    Ok(())
}

fn unpack_zip(archive: &Path, folder: &Path) -> Result<(), DataError> {
    let file = open_file(archive).map_err(DataError::io("open", archive))?;
    let broken = |error: zip::result::ZipError| DataError::Damaged {
        file: archive.to_path_buf(),
        what: ".zip archive",
        reason: error.to_string(),
    };
    let mut zip = ZipArchive::new(io::BufReader::new(file)).map_err(broken)?;
    let mut left = MAX_UNPACKED;
    for index in 0..zip.len() {
        let mut entry = zip.by_index(index).map_err(broken)?;
        let Some(path) = entry.enclosed_name().filter(|_| !entry.is_symlink()) else {
            let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
            return Err(unsafe_entry(archive, name, "is a link, or would leave its folder"));
        };
        left = left.checked_sub(entry.size()).ok_or_else(|| {
            unsafe_entry(archive, path.display().to_string(), "is larger than any of a published dataset")
        })?;
        if entry.is_file() {
            write(&folder.join(path), &mut entry)?;
        }
    }
    Ok(())
}
