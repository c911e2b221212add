//! The errors that stages return.

use crate::{MESSAGE, VALUE, short};
use hemlock_failure::{ErrorKind, Failure};
use std::{error::Error, fmt};

/// A failure of a stage: its class, and what happened.
#[derive(Debug)]
pub struct StageError {
    kind: ErrorKind,
    source: Box<dyn Error + Send + Sync>,
}

impl StageError {
    /// Makes a failure of the class `kind` from an error or a message.
    pub fn new(kind: ErrorKind, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { kind, source: source.into() }
    }
    /// Makes a failure that should be impossible.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message.into())
    }
    /// The class of the failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for StageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl Error for StageError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.source()
    }
}

impl<E: Failure> From<E> for StageError {
    fn from(e: E) -> Self {
        Self::new(e.class(), e)
    }
}

impl From<ParamError> for StageError {
    fn from(e: ParamError) -> Self {
        Self::new(ErrorKind::Params, e)
    }
}

/// A field of a stage's table in a spec that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", if .path.is_empty() { String::new() } else { format!("`{}`: ", .path) })]
pub struct ParamError {
    /// Path of the field within the stage's table, `a.b`; empty for the table itself.
    pub path: String,
    /// What is wrong and what was expected.
    pub message: String,
}

impl ParamError {
    /// Makes an error about the field `path`. Path and message are cut if they are too long.
    pub fn new(path: impl AsRef<str>, message: impl AsRef<str>) -> Self {
        let (path, message) = (short(path.as_ref(), VALUE), short(message.as_ref(), MESSAGE));
        Self { path: path.into_owned(), message: message.into_owned() }
    }

    /// Requires that a condition holds for `value`. `expected` names the allowed range in words, for the message.
    ///
    /// # Errors
    /// `holds` is false.
    pub fn require(holds: bool, path: &str, value: impl fmt::Display, expected: &str) -> Result<(), Self> {
        if holds { Ok(()) } else { Err(Self::new(path, format!("is {value}; expected {expected}"))) }
    }
}

impl ParamError {
    /// Requires a finite number above 0.
    ///
    /// # Errors
    /// The value is 0 or less, or not finite.
    pub fn positive(path: &str, value: f64) -> Result<(), Self> {
        Self::require(value > 0.0 && value.is_finite(), path, value, "a number above 0")
    }

    /// Requires a finite number of at least 0.
    ///
    /// # Errors
    /// The value is negative, or not finite.
    pub fn non_negative(path: &str, value: f64) -> Result<(), Self> {
        Self::require(value >= 0.0 && value.is_finite(), path, value, "a number from 0")
    }

    /// Requires a share above 0 and up to 1. For a value that looks like a percentage, the message names the share.
    ///
    /// # Errors
    /// The value is 0 or less, above 1, or not a number.
    pub fn share(path: &str, value: f64) -> Result<(), Self> {
        let expected = "a share above 0 and up to 1";
        if value > 1.0 && value <= 100.0 {
            return Self::require(false, path, value, &format!("{expected}: {value} % is {}", value / 100.0));
        }
        Self::require(value > 0.0 && value <= 1.0, path, value, expected)
    }

    /// Requires a count of at least 1.
    ///
    /// # Errors
    /// The value is 0.
    pub fn at_least_one(path: &str, value: impl Into<u64>) -> Result<(), Self> {
        Self::require(value.into() > 0, path, 0, "at least 1")
    }

    /// Requires a count from 1 to `most`.
    ///
    /// # Errors
    /// The value is 0, or larger than `most`.
    pub fn count(path: &str, value: usize, most: usize) -> Result<(), Self> {
        Self::at_least_one(path, value as u64)?;
        Self::require(value <= most, path, value, &format!("at most {most}"))
    }

    /// Requires a number of a layer's units or channels, from 1 to [`MOST_UNITS`].
    ///
    /// # Errors
    /// The value is 0, or larger than [`MOST_UNITS`].
    pub fn units(path: &str, value: usize) -> Result<(), Self> {
        Self::count(path, value, MOST_UNITS)
    }

    /// Requires a number of passes over the data, from 1 to [`MOST_EPOCHS`].
    ///
    /// # Errors
    /// The value is 0, or larger than [`MOST_EPOCHS`].
    pub fn epochs(path: &str, value: usize) -> Result<(), Self> {
        Self::count(path, value, MOST_EPOCHS)
    }
}

/// The largest number of units or channels of a layer that a spec may ask for.
pub const MOST_UNITS: usize = 65_536;

/// The largest number of passes over the data that a spec may ask for.
pub const MOST_EPOCHS: usize = 1_000_000;

impl ParamError {
    /// Rust's number types, and the words for them in messages to authors of specs.
    const WORDS: [(&str, &str); 6] = [
        ("u8", "a whole number from 0 to 255"),
        ("u32", "a whole number from 0 to 4294967295"),
        ("u64", "a whole number from 0"),
        ("usize", "a whole number from 0"),
        ("f32", "a number"),
        ("f64", "a number"),
    ];

    /// Replaces the Rust type at the end of one of serde's messages by words.
    pub(crate) fn in_words(mut self) -> Self {
        for (rust, words) in Self::WORDS {
            if let Some(before) = self.message.strip_suffix(&format!("expected {rust}")) {
                self.message = format!("{before}expected {words}");
            }
        }
        self
    }
}

impl From<serde_path_to_error::Error<serde_json::Error>> for ParamError {
    fn from(e: serde_path_to_error::Error<serde_json::Error>) -> Self {
        let path = e.path().to_string();
        Self::new(if path == "." { "" } else { &path }, e.into_inner().to_string())
    }
}
