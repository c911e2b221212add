//! Stage: chooses, splits and decodes the images of a dataset.

use hemlock_artifact::Dataset;
use hemlock_data::{
    Balance, DataError, DatasetRole, Folders, Interpolation, Preparation, Resize, Source, SplitSpec, digest, load,
};
use hemlock_stage::{About, Context, Environment, ErrorKind, ParamError, Seed, StageError, StageRole};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{marker::PhantomData, sync::OnceLock};

/// The images that an extractor is pre-trained on (`[dataset.pretrain]`), and those that heads are trained and tested
/// on (`[dataset.downstream]`). Without `[dataset.pretrain]`, the extractor is pre-trained on the training images of
/// `[dataset.downstream]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Where the images come from.
    pub source: Source,
    /// Height and width of the images, in pixels, 1 to 1024. By default the source's own: 32 for CIFAR and generated
    /// images; and 32 for image folders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub size: Option<usize>,
    /// Which sides of a picture are resized before the square of `size` pixels in its centre is cut out.
    #[serde(default, skip_serializing_if = "usual")]
    pub resize: Resize,
    /// How pixels are weighted when a picture is resized, as in Pillow.
    #[serde(default, skip_serializing_if = "usual")]
    pub interpolation: Interpolation,
    /// The share of the resized picture that the crop keeps, as timm's `crop_pct`: sides are resized to `size / crop`.
    #[serde(default = "whole", skip_serializing_if = "is_whole")]
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1))]
    pub crop: f64,
    /// Number of training images; by default all that validation leaves.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub train: Option<usize>,
    /// Number of training images of every class, as few-shot benchmarks have it. `train` is then ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub per_class: Option<usize>,
    /// How numbers of images are divided among the classes.
    #[serde(default, skip_serializing_if = "usual")]
    pub balance: Balance,
    /// Number of validation images, from the source's validation pool or, if it has none, from the training pool. By
    /// default all of the validation pool, and none of the training pool.
    #[serde(default)]
    pub validation: Option<usize>,
    /// Number of test images; by default all. A source without a test pool needs `test` or `train`.
    #[serde(default)]
    pub test: Option<usize>,
    /// Seed of the choice. With `run`, every seed of the pipeline chooses its own training and
    /// validation images, and its own test images as long as the test pool has others. It makes a difference only if
    /// fewer images are taken than the pool has.
    #[serde(default)]
    pub seed: Seed,
    /// Names of the classes that are used, at least two, in the order of their labels; by default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<Vec<String>>,
}

fn usual<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn whole() -> f64 {
    1.0
}

fn is_whole(crop: &f64) -> bool {
    *crop == whole()
}

impl Params {
    fn preparation(&self) -> Preparation {
        let Self { size, resize, interpolation, crop, .. } = *self;
        Preparation { size, resize, interpolation, crop }
    }

    fn split(&self, run: u64, role: DatasetRole) -> SplitSpec {
        let Self { per_class, balance, validation, test, seed, .. } = *self;
        let (train, classes) = (self.train.filter(|_| per_class.is_none()), self.classes.clone());
        SplitSpec { train, per_class, balance, validation, test, seed: seed.of(run), role, classes }
    }

    /// Whether all images are taken, so that there is nothing to choose.
    fn takes_all(&self) -> bool {
        self.train.is_none()
            && self.per_class.is_none()
            && self.test.is_none()
            && self.validation.is_none_or(|count| count == 0)
    }
}

impl hemlock_stage::Params for Params {
    fn check(&self) -> Result<(), ParamError> {
        let (preparation, split) = (self.preparation(), self.split(0, DatasetRole::default()));
        let checked = self.source.check().and_then(|()| preparation.check()).and_then(|()| split.check());
        checked.map_err(|e| match e {
            DataError::Parameter { field, value, expected } => {
                ParamError::new(field.trim_start_matches("split."), format!("is {value}; expected {expected}"))
            }
            other => ParamError::new("", other.to_string()),
        })
    }
}

/// The stage for one role. With equal parameters, each role draws its images independently of the other.
pub struct Stage<R>(PhantomData<fn() -> R>);

/// A type that stands for a role.
pub trait For: 'static {
    /// The role.
    const ROLE: DatasetRole;
}

/// The role of images that an extractor is pre-trained on.
pub struct Pretraining;

/// The role of images that heads are trained and tested on.
pub struct Downstream;

impl For for Pretraining {
    const ROLE: DatasetRole = DatasetRole::Pretraining;
}

impl For for Downstream {
    const ROLE: DatasetRole = DatasetRole::Downstream;
}

impl<R: For> hemlock_stage::Stage for Stage<R> {
    const NAME: &'static str = "dataset";
    const ABOUT: About = About::new(StageRole::Data, "choose, split and decode images");
    const VERSION: u32 = 2;
    const SEEDED: bool = false;
    const USES_DEVICE: bool = false;
    const LISTS: &'static [&'static str] = &["classes"];
    type Params = Params;
    type Inputs = ();
    type Output = Dataset;

    fn seeded(params: &Params) -> bool {
        params.seed == Seed::Run
    }

    /// Paths are left out, because the digest of the content identifies the source.
    fn key_params(params: &Params) -> Result<Value, serde_json::Error> {
        let mut value = serde_json::to_value(params)?;
        if let Some(source) = value.get_mut("source").and_then(Value::as_object_mut) {
            Source::PATHS.iter().for_each(|field| {
                source.remove(*field);
            });
        }
        // Where there can be no validation pool, no number is the same as 0, and gets its key.
        if params.validation.is_none() && !params.source.may_validate() {
            value["validation"] = 0.into();
        }
        // `per_class` says the same, and wins.
        if params.per_class.is_some() {
            value["train"] = Value::Null;
        }
        value["role"] = serde_json::to_value(R::ROLE)?;
        Ok(value)
    }

    fn source_id(params: &Params) -> String {
        format!("{:?}", params.source)
    }

    fn source(params: &Params, env: &Environment) -> Result<Option<String>, StageError> {
        Ok(Some(digest(&params.source, env.data.as_deref())?))
    }

    fn run(params: &Params, (): (), ctx: &Context) -> Result<Dataset, StageError> {
        if params.seed == Seed::Run && params.takes_all() {
            tracing::warn!(
                "`seed` is \"run\", but every seed has the same images, as all are taken; `train` takes fewer"
            );
        }
        let bar = OnceLock::new();
        let dataset = load(
            &params.source,
            &params.preparation(),
            &params.split(ctx.seed, R::ROLE),
            Folders { data: ctx.env.data.as_deref(), scratch: Some(ctx.scratch) },
            &|done, total| {
                if total > 0 {
                    bar.get_or_init(|| ctx.progress.start("images", total as u64, "images")).at(done as u64);
                }
                !ctx.cancel.requested()
            },
        )?;
        // Without labels, an extractor can be pre-trained all the same.
        if dataset.classes.len() < 2 && R::ROLE != DatasetRole::Pretraining {
            let message = format!("{} has {} class; expected at least 2", dataset.name, dataset.classes.len());
            return Err(StageError::new(ErrorKind::Data, message));
        }
        Ok(dataset)
    }
}
