//! Import of features from a file of arrays that another tool wrote.

use std::path::{Path, PathBuf};

use hemlock_arrays::{Arrays, ArraysError};
use hemlock_artifact::FeatureSplit;
use hemlock_data::{DataError, SplitSpec};
use hemlock_stage::{Context, Environment, ParamError, Seed, StageError, few};
use ndarray::{Array2, Axis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Normalize, Splits};

/// Parameters of an import: the file of features, and how they are split and normalised.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Import {
    /// A `.npz` or `.safetensors` file, or a folder of `.npy` files; a relative path starts at the data root (`--data`
    /// or `HEMLOCK_DATA`). Its arrays `train`, `test` and, optionally, `validation` are features, `[n, d]`; its arrays
    /// `train_labels`, `test_labels` and, with `validation`, `validation_labels` are classes counted from 0, `[n]`.
    pub path: PathBuf,
    /// Number of samples of `train` that are held out for validation, class-balanced, if the file has no `validation`.
    #[serde(default)]
    pub validation: usize,
    /// Seed of the choice of held-out samples, or `run` for the pipeline's seed, so that every seed holds out other
    /// samples.
    #[serde(default)]
    pub seed: Seed,
    /// The normalisation of feature vectors before the head sees them.
    #[serde(default)]
    pub normalization: Normalize,
}

/// Names of a split's two arrays: its features, and its labels.
type Names = (&'static str, &'static str);

const TRAIN: Names = ("train", "train_labels");
const VALIDATION: Names = ("validation", "validation_labels");
const TEST: Names = ("test", "test_labels");

/// Names of all arrays that an import reads.
const NAMES: [&str; 6] = [TRAIN.0, TRAIN.1, VALIDATION.0, VALIDATION.1, TEST.0, TEST.1];

impl Import {
    pub(crate) fn check(&self) -> Result<(), ParamError> {
        let given = !self.path.as_os_str().is_empty();
        ParamError::require(given, "path", "empty", "the path of a .npz or .safetensors file, or of a folder")
    }

    /// Whether samples are drawn with the pipeline's seed.
    pub(crate) fn seeded(&self) -> bool {
        self.validation > 0 && self.seed == Seed::Run
    }

    /// Returns the digest of the arrays that the import reads.
    pub(crate) fn digest(&self, env: &Environment) -> Result<String, StageError> {
        hemlock_arrays::digest(&env.locate(&self.path)?, &NAMES).map_err(|e| e.of_field("path"))
    }

    /// Reads all splits. If the file has no validation split, draws one.
    pub(crate) fn read(&self, ctx: &Context) -> Result<Splits, StageError> {
        let (mut splits, unread) = read(&ctx.env.locate(&self.path)?, "path", &|| ctx.check())?;
        if !unread.is_empty() {
            tracing::warn!("{} has arrays that nothing reads: {}", self.path.display(), few(unread));
        }
        if self.validation == 0 {
            return Ok(splits);
        }
        if !splits.validation.labels.is_empty() {
            let message = format!(
                "is {}, and {} has a validation split of {} samples; leave the field out",
                self.validation,
                self.path.display(),
                splits.validation.labels.len()
            );
            return Err(ParamError::new("validation", message).into());
        }
        (splits.train, splits.validation) =
            self.hold_out(&splits.train, &splits.classes, ctx.seed).map_err(|m| ParamError::new("validation", m))?;
        Ok(splits)
    }

    /// Divides training samples into those that stay and those that are held out.
    fn hold_out(
        &self,
        train: &FeatureSplit,
        classes: &[String],
        run: u64,
    ) -> Result<(FeatureSplit, FeatureSplit), String> {
        let spec = SplitSpec { validation: Some(self.validation), seed: self.seed.of(run), ..SplitSpec::default() };
        let asked = format!("is {}, drawn from {} training samples", self.validation, train.labels.len());
        let chosen = spec.choose(classes, &train.labels, None, Some(&[])).map_err(|e| match e {
            DataError::Shortage { class, asked: share, available, .. } => {
                format!("{asked}: asks for {share} samples of class {class}, which has {available}")
            }
            _ => format!("{asked}: leaves none to train on"),
        })?;
        let of = |indices: &[u32]| {
            let rows: Vec<usize> = indices.iter().map(|row| *row as usize).collect();
            FeatureSplit {
                features: train.features.view().select(Axis(0), &rows).into(),
                labels: rows.iter().map(|row| train.labels[*row]).collect(),
                source_index: indices.to_vec(),
            }
        };
        let (train, validation) = (of(&chosen.train), of(&chosen.validation));
        match absent(&train.labels, classes.len()) {
            Some(class) => Err(format!("{asked}: leaves none of class {class} to train on")),
            None => Ok((train, validation)),
        }
    }
}

/// Counts of what a file of features contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureSurvey {
    /// Number of training samples of each class.
    pub train: Vec<usize>,
    /// Number of validation samples; `None` if the file has no validation split.
    pub validation: Option<usize>,
    /// Number of test samples.
    pub test: usize,
    /// Number of features per sample.
    pub dim: usize,
    /// Names of the arrays that an import does not read.
    pub unread: Vec<String>,
}

/// Reads a file or folder of features as the stage does, and counts its contents. `field` is the name of the path in
/// error messages.
///
/// # Errors
/// If the file does not exist or is damaged, or if its arrays do not fit each other.
pub fn survey(path: &Path, field: &str) -> Result<FeatureSurvey, StageError> {
    let (splits, unread) = read(path, field, &|| Ok(()))?;
    let mut train = vec![0; splits.classes.len()];
    splits.train.labels.iter().for_each(|label| train[*label as usize] += 1);
    let validation = Some(splits.validation.labels.len()).filter(|n| *n > 0);
    let (test, dim) = (splits.test.labels.len(), splits.train.features.view().ncols());
    Ok(FeatureSurvey { train, validation, test, dim, unread })
}

/// Reads all splits of a file, and returns them with the names of the arrays that belong to none. `field` is the name
/// of the path in error messages. `check` is called before each split is read.
fn read(
    path: &Path,
    field: &str,
    check: &dyn Fn() -> Result<(), StageError>,
) -> Result<(Splits, Vec<String>), StageError> {
    let mut arrays = Arrays::open(path).map_err(|e| e.of_field(field))?;
    let own = arrays.has(VALIDATION.0) || arrays.has(VALIDATION.1);
    let unread = arrays.names().iter().filter(|name| !NAMES.contains(&name.as_str())).cloned().collect();
    let mut read = |names| {
        check()?;
        Ok::<_, StageError>(split(&mut arrays, names)?)
    };
    let (train, test) = (read(TRAIN)?, read(TEST)?);
    let validation = if own {
        read(VALIDATION)?
    } else {
        let features = Array2::zeros((0, train.features.view().ncols())).into();
        FeatureSplit::all(features, Vec::new())
    };
    let mut splits = Splits { classes: Vec::new(), train, validation, test, test_groups: None };
    splits.classes = classes(&arrays, &splits)?;
    Ok((splits, unread))
}

/// Reads the features and labels of one split, and checks that there are as many of the one as of the other.
fn split(arrays: &mut Arrays, (features, labels): Names) -> Result<FeatureSplit, ArraysError> {
    let split = FeatureSplit::all(arrays.features(features)?.into(), arrays.labels(labels)?);
    let (n, found) = (split.features.view().nrows(), split.labels.len());
    if n != found {
        return Err(arrays.refuse(labels, format!("has {found} labels; expected {n}, one per row of `{features}`")));
    }
    Ok(split)
}

/// Checks that the splits fit each other, and returns the names of their classes.
fn classes(arrays: &Arrays, splits: &Splits) -> Result<Vec<String>, ArraysError> {
    let d = splits.train.features.view().ncols();
    for (split, (name, _)) in [(&splits.train, TRAIN), (&splits.test, TEST), (&splits.validation, VALIDATION)] {
        let shape = split.features.view().dim();
        if name != VALIDATION.0 && (shape.0 == 0 || shape.1 == 0) {
            let problem = format!("has shape [{}, {}]; expected at least one sample of one feature", shape.0, shape.1);
            return Err(arrays.refuse(name, problem));
        }
        if shape.1 != d {
            let problem = format!("has {} features per sample; expected {d}, as `{}` has", shape.1, TRAIN.0);
            return Err(arrays.refuse(name, problem));
        }
    }
    let mut count = 0;
    for (split, (_, name)) in [(&splits.train, TRAIN), (&splits.test, TEST), (&splits.validation, VALIDATION)] {
        let largest = split.labels.iter().max().map_or(0, |label| *label as usize + 1);
        count = count.max(largest);
        if let Some(class) = absent(&splits.train.labels, count) {
            let problem = format!("has no sample of class {class}, and `{name}` goes up to class {}", count - 1);
            return Err(arrays.refuse(TRAIN.1, format!("{problem}; expected samples of every class, counted from 0")));
        }
    }
    if count < 2 {
        return Err(arrays.refuse(TRAIN.1, "has one class; expected at least 2"));
    }
    Ok((0..count).map(|class| class.to_string()).collect())
}

/// Returns the first of `classes` classes that no label names; `None` if all are named.
fn absent(labels: &[u32], classes: usize) -> Option<usize> {
    // Labels cannot name more classes than there are labels, so a huge class number needs no huge vector.
    let mut named = vec![false; classes.min(labels.len() + 1)];
    for label in labels {
        if let Some(named) = named.get_mut(*label as usize) {
            *named = true;
        }
    }
    named.iter().position(|named| !named)
}
