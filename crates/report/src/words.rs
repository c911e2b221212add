//! Numbers and parameters as people write them.

use crate::statistics::Estimate;
use serde_json::Value;

/// A minus sign that is as wide as a plus.
fn signed(text: String) -> String {
    // -0.00 is no change.
    match text.strip_prefix('-') {
        Some(rest) if rest.chars().all(|c| c == '0' || c == '.') => rest.to_owned(),
        Some(rest) => format!("\u{2212}{rest}"),
        None => text,
    }
}

/// A number with so many digits behind the point.
pub fn number(x: f64, digits: usize) -> String {
    if x.is_infinite() {
        return if x > 0.0 { "∞".to_owned() } else { "\u{2212}∞".to_owned() };
    }
    signed(format!("{x:.digits$}"))
}

/// A fraction in percent, or a difference of fractions in points.
pub fn percent(x: f64) -> String {
    number(100.0 * x, 2)
}

/// A mean in percent, with its deviation over seeds.
pub fn percent_over_seeds(e: &Estimate) -> String {
    over_seeds(&Estimate { mean: 100.0 * e.mean, std: 100.0 * e.std, n: e.n }, 2)
}

/// A mean, with its deviation over seeds.
pub fn over_seeds(e: &Estimate, digits: usize) -> String {
    match e.n {
        1 => number(e.mean, digits),
        _ => format!("{} ± {}", number(e.mean, digits), number(e.std, digits)),
    }
}

/// A mean in points, with its 95 % confidence interval.
pub fn points_with_interval(e: &Estimate) -> String {
    match e.half_width() {
        Some(half) => format!("{} [{}, {}]", percent(e.mean), percent(e.mean - half), percent(e.mean + half)),
        None => percent(e.mean),
    }
}

/// A p-value.
pub fn p_value(p: f64) -> String {
    if p < 0.001 { "< 0.001".to_owned() } else { number(p, 3) }
}

/// A share such as `eps_d`, in percent without needless digits.
pub fn share(x: f64) -> String {
    // 0.03 * 100 is no 3.
    let percent = (x * 1e10).round() / 1e8;
    format!("{percent} %")
}

/// `3 images`, `1 image`.
pub fn count(n: usize, one: &str) -> String {
    match (n, one) {
        (1, _) => format!("1 {one}"),
        (_, "branch") => format!("{n} branches"),
        _ => format!("{n} {one}s"),
    }
}

/// Seconds for people.
pub fn seconds(s: f64) -> String {
    match s {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// A value as it would stand in a spec.
pub fn value(v: &Value) -> String {
    match v {
        Value::String(s) => s.clone(),
        // 10.0 is 10.
        Value::Number(n) => n.as_f64().map_or_else(|| n.to_string(), |x| x.to_string()),
        other => other.to_string(),
    }
}

/// With a capital first letter.
pub fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_uppercase().collect::<String>() + chars.as_str()).unwrap_or_default()
}

/// `a, b and c`.
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
        assert_eq!((p_value(0.0002), p_value(0.04)), ("< 0.001".into(), "0.040".into()));
    }

    #[test]
    fn intervals_stand_beside_means() {
        let e = Estimate { mean: 0.1, std: 0.01, n: 1 };
        assert_eq!((points_with_interval(&e), percent_over_seeds(&e)), ("10.00".into(), "10.00".into()));
        let e = Estimate { n: 4, ..e };
        assert_eq!(points_with_interval(&e), "10.00 [8.41, 11.59]");
        assert_eq!(percent_over_seeds(&e), "10.00 ± 1.00");
    }
}
