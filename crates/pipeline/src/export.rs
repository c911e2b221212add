//! Artifacts in formats that other tools open: safetensors and PNG.

mod folder;

use crate::{Graph, Plan, Selection, compare::differing_among, results::upstream, select::shown};
use folder::{Folder, failed};
use hemlock_artifact::{Data, Exported, Tensor};
use hemlock_stage::StageError;
use hemlock_store::{Manifest, Store, StoreError};
use image::{ImageBuffer, ImageFormat, Rgb};
use ndarray::Axis;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Cursor,
    path::{Path, PathBuf},
};

/// Name of the file that says which artifact lies in which folder.
const INDEX: &str = "index.csv";

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
    /// The selection cannot be made.
    #[error("--select: {0}")]
    Selection(String),
    /// The branches that are selected do not have the stage.
    #[error("no branch of '{pipeline}' that is selected has the stage '{stage}'; they have {there}")]
    NothingSelected {
        /// Name of the pipeline.
        pipeline: String,
        /// The stage.
        stage: String,
        /// The stages that they have.
        there: String,
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
    /// A file is there that this export would overwrite.
    #[error(
        "{} is there, and {}; choose another folder, or remove it",
        path.display(),
        by.as_ref().map_or_else(|| "no export is known to have written it".to_owned(), |by| format!("the export of {by} wrote it"))
    )]
    Taken {
        /// The file.
        path: PathBuf,
        /// The stage and form of the export that wrote it, where one did.
        by: Option<String>,
    },
    /// The list of what exports wrote cannot be read.
    #[error("{} should list what exports wrote there, and does not: {what}; remove it, or choose another folder", path.display())]
    List {
        /// The file.
        path: PathBuf,
        /// Why.
        what: String,
    },
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
/// named after their key, and beside them `index.csv` says what each was made with. Files appear whole. What an earlier
/// export of the stage in the same form wrote there is replaced, and nothing else.
///
/// # Errors
/// Nothing is selected, an artifact is not there or is damaged, or a file cannot be written, or is there already.
pub fn export(
    plan: &Plan,
    graph: &Graph,
    store: &Store,
    stage: &str,
    selection: &Selection,
    format: Format,
    out: &Path,
) -> Result<Vec<PathBuf>, ExportError> {
    let branches = selection.of(plan).map_err(ExportError::Selection)?;
    let mut tasks: Vec<usize> = Vec::new();
    for task in branches.iter().flat_map(|b| b.tasks.values()).copied() {
        // Roles whose images are the same share an artifact.
        if plan.tasks[task].stage == stage && !tasks.iter().any(|t| plan.tasks[*t].key == plan.tasks[task].key) {
            tasks.push(task);
        }
    }
    let nothing = || {
        let there = branches.iter().flat_map(|b| b.tasks.values()).map(|t| plan.tasks[*t].stage);
        let there: BTreeSet<&str> = there.collect();
        let there = graph.stages().into_iter().filter(|s| there.contains(s)).collect::<Vec<_>>().join(", ");
        ExportError::NothingSelected { pipeline: plan.pipeline.clone(), stage: stage.to_owned(), there }
    };
    if tasks.is_empty() {
        return Err(nothing());
    }
    let form = match format {
        Format::Safetensors => "safetensors",
        Format::Png => "png",
    };
    let mut folder = Folder::open(out, format!("{stage}, {form}"))?;
    for (number, task) in tasks.iter().map(|t| (*t, &plan.tasks[*t])) {
        let node = graph.node(task.node).ok_or_else(nothing)?;
        let manifest = store.lookup(task.stage, &task.key)?.ok_or_else(|| ExportError::NotRun {
            folder: task.folder(),
            stage: stage.to_owned(),
            pipeline: plan.pipeline.clone(),
        })?;
        let exported = node.stage.export(store, &manifest)?;
        let dir = if tasks.len() == 1 { String::new() } else { format!("{}/", task.key) };
        match format {
            Format::Safetensors => write_tensors(&exported, &about(plan, number, &manifest), &dir, &mut folder)?,
            Format::Png if exported.pictures.is_empty() => return Err(ExportError::NoPictures(stage.to_owned())),
            Format::Png => write_pictures(&exported, &dir, &mut folder)?,
        }
    }
    if tasks.len() > 1 {
        let index = index(plan, &tasks).map_err(|e| failed(&out.join(INDEX), e))?;
        folder.claim([INDEX.to_owned()])?;
        folder.write(INDEX.to_owned(), &index)?;
    }
    folder.finish()
}

/// What a file says of itself.
fn about(plan: &Plan, number: usize, manifest: &Manifest) -> Map<String, Value> {
    let task = &plan.tasks[number];
    let mut about = Map::new();
    // The format knows texts only.
    let mut say = |name: &str, value: &Value| about.insert(name.to_owned(), shown(value).into());
    say("hemlock_version", &json!(manifest.hemlock_version));
    say("pipeline", &json!(plan.pipeline));
    say("stage", &json!(task.stage));
    say("key", &json!(task.key));
    say("params", &task.params);
    if let Some(seed) = upstream(plan, number).into_iter().find_map(|t| plan.tasks[t].identity.seed) {
        say("seed", &json!(seed));
    }
    about
}

/// A line a folder: the seed, the attack and its budget, where artifacts have these, and every parameter, of the stage
/// and of what it comes from, in which they differ.
fn index(plan: &Plan, tasks: &[usize]) -> Result<Vec<u8>, csv::Error> {
    let params: Vec<BTreeMap<String, String>> = tasks.iter().map(|task| made_with(plan, *task)).collect();
    let names: BTreeSet<&String> = params.iter().flat_map(BTreeMap::keys).collect();
    let differ = differing_among(params.iter());
    let always = ["seed", "attack", "poison_fraction"].map(str::to_owned);
    let told: Vec<&String> = always.iter().filter(|name| names.contains(name)).collect();
    let columns = || told.iter().copied().chain(differ.iter().copied().filter(|name| !told.contains(name)));
    let mut csv = csv::Writer::from_writer(Vec::new());
    csv.write_record(["folder", "stage"].into_iter().chain(columns().map(String::as_str)))?;
    for (task, params) in tasks.iter().map(|t| &plan.tasks[*t]).zip(&params) {
        let own = columns().map(|name| params.get(name).cloned().unwrap_or_default());
        csv.write_record([task.key.to_string(), task.stage.to_owned()].into_iter().chain(own))?;
    }
    csv.into_inner().map_err(|e| csv::Error::from(e.into_error()))
}

/// The parameters of a task and of what it comes from, by full name, and under their own the seed, the attack and its
/// budget.
fn made_with(plan: &Plan, task: usize) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for task in upstream(plan, task).into_iter().map(|t| &plan.tasks[t]) {
        for (field, value) in task.params.as_object().into_iter().flatten() {
            found.insert(format!("{}.{field}", task.node), shown(value));
        }
        if let Some(seed) = task.identity.seed {
            found.insert("seed".to_owned(), seed.to_string());
        }
        if let Some(poison_fraction) = task.params.get("poison_fraction") {
            let attack = task.params.get("attack").map_or_else(|| task.node.to_owned(), shown);
            found.extend([("attack".to_owned(), attack), ("poison_fraction".to_owned(), shown(poison_fraction))]);
        }
    }
    found
}

/// Writes into `dir`, which is empty or ends with a slash.
fn write_tensors(
    exported: &Exported,
    about: &Map<String, Value>,
    dir: &str,
    folder: &mut Folder,
) -> Result<(), ExportError> {
    let tensors = exported.tensors.iter().map(|(name, tensors)| (format!("{dir}{name}.safetensors"), tensors));
    let files = exported.files.iter().map(|(name, content)| (format!("{dir}{name}"), content));
    folder.claim(tensors.clone().map(|(name, _)| name).chain(files.clone().map(|(name, _)| name)))?;
    for (name, tensors) in tensors {
        let path = Path::new(&name);
        let bytes: Vec<Vec<u8>> = tensors.iter().map(little_endian).collect();
        let views = tensors.iter().zip(&bytes).map(|(t, bytes)| {
            let dtype = match t.data {
                Data::F32(_) => Dtype::F32,
                Data::F64(_) => Dtype::F64,
                Data::U8(_) => Dtype::U8,
                Data::I64(_) => Dtype::I64,
            };
            Ok((t.name.as_ref(), TensorView::new(dtype, t.shape.clone(), bytes).map_err(|e| failed(path, e))?))
        });
        let views = views.collect::<Result<Vec<_>, ExportError>>()?;
        let whole = safetensors::serialize(views, None).map_err(|e| failed(path, e))?;
        let whole = labelled(&whole, about).ok_or_else(|| failed(path, "it has no header"))?;
        folder.write(name, &whole)?;
    }
    for (name, content) in files {
        match name.ends_with(".safetensors") {
            true => {
                let labelled = labelled(content, about).ok_or_else(|| failed(Path::new(&name), "it has no header"))?;
                folder.write(name, &labelled)?;
            }
            false => folder.write(name, content)?,
        }
    }
    Ok(())
}

/// A safetensors file with metadata, in one order of its fields: equal contents are equal bytes. `None` if it is no
/// such file.
fn labelled(file: &[u8], about: &Map<String, Value>) -> Option<Vec<u8>> {
    let (length, rest) = file.split_first_chunk::<8>()?;
    let (header, data) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let mut header: Map<String, Value> = serde_json::from_slice(header).ok()?;
    let metadata = header.entry("__metadata__").or_insert_with(|| Value::Object(Map::new()));
    metadata.as_object_mut()?.extend(about.clone());
    let mut header = Value::Object(header).to_string().into_bytes();
    // Tensors begin at a multiple of eight bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    Some([&(header.len() as u64).to_le_bytes()[..], &header, data].concat())
}

fn little_endian(tensor: &Tensor) -> Vec<u8> {
    match &tensor.data {
        Data::F32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::F64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::U8(v) => v.clone(),
        Data::I64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

/// Writes into `dir`, which is empty or ends with a slash.
fn write_pictures(exported: &Exported, dir: &str, folder: &mut Folder) -> Result<(), ExportError> {
    let name = |set: &str, i: usize, label: u32| format!("{dir}{set}/{i:06}-label{label}.png");
    let names = exported
        .pictures
        .iter()
        .map(|(set, _, labels)| labels.iter().enumerate().map(move |(i, label)| name(set, i, *label)));
    folder.claim(names.flatten())?;
    for (set, pixels, labels) in &exported.pictures {
        for (i, (image, label)) in pixels.axis_iter(Axis(0)).zip(labels).enumerate() {
            let (_, height, width) = image.dim();
            let picture = ImageBuffer::from_fn(width as u32, height as u32, |x, y| {
                let (x, y) = (x as usize, y as usize);
                Rgb([image[[0, y, x]], image[[1, y, x]], image[[2, y, x]]])
            });
            let name = name(set, i, *label);
            let mut bytes = Cursor::new(Vec::new());
            picture.write_to(&mut bytes, ImageFormat::Png).map_err(|e| failed(Path::new(&name), e))?;
            folder.write(name, bytes.get_ref())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    #[test]
    fn a_label_changes_no_tensor_and_keeps_what_was_said_before() {
        let numbers: Vec<u8> = [1.5f32, -2.0, 3.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let view = TensorView::new(Dtype::F32, vec![3], &numbers).unwrap();
        let before = Some([("format".to_owned(), "pt".to_owned())].into());
        let file = safetensors::serialize([("some", view)], before).unwrap();
        let about = Map::from_iter([("stage".to_owned(), json!("features")), ("key".to_owned(), json!("0f"))]);
        let labelled = labelled(&file, &about).unwrap();
        assert_eq!(super::labelled(&labelled, &about).as_ref(), Some(&labelled));
        let (_, read) = SafeTensors::read_metadata(&labelled).unwrap();
        let said = read.metadata().clone().unwrap();
        assert_eq!((&*said["stage"], &*said["key"], &*said["format"]), ("features", "0f", "pt"));
        let read = SafeTensors::deserialize(&labelled).unwrap();
        assert_eq!((read.names().len(), read.tensor("some").unwrap().data()), (1, &numbers[..]));
        assert_eq!((labelled.len() - numbers.len()) % 8, 0);
        for cut in [0, 7, 8, 20] {
            assert_eq!(super::labelled(&file[..cut], &about), None);
        }
    }
}
