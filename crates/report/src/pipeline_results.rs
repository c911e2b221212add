//! The results of a pipeline: from the artifact root, or from results files.

use crate::ReportError;
use hemlock_pipeline::{Plan, ResultRow, ResultsFile, ResultsFileError, SavedPipeline, Spec, Task, read_answers, rows};
use hemlock_store::{Store, StoreError};
use std::collections::{BTreeMap, btree_map::Entry};
use std::path::PathBuf;

/// A pipeline and its results so far.
pub struct PipelineResults {
    /// The name of the spec.
    pub name: String,
    /// Description of what the pipeline shows.
    pub description: String,
    /// The command that runs the pipeline.
    pub command: String,
    /// The tasks of the pipeline; none if the results are from a file.
    pub tasks: Vec<Task>,
    /// The results that exist.
    pub rows: Vec<ResultRow>,
    /// Number of branches without a result.
    pub missing: usize,
}

impl PipelineResults {
    /// Reads the results of a pipeline in the artifact root. `command` is the command that runs it.
    ///
    /// # Errors
    /// An artifact cannot be read.
    pub fn in_store(spec: &Spec, plan: &Plan, command: String, store: &Store) -> Result<Self, StoreError> {
        let (mut rows, missing) = rows(plan, store)?;
        read_answers(&mut rows, store)?;
        let (name, description) = (spec.name.clone(), spec.description.clone());
        Ok(Self { name, description, command, tasks: plan.tasks.clone(), rows, missing })
    }

    /// Reads the results of all pipelines in some files. A result that several files have is taken once. How many
    /// results are missing is known for pipelines that one file has; others count as complete.
    ///
    /// # Errors
    /// A file cannot be read, or has another accuracy of a result than a file before it.
    pub fn in_files(files: &[PathBuf]) -> Result<Vec<Self>, ReportError> {
        let mut all: Vec<Self> = Vec::new();
        let mut accuracies = BTreeMap::new();
        for file in files {
            let ResultsFile { pipelines, rows } = ResultsFile::read(file)?;
            for SavedPipeline { name, description, command, missing } in pipelines {
                match all.iter_mut().find(|of| of.name == name) {
                    Some(of) => of.missing = 0,
                    None => {
                        all.push(Self { name, description, command, tasks: Vec::new(), rows: Vec::new(), missing });
                    }
                }
            }
            for row in rows {
                let Some(of) = all.iter_mut().find(|of| of.name == row.pipeline) else { continue };
                match accuracies.entry((row.pipeline.clone(), row.identity())) {
                    Entry::Occupied(known) if *known.get() != row.accuracy => {
                        let what = format!("the result {} has another accuracy than in a file before it", row.key);
                        return Err(ResultsFileError { path: file.clone(), line: None, what }.into());
                    }
                    Entry::Occupied(_) => {}
                    Entry::Vacant(new) => {
                        new.insert(row.accuracy.clone());
                        of.rows.push(row);
                    }
                }
            }
        }
        Ok(all)
    }
}
