//! Stage: features of a downstream dataset, extracted from its images or imported from a file.

mod import;
#[cfg(test)]
mod tests;

pub use import::{FeatureSurvey, Import, survey};

use hemlock_artifact::{Dataset, ExtractorArtifact, FeatureSplit, Features, Images, Matrix, Normalization, TestGroups};
use hemlock_stage::{About, Context, Environment, ErrorKind, Need, ParamError, Port, StageError, StageRole, inputs};
use ndarray::{ArrayView2, Axis, Dim};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use serde_json::{Map, Value};

/// The source of the features, by default `extract`, and its parameters.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", tag = "method", rename_all = "kebab-case")]
pub enum Params {
    /// The frozen extractor computes the features from the images of the downstream dataset.
    Extract(Extract),
    /// The features are read from a file that another tool wrote.
    Import(Import),
}

/// Parameters of an extraction.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Extract {
    /// The normalisation of feature vectors before the head sees them.
    pub normalization: Normalize,
}

/// The normalisation of feature vectors before the head sees them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Normalize {
    /// Features stay as they are.
    None,
    /// Every coordinate gets mean 0 and standard deviation 1 over the clean training split.
    #[default]
    Standardize,
    /// Every sample is divided by its L2 norm.
    L2,
}

impl Serialize for Params {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // The function that `remote = "Self"` derives, which is inherent and not the trait's.
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Params {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut table = Map::deserialize(deserializer)?;
        table.entry("method").or_insert_with(|| "extract".into());
        Self::deserialize(Value::Object(table)).map_err(D::Error::custom)
    }
}

impl hemlock_stage::Params for Params {
    fn check(&self) -> Result<(), ParamError> {
        match self {
            Self::Extract(_) => Ok(()),
            Self::Import(import) => import.check(),
        }
    }
}

inputs! {
    /// What the stage reads.
    pub struct Inputs {
        ; optional {
            /// Downstream images; not read by an import.
            dataset: Dataset = "dataset.downstream",
            /// The frozen extractor; not read by an import.
            extractor: ExtractorArtifact = "pretrain",
        }
    }
}

/// Features before they are normalised.
struct Splits {
    classes: Vec<String>,
    train: FeatureSplit,
    validation: FeatureSplit,
    test: FeatureSplit,
    test_groups: Option<TestGroups>,
}

/// The stage.
pub struct Stage;

impl hemlock_stage::Stage for Stage {
    const NAME: &'static str = "features";
    const ABOUT: About = About::new(StageRole::Data, "extract features of the downstream dataset, or import them");
    const VERSION: u32 = 6;
    const SEEDED: bool = false;
    const USES_DEVICE: bool = true;
    type Params = Params;
    type Inputs = Inputs;
    type Output = Features;

    /// `method` is left out for extraction, because keys had none before there were imports. Of an import, the path is
    /// left out, because the digest of the file identifies it, and the seed is left out if it draws no samples.
    fn key_params(params: &Params) -> Result<Value, serde_json::Error> {
        let mut value = serde_json::to_value(params)?;
        if let Some(fields) = value.as_object_mut() {
            fields.retain(|field, _| match params {
                Params::Extract(_) => field != "method",
                Params::Import(import) => field != "path" && (field != "seed" || import.validation > 0),
            });
        }
        Ok(value)
    }

    fn source_id(params: &Params) -> String {
        match params {
            Params::Extract(_) => String::new(),
            Params::Import(import) => import.path.display().to_string(),
        }
    }

    fn source(params: &Params, env: &Environment) -> Result<Option<String>, StageError> {
        match params {
            Params::Extract(_) => Ok(None),
            Params::Import(import) => Ok(Some(import.digest(env)?)),
        }
    }

    fn seeded(params: &Params) -> bool {
        matches!(params, Params::Import(import) if import.seeded())
    }

    fn uses_device(params: &Params) -> bool {
        matches!(params, Params::Extract(_))
    }

    fn need(params: &Params, _: &Port) -> Need {
        match params {
            Params::Extract(_) => Need::Required,
            Params::Import(_) => Need::Unread,
        }
    }

    fn run(params: &Params, inputs: Inputs, ctx: &Context) -> Result<Features, StageError> {
        let (normalize, splits) = match params {
            Params::Extract(params) => (params.normalization, extract(inputs, ctx)?),
            Params::Import(import) => (import.normalization, import.read(ctx)?),
        };
        let refuse = |what: String| match params {
            Params::Extract(_) => StageError::new(ErrorKind::Numeric, format!("{what}; check the extractor")),
            Params::Import(Import { path, .. }) => {
                StageError::new(ErrorKind::Data, format!("{}: {what}; check what made them", path.display()))
            }
        };
        let Splits { classes, train, validation, test, test_groups } = splits;
        let normalization = normalization(normalize, train.features.view()).map_err(refuse)?;
        let normalized = |name: &str, mut split: FeatureSplit| {
            for (i, mut row) in split.features.view_mut().rows_mut().into_iter().enumerate() {
                normalization.apply(row.view_mut().insert_axis(Axis(0)));
                if let Some(j) = row.iter().position(|z| !z.is_finite()) {
                    let far =
                        format!("feature {j} of sample {i} of the {name} split is too far from the training split's");
                    return Err(refuse(format!("{far} to be standardised in 32 bits")));
                }
            }
            Ok(split)
        };
        let (train, validation) = (normalized("training", train)?, normalized("validation", validation)?);
        Ok(Features { classes, train, validation, test: normalized("test", test)?, test_groups, normalization })
    }
}

/// Returns the normalisation of features whose training split is `train`, `[n, d]`. Warns of samples and features that
/// carry no information.
///
/// # Errors
/// If no feature carries information: all samples are equal, or all features constant.
pub fn normalization(normalize: Normalize, train: ArrayView2<f32>) -> Result<Normalization, String> {
    let (n, d) = train.dim();
    let dead = || train.rows().into_iter().filter(|row| row.iter().all(|z| *z == 0.0)).count();
    let alike = || train.rows().into_iter().all(|row| row == train.row(0));
    let refused = match normalize {
        Normalize::None | Normalize::L2 if dead() == n => "every feature of every training sample is 0",
        Normalize::None | Normalize::L2 if alike() => "every training sample has the same features",
        Normalize::None => return Ok(Normalization::identity(d)),
        Normalize::L2 => {
            match dead() {
                0 => {}
                dead => tracing::warn!("{dead} of {n} training samples are 0, have no direction, and stay 0"),
            }
            return Ok(Normalization::L2);
        }
        Normalize::Standardize => {
            let normalization = Normalization::standardizing(train);
            match normalization.constant() {
                0 => return Ok(normalization),
                constant if constant < d => {
                    tracing::warn!(
                        "{constant} of {d} features have one value in the whole training split, up to the rounding of 32 bits, \
                         and become 0"
                    );
                    return Ok(normalization);
                }
                _ if dead() == n => "every feature of every training sample is 0",
                _ => "every feature has one value in the whole training split, up to the rounding of 32 bits",
            }
        }
    };
    Err(format!("{refused}: nothing tells the classes apart"))
}

/// Extracts the features of all images. Neither images nor features have to fit into memory.
fn extract(inputs: Inputs, ctx: &Context) -> Result<Splits, StageError> {
    let Inputs { dataset: Some(dataset), extractor: Some(extractor) } = inputs else {
        return Err(StageError::internal("no images and no extractor were given"));
    };
    let extractor = hemlock_models::open_extractor(&extractor, ctx)?;
    let total = dataset.train.len() + dataset.validation.len() + dataset.test.len();
    let bar = ctx.progress.start("features", total as u64, "images");
    let mut before = 0;
    let mut extract = |images: Images| -> Result<FeatureSplit, StageError> {
        let mut features = Matrix::scratch(ctx.scratch, Dim([images.len(), extractor.feature_dim()]))?;
        let done = |done| bar.at((before + done) as u64);
        hemlock_models::extract_into(&extractor, images.pixels.view(), features.view_mut(), ctx, &done)?;
        before += images.len();
        Ok(FeatureSplit { features, labels: images.labels, source_index: images.source_index })
    };
    Ok(Splits {
        classes: dataset.classes,
        test_groups: dataset.test_groups,
        train: extract(dataset.train)?,
        validation: extract(dataset.validation)?,
        test: extract(dataset.test)?,
    })
}
