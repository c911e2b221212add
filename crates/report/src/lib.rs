//! One page that tells what pipelines measured, for people: setting, results, figures, findings, provenance.
//!
//! [`report`] reads what is in the artifact root, runs nothing, and writes an HTML file that needs no other file and no
//! network, beside it the same tables as CSV and Markdown and the same charts as SVG. What is not there yet, or is
//! gone, is left out, and the page says so.

mod case;
mod chart;
mod error;
mod evidence;
mod figures;
mod files;
pub mod findings;
mod joint;
mod page;
mod paper;
mod provenance;
mod setting;
pub mod statistics;
pub mod strength;
mod table;
mod tables;
pub mod words;

pub use case::Case;
pub use error::ReportError;

use evidence::{Evidence, Measurement};
use hemlock_pipeline::{Plan, Spec, read_answers, rows};
use hemlock_store::Store;
use page::Folder;
use paper::Paper;
use std::path::{Path, PathBuf};

/// A pipeline to report on.
pub struct Subject {
    /// Its spec.
    pub spec: Spec,
    /// Its tasks.
    pub plan: Plan,
    /// The command that runs it.
    pub command: String,
}

/// What a report is made of.
#[derive(Debug)]
pub struct Written {
    /// The page.
    pub page: PathBuf,
    /// The folder of the tables.
    pub tables: PathBuf,
    /// The folder of the charts.
    pub figures: PathBuf,
    /// What was missing, a sentence each.
    pub missing: Vec<String>,
}

/// Writes the page of some pipelines to `file`, and their tables and charts to folders beside it; `command` is what
/// makes the page again. `paper` is a file of a paper's own numbers, which the page then shows beside ours. Every file
/// is whole whenever it is seen, and the page comes last.
///
/// # Errors
/// No pipeline has a result, an artifact is damaged, a line of `paper` meets no result, or a file cannot be written.
pub fn report(
    subjects: &[Subject],
    store: &Store,
    command: &str,
    paper: Option<&Path>,
    file: &Path,
) -> Result<Written, ReportError> {
    let paper = paper.map(Paper::read).transpose()?;
    let mut measured = Vec::new();
    for subject in subjects {
        let (mut rows, missing) = rows(&subject.plan, store)?;
        read_answers(&mut rows, store)?;
        measured.push(Measurement { subject, rows, missing });
    }
    if measured.iter().all(|m| m.rows.is_empty()) {
        return Err(ReportError::NothingMeasured {
            pipelines: subjects.iter().map(|s| s.spec.name.clone()).collect::<Vec<_>>().join(", "),
            command: subjects.iter().map(|s| s.command.as_str()).collect::<Vec<_>>().join(" && "),
        });
    }
    let evidence = Evidence::new(measured, store)?;
    let paper = paper.map(|paper| paper.table(&evidence.cases)).transpose()?;
    let page = page::Page::new(&evidence, paper, command)?;
    let (tables, figures) = (file.with_extension("tables"), file.with_extension("figures"));
    let name = |folder: &Path| folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut files: Vec<(PathBuf, String)> = Vec::new();
    for (folder, name, text) in page.files() {
        let folder = if folder == Folder::Tables { &tables } else { &figures };
        files.push((folder.join(name), text));
    }
    files.push((file.to_owned(), page.html(&name(&tables), &name(&figures))));
    files::publish(file, &files)?;
    Ok(Written { page: file.to_owned(), tables, figures, missing: evidence.notes() })
}
