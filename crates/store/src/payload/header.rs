//! The header of a payload file: its first 128 bytes. The layout is in [the parent's documentation](super).

use std::path::Path;

use crate::hash::Digest;
use crate::{Result, StoreError};

/// Length of a header in bytes, which is the offset of the body.
pub const HEADER_LEN: usize = 128;

const MAGIC: &[u8; 8] = b"HEMLOCK\0";
const MAJOR: u16 = 1;
const MINOR: u16 = 0;
const MAX_AXES: usize = 4;
const LABEL: std::ops::Range<usize> = 56..96;
const DIGEST: std::ops::Range<usize> = 96..128;

/// The encoding of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Encoding {
    Bincode = 0,
    F32 = 1,
    U8 = 2,
    U32 = 3,
    F64 = 4,
}

impl Encoding {
    const ALL: [Self; 5] = [Self::Bincode, Self::F32, Self::U8, Self::U32, Self::F64];

    /// Number of bytes per element; 1 for a bincode body.
    pub fn size(self) -> usize {
        match self {
            Self::Bincode | Self::U8 => 1,
            Self::F32 | Self::U32 => 4,
            Self::F64 => 8,
        }
    }

    /// The words for the encoding in a message.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Bincode => "a value",
            Self::F32 => "an array of f32",
            Self::U8 => "an array of u8",
            Self::U32 => "an array of u32",
            Self::F64 => "an array of f64",
        }
    }
}

/// A parsed header, whose shape agrees with the length of the body.
#[derive(Debug)]
pub struct Header {
    pub encoding: Encoding,
    pub shape: Vec<usize>,
    pub body_len: usize,
    /// The kind and name, such as `features/train`.
    pub label: String,
    pub digest: Digest,
}

/// Number of elements of an array of this shape; `None` if it overflows.
pub fn volume(shape: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1_usize, |n, &len| n.checked_mul(len))
}

impl Header {
    /// Number of elements of the body.
    pub fn elements(&self) -> usize {
        self.body_len / self.encoding.size()
    }
}

/// Encodes the header of a body, including the digest. Returns it with the digest.
pub fn encode(encoding: Encoding, shape: &[usize], label: &str, body: &[u8]) -> Result<([u8; HEADER_LEN], Digest)> {
    if shape.len() > MAX_AXES {
        return Err(StoreError::refused(format!("`{label}` has the shape {shape:?}: at most {MAX_AXES} axes fit")));
    }
    if label.len() > LABEL.len() {
        return Err(StoreError::refused(format!("the name `{label}` is longer than {} bytes", LABEL.len())));
    }
    let mut raw = [0; HEADER_LEN];
    raw[0..8].copy_from_slice(MAGIC);
    raw[8..10].copy_from_slice(&MAJOR.to_le_bytes());
    raw[10..12].copy_from_slice(&MINOR.to_le_bytes());
    raw[12..14].copy_from_slice(&(encoding as u16).to_le_bytes());
    raw[14..16].copy_from_slice(&(shape.len() as u16).to_le_bytes());
    for (field, &len) in raw[16..48].chunks_exact_mut(8).zip(shape) {
        field.copy_from_slice(&(len as u64).to_le_bytes());
    }
    raw[48..56].copy_from_slice(&(body.len() as u64).to_le_bytes());
    raw[LABEL][..label.len()].copy_from_slice(label.as_bytes());
    let digest = Digest::from(hasher(&raw).update_rayon(body).finalize());
    raw[DIGEST].copy_from_slice(digest.as_bytes());
    Ok((raw, digest))
}

/// Returns a hasher that was given the header with a zeroed digest, and has to be given the body.
pub fn hasher(raw: &[u8; HEADER_LEN]) -> blake3::Hasher {
    let mut zeroed = *raw;
    zeroed[DIGEST].fill(0);
    let mut hasher = blake3::Hasher::new();
    hasher.update(&zeroed);
    hasher
}

/// Parses a header. The digest is not checked.
pub fn parse(path: &Path, raw: &[u8; HEADER_LEN]) -> Result<Header> {
    let corrupt = |what: &str| StoreError::corrupt(path, what);
    if raw[0..8] != *MAGIC {
        return Err(corrupt("it does not begin with a payload header"));
    }
    let (major, minor) = (u16_at(raw, 8), u16_at(raw, 10));
    if major > MAJOR {
        return Err(StoreError::NewerFormat {
            path: path.to_owned(),
            found: format!("{major}.{minor}"),
            supported: format!("{MAJOR}.{MINOR}"),
        });
    }
    if major < MAJOR {
        return Err(corrupt("its header names a format that never was"));
    }
    let encoding = Encoding::ALL
        .into_iter()
        .find(|&e| e as u16 == u16_at(raw, 12))
        .ok_or_else(|| corrupt("its header names an unknown encoding"))?;
    let axes = usize::from(u16_at(raw, 14));
    if axes > MAX_AXES {
        return Err(corrupt("its header has more than four axes"));
    }
    let lengths = raw[16..48]
        .chunks_exact(8)
        .map(usize_at)
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| corrupt("its header has an axis that does not fit in memory"))?;
    let (shape, unused) = lengths.split_at(axes);
    if unused.iter().any(|&len| len != 0) {
        return Err(corrupt("its header has lengths of axes that it does not have"));
    }
    let body_len =
        usize_at(&raw[48..56]).ok_or_else(|| corrupt("its header has a body that does not fit in memory"))?;
    let fits = match encoding {
        Encoding::Bincode => axes == 0,
        _ => volume(shape).and_then(|n| n.checked_mul(encoding.size())) == Some(body_len),
    };
    if !fits {
        return Err(corrupt("its header has a shape that is not that of its body"));
    }
    let label = std::str::from_utf8(&raw[LABEL])
        .map_err(|_| corrupt("its header has a name that is not text"))?
        .trim_end_matches('\0')
        .to_owned();
    let mut digest = [0; 32];
    digest.copy_from_slice(&raw[DIGEST]);
    Ok(Header { encoding, shape: shape.to_vec(), body_len, label, digest: Digest::new(digest) })
}

fn u16_at(raw: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([raw[at], raw[at + 1]])
}

/// Converts eight bytes to a length; `None` if it does not fit into `usize`.
fn usize_at(field: &[u8]) -> Option<usize> {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(field);
    usize::try_from(u64::from_le_bytes(bytes)).ok()
}
