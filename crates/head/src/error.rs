//! The errors of this crate.

use hemlock_failure::{ErrorKind, Failure};
use thiserror::Error;

/// An input for which the mathematics of the head is not defined.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum HeadError {
    /// A softmax has fewer than two classes.
    #[error("a softmax head needs at least 2 classes, but {classes} were given")]
    TooFewClasses {
        /// The number of classes given.
        classes: usize,
    },
    /// The features have no columns.
    #[error("a head needs at least 1 feature per sample, but the features have no columns")]
    NoFeatures,
    /// A label is not below the number of classes.
    #[error("label {label} of sample {index} is out of range: with {classes} classes, labels run from 0 to {}", classes.saturating_sub(1))]
    LabelOutOfRange {
        /// The row of the sample.
        index: usize,
        /// The label of the sample.
        label: u32,
        /// The number of classes.
        classes: usize,
    },
    /// A feature is infinite or not a number.
    #[error(
        "feature ({row}, {column}) is {value}, but features must be finite: check the extractor or attack that made them"
    )]
    NonFiniteFeature {
        /// The row of the sample.
        row: usize,
        /// The column of the feature.
        column: usize,
        /// The value found.
        value: f64,
    },
    /// A parameter of a head is infinite or not a number.
    #[error("head parameter ({row}, {column}) is {value}, but parameters must be finite")]
    NonFiniteParameter {
        /// The class of the parameter.
        row: usize,
        /// The column of the packed parameters; the last one is the bias.
        column: usize,
        /// The value found.
        value: f64,
    },
    /// The number of labels is not the number of rows of features.
    #[error("{features} rows of features came with {labels} labels: each row needs exactly one")]
    LabelCount {
        /// Number of rows of features.
        features: usize,
        /// Number of labels.
        labels: usize,
    },
    /// Features have a different number of columns than the head or than earlier blocks.
    #[error("expected features with {expected} columns, found {found}: are they from another extractor?")]
    FeatureCount {
        /// The number of columns expected.
        expected: usize,
        /// The number of columns found.
        found: usize,
    },
    /// Samples have a different number of classes than the head or than earlier blocks.
    #[error("expected samples of {expected} classes, found samples of {found}")]
    ClassCount {
        /// The number of classes expected.
        expected: usize,
        /// The number of classes found.
        found: usize,
    },
    /// An argument does not have the shape of the parameters, `[K, d + 1]`.
    #[error("{what} must be packed like the head, {expected:?} (classes, features + 1), but it is {found:?}")]
    PackedShape {
        /// The name of the argument.
        what: &'static str,
        /// The head's packed shape.
        expected: (usize, usize),
        /// The shape of the argument.
        found: (usize, usize),
    },
    /// Probabilities do not have the shape `[n, K]` of their samples.
    #[error("probabilities must be {expected:?} (samples, classes), but they are {found:?}")]
    ProbabilityShape {
        /// The number of samples and the number of classes.
        expected: (usize, usize),
        /// The shape of the probabilities.
        found: (usize, usize),
    },
    /// No positive scale improves the head ([`calibrate()`](crate::calibrate())).
    #[error(
        "the best scale of the head is {scale:.2e}, and it must be positive: the head is so wrong that its reverse fits better"
    )]
    NoScale {
        /// The best scale, which is zero or negative.
        scale: f64,
    },
    /// A mean is taken over no samples.
    #[error("there are no samples, but a mean over samples needs at least one")]
    Empty,
    /// An option is out of its range.
    #[error("option `{name}` is {value}, but it must be {expected}")]
    InvalidOption {
        /// The name of the option.
        name: &'static str,
        /// The value given.
        value: f64,
        /// The allowed range, in words.
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
    /// Checks that `value` is finite and not negative. `name` names it in the message.
    ///
    /// # Errors
    /// Returns [`HeadError::InvalidOption`] if `value` is negative or not finite.
    pub fn check_non_negative(name: &'static str, value: f64) -> Result<(), Self> {
        if value.is_finite() && value >= 0.0 {
            Ok(())
        } else {
            Err(Self::InvalidOption { name, value, expected: "finite and at least 0" })
        }
    }
}
