//! Hostile variants of good input, for tests of code that reads files of others.
//!
//! A fuzz target consists of good samples and a reader. For every variant of a sample, the reader must return within
//! [`SLOWEST`], either with a value or with an error whose message has at most [`LONGEST`] bytes, and must never panic.
//! Targets are ordinary tests whose names contain `fuzz`. Each runs for as many seconds as the variable
//! `HEMLOCK_FUZZ_SECONDS` says, or for one second without it. `just fuzz` runs them for longer.

use std::cell::Cell;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestError, TestRunner};

/// The longest time that a reader may take for one small input.
pub const SLOWEST: Duration = Duration::from_secs(5);
/// The longest message of an error, in bytes.
pub const LONGEST: usize = 4096;

/// Numbers that code may not expect as a length, a count or an offset.
const NUMBERS: [u64; 12] =
    [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 32, 1 << 40, (1 << 63) - 1, u64::MAX];

/// One change of a sample. Positions are fractions of its length.
#[derive(Clone, Debug)]
enum Edit {
    /// Flips one bit.
    Flip(Index, u8),
    /// Overwrites bytes with a number of 1, 2, 4 or 8 bytes.
    Number { at: Index, number: usize, bytes: usize, big_endian: bool },
    /// Replaces a run of ASCII digits with another number.
    Digits(Index, usize),
    /// Drops everything from a position on.
    Cut(Index),
    /// Drops a piece.
    Drop(Index, Index),
    /// Inserts copies of a piece after it; the last field is their number.
    Repeat(Index, Index, usize),
    /// Inserts other bytes.
    Insert(Index, Vec<u8>),
    /// Continues with another sample from the same position on.
    Splice(Index, usize),
    /// Inserts one of the words of the format.
    Word(Index, usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    let number = 0..NUMBERS.len();
    prop_oneof![
        3 => (at(), 0..8_u8).prop_map(|(at, bit)| Edit::Flip(at, bit)),
        3 => (at(), number.clone(), 0..4_u32, any::<bool>()).prop_map(|(at, number, power, big_endian)| {
            Edit::Number { at, number, bytes: 1 << power, big_endian }
        }),
        2 => (at(), number).prop_map(|(at, number)| Edit::Digits(at, number)),
        1 => at().prop_map(Edit::Cut),
        1 => (at(), at()).prop_map(|(from, to)| Edit::Drop(from, to)),
        1 => (at(), at(), 1..50_usize).prop_map(|(from, to, times)| Edit::Repeat(from, to, times)),
        1 => (at(), prop::collection::vec(any::<u8>(), 1..16)).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        1 => (at(), any::<usize>()).prop_map(|(at, sample)| Edit::Splice(at, sample)),
        2 => (at(), any::<usize>()).prop_map(|(at, word)| Edit::Word(at, word)),
    ]
}

/// Good input of a format, with the words that variants may contain.
#[derive(Clone, Debug, Default)]
pub struct Corpus {
    samples: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
}

impl Corpus {
    /// Starts with samples of at most some kilobytes each; there must be at least one.
    pub fn new<B: Into<Vec<u8>>>(samples: impl IntoIterator<Item = B>) -> Self {
        Self { samples: samples.into_iter().map(Into::into).collect(), words: Vec::new() }
    }

    /// Adds words that have a meaning in the format, so that they occur in variants more often than by chance.
    #[must_use]
    pub fn words<B: Into<Vec<u8>>>(mut self, words: impl IntoIterator<Item = B>) -> Self {
        self.words.extend(words.into_iter().map(Into::into));
        self
    }

    fn variant(&self, sample: usize, edits: &[Edit]) -> Vec<u8> {
        let mut bytes = self.samples[sample % self.samples.len()].clone();
        for edit in edits {
            let end = bytes.len();
            let place = |at: &Index| at.index(end + 1);
            let piece = |from: &Index, to: &Index| {
                let (from, to) = (place(from), place(to));
                // Most pieces are short, like fields.
                from..to.clamp(from, from + 64)
            };
            match edit {
                Edit::Flip(at, bit) => {
                    if let Some(byte) = bytes.get_mut(place(at)) {
                        *byte ^= 1 << bit;
                    }
                }
                Edit::Number { at, number, bytes: count, big_endian } => {
                    let (number, at) = (NUMBERS[*number], place(at));
                    let digits = if *big_endian { number.to_be_bytes() } else { number.to_le_bytes() };
                    let digits = if *big_endian { &digits[8 - count..] } else { &digits[..*count] };
                    bytes.iter_mut().skip(at).zip(digits).for_each(|(byte, digit)| *byte = *digit);
                }
                Edit::Digits(at, number) => {
                    let from = place(at);
                    let digit = |byte: &u8| byte.is_ascii_digit();
                    if let Some(first) = bytes[from..].iter().position(digit) {
                        let from = from + first;
                        let count = bytes[from..].iter().take_while(|byte| digit(byte)).count();
                        bytes.splice(from..from + count, NUMBERS[*number].to_string().into_bytes());
                    }
                }
                Edit::Cut(at) => bytes.truncate(place(at)),
                Edit::Drop(from, to) => {
                    bytes.drain(piece(from, to));
                }
                Edit::Repeat(from, to, times) => {
                    let piece = piece(from, to);
                    let again = bytes[piece.clone()].repeat(*times);
                    bytes.splice(piece.end..piece.end, again);
                }
                Edit::Insert(at, other) => {
                    let at = place(at);
                    bytes.splice(at..at, other.iter().copied());
                }
                Edit::Splice(at, sample) => {
                    let (at, other) = (place(at), &self.samples[sample % self.samples.len()]);
                    bytes.truncate(at);
                    bytes.extend(other.iter().skip(at));
                }
                Edit::Word(at, word) => {
                    if let Some(word) = self.words.get(word % self.words.len().max(1)) {
                        let at = place(at);
                        bytes.splice(at..at, word.iter().copied());
                    }
                }
            }
        }
        bytes
    }

    /// Calls a reader with variants until the time is over. The reader returns an error that describes what it did
    /// wrong; [`error`] and [`message`] check an error that it is allowed to report.
    ///
    /// # Panics
    /// If the reader panics, takes too long or does something wrong, for a variant or for a good sample. The message
    /// contains the smallest such variant that was found.
    pub fn fuzz(&self, reader: impl Fn(&[u8]) -> Result<(), String>) {
        for sample in &self.samples {
            if let Err(why) = answer(sample, &reader) {
                panic!("a good sample: {why}");
            }
        }
        let seconds = std::env::var("HEMLOCK_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(1.0);
        let deadline = Instant::now() + Duration::from_secs_f64(seconds);
        let tried = Cell::new(0_u64);
        let variants = (any::<usize>(), prop::collection::vec(edit(), 1..6));
        let mut runner = TestRunner::new(Config { cases: 32, failure_persistence: None, ..Config::default() });
        while Instant::now() < deadline {
            let ran = runner.run(&variants, |(sample, edits)| {
                tried.set(tried.get() + 1);
                answer(&self.variant(sample, &edits), &reader).map_err(TestCaseError::fail)
            });
            if let Err(TestError::Fail(why, (sample, edits))) = ran {
                let bytes = self.variant(sample, &edits);
                let shown = bytes.escape_ascii();
                panic!("{why}\nafter {} inputs, by {edits:?} of sample {sample}, which gives:\n{shown}", tried.get());
            }
        }
    }
}

/// Calls the reader, and returns what it did wrong, or that it took too long.
fn answer(bytes: &[u8], reader: &impl Fn(&[u8]) -> Result<(), String>) -> Result<(), String> {
    let start = Instant::now();
    reader(bytes)?;
    match start.elapsed() {
        took if took > SLOWEST => Err(format!("{} bytes took {took:?}", bytes.len())),
        _ => Ok(()),
    }
}

/// Checks an error as users see it, including its causes.
///
/// # Errors
/// As for [`message`].
pub fn error(error: &dyn std::error::Error) -> Result<(), String> {
    let causes = std::iter::successors(Some(error), |e| e.source());
    message(&causes.map(ToString::to_string).collect::<Vec<_>>().join(": "))
}

/// Checks the text of a message.
///
/// # Errors
/// If the message is empty or longer than [`LONGEST`].
pub fn message(text: &str) -> Result<(), String> {
    match text.len() {
        0 => Err("a message without a word".to_owned()),
        bytes if bytes > LONGEST => {
            Err(format!("a message of {bytes} bytes: {}…", text.chars().take(200).collect::<String>()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that trusts a length in its input.
    fn careless(bytes: &[u8]) -> Result<(), String> {
        let length = bytes.first().copied().unwrap_or(0);
        let _ = &bytes[1..1 + usize::from(length)];
        Ok(())
    }

    #[test]
    #[should_panic(expected = "after")]
    fn a_careless_reader_is_found_out() {
        Corpus::new([vec![3, 1, 2, 3]]).fuzz(careless);
    }

    #[test]
    #[should_panic(expected = "a message of 5000 bytes")]
    fn an_endless_message_is_found_out() {
        let endless = |_: &[u8]| message(&"x".repeat(5000));
        Corpus::new([vec![1]]).fuzz(endless);
    }

    #[test]
    fn a_careful_reader_is_left_in_peace() {
        let careful = |bytes: &[u8]| match bytes.split_first() {
            Some((length, rest)) if rest.len() >= usize::from(*length) => Ok(()),
            _ => error(&std::io::Error::other("cut off")),
        };
        Corpus::new([vec![3, 1, 2, 3]]).words(["word"]).fuzz(careful);
    }
}
