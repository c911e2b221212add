//! Artifacts in formats that other tools open: safetensors and PNG.

use crate::{Graph, Plan, Selection};
use hemlock_artifact::{Data, Exported, Tensor};
use hemlock_stage::StageError;
use hemlock_store::{Store, StoreError};
use image::{ImageBuffer, Rgb};
use ndarray::Axis;
use safetensors::{Dtype, tensor::TensorView};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The form that an export takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Tensors under their names, and whatever else the artifact holds.
    Safetensors,
    /// One picture per image.
    Png,
}

/// An export that failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// No branch matches, or the pipeline has no such stage.
    #[error("no task of the stage '{stage}' in pipeline '{pipeline}' matches the selection")]
    NothingSelected {
        /// Name of the pipeline.
        pipeline: String,
        /// The stage.
        stage: String,
    },
    /// The artifact is not there yet.
    #[error("{folder} is not there yet; run `hemlock {stage} {pipeline}` first")]
    NotRun {
        /// The artifact's folder.
        folder: String,
        /// The stage.
        stage: String,
        /// Name of the pipeline.
        pipeline: String,
    },
    /// The artifact has no pictures.
    #[error("the stage '{0}' makes no pictures; leave out `--format png`")]
    NoPictures(String),
    /// The artifact cannot be read.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The artifact cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file cannot be written.
    #[error("cannot write {}: {what}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        what: String,
    },
}

/// Writes the selected artifacts of a stage below `out`, and returns the files. Several artifacts get a folder each,
/// named after their key.
///
/// # Errors
/// Nothing is selected, an artifact is not there or is damaged, or a file cannot be written.
pub fn export(
    plan: &Plan,
    graph: &Graph,
    store: &Store,
    stage: &str,
    selection: &Selection,
    format: Format,
    out: &Path,
) -> Result<Vec<PathBuf>, ExportError> {
    let mut tasks = plan.select(stage, selection);
    // Roles whose images are the same share an artifact.
    let mut seen = BTreeSet::new();
    tasks.retain(|t| seen.insert(plan.tasks[*t].key.to_string()));
    let nothing = || ExportError::NothingSelected { pipeline: plan.pipeline.clone(), stage: stage.to_owned() };
    if tasks.is_empty() {
        return Err(nothing());
    }
    let mut files = Vec::new();
    for task in tasks.iter().map(|t| &plan.tasks[*t]) {
        let node = graph.node(task.node).ok_or_else(nothing)?;
        let manifest = store.lookup(task.stage, &task.key)?.ok_or_else(|| ExportError::NotRun {
            folder: task.folder(),
            stage: stage.to_owned(),
            pipeline: plan.pipeline.clone(),
        })?;
        let exported = node.stage.export(store, &manifest)?;
        let dir = if tasks.len() == 1 { out.to_owned() } else { out.join(task.key.to_string()) };
        match format {
            Format::Safetensors => write_tensors(&exported, &dir, &mut files)?,
            Format::Png if exported.pictures.is_empty() => return Err(ExportError::NoPictures(stage.to_owned())),
            Format::Png => write_pictures(&exported, &dir, &mut files)?,
        }
    }
    Ok(files)
}

fn failed(path: &Path, what: impl ToString) -> ExportError {
    ExportError::Write { path: path.to_owned(), what: what.to_string() }
}

fn write_tensors(exported: &Exported, dir: &Path, files: &mut Vec<PathBuf>) -> Result<(), ExportError> {
    fs::create_dir_all(dir).map_err(|e| failed(dir, e))?;
    for (name, tensors) in &exported.tensors {
        let path = dir.join(format!("{name}.safetensors"));
        let bytes: Vec<Vec<u8>> = tensors.iter().map(little_endian).collect();
        let views = tensors.iter().zip(&bytes).map(|(t, bytes)| {
            let dtype = match t.data {
                Data::F32(_) => Dtype::F32,
                Data::F64(_) => Dtype::F64,
                Data::U8(_) => Dtype::U8,
                Data::I64(_) => Dtype::I64,
            };
            Ok((t.name, TensorView::new(dtype, t.shape.clone(), bytes).map_err(|e| failed(&path, e))?))
        });
        let views = views.collect::<Result<Vec<_>, ExportError>>()?;
        safetensors::serialize_to_file(views, None, &path).map_err(|e| failed(&path, e))?;
        files.push(path);
    }
    for (name, content) in &exported.files {
        let path = dir.join(name);
        fs::write(&path, content).map_err(|e| failed(&path, e))?;
        files.push(path);
    }
    Ok(())
}

fn little_endian(tensor: &Tensor) -> Vec<u8> {
    match &tensor.data {
        Data::F32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::F64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::U8(v) => v.clone(),
        Data::I64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

fn write_pictures(exported: &Exported, dir: &Path, files: &mut Vec<PathBuf>) -> Result<(), ExportError> {
    for (set, pixels, labels) in &exported.pictures {
        let dir = dir.join(set);
        fs::create_dir_all(&dir).map_err(|e| failed(&dir, e))?;
        for (i, (image, label)) in pixels.axis_iter(Axis(0)).zip(labels).enumerate() {
            let path = dir.join(format!("{i:06}-label{label}.png"));
            let (_, height, width) = image.dim();
            let picture = ImageBuffer::from_fn(width as u32, height as u32, |x, y| {
                let (x, y) = (x as usize, y as usize);
                Rgb([image[[0, y, x]], image[[1, y, x]], image[[2, y, x]]])
            });
            picture.save(&path).map_err(|e| failed(&path, e))?;
            files.push(path);
        }
    }
    Ok(())
}
