//! Parts of a task that processes of their own compute.

use std::{fmt, num::NonZeroU32, ops::Range, str::FromStr};

/// One of several parts of a task, written `3/64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    number: u32,
    count: NonZeroU32,
}

impl Part {
    /// The indices in `0..n` that fall to the part. The parts of a task share `0..n`, and their sizes differ by one at
    /// most.
    #[must_use]
    pub fn of(self, n: usize) -> Range<usize> {
        let bound = |number: u32| (n as u128 * u128::from(number) / u128::from(self.count.get())) as usize;
        bound(self.number - 1)..bound(self.number)
    }
}

impl FromStr for Part {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(number, count)| {
            let (number, count) = (number.parse().ok()?, count.parse::<NonZeroU32>().ok()?);
            (1..=count.get()).contains(&number).then_some(Self { number, count })
        });
        parsed.ok_or_else(|| "expected the number of a part and how many there are, such as `3/64`".to_owned())
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_share_everything() {
        for (n, count) in [(0, 3), (2, 5), (10, 1), (38_430, 64), (usize::MAX, u32::MAX)] {
            let part = |number: u32| format!("{number}/{count}").parse::<Part>().unwrap().of(n);
            assert_eq!((part(1).start, part(count).end), (0, n));
            for number in 1..count.min(100) {
                assert_eq!(part(number).end, part(number + 1).start);
                assert!(part(number).len().abs_diff(part(number + 1).len()) <= 1);
            }
        }
    }

    #[test]
    fn what_is_no_part_is_refused() {
        for bad in ["", "3", "0/4", "5/4", "1/0", "-1/4", "1/4/4", "a/b"] {
            assert!(bad.parse::<Part>().is_err(), "{bad}");
        }
        assert_eq!("3/64".parse::<Part>().unwrap().to_string(), "3/64");
    }
}
