//! The kind of a file, by its content.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use hemlock_stage::{FileError, VALUE, open_file};
use zip::ZipArchive;

use super::{FILE, ImportError};

/// A kind of file that weights can be read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file that `torch.save` writes or once wrote: a zip archive, a tar archive, or a sequence of pickles.
    PyTorch,
    /// An archive that `torch.jit.save` writes.
    TorchScript,
    Safetensors,
}

/// Bytes that are enough to tell all kinds apart: they reach to the magic number of a tar archive.
const START: u64 = 512;

/// Other kinds of files: the bytes they begin with, what they are, and what to do.
const OTHERS: [(&[u8], &str, &str); 13] = [
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, such as Keras writes", CONVERT),
    (
        b"version https://git-lfs",
        "a Git LFS pointer, and not the file that it stands for",
        "run `git lfs pull` where it comes from",
    ),
    (b"\x93NUMPY", "a single NumPy array", CONVERT),
    (b"GGUF", "a GGUF file", CONVERT),
    (b"\x1f\x8b", "compressed by gzip", UNPACK),
    (b"BZh", "compressed by bzip2", UNPACK),
    (b"\xfd7zXZ", "compressed by xz", UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed by Zstandard", UNPACK),
    (b"7z\xbc\xaf", "a 7z archive", UNPACK),
    // Field 1, the schema's version, is 1, and field 2 holds the graphs.
    (b"\x08\x01\x12", "a TensorFlow SavedModel", CONVERT),
    // The type of the first value (an object or a table), and its index.
    (b"\x04\0\0\0\x01\0\0\0", "a file of Lua's Torch7 (.t7)", CONVERT),
    (b"\x03\0\0\0\x01\0\0\0", "a file of Lua's Torch7 (.t7)", CONVERT),
    (b"4\n1\n3\nV 1\n", "a file of Lua's Torch7 (.t7)", CONVERT),
];

const CONVERT: &str =
    "save its weights as a state dict of PyTorch's tensors, or as safetensors, under the names of the architecture";
const UNPACK: &str = "unpack it";

/// The kind of a file.
///
/// # Errors
/// If the file cannot be read, or if it is of no kind that weights can be read from.
pub(super) fn of(path: &Path) -> Result<Kind, ImportError> {
    let unreadable = || FileError::unreadable(path, FILE);
    let is = |what: &str, remedy: &str| {
        Err(ImportError::Other { path: path.to_owned(), what: what.to_owned(), remedy: remedy.to_owned() })
    };
    if path.is_dir() {
        return is("a folder", "name the file of weights in it, or the folder by `path`");
    }
    let file = open_file(path).map_err(unreadable())?;
    let mut start = Vec::new();
    (&file).take(START).read_to_end(&mut start).map_err(unreadable())?;
    if start.is_empty() {
        return is("empty", "fetch it again");
    }
    if let Some((_, what, remedy)) = OTHERS.iter().find(|(magic, ..)| start.starts_with(magic)) {
        return is(what, remedy);
    }
    // The length of the header, which is always below 4 GiB, and then the header.
    if matches!(start[..], [_, _, _, _, 0, 0, 0, 0, b'{', ..]) {
        return Ok(Kind::Safetensors);
    }
    if start.starts_with(b"PK") {
        return archive(path);
    }
    if start.get(257..262) == Some(b"ustar") {
        let first = start.split(|byte| *byte == 0).next().unwrap_or_default();
        let first = String::from_utf8_lossy(first);
        let first = first.trim_start_matches("./");
        if ["", "sys_info", "storages", "tensors", "pickle"].contains(&first) {
            return Ok(Kind::PyTorch);
        }
        return is(&format!("a tar archive, with `{}` in it", short(first)), "unpack it, and name the file of weights");
    }
    // The version of the format, followed by the producer, the producer's version, or the graph.
    if matches!(start[..], [8, 1..=20, 0x12 | 0x1a | 0x3a, ..]) {
        return is("an ONNX model", CONVERT);
    }
    let text = String::from_utf8_lossy(&start).trim_start().to_ascii_lowercase();
    if ["<!doctype", "<html", "<?xml"].iter().any(|tag| text.starts_with(tag)) {
        return is(
            "a web page, and not the file that was asked for",
            "fetch it by hand: the server may ask for a confirmation",
        );
    }
    Ok(Kind::PyTorch)
}

/// The kind of a zip archive: PyTorch's contain a pickle.
fn archive(path: &Path) -> Result<Kind, ImportError> {
    let file = open_file(path).map_err(FileError::unreadable(path, FILE))?;
    // If the archive is damaged, the reader of checkpoints reports it better.
    let Ok(mut archive) = ZipArchive::new(BufReader::new(file)) else { return Ok(Kind::PyTorch) };
    let names: Vec<String> = archive.file_names().filter_map(|name| Some(name.ok()?.into_owned())).collect();
    let named = |name: &str| names.iter().any(|there| there == name || there.ends_with(&format!("/{name}")));
    let script = named("constants.pkl") || names.iter().any(|name| name.contains("/code/"));
    let (what, remedy) = if named("data.pkl") && script && frozen(&mut archive, &names) {
        let remedy = "save it as it was before `torch.jit.freeze`, or its `state_dict()` by `torch.save`";
        ("a frozen TorchScript program, whose weights have lost their names".to_owned(), remedy)
    } else if named("data.pkl") {
        if !has_lazy_views(&mut archive, &names) {
            return Ok(if script { Kind::TorchScript } else { Kind::PyTorch });
        }
        let remedy = "in PyTorch: `torch.save({k: v.resolve_neg().resolve_conj() for k, v in weights.items()}, \"weights.pth\")`";
        ("a checkpoint with tensors that are stored as the negative or conjugate of their values".to_owned(), remedy)
    } else if named("model.json") && names.iter().any(|name| name.contains("/tensors/")) {
        let remedy = "in PyTorch: `torch.save(torch.jit.load(FILE).state_dict(), \"weights.pth\")`";
        ("a TorchScript program of a version of PyTorch before 1.4".to_owned(), remedy)
    } else if named("model.weights.h5") {
        ("a model of Keras".to_owned(), CONVERT)
    } else if names.iter().any(|name| name.ends_with(".npy")) {
        ("an archive of NumPy arrays (.npz)".to_owned(), CONVERT)
    } else if named("archive_format") || named("serialized_exported_program.json") {
        let remedy = "in PyTorch: `torch.save(torch.export.load(FILE).state_dict, \"weights.pth\")`";
        ("an exported program of PyTorch (.pt2)".to_owned(), remedy)
    } else {
        let first = names.first().map_or("nothing".to_owned(), |name| format!("`{}`", short(name)));
        (format!("a zip archive, with {first} in it"), "unpack it, and name the file of weights")
    };
    Err(ImportError::Other { path: path.to_owned(), what, remedy: remedy.to_owned() })
}

/// Whether a TorchScript program has its tensors among the constants of its code, where they have no names.
fn frozen(archive: &mut ZipArchive<BufReader<File>>, names: &[String]) -> bool {
    let pickle = pickle(archive, names);
    let tensors = b"_rebuild_tensor";
    names.iter().any(|name| name.contains("/constants/")) && !pickle.windows(tensors.len()).any(|at| at == tensors)
}

/// The pickle of an archive, or its beginning; empty if it cannot be read.
fn pickle(archive: &mut ZipArchive<BufReader<File>>, names: &[String]) -> Vec<u8> {
    const LONGEST: u64 = 256 << 20;
    let mut pickle = Vec::new();
    let name = names.iter().find(|name| *name == "data.pkl" || name.ends_with("/data.pkl"));
    let read = name.map(|name| archive.by_name(name).map(|entry| entry.take(LONGEST).read_to_end(&mut pickle)));
    if matches!(read, Some(Ok(Ok(_)))) { pickle } else { Vec::new() }
}

/// Whether the pickle of an archive marks a tensor as a negative or conjugate view, which the reader of checkpoints
/// ignores. The mark is a dictionary key (`neg` or `conj`), which the pickle may memoise, followed by the value true.
fn has_lazy_views(archive: &mut ZipArchive<BufReader<File>>, names: &[String]) -> bool {
    const TRUE: u8 = 0x88;
    let pickle = pickle(archive, names);
    let marks = |key: &[u8]| {
        let ends = pickle.windows(key.len()).enumerate().filter(|(_, at)| *at == key).map(|(at, _)| at + key.len());
        ends.into_iter().any(|end| {
            let numbered = match pickle.get(end) {
                Some(b'q') => 2,
                Some(b'r') => 5,
                Some(0x94) => 1,
                _ => 0,
            };
            pickle.get(end + numbered) == Some(&TRUE)
        })
    };
    marks(b"X\x03\0\0\0neg") || marks(b"X\x04\0\0\0conj")
}

pub(crate) fn short(text: &str) -> String {
    hemlock_stage::short(text, VALUE).into_owned()
}
