//! Limits to the length of messages, whatever they quote.

use std::{borrow::Cow, fmt::Display};

/// Most characters of a value that a message quotes.
pub const VALUE: usize = 100;
/// Most characters of a message.
pub const MESSAGE: usize = 1000;
/// Most names of a list that a message quotes.
const NAMES: usize = 10;

/// Shortens a text to about `most` characters. A longer text keeps its beginning and its end, with the number of
/// characters that were left out between them.
#[must_use]
pub fn short(text: &str, most: usize) -> Cow<'_, str> {
    // A character has at least one byte, so this needs no counting.
    if text.len() <= most {
        return text.into();
    }
    let count = text.chars().count();
    if count <= most {
        return text.into();
    }
    let (head, tail) = (most - most / 3, most / 3);
    let at = |character: usize| text.char_indices().nth(character).map_or(text.len(), |(at, _)| at);
    format!("{}… ({} characters left out) …{}", &text[..at(head)], count - most, &text[at(count - tail)..]).into()
}

/// The first names of a list, and how many more there are. For an empty list it is "none".
#[must_use]
pub fn few<T: Display>(names: impl IntoIterator<Item = T>) -> String {
    let mut names = names.into_iter();
    let told: Vec<String> =
        names.by_ref().take(NAMES).map(|name| short(&name.to_string(), VALUE).into_owned()).collect();
    match (told.is_empty(), names.count()) {
        (true, _) => "none".to_owned(),
        (false, 0) => told.join(", "),
        (false, more) => format!("{} and {more} more", told.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_short_stays_as_it_is() {
        assert_eq!(short("", 0), "");
        assert_eq!(short("äöü", 3), "äöü", "characters are counted, not bytes");
        assert_eq!(few(["a", "b"]), "a, b");
        assert_eq!(few::<&str>([]), "none");
    }

    #[test]
    fn what_is_long_keeps_both_ends_and_says_how_much_is_left_out() {
        assert_eq!(short("abcdefghij", 6), "abcd… (4 characters left out) …ij");
        assert_eq!(short(&"ä".repeat(100), 3), "ää… (97 characters left out) …ä");
        let long = short(&"x".repeat(10_000_000), VALUE).chars().count();
        assert!(long < VALUE + 50, "{long}");
        assert_eq!(few(0..12), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more");
        assert!(few((0..60_000).map(|i| format!("{i}").repeat(1000))).len() < 11 * (VALUE + 60));
    }
}
