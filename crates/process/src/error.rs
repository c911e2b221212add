//! What a child may do wrong.

use crate::frame::{MAGIC, VERSION};
use hemlock_failure::{ErrorKind, Failure};
use hemlock_stage::{MESSAGE, VALUE, short};
use std::time::Duration;

/// Something that a child did wrong, as words that follow its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The command cannot be started.
    #[error("cannot be started ({0}); expected a program on PATH, or the path of one, as the first word of `command`")]
    Start(String),
    /// The child ended, or closed its stdout.
    #[error("{how} before it had answered `{request}`")]
    Ended {
        /// What it was asked for.
        request: &'static str,
        /// How it ended.
        how: String,
    },
    /// The child did not answer in time.
    #[error("has not answered `{request}` within {} s; is it stuck, or is `timeout` too short?", .within.as_secs_f64())]
    Hangs {
        /// What it was asked for.
        request: &'static str,
        /// The time that it had.
        within: Duration,
    },
    /// The child wrote something else than a frame.
    #[error("wrote {text} to its stdout, which belongs to the protocol; print to stderr instead")]
    Printed {
        /// The beginning of what it wrote, quoted.
        text: String,
    },
    /// The child speaks another version of the protocol.
    #[error("speaks version {found} of the protocol; this Hemlock speaks version {VERSION}")]
    Version {
        /// Its version.
        found: u16,
    },
    /// The child said why it cannot answer.
    #[error("cannot answer `{request}`: {message}")]
    Refused {
        /// What it was asked for.
        request: &'static str,
        /// Its words.
        message: String,
    },
    /// The answer has another form than expected.
    #[error("answered `{request}` with {found}; expected {expected}")]
    Shape {
        /// What it was asked for.
        request: &'static str,
        /// The form of the answer.
        found: String,
        /// The expected form.
        expected: String,
    },
    /// The answer has a number that is not finite.
    #[error("answered `{request}` with {value} for image {image}, value {place}; expected finite numbers")]
    NotFinite {
        /// What it was asked for.
        request: &'static str,
        /// The number.
        value: String,
        /// Number of the image in the request.
        image: usize,
        /// Number of the value within the image's features or pixels.
        place: usize,
    },
    /// The description cannot be used.
    #[error("describes itself as {text}: {reason}")]
    Description {
        /// The description.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The run was asked to stop.
    #[error("was ended, as the run was interrupted")]
    Interrupted,
}

impl Fault {
    /// The fault of a child that wrote something else than a frame. In `bytes`, the beginning of a frame may follow it.
    pub(crate) fn printed(bytes: &[u8]) -> Self {
        let frame = bytes.windows(MAGIC.len()).position(|some| some == MAGIC);
        let bytes = &bytes[..frame.unwrap_or(bytes.len())];
        Self::Printed { text: format!("{:?}", short(&String::from_utf8_lossy(bytes), VALUE)) }
    }

    /// Checks that numbers of an answer are finite. Each image has `values` of them.
    ///
    /// # Errors
    /// [`Fault::NotFinite`] names the first number that is not.
    pub fn finite(request: &'static str, numbers: &[f32], values: usize) -> Result<(), Self> {
        match numbers.iter().position(|value| !value.is_finite()) {
            Some(at) => {
                Err(Self::NotFinite { request, value: numbers[at].to_string(), image: at / values, place: at % values })
            }
            None => Ok(()),
        }
    }

    /// Whether the same child would do the same again.
    pub(crate) fn lasts(&self) -> bool {
        matches!(self, Self::Start(_) | Self::Version { .. } | Self::Description { .. } | Self::Interrupted)
    }
}

/// A child process failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the process `{command}` {fault}{}{}", if *.restarted { " (it was restarted once before)" } else { "" }, ended(.stderr))]
pub struct ProcessError {
    /// The command's words.
    pub command: String,
    /// What the child did wrong.
    pub fault: Fault,
    /// Whether it had been restarted before, because of another fault or of the same one.
    pub restarted: bool,
    /// The end of what it wrote to stderr.
    pub stderr: String,
}

/// The end of stderr, as the end of a message.
fn ended(stderr: &str) -> String {
    let stderr = short(stderr.trim_end(), MESSAGE);
    if stderr.is_empty() { String::new() } else { format!("; the end of its stderr:\n{stderr}") }
}

impl Failure for Fault {
    fn class(&self) -> ErrorKind {
        match self {
            Self::Interrupted => ErrorKind::Interrupted,
            Self::NotFinite { .. } => ErrorKind::Numeric,
            Self::Start(_) => ErrorKind::Params,
            _ => ErrorKind::Data,
        }
    }
}

impl Failure for ProcessError {
    fn class(&self) -> ErrorKind {
        self.fault.class()
    }
}
