//! Numbers, parameters and texts in the form in which people read them.

use crate::statistics::Estimate;
use hemlock_pipeline::value_text;
use serde_json::Value;

/// A number's text with a proper minus sign (U+2212) in place of a hyphen.
fn signed(text: String) -> String {
    // A zero has no sign.
    match text.strip_prefix('-') {
        Some(rest) if rest.chars().all(|c| c == '0' || c == '.') => rest.to_owned(),
        Some(rest) => format!("\u{2212}{rest}"),
        None => text,
    }
}

/// A number with `digits` digits after the decimal point.
pub fn number(x: f64, digits: usize) -> String {
    if x.is_infinite() {
        return if x > 0.0 { "∞".to_owned() } else { "\u{2212}∞".to_owned() };
    }
    signed(format!("{x:.digits$}"))
}

/// A number rounded to `digits` significant digits; whole numbers stay as they are.
pub fn rounded(x: f64, digits: usize) -> f64 {
    if x.fract() == 0.0 || !x.is_finite() {
        return x;
    }
    // The number is rounded as decimal text, because powers of 10 are not exact and 9.599999 has to become 9.6.
    format!("{x:.*e}", digits.saturating_sub(1)).parse().unwrap_or(x)
}

/// A [`rounded`] number for programs to read: with an exponent if it would be long otherwise.
pub fn short(x: f64, digits: usize) -> String {
    let x = rounded(x, digits);
    if x != 0.0 && x.abs() < 1e-4 { format!("{x:e}") } else { x.to_string() }
}

/// A text in lines of at most `width` characters. Lines break at spaces and hyphens, and within words that are longer
/// than a line.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines: Vec<String> = Vec::new();
    for piece in text.split_inclusive([' ', '-']) {
        let letters: Vec<char> = piece.trim_end().chars().collect();
        for part in letters.chunks(width) {
            let part: String = part.iter().collect();
            let fits = |line: &String| line.chars().count() + part.chars().count() <= width;
            match lines.last_mut().filter(|line| fits(line)) {
                Some(line) => line.push_str(&part),
                None => lines.push(part),
            }
        }
        if let (true, Some(line)) = (piece.ends_with(' '), lines.last_mut()) {
            line.push(' ');
        }
    }
    lines.iter().map(|line| line.trim_end().to_owned()).collect()
}

/// The name of a file or folder in an address: all but plain characters are percent-encoded.
pub fn address(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// A text as a file name of at most 80 characters: lower-case letters, digits and hyphens.
pub fn file_name(text: &str) -> String {
    let mut name = String::new();
    for c in text.to_lowercase().chars() {
        match c {
            'β' => name.push_str("beta"),
            '∞' => name.push_str("inf"),
            '%' => name.push_str("pc"),
            c if c.is_ascii_alphanumeric() => name.push(c),
            _ if !name.ends_with('-') && !name.is_empty() => name.push('-'),
            _ => {}
        }
    }
    name.truncate(80);
    name.trim_end_matches('-').to_owned()
}

/// A fraction in per cent, or a difference of fractions in points, with 2 digits.
pub fn percent(x: f64) -> String {
    number(100.0 * x, 2)
}

/// A mean in per cent, with its standard deviation over seeds.
pub fn percent_over_seeds(e: &Estimate) -> String {
    over_seeds(&Estimate { mean: 100.0 * e.mean, std: 100.0 * e.std, ..*e }, 2)
}

/// A mean with its standard deviation over seeds, if there are several.
pub fn over_seeds(e: &Estimate, digits: usize) -> String {
    match e.n {
        1 => number(e.mean, digits),
        _ => format!("{} ± {}", number(e.mean, digits), number(e.std, digits)),
    }
}

/// A mean in points with its 95 % confidence interval, if its error is known.
pub fn points_with_interval(e: &Estimate) -> String {
    match e.half_width() {
        Some(half) => format!("{} [{}, {}]", percent(e.mean), percent(e.mean - half), percent(e.mean + half)),
        None => percent(e.mean),
    }
}

/// A p-value with 3 digits, or `< 0.001`.
pub fn p_value(p: f64) -> String {
    if p < 0.001 { "< 0.001".to_owned() } else { number(p, 3) }
}

/// A share such as `poison_fraction`, in per cent with as many digits as it needs.
pub fn share(x: f64) -> String {
    // In floating point, 0.03 * 100 is not 3.
    let percent = (x * 1e10).round() / 1e8;
    format!("{percent} %")
}

/// A number with its noun: `3 images`, `1 image`.
pub fn count(n: usize, one: &str) -> String {
    match (n, one) {
        (1, _) => format!("1 {one}"),
        (_, "branch") => format!("{n} branches"),
        _ => format!("{n} {one}s"),
    }
}

/// The number of a pipeline's branches that are not done: `1 of 2 branches has no result yet`.
pub fn unfinished(missing: usize, branches: usize) -> String {
    let have = if missing == 1 { "has" } else { "have" };
    format!("{missing} of {} {have} no result yet", count(branches, "branch"))
}

/// A time, given in seconds, as seconds, minutes or hours.
pub fn seconds(s: f64) -> String {
    match s {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// A parameter's value as [`value_text`] writes it, but 10.0 as 10.
pub fn value(v: &Value) -> String {
    match v {
        Value::Number(n) => n.as_f64().map_or_else(|| n.to_string(), |x| x.to_string()),
        other => value_text(other),
    }
}

/// The text with a capital first letter.
pub fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_uppercase().collect::<String>() + chars.as_str()).unwrap_or_default()
}

/// An enumeration: `a, b and c`.
pub fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!((number(-1.25, 1), number(-0.001, 2)), ("\u{2212}1.2".to_owned(), "0.00".to_owned()));
        assert_eq!((share(0.03), share(0.005), share(1.0)), ("3 %".to_owned(), "0.5 %".to_owned(), "100 %".to_owned()));
        assert_eq!((seconds(3.25), seconds(600.0), seconds(9000.0)), ("3.2 s".into(), "10 min".into(), "2.5 h".into()));
        assert_eq!(list(&["a".into(), "b".into(), "c".into()]), "a, b and c");
        assert_eq!(unfinished(1, 2), "1 of 2 branches has no result yet");
        assert_eq!(unfinished(2, 4), "2 of 4 branches have no result yet");
        assert_eq!((p_value(0.0002), p_value(0.04)), ("< 0.001".into(), "0.040".into()));
    }

    #[test]
    fn rounding_takes_noise_and_no_number() {
        assert_eq!(rounded(9.599999999999998, 6), 9.6);
        assert_eq!((rounded(-0.0123456789, 6), rounded(12345678.0, 6)), (-0.0123457, 12345678.0));
        assert_eq!(
            (short(9.90314123e-7, 6), short(0.25, 6), short(0.0, 6)),
            ("9.90314e-7".into(), "0.25".into(), "0".into())
        );
        assert_eq!((rounded(25.025, 6), rounded(f64::INFINITY, 6)), (25.025, f64::INFINITY));
    }

    #[test]
    fn texts_are_broken_and_nothing_is_lost() {
        let text = "gradient that is left at the target, as a share of the clean one";
        for width in [1, 7, 20, 35, 100] {
            let lines = wrapped(text, width);
            assert!(lines.iter().all(|l| l.chars().count() <= width), "{lines:?}");
            assert_eq!(lines.concat().replace(' ', ""), text.replace(' ', ""));
        }
        assert_eq!(wrapped("gradient-canceling, ball", 12), ["gradient-", "canceling,", "ball"]);
        assert_eq!(wrapped("", 5), [""; 0]);
    }

    #[test]
    fn names_of_files_are_plain() {
        assert_eq!(file_name("Drop against L∞, 0.5 % of poisons"), "drop-against-linf-0-5-pc-of-poisons");
        assert_eq!(file_name("β > 0"), "beta-0");
        assert_eq!(file_name("../a/b.html\\0"), "a-b-html-0");
        assert!(file_name(&"x".repeat(500)).len() <= 80);
    }

    #[test]
    fn intervals_stand_beside_means() {
        let e = Estimate::of(&[0.1]).unwrap();
        assert_eq!((points_with_interval(&e), percent_over_seeds(&e)), ("10.00".into(), "10.00".into()));
        let e = Estimate::of(&[0.09, 0.09, 0.11, 0.11]).unwrap();
        assert_eq!(points_with_interval(&e), "10.00 [8.16, 11.84]");
        assert_eq!(percent_over_seeds(&e), "10.00 ± 1.15");
    }
}
