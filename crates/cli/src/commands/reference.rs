//! `hemlock schema` and `hemlock reference`: descriptions of specs, results and commands.

use super::App;
use crate::{args::SchemaArg, exit::Unwritten, reference};
use anyhow::Result;
use hemlock_pipeline::schema;
use std::{fs, path::Path};

impl App<'_> {
    pub(super) fn schema(&self, of: SchemaArg) -> Result<()> {
        let schema = match of {
            SchemaArg::Spec => schema(&self.project.graph),
            SchemaArg::Results => reference::results_schema(),
        };
        self.printer.result(&format!("{schema:#}"))
    }

    pub(super) fn reference(&self, folder: &Path) -> Result<()> {
        for (name, text) in reference::pages(&self.project.graph) {
            fs::write(folder.join(name), text).map_err(Unwritten)?;
        }
        Ok(())
    }
}
