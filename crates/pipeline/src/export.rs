//! Exports: artifacts in formats that other tools open, safetensors and PNG, and data sets with poisons among them.

mod folder;

use crate::{Graph, Plan, Selection, compare::differing_among, results::upstream, select::shown};
use folder::{Folder, failed};
use hemlock_artifact::{Data, Dataset, Exported, Features, PoisonFeatures, Poisons, Tensor};
use hemlock_poisoned_set::{PoisonedSet, SetError, SetFormat, png};
use hemlock_stage::{StageError, StageRole};
use hemlock_store::{Manifest, Store, StoreError};
use ndarray::Axis;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// Name of the file that says which artifact is in which folder.
const INDEX: &str = "index.csv";

/// The format of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Tensors in safetensors files, and the artifact's other files.
    Safetensors,
    /// One PNG file per image.
    Png,
    /// The whole data set, with the poisons among the clean samples.
    Dataset(SetFormat),
}

/// A failed export.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The selection does not fit the plan.
    #[error("--select: {0}")]
    Selection(String),
    /// The selected branches do not have the stage.
    #[error("no branch of '{pipeline}' that is selected has the stage '{stage}'; they have {there}")]
    NothingSelected {
        /// Name of the pipeline.
        pipeline: String,
        /// Name of the stage.
        stage: String,
        /// The stages that the branches have.
        there: String,
    },
    /// The artifact has not been made yet.
    #[error("{folder} is not there yet; run `hemlock {stage} {pipeline}` first")]
    NotRun {
        /// The artifact's folder, relative to the artifact root.
        folder: String,
        /// Name of the stage.
        stage: String,
        /// Name of the pipeline.
        pipeline: String,
    },
    /// The artifact has no images to write as PNG.
    #[error("the stage '{0}' makes no pictures; leave out `--format png`")]
    NoPictures(String),
    /// The artifact has no poisons to put into a data set.
    #[error("the stage '{0}' makes no poisons; leave out `--dataset`, or export a stage that makes some")]
    NoPoisons(String),
    /// The data set cannot be written.
    #[error(transparent)]
    Set(#[from] SetError),
    /// The stage cannot export the artifact.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The artifact root or the artifact cannot be read, or is damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The export would overwrite a file that no earlier export of the same stage and format wrote.
    #[error(
        "{} is there, and {}; choose another folder, or remove it",
        path.display(),
        by.as_ref().map_or_else(|| "no export is known to have written it".to_owned(), |by| format!("the export of {by} wrote it"))
    )]
    Taken {
        /// The file.
        path: PathBuf,
        /// Stage and format of the export that wrote the file, if an export did.
        by: Option<String>,
    },
    /// The list of what exports wrote into the folder cannot be read.
    #[error("{} should list what exports wrote there, and does not: {what}; remove it, or choose another folder", path.display())]
    List {
        /// The list's file.
        path: PathBuf,
        /// The reason.
        what: String,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {what}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The reason.
        what: String,
    },
}

/// Exports the selected artifacts of a stage to the folder `out`, and returns the paths of the files.
///
/// - A single artifact is written into `out` itself. Several artifacts get a folder each, named after their key, and
///   `index.csv` in `out` says what each was made with.
/// - No unfinished file has its final name.
/// - Files from an earlier export of the same stage and format are replaced or removed. Nothing else is touched.
///
/// # Errors
/// - The selection does not fit the plan, or the selected branches do not have the stage.
/// - An artifact has not been made yet, cannot be read, or is damaged.
/// - The format is PNG, and the artifact has no images; or it is a data set, and the artifact has no poisons.
/// - A file cannot be written, or would overwrite one that is not from an earlier export of this kind.
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
        // Nodes with the same key share an artifact.
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
        Format::Dataset(format) => format.name(),
    };
    let mut folder = Folder::open(out, format!("{stage}, {form}"))?;
    for (number, task) in tasks.iter().map(|t| (*t, &plan.tasks[*t])) {
        let node = graph.node(task.node).ok_or_else(nothing)?;
        let manifest = store.lookup(task.stage, &task.key)?.ok_or_else(|| ExportError::NotRun {
            folder: task.folder(),
            stage: stage.to_owned(),
            pipeline: plan.pipeline.clone(),
        })?;
        let dir = if tasks.len() == 1 { String::new() } else { format!("{}/", task.key) };
        if let Format::Dataset(format) = format {
            let role = node.stage.about().role;
            with_set(plan, store, (number, &manifest), role, |set| write_set(set, format, &dir, &mut folder))?;
            continue;
        }
        let exported = node.stage.export(store, &manifest)?;
        match format {
            Format::Png if exported.pictures.is_empty() => return Err(ExportError::NoPictures(stage.to_owned())),
            Format::Png => write_pictures(&exported, &dir, &mut folder)?,
            _ => write_tensors(&exported, &about(plan, number, &manifest), &dir, &mut folder)?,
        }
    }
    if tasks.len() > 1 {
        let index = index(plan, &tasks).map_err(|e| failed(&out.join(INDEX), e))?;
        folder.claim([INDEX.to_owned()])?;
        folder.write(INDEX.to_owned(), &index)?;
    }
    folder.finish()
}

/// Writes a data set with poisons among the clean samples to the folder `out`, and returns the paths of the files.
/// Files from an earlier data set of the same format are replaced or removed. Nothing else is touched.
///
/// # Errors
/// - The samples and the poisons do not fit each other, or are features and the format is for images.
/// - A file cannot be written, or would overwrite one that is not from an earlier data set.
pub fn export_set(set: &PoisonedSet, format: SetFormat, out: &Path) -> Result<Vec<PathBuf>, ExportError> {
    let mut folder = Folder::open(out, format!("a data set, {format}"))?;
    write_set(set, format, "", &mut folder)?;
    folder.finish()
}

/// Calls `write` with the data set that a task attacked and the poisons that it made.
fn with_set(
    plan: &Plan,
    store: &Store,
    (number, made): (usize, &Manifest),
    role: StageRole,
    write: impl FnOnce(&PoisonedSet) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let task = &plan.tasks[number];
    let none = || ExportError::NoPoisons(task.stage.to_owned());
    let input = |role: &str| -> Result<Manifest, ExportError> {
        let input = &plan.tasks[*task.inputs.get(role).ok_or_else(none)?];
        store.lookup(input.stage, &input.key)?.ok_or_else(|| ExportError::NotRun {
            folder: input.folder(),
            stage: input.stage.to_owned(),
            pipeline: plan.pipeline.clone(),
        })
    };
    if role.makes_images() {
        let (dataset, poisons) = (store.read::<Dataset>(&input("dataset")?)?, store.read::<Poisons>(made)?);
        return write(&PoisonedSet::of_images(&dataset, &poisons));
    }
    if role != StageRole::FeatureAttack {
        return Err(none());
    }
    let (features, poisons) = (store.read::<Features>(&input("features")?)?, store.read::<PoisonFeatures>(made)?);
    write(&PoisonedSet::of_features(&features, &poisons))
}

/// Writes a data set into `dir`, which is empty or ends with a slash.
fn write_set(set: &PoisonedSet, format: SetFormat, dir: &str, folder: &mut Folder) -> Result<(), ExportError> {
    let files = set.files(format)?;
    let named = |name: &String| format!("{dir}{name}");
    folder.claim(files.names().iter().map(named))?;
    for (number, name) in files.names().iter().enumerate() {
        folder.write(named(name), &files.content(number)?)?;
    }
    Ok(())
}

/// The metadata of an exported file: what it was made from.
fn about(plan: &Plan, number: usize, manifest: &Manifest) -> Map<String, Value> {
    let task = &plan.tasks[number];
    let mut about = Map::new();
    // Values of safetensors metadata are texts.
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

/// The index of several artifacts, as CSV with a row per folder. Its columns are the seed, the attack and the poison
/// fraction, as far as the artifacts have them, and every parameter in which they differ, of the stage and of all that
/// it comes from.
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

/// The parameters of a task and of all that it comes from, by full name. The seed, the attack and the poison fraction
/// also have entries of their own.
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

/// Writes the tensors and other files into `dir`, which is empty or ends with a slash.
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

/// Adds metadata to a safetensors file. The fields of its header have a fixed order, so that equal contents give equal
/// bytes. Returns `None` if the bytes are no such file.
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

/// Writes the images into `dir`, which is empty or ends with a slash.
fn write_pictures(exported: &Exported, dir: &str, folder: &mut Folder) -> Result<(), ExportError> {
    let name = |set: &str, i: usize, label: u32| format!("{dir}{set}/{i:06}-label{label}.png");
    let names = exported
        .pictures
        .iter()
        .map(|(set, _, labels)| labels.iter().enumerate().map(move |(i, label)| name(set, i, *label)));
    folder.claim(names.flatten())?;
    for (set, pixels, labels) in &exported.pictures {
        for (i, (image, label)) in pixels.axis_iter(Axis(0)).zip(labels).enumerate() {
            let name = name(set, i, *label);
            let bytes = png(image).map_err(|e| failed(Path::new(&name), e))?;
            folder.write(name, &bytes)?;
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
