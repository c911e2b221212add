//! What can be wrong with the inputs of this crate.

use hemlock_failure::{ErrorKind, Failure};
use thiserror::Error;

/// An input that the head's mathematics is not defined for.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum HeadError {
    /// A softmax over fewer than two classes.
    #[error("a softmax head needs at least 2 classes, but {classes} were given")]
    TooFewClasses {
        /// The number of classes given.
        classes: usize,
    },
    /// Features without a single column.
    #[error("a head needs at least 1 feature per sample, but the features have no columns")]
    NoFeatures,
    /// A label that names no class.
    #[error("label {label} of sample {index} is out of range: with {classes} classes, labels run from 0 to {}", classes.saturating_sub(1))]
    LabelOutOfRange {
        /// The sample's row.
        index: usize,
        /// Its label.
        label: u32,
        /// The number of classes.
        classes: usize,
    },
    /// A feature that is infinite or not a number.
    #[error(
        "feature ({row}, {column}) is {value}, but features must be finite: check the extractor or attack that made them"
    )]
    NonFiniteFeature {
        /// The sample's row.
        row: usize,
        /// The feature's column.
        column: usize,
        /// The offending value.
        value: f64,
    },
    /// A head parameter that is infinite or not a number.
    #[error("head parameter ({row}, {column}) is {value}, but parameters must be finite")]
    NonFiniteParameter {
        /// The class.
        row: usize,
        /// The packed column; the last one is the bias.
        column: usize,
        /// The offending value.
        value: f64,
    },
    /// Features and labels of different length.
    #[error("{features} rows of features came with {labels} labels: each row needs exactly one")]
    LabelCount {
        /// Rows of features.
        features: usize,
        /// Labels.
        labels: usize,
    },
    /// Features with another number of columns than the head, or than the blocks before.
    #[error("expected features with {expected} columns, found {found}: are they from another extractor?")]
    FeatureCount {
        /// Columns expected.
        expected: usize,
        /// Columns found.
        found: usize,
    },
    /// Samples labelled with another number of classes than the head, or than the blocks before.
    #[error("expected samples of {expected} classes, found samples of {found}")]
    ClassCount {
        /// Classes expected.
        expected: usize,
        /// Classes found.
        found: usize,
    },
    /// An argument that should have the shape of the parameters and has not.
    #[error("{what} must be packed like the head, {expected:?} (classes, features + 1), but it is {found:?}")]
    PackedShape {
        /// The argument.
        what: &'static str,
        /// The head's packed shape.
        expected: (usize, usize),
        /// The argument's shape.
        found: (usize, usize),
    },
    /// Probabilities that are not those of the samples.
    #[error("probabilities must be {expected:?} (samples, classes), but they are {found:?}")]
    ProbabilityShape {
        /// The samples and classes.
        expected: (usize, usize),
        /// The shape given.
        found: (usize, usize),
    },
    /// A head that no positive scale makes better.
    #[error(
        "the best scale of the head is {scale:.2e}, and it must be positive: the head is so wrong that its reverse fits better"
    )]
    NoScale {
        /// The scale.
        scale: f64,
    },
    /// A mean over no samples.
    #[error("there are no samples, but a mean over samples needs at least one")]
    Empty,
    /// An option outside of its range.
    #[error("option `{name}` is {value}, but it must be {expected}")]
    InvalidOption {
        /// The option's name.
        name: &'static str,
        /// The value given.
        value: f64,
        /// The range allowed, in words.
        expected: &'static str,
    },
}

impl Failure for HeadError {
    fn class(&self) -> ErrorKind {
        match self {
            Self::NonFiniteFeature { .. } | Self::NonFiniteParameter { .. } => ErrorKind::Numeric,
            Self::InvalidOption { .. } => ErrorKind::Params,
            _ => ErrorKind::Data,
        }
    }
}

impl HeadError {
    /// Refuses `value` unless it is finite and at least zero; `name` names it in the message.
    ///
    /// # Errors
    /// It is not.
    pub fn check_non_negative(name: &'static str, value: f64) -> Result<(), Self> {
        if value.is_finite() && value >= 0.0 {
            Ok(())
        } else {
            Err(Self::InvalidOption { name, value, expected: "finite and at least 0" })
        }
    }
}
