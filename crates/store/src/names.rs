//! Names that are used as names of files.

use crate::{Result, StoreError};

/// Name of the manifest's file in an artifact's folder.
pub const MANIFEST: &str = "manifest.json";

/// Refuses a name that could leave its folder, be hidden there, or be mistaken for the manifest.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let legal = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-');
    if name.is_empty() || name.starts_with('.') || name == MANIFEST || !name.chars().all(legal) {
        return Err(StoreError::refused(format!(
            "`{name}` is no {what}: use a-z, 0-9, `.`, `_` and `-`, no leading `.`, and not `{MANIFEST}`"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leaves_its_folder() {
        for name in ["train", "target-params", "a.b_c-9"] {
            assert!(check_name("stage", name).is_ok(), "{name}");
        }
        for name in ["", ".", "..", "../x", "a/b", "a\\b", ".partial", "Train", "é", "a b", "a\0", MANIFEST] {
            assert!(check_name("stage", name).is_err(), "{name}");
        }
    }
}
