//! Hashes, which are written as lower-case hex digits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// `N` bytes of a BLAKE3 hash. It is displayed, parsed and serialised as `2 N` lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash<const N: usize>([u8; N]);

/// The name of a task: the hash of its [`Identity`](crate::Identity), 32 hex digits.
pub type Key = Hash<16>;

/// A hash of contents, 64 hex digits.
pub type Digest = Hash<32>;

/// The error that a text is not a [`struct@Hash`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {digits} lower-case hex digits, found `{found}`")]
pub struct ParseHashError {
    digits: usize,
    found: String,
}

impl<const N: usize> Hash<N> {
    /// Makes a hash of its bytes.
    pub const fn new(bytes: [u8; N]) -> Self {
        Self(bytes)
    }

    /// The bytes of the hash.
    pub const fn as_bytes(&self) -> &[u8; N] {
        &self.0
    }
}

impl Key {
    /// The first 12 digits, which are enough to tell keys apart in a table.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }

    /// The first half of the BLAKE3 hash of `bytes`.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut half = [0; 16];
        half.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
        Self(half)
    }
}

impl Digest {
    /// The BLAKE3 hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        blake3::hash(bytes).into()
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(hash.into())
    }
}

impl<const N: usize> fmt::Display for Hash<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<const N: usize> fmt::Debug for Hash<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const N: usize> FromStr for Hash<N> {
    type Err = ParseHashError;

    fn from_str(text: &str) -> Result<Self, ParseHashError> {
        let fail = || ParseHashError { digits: 2 * N, found: text.to_owned() };
        if text.len() != 2 * N {
            return Err(fail());
        }
        let mut bytes = [0; N];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let (high, low) = (digit(pair[0]).ok_or_else(fail)?, digit(pair[1]).ok_or_else(fail)?);
            *byte = high << 4 | low;
        }
        Ok(Self(bytes))
    }
}

fn digit(c: u8) -> Option<u8> {
    match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    }
}

impl<const N: usize> Serialize for Hash<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hash<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_string_has_its_published_digest() {
        let text = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(Digest::of(b"").to_string(), text);
        assert_eq!(text.parse(), Ok(Digest::of(b"")));
        assert_eq!(Key::of(b"").to_string(), text[..32]);
    }

    #[test]
    fn only_exact_text_is_a_key() {
        for text in [
            "",
            "af",
            "AF1349B9F5F9A1A6A0404DEA36DCC949",
            "zf1349b9f5f9a1a6a0404dea36dcc949",
            "éf1349b9f5f9a1a6a0404dea36dcc94",
        ] {
            assert!(text.parse::<Key>().is_err(), "{text}");
        }
    }
}
