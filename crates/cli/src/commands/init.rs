//! The command `init`: writes a first spec for the user's own images or features.

use super::App;
use crate::{
    args::{Init, Label},
    exit::Usage,
};
use anyhow::Result;
use hemlock_init::{features, images, vacant, write};
use hemlock_stage::{VALUE, short};
use std::path::{Path, PathBuf, absolute};

impl App<'_> {
    pub(super) fn init(&self, init: &Init) -> Result<()> {
        let (file, named) = self.place(init)?;
        // This comes before the images are read, which would be in vain if the spec cannot be written.
        vacant(&file, init.force)?;
        let draft = match (&init.images, &init.features) {
            (Some(folder), _) => images(folder, init.extractor.as_deref(), &self.project.env)?,
            (None, Some(file)) => features(file, &self.project.env)?,
            (None, None) => return Err(Usage("expected --images DIR or --features FILE".to_owned()).into()),
        };
        write(&file, &draft.spec, init.force)?;
        self.printer.result(&draft.found)?;
        self.printer.result(&file.display().to_string())?;
        self.printer.note(&format!("next: `hemlock run {named}`, and `hemlock plan {named}` shows what that would do"));
        Ok(())
    }

    /// Path of the spec, and the name of the pipeline for use in commands.
    fn place(&self, init: &Init) -> Result<(PathBuf, String)> {
        if let Some(file) = &init.file {
            if file.extension().is_none_or(|ending| ending != "toml") {
                let given = file.display().to_string();
                let message =
                    format!("'{}' is no name of a spec; expected a name that ends in .toml", short(&given, VALUE));
                return Err(Usage(message).into());
            }
            return Ok((file.clone(), file.display().to_string()));
        }
        let of = init.images.as_deref().or(init.features.as_deref()).unwrap_or(Path::new(""));
        let name = match &init.name {
            Some(Label(name)) => name.clone(),
            None => name_of(of).ok_or_else(|| {
                Usage(format!("{} gives the pipeline no name; expected one: --name NAME", of.display()))
            })?,
        };
        Ok((self.args.pipelines.join(format!("{name}.toml")), name))
    }
}

/// Most characters of a name.
const LONGEST: usize = 64;

/// Derives the name of a pipeline from a folder or a file.
fn name_of(path: &Path) -> Option<String> {
    let whole = absolute(path).ok()?;
    let name = if whole.is_dir() { whole.file_name()? } else { whole.file_stem()? };
    let fitting = |c: char| if c.is_alphanumeric() || "-_".contains(c) { c } else { '-' };
    let name: String = name.to_string_lossy().chars().map(fitting).take(LONGEST).collect();
    name.chars().any(char::is_alphanumeric).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipelines_are_named_after_what_they_are_of() {
        let name = |path: &str| name_of(Path::new(path));
        assert_eq!(name("data/flowers/"), Some("flowers".to_owned()));
        assert_eq!(name("data/My flowers: 2"), Some("My-flowers--2".to_owned()));
        assert_eq!(name("clip-cifar10.v2.npz"), Some("clip-cifar10-v2".to_owned()));
        assert_eq!(name("..."), None);
        assert_eq!(name("/"), None);
        assert_eq!(name(&"x".repeat(200)).map(|name| name.len()), Some(LONGEST));
    }
}
