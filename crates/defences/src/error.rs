//! The errors of this crate.

use hemlock_failure::{ErrorKind, Failure};
use hemlock_head::HeadError;
use thiserror::Error;

/// Reasons why a defence cannot be applied.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum DefenceError {
    /// The samples do not fit each other or a head, or a parameter of training is out of its range.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// A parameter is out of its range.
    #[error("`{name}` is {value}, but it must be {expected}")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// The value given.
        value: f64,
        /// The allowed range, in words.
        expected: String,
    },
    /// An image cannot be transformed.
    #[error("{what}")]
    Image {
        /// What is wrong with it.
        what: String,
    },
    /// A filter would leave a class without samples.
    #[error(
        "the filter `{filter}` would remove all {samples} samples of class {class}, and no head can be trained without \
         them: let it remove less"
    )]
    WholeClass {
        /// The filter.
        filter: &'static str,
        /// The class.
        class: usize,
        /// The number of the class's samples.
        samples: usize,
    },
    /// A filter would remove all samples.
    #[error(
        "the filter `{filter}` removes {multiple} times the expected share of poisons, and with an `expected` of \
         {expected} nothing would be left: expect less than {}, or say how much to `remove`", 1.0 / multiple
    )]
    Everything {
        /// The filter.
        filter: &'static str,
        /// The expected share of poisons.
        expected: f64,
        /// What the filter removes, as a multiple of it.
        multiple: f64,
    },
    /// A part of a training set has no samples.
    #[error(
        "`{defence}` deals {samples} samples into {parts} parts by their hashes, and one gets none: take fewer parts"
    )]
    EmptyPart {
        /// The defence.
        defence: &'static str,
        /// The number of parts.
        parts: usize,
        /// The number of samples.
        samples: usize,
    },
    /// A filter compares classes, and only one has samples.
    #[error("`{defence}` compares the classes of the training set, but only {found} of its classes have samples")]
    FewClasses {
        /// The defence.
        defence: &'static str,
        /// The number of classes with samples.
        found: usize,
    },
    /// A class has too few samples.
    #[error("`{defence}` needs at least {needed} samples of every class, but class {class} has {found}")]
    FewSamples {
        /// The defence.
        defence: &'static str,
        /// The class.
        class: usize,
        /// The number of samples that every class needs.
        needed: usize,
        /// The number of the class's samples.
        found: usize,
    },
    /// A list does not have one element for each sample.
    #[error("{what} has {found} elements, but there are {expected} samples")]
    Length {
        /// The list.
        what: &'static str,
        /// The number of samples.
        expected: usize,
        /// The number of elements found.
        found: usize,
    },
    /// A matrix cannot be inverted.
    #[error("{what} cannot be inverted: raise the weight decay")]
    Singular {
        /// The matrix.
        what: &'static str,
    },
    /// Training did not reach its minimum.
    #[error(
        "training a head for `{defence}` stopped at a gradient norm of {gradient_norm:.1e}, before its minimum: raise \
         the weight decay"
    )]
    NotConverged {
        /// The defence.
        defence: &'static str,
        /// The L2 norm of the gradient that remained.
        gradient_norm: f64,
    },
    /// The constraint does not bound poisons, and the certificate needs a bound.
    #[error(
        "the constraint leaves poisons of class {class} unbounded, and unbounded poisons cannot be certified: add \
         `ball`, `box`, `sphere` or `knn`"
    )]
    Unbounded {
        /// The class.
        class: usize,
    },
}

impl Failure for DefenceError {
    fn class(&self) -> ErrorKind {
        match self {
            Self::Head(error) => error.class(),
            Self::Parameter { .. } | Self::WholeClass { .. } | Self::Unbounded { .. } => ErrorKind::Params,
            Self::Everything { .. } | Self::EmptyPart { .. } => ErrorKind::Params,
            Self::FewClasses { .. } | Self::FewSamples { .. } | Self::Image { .. } => ErrorKind::Data,
            Self::Singular { .. } | Self::NotConverged { .. } => ErrorKind::Numeric,
            Self::Length { .. } => ErrorKind::Internal,
        }
    }
}

impl DefenceError {
    /// Checks that a share lies in `[0, 1)`.
    pub(crate) fn check_share(name: &'static str, value: f64) -> Result<(), Self> {
        if (0.0..1.0).contains(&value) {
            return Ok(());
        }
        Err(Self::Parameter { name, value, expected: "at least 0 and less than 1".to_owned() })
    }

    /// Checks that a count lies between `least` and `most`.
    pub(crate) fn check_count(name: &'static str, value: usize, least: usize, most: usize) -> Result<(), Self> {
        if (least..=most).contains(&value) {
            return Ok(());
        }
        Err(Self::Parameter { name, value: value as f64, expected: format!("between {least} and {most}") })
    }

    /// Checks that a number is finite and positive.
    pub(crate) fn check_positive(name: &'static str, value: f64) -> Result<(), Self> {
        if value.is_finite() && value > 0.0 {
            return Ok(());
        }
        Err(Self::Parameter { name, value, expected: "finite and more than 0".to_owned() })
    }

    /// Checks that a list has one element for each of `expected` samples.
    pub(crate) fn check_length(what: &'static str, found: usize, expected: usize) -> Result<(), Self> {
        if found == expected { Ok(()) } else { Err(Self::Length { what, expected, found }) }
    }
}
