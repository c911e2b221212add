//! An HTML page about what pipelines measured: setting, results, figures, findings and provenance.
//!
//! [`report`] reads what is in the artifact root and runs nothing. The HTML file needs no other file and no network.
//! The same tables as CSV and Markdown, and the same charts as SVG, are written to folders beside it. Results that do
//! not exist yet, and artifacts that are gone, are left out, and the page says so.

mod chart;
mod config_group;
mod error;
mod figures;
mod files;
pub mod findings;
mod joint;
mod page;
mod paper;
pub mod passes_curve;
mod pipeline_results;
mod provenance;
mod result_set;
mod setting;
pub mod statistics;
mod table;
mod tables;
pub mod words;

pub use config_group::ConfigGroup;
pub use error::ReportError;
pub use pipeline_results::PipelineResults;
pub use setting::known_values;

use hemlock_store::Store;
use page::ReportFolder;
use paper::Paper;
use result_set::ResultSet;
use std::path::{Path, PathBuf};

/// The paths of a report's files, and what the report lacks.
#[derive(Debug)]
pub struct ReportFiles {
    /// The HTML page.
    pub page: PathBuf,
    /// The folder of the tables, as CSV and Markdown.
    pub tables: PathBuf,
    /// The folder of the charts, as SVG.
    pub figures: PathBuf,
    /// What was missing, one sentence each.
    pub missing: Vec<String>,
}

/// Writes the page about the results of some pipelines to `file`, and tables, charts and a
/// [results file](hemlock_pipeline::ResultsFile) to folders beside it.
///
/// - `command` is the command that makes the page again; the page shows it.
/// - `paper` is a CSV file with numbers from a paper, which the page shows beside the measured ones.
///
/// Every file is complete as soon as it is visible, and the page is written last.
///
/// # Errors
/// - No pipeline has a result.
/// - An artifact cannot be read.
/// - `paper` cannot be read, or is not such a table, or one of its lines does not match exactly one result.
/// - A chart or a picture cannot be drawn.
/// - A file cannot be written.
pub fn report(
    pipelines: Vec<PipelineResults>,
    store: &Store,
    command: &str,
    paper: Option<&Path>,
    file: &Path,
) -> Result<ReportFiles, ReportError> {
    let paper = paper.map(Paper::read).transpose()?;
    if pipelines.iter().all(|p| p.rows.is_empty()) {
        return Err(ReportError::NothingMeasured {
            pipelines: pipelines.iter().map(|p| p.name.clone()).collect::<Vec<_>>().join(", "),
            command: pipelines.iter().map(|p| p.command.as_str()).collect::<Vec<_>>().join(" && "),
        });
    }
    let result_set = ResultSet::new(pipelines, store)?;
    let paper = paper.map(|paper| paper.table(&result_set.configs)).transpose()?;
    let page = page::Page::new(&result_set, paper, command)?;
    let (tables, figures) = (file.with_extension("tables"), file.with_extension("figures"));
    let name = |folder: &Path| folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut files: Vec<(PathBuf, Vec<u8>)> = Vec::new();
    for (folder, name, content) in page.files()? {
        let folder = if folder == ReportFolder::Tables { &tables } else { &figures };
        files.push((folder.join(name), content));
    }
    files.push((file.to_owned(), page.html(&name(&tables), &name(&figures)).into_bytes()));
    files::publish(file, &files)?;
    Ok(ReportFiles { page: file.to_owned(), tables, figures, missing: result_set.notes() })
}
