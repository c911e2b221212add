//! Checksums of published files, and a hasher of structured contents.

use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;

use crate::DataError;

/// A checksum as people exchange them, `sha256:…`, `md5:…` or `blake3:…`, in lower case hex.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Checksum {
    algorithm: ChecksumAlgorithm,
    hex: String,
}

/// The algorithm of a [`Checksum`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChecksumAlgorithm {
    /// SHA-256 of an archive's bytes.
    Sha256,
    /// MD5 of an archive's bytes. It is supported only because published checksums use it.
    Md5,
    /// BLAKE3 of an unpacked dataset's contents.
    Blake3,
}

impl Checksum {
    pub(crate) fn new(algorithm: ChecksumAlgorithm, hash: &[u8]) -> Self {
        let hex = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { algorithm, hex }
    }

    /// The algorithm.
    pub fn algorithm(&self) -> ChecksumAlgorithm {
        self.algorithm
    }

    /// The value in lower case hex.
    pub fn hex(&self) -> &str {
        &self.hex
    }
}

impl ChecksumAlgorithm {
    const ALL: [Self; 3] = [Self::Sha256, Self::Md5, Self::Blake3];

    fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Md5 => "md5",
            Self::Blake3 => "blake3",
        }
    }

    fn hex_digits(self) -> usize {
        match self {
            Self::Md5 => 32,
            Self::Sha256 | Self::Blake3 => 64,
        }
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

impl FromStr for Checksum {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self, DataError> {
        let parse = || {
            let (name, hex) = text.trim().split_once(':')?;
            let algorithm = ChecksumAlgorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name)?;
            let valid = hex.len() == algorithm.hex_digits() && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
            valid.then(|| Self { algorithm, hex: hex.to_ascii_lowercase() })
        };
        parse().ok_or_else(|| DataError::ChecksumSyntax { text: text.to_owned() })
    }
}

/// A BLAKE3 hasher of a sequence of fields. Each field is preceded by its length, so that different sequences never
/// give the same bytes.
pub(crate) struct FieldHasher(blake3::Hasher);

impl FieldHasher {
    /// Starts a hash. `context` names what is hashed and the version of the format, so that hashes of other things
    /// differ.
    pub fn new(context: &str) -> Self {
        Self(blake3::Hasher::new_derive_key(context))
    }

    pub fn field(&mut self, bytes: &[u8]) -> &mut Self {
        // usize is at most 64 bits wide.
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update_rayon(bytes);
        self
    }

    /// Hashes the contents of a file of the given length as a field. The file is mapped and must not change meanwhile.
    pub fn file(&mut self, path: &Path, length: usize) -> io::Result<()> {
        self.0.update(&(length as u64).to_le_bytes());
        self.0.update_mmap_rayon(path)?;
        Ok(())
    }

    pub fn finish(&self) -> blake3::Hash {
        self.0.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_round_trip() {
        for text in [
            "md5:c32a1d4ab5d03f1284b67883e8d87530",
            "sha256:2eac1edc4080043c9051ae8124ffb276b07082de9e050944647c8c49f7449347",
        ] {
            assert_eq!(text.parse::<Checksum>().unwrap().to_string(), text);
        }
        let upper = "md5:C32A1D4AB5D03F1284B67883E8D87530".parse::<Checksum>();
        assert_eq!(upper.unwrap().hex(), "c32a1d4ab5d03f1284b67883e8d87530");
    }

    #[test]
    fn other_text_is_no_checksum() {
        for text in [
            "",
            "md5",
            "md5:",
            "md5:c32a",
            "sha1:c32a1d4ab5d03f1284b67883e8d87530",
            "md5:c32a1d4ab5d03f1284b67883e8d8753z",
            "sha256:c32a1d4ab5d03f1284b67883e8d87530",
        ] {
            let error = text.parse::<Checksum>().unwrap_err();
            assert!(error.to_string().contains("is no checksum"), "{text}");
        }
    }

    #[test]
    fn field_borders_count() {
        let hash = |fields: &[&str]| {
            let mut hasher = FieldHasher::new("test");
            for field in fields {
                hasher.field(field.as_bytes());
            }
            hasher.finish()
        };
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
        assert_ne!(hash(&["a"]), hash(&["a", ""]));
        assert_eq!(hash(&["a", "b"]), hash(&["a", "b"]));
    }
}
