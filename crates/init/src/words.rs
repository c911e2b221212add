//! Parts of specs, and of sentences that describe the data.

use hemlock_stage::{Environment, ErrorKind, StageError};
use std::path::{Path, PathBuf, absolute};

/// Width of a comment in columns, without the `# `.
const COLUMNS: usize = 118;
/// Poison fractions for fewer than [`MANY`] samples. A spec gets the smallest two that amount to at least one poison.
const BUDGETS: [f64; 4] = [0.03, 0.1, 0.3, 0.5];
/// Number of samples from which less weight decay and smaller poison fractions are enough.
pub(crate) const MANY: usize = 2000;

/// Formats a sentence as comment lines. Control characters are escaped, because they could end a line early.
pub(crate) fn comment(sentence: &str) -> String {
    let mut lines = vec![String::new()];
    for word in sentence.split(' ').map(plain) {
        match lines.last_mut() {
            Some(line) if line.is_empty() => *line = word,
            Some(line) if line.chars().count() + 1 + word.chars().count() <= COLUMNS => *line += &format!(" {word}"),
            _ => lines.push(word),
        }
    }
    lines.iter().map(|line| format!("# {line}\n")).collect()
}

fn plain(word: &str) -> String {
    word.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// Formats a string as TOML.
pub(crate) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Returns the path as text that a spec can contain.
pub(crate) fn named(path: &Path) -> Result<String, StageError> {
    let named = path.to_str().map(str::to_owned);
    let message = || format!("{} is no text in UTF-8, as a spec has to be; rename it", path.display());
    named.ok_or_else(|| StageError::new(ErrorKind::Params, message()))
}

/// Returns the path as a spec writes it: relative to the folder of raw data, if the file is in there.
pub(crate) fn seen_from_data(path: &Path, env: &Environment) -> Result<PathBuf, StageError> {
    let whole = |path: &Path| {
        absolute(path).map_err(|e| StageError::new(ErrorKind::Data, format!("cannot find {}: {e}", path.display())))
    };
    let path = whole(path)?;
    let data = env.data.as_deref().map(whole).transpose()?;
    Ok(data.and_then(|data| path.strip_prefix(data).ok()).map_or_else(|| path.clone(), Path::to_owned))
}

/// Returns, for example, "60 to 100 a class", or "60 a class".
pub(crate) fn a_class(counts: &[usize]) -> String {
    let (least, most) = (smallest(counts), counts.iter().max().copied().unwrap_or(0));
    if least == most { format!("{least} a class") } else { format!("{least} to {most} a class") }
}

pub(crate) fn smallest(counts: &[usize]) -> usize {
    counts.iter().min().copied().unwrap_or(0)
}

/// Returns a list of poison fractions that each amount to at least one of so many training samples.
pub(crate) fn budgets(samples: usize) -> String {
    if samples >= MANY {
        return "[0.01, 0.03]".to_owned();
    }
    let enough = BUDGETS.iter().filter(|budget| (*budget * samples as f64).round() >= 1.0);
    let enough: Vec<String> = enough.take(2).map(ToString::to_string).collect();
    format!("[{}]", enough.join(", "))
}

/// Checks that there are at least two classes.
pub(crate) fn enough_classes(path: &Path, classes: usize) -> Result<(), StageError> {
    if classes >= 2 {
        return Ok(());
    }
    let message = format!("{} has {classes} class; expected at least 2", path.display());
    Err(StageError::new(ErrorKind::Data, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_wrapped_and_nothing_leaves_them() {
        let text = comment(&format!("{} a\nb [c] it's {}", "word ".repeat(30).trim(), "x".repeat(200)));
        assert!(text.lines().all(|line| line.starts_with("# ")), "{text}");
        assert!(text.contains(" a\\nb [c] it's\n"), "{text}");
        assert_eq!(
            text.lines().map(|line| line.chars().count() <= COLUMNS + 2).collect::<Vec<_>>(),
            [true, true, false]
        );
    }

    #[test]
    fn every_budget_is_a_poison() {
        assert_eq!(budgets(50_000), "[0.01, 0.03]");
        assert_eq!(budgets(17), "[0.03, 0.1]");
        assert_eq!(budgets(16), "[0.1, 0.3]");
        assert_eq!(budgets(2), "[0.3, 0.5]");
    }

    #[test]
    fn strings_survive_toml() {
        for text in ["flowers", "a \"b\"", "C:\\images", "ä\n\u{7f}", "'", "'''\"\"\""] {
            let table: toml::Table = format!("path = {}", quoted(text)).parse().unwrap();
            assert_eq!(table["path"].as_str(), Some(text));
        }
    }

    #[test]
    fn paths_start_at_the_data_where_they_can() {
        let seen = |path: &str| {
            seen_from_data(Path::new(path), &Environment { data: Some("data".into()), ..Environment::default() })
                .unwrap()
        };
        assert_eq!(seen("data/sub/own.npz"), Path::new("sub/own.npz"));
        assert_eq!(seen("own.npz"), absolute("own.npz").unwrap());
    }
}
