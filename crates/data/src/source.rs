//! Sources of images, as specs write them.

use std::fmt;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, json_schema};
use serde::de::value::{MapAccessDeserializer, MapDeserializer};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::DataError;

/// The source of a dataset's images.
///
/// In TOML it is either its kind, `source = "cifar10"`, or a table of its kind and parameters, `source = { kind =
/// "cifar100", labels = "coarse" }`. It is serialised as a table with all parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(transform = or_kind)]
pub enum Source {
    /// CIFAR-10: 32x32, 10 classes.
    #[serde(deserialize_with = "no_fields")]
    Cifar10,
    /// CIFAR-100: 32x32, 100 fine or 20 coarse classes.
    Cifar100 {
        /// The label of a record that is the class.
        #[serde(default)]
        labels: Cifar100Labels,
    },
    /// Image files in one folder per class, including files in folders below it. The layout is `path/train/CLASS/*`,
    /// `path/test/CLASS/*` and, optionally, `path/val/CLASS/*`; or `path/CLASS/*`, where the test split is taken from
    /// the same pool.
    ImageFolder {
        /// The folder, relative to the working directory.
        path: PathBuf,
    },
    /// Generated images of simple shapes with textures, for trying things out.
    Synthetic(SyntheticSpec),
}

/// Which label of a CIFAR-100 record is the class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Cifar100Labels {
    /// The 100 classes.
    #[default]
    Fine,
    /// The 20 superclasses of five classes each.
    Coarse,
}

/// Parameters of [`Source::Synthetic`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SyntheticSpec {
    /// The domain, which sets the classes and the palette.
    pub domain: Domain,
    /// Seed that all images are drawn from.
    #[serde(default)]
    pub seed: u64,
    /// Number of classes, 2 to 10. They are the first ones of the domain's ten.
    #[serde(default = "default_classes")]
    #[schemars(range(min = 2, max = 10))]
    pub classes: usize,
    /// Number of images in the training pool. A smaller pool is a prefix of a larger one.
    #[serde(default = "default_train_pool")]
    #[schemars(range(max = 10_000_000))]
    pub train_pool: usize,
    /// Number of images in the test pool. A smaller pool is a prefix of a larger one.
    #[serde(default = "default_test_pool")]
    #[schemars(range(max = 10_000_000))]
    pub test_pool: usize,
    /// Strength of the nuisances, from 0 (centred, clean objects) to 1.
    #[serde(default = "default_difficulty")]
    #[schemars(range(min = 0, max = 1))]
    pub difficulty: f64,
}

/// One of the two synthetic domains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Domain {
    /// Discs, rings, squares, triangles and crosses that are plain, striped or checkered, in warm hues.
    A,
    /// Other combinations of these shapes and textures, and further ones, in cool hues.
    B,
}

/// A published dataset in the CIFAR binary layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cifar {
    /// CIFAR-10.
    Cifar10,
    /// CIFAR-100.
    Cifar100,
}

/// Largest number of generated images in a pool.
const LARGEST_POOL: usize = 10_000_000;

impl Source {
    /// Returns the synthetic domain with default values of all other parameters.
    pub fn synthetic(domain: Domain) -> Self {
        Self::Synthetic(SyntheticSpec {
            domain,
            seed: 0,
            classes: default_classes(),
            train_pool: default_train_pool(),
            test_pool: default_test_pool(),
            difficulty: default_difficulty(),
        })
    }

    /// A short name for reports: `cifar10`, `cifar100`, `cifar100-coarse`, `image-folder`,
    /// `synthetic-a` or `synthetic-b`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cifar10 => "cifar10",
            Self::Cifar100 { labels: Cifar100Labels::Fine } => "cifar100",
            Self::Cifar100 { labels: Cifar100Labels::Coarse } => "cifar100-coarse",
            Self::ImageFolder { .. } => "image-folder",
            Self::Synthetic(spec) => match spec.domain {
                Domain::A => "synthetic-a",
                Domain::B => "synthetic-b",
            },
        }
    }

    /// Checks that every parameter is within its range.
    ///
    /// # Errors
    /// [`DataError::Parameter`] for the first parameter that is not.
    pub fn check(&self) -> Result<(), DataError> {
        let (field, value, expected) = match self {
            Self::Synthetic(spec) if !(2..=10).contains(&spec.classes) => {
                ("source.classes", spec.classes.to_string(), "2 to 10")
            }
            Self::Synthetic(spec) if !(0.0..=1.0).contains(&spec.difficulty) => {
                ("source.difficulty", spec.difficulty.to_string(), "0 to 1")
            }
            Self::Synthetic(spec) if spec.train_pool > LARGEST_POOL => {
                ("source.train_pool", spec.train_pool.to_string(), "at most 10000000")
            }
            Self::Synthetic(spec) if spec.test_pool > LARGEST_POOL => {
                ("source.test_pool", spec.test_pool.to_string(), "at most 10000000")
            }
            _ => return Ok(()),
        };
        Err(DataError::Parameter { field, value, expected })
    }
}

impl Cifar {
    /// The folder that the official archive unpacks to.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Cifar10 => "cifar-10-batches-bin",
            Self::Cifar100 => "cifar-100-binary",
        }
    }

    /// The official archive's file name.
    pub fn archive(self) -> &'static str {
        match self {
            Self::Cifar10 => "cifar-10-binary.tar.gz",
            Self::Cifar100 => "cifar-100-binary.tar.gz",
        }
    }
}

impl fmt::Display for Cifar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cifar10 => "cifar10",
            Self::Cifar100 => "cifar100",
        })
    }
}

fn default_classes() -> usize {
    10
}

fn default_train_pool() -> usize {
    20_000
}

fn default_test_pool() -> usize {
    4_000
}

fn default_difficulty() -> f64 {
    0.05
}

/// Adds to the schema of a table the kinds that may stand without one, as they need no parameters.
fn or_kind(schema: &mut Schema) {
    let alone = |variant: &Value| {
        let needs = variant["required"].as_array().is_some_and(|fields| fields.len() == 1);
        needs.then(|| variant["properties"]["kind"]["const"].clone())
    };
    let tables = schema.get("oneOf").and_then(Value::as_array);
    let kinds: Vec<Value> = tables.into_iter().flatten().filter_map(alone).collect();
    let table = schema.clone();
    *schema = json_schema!({ "anyOf": [{ "enum": kinds }, table] });
}

/// Refuses fields of a unit variant, which serde would ignore in a tagged enum.
fn no_fields<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct NoFields {}
    NoFields::deserialize(deserializer).map(|NoFields {}| ())
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // The function that `remote = "Self"` derives, which is inherent and not the trait's.
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KindOrTable;

        impl<'de> Visitor<'de> for KindOrTable {
            type Value = Source;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a source: its kind, or a table with `kind` and parameters")
            }

            fn visit_str<E: Error>(self, kind: &str) -> Result<Source, E> {
                Source::deserialize(MapDeserializer::new(std::iter::once(("kind", kind))))
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<Source, A::Error> {
                Source::deserialize(MapAccessDeserializer::new(table))
            }
        }

        deserializer.deserialize_any(KindOrTable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    struct Params {
        source: Source,
    }

    fn parse(text: &str) -> Result<Source, String> {
        toml::from_str::<Params>(text).map(|params| params.source).map_err(|error| error.to_string())
    }

    #[test]
    fn kinds_and_tables() {
        assert_eq!(parse("source = 'cifar10'"), Ok(Source::Cifar10));
        assert_eq!(parse("source = 'cifar100'"), Ok(Source::Cifar100 { labels: Cifar100Labels::Fine }));
        assert_eq!(
            parse("source = { kind = 'cifar100', labels = 'coarse' }"),
            Ok(Source::Cifar100 { labels: Cifar100Labels::Coarse })
        );
        assert_eq!(
            parse("[source]\nkind = 'image-folder'\npath = 'pets'"),
            Ok(Source::ImageFolder { path: "pets".into() })
        );
        assert_eq!(parse("source = { kind = 'synthetic', domain = 'b' }"), Ok(Source::synthetic(Domain::B)));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, words) in [
            ("source = 'cifar11'", "unknown variant `cifar11`"),
            ("source = 'synthetic'", "missing field `domain`"),
            ("source = { kind = 'cifar10', labels = 'fine' }", "unknown field `labels`"),
            ("source = { kind = 'synthetic', domain = 'a', dificulty = 1 }", "unknown field `dificulty`"),
            ("source = { kind = 'image-folder', path = 'x', pixels = 1 }", "unknown field `pixels`"),
            ("source = 3", "a source: its kind, or a table"),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.contains(words), "{text}: {message}");
        }
    }

    #[test]
    fn round_trips() {
        for source in [
            Source::Cifar10,
            Source::Cifar100 { labels: Cifar100Labels::Coarse },
            Source::ImageFolder { path: "pets".into() },
            Source::synthetic(Domain::A),
        ] {
            let json = serde_json::to_string(&source).unwrap();
            assert_eq!(serde_json::from_str::<Source>(&json).unwrap(), source);
            let params = Params { source: source.clone() };
            assert_eq!(parse(&toml::to_string(&params).unwrap()), Ok(source));
        }
    }

    #[test]
    fn ranges_are_checked() {
        for (text, field) in [
            ("source = { kind = 'synthetic', domain = 'a', difficulty = 1.5 }", "source.difficulty"),
            ("source = { kind = 'synthetic', domain = 'a', difficulty = nan }", "source.difficulty"),
            ("source = { kind = 'synthetic', domain = 'a', classes = 11 }", "source.classes"),
        ] {
            let message = parse(text).unwrap().check().unwrap_err().to_string();
            assert!(message.starts_with(field), "{message}");
        }
        assert!(Source::synthetic(Domain::A).check().is_ok());
    }
}
