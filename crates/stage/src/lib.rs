//! The one face that every stage has.
//!
//! A stage is typed parameters, typed inputs, a version and a `run` that takes them and gives an
//! output. What surrounds a run (keys, caching, locks, publishing, progress, logs) is written once,
//! in `hemlock-pipeline`, against the object-safe [`AnyStage`] that every [`Stage`] is.

mod about;
mod context;
mod error;
mod file;
mod inputs;
mod memory;
mod seed;
mod words;

pub use about::{About, Column, StageRole};
pub use context::{Bar, Cancel, Checkpoints, Context, Environment, NoCheckpoints, Progress, Silent};
pub use error::{MOST_EPOCHS, MOST_UNITS, ParamError, StageError};
pub use file::{FileError, open_file, read_file};
pub use hemlock_failure::{ErrorKind, Failure};
pub use inputs::{InputSet, Inputs, Need, Port};
pub use memory::{Bytes, available};
pub use seed::Seed;
pub use words::{MESSAGE, VALUE, few, short};

use hemlock_artifact::{Export, Exported};
use hemlock_store::{Artifact, Draft, Manifest, Store};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// Typed parameters of a stage, as they stand in a spec.
pub trait Params: Serialize + DeserializeOwned + Send + Sync {
    /// What the types cannot say: ranges, and fields that depend on each other.
    ///
    /// # Errors
    /// The first field whose value is out of range.
    fn check(&self) -> Result<(), ParamError> {
        Ok(())
    }
}

/// A step of a pipeline: a pure function from parameters, seed and input artifacts to one artifact.
pub trait Stage: Send + Sync + 'static {
    /// The name in specs, on the command line and in the artifact root.
    const NAME: &'static str;
    /// What the command line, results and reports say of the stage.
    const ABOUT: About;
    /// Raised whenever the same inputs would give a different output; part of the key.
    const VERSION: u32;
    /// Whether the stage draws random numbers from the pipeline's seed; only then is the seed in its key.
    const SEEDED: bool;
    /// Whether the stage computes on the chosen backend rather than on the host alone.
    const USES_DEVICE: bool;
    /// Fields whose value is a list. In a spec such a list is one value, where any other list fans out; a list of such
    /// lists fans out, too.
    const LISTS: &'static [&'static str] = &[];
    /// Parameters, parsed from the stage's table in the spec.
    type Params: Params;
    /// Artifacts that the stage reads.
    type Inputs: Inputs;
    /// The artifact that the stage emits.
    type Output: Artifact + Export;

    /// Parameters as they stand in the key. A stage leaves out what does not decide the result, such as the path of
    /// data whose digest [`Stage::source`] gives.
    ///
    /// # Errors
    /// The parameters cannot be written as JSON.
    fn key_params(params: &Self::Params) -> Result<Value, serde_json::Error> {
        serde_json::to_value(params)
    }

    /// Digest of data that is no artifact (a raw dataset, a file of weights); part of the key.
    ///
    /// # Errors
    /// The data cannot be read.
    fn source(_params: &Self::Params, _env: &Environment) -> Result<Option<String>, StageError> {
        Ok(None)
    }

    /// Names the data that [`Stage::source`] digests, so that it is digested once for all tasks that read it.
    #[must_use]
    fn source_id(_params: &Self::Params) -> String {
        String::new()
    }

    /// Whether a stage with these parameters draws random numbers from the pipeline's seed, if not all do or none.
    #[must_use]
    fn seeded(_params: &Self::Params) -> bool {
        Self::SEEDED
    }

    /// Whether a stage with these parameters computes on the chosen backend, if not all do or none.
    #[must_use]
    fn uses_device(_params: &Self::Params) -> bool {
        Self::USES_DEVICE
    }

    /// How a stage with these parameters wants a role filled, if not as the role was declared.
    #[must_use]
    fn need(_params: &Self::Params, port: &Port) -> Need {
        port.need
    }

    /// Whether a stage with these parameters can read for a role what was made with those of the node that fills it.
    ///
    /// # Errors
    /// Why it cannot.
    fn accepts(_params: &Self::Params, _port: &Port, _made_with: &Value) -> Result<(), ParamError> {
        Ok(())
    }

    /// A published output in open formats, with what only this stage can add to it.
    ///
    /// # Errors
    /// What is added cannot be computed.
    fn export(output: &Self::Output) -> Result<Exported, StageError> {
        Ok(output.export())
    }

    /// Computes the output.
    ///
    /// # Errors
    /// Whatever stops the computation, [`ErrorKind::Interrupted`] included.
    fn run(params: &Self::Params, inputs: Self::Inputs, ctx: &Context) -> Result<Self::Output, StageError>;
}

/// Any stage, its types erased: what the registry holds and the planner and runner use.
pub trait AnyStage: Send + Sync {
    /// [`Stage::NAME`].
    fn name(&self) -> &'static str;
    /// [`Stage::ABOUT`].
    fn about(&self) -> About;
    /// [`Stage::VERSION`].
    fn version(&self) -> u32;
    /// [`Stage::seeded`], from parsed parameters.
    ///
    /// # Errors
    /// The parameters are not those of the stage.
    fn seeded(&self, params: &Value) -> Result<bool, StageError>;
    /// [`Stage::uses_device`], from parsed parameters.
    ///
    /// # Errors
    /// The parameters are not those of the stage.
    fn uses_device(&self, params: &Value) -> Result<bool, StageError>;
    /// [`Stage::LISTS`].
    fn lists(&self) -> &'static [&'static str];
    /// The roles that the stage can read, and the node of the pipeline that fills each.
    fn ports(&self) -> &'static [Port];
    /// [`Stage::need`], from parsed parameters.
    ///
    /// # Errors
    /// The parameters are not those of the stage.
    fn need(&self, params: &Value, port: &Port) -> Result<Need, StageError>;
    /// [`Stage::accepts`], from parsed parameters.
    ///
    /// # Errors
    /// Why the stage cannot read it.
    fn accepts(&self, params: &Value, port: &Port, made_with: &Value) -> Result<(), ParamError>;
    /// Checks a spec's table for this stage and returns it whole: defaults filled in, numbers in one form.
    ///
    /// # Errors
    /// The first field that is unknown, missing, of the wrong type or out of range.
    fn parse(&self, table: Value) -> Result<Value, ParamError>;
    /// [`Stage::key_params`], from parsed parameters.
    ///
    /// # Errors
    /// The parameters cannot be written as JSON.
    fn key_params(&self, params: &Value) -> Result<Value, StageError>;
    /// Names what [`AnyStage::source`] reads: equal names give equal digests.
    ///
    /// # Errors
    /// The parameters cannot be written as JSON.
    fn source_id(&self, params: &Value) -> Result<String, StageError>;
    /// [`Stage::source`], from parsed parameters.
    ///
    /// # Errors
    /// The data cannot be read.
    fn source(&self, params: &Value, env: &Environment) -> Result<Option<String>, StageError>;
    /// Runs the stage and writes its output; returns the output's summary for the manifest.
    ///
    /// # Errors
    /// As [`Stage::run`], and failures to read inputs or to write the output.
    fn run(&self, params: &Value, inputs: &InputSet, ctx: &Context, draft: &mut Draft) -> Result<Value, StageError>;
    /// A published output, in open formats.
    ///
    /// # Errors
    /// The artifact cannot be read or is damaged.
    fn export(&self, store: &Store, output: &Manifest) -> Result<Exported, StageError>;
}

/// Erases a stage's types; zero-sized.
pub struct Erased<S>(std::marker::PhantomData<fn() -> S>);

/// The stage `S` as the registry wants it.
pub fn erase<S: Stage>() -> Box<dyn AnyStage> {
    Box::new(Erased::<S>(std::marker::PhantomData))
}

fn typed<P: Params>(value: &Value) -> Result<P, ParamError> {
    let params: P = read(value)?;
    params.check()?;
    Ok(params)
}

/// A part of a spec as its type.
///
/// # Errors
/// The first field that is unknown, missing or of the wrong type.
pub fn read<T: DeserializeOwned>(value: &Value) -> Result<T, ParamError> {
    serde_path_to_error::deserialize(value).map_err(|e| locate::<T>(value, e.into()).in_words())
}

/// Finds the field where serde lost its path, as it does in an enum with a tag: without that field, the error is
/// another. It is so without the tag, too: a tag is what an empty table lacks first, or has a default and is not what
/// all would be well without.
fn locate<T: DeserializeOwned>(value: &Value, error: ParamError) -> ParamError {
    let Some(table) = value.as_object().filter(|_| error.path.is_empty()) else { return error };
    if table.len() > MOST_FIELDS {
        return error;
    }
    let complaint = |table| {
        serde_json::from_value::<T>(Value::Object(table))
            .map_or_else(|e| short(&e.to_string(), MESSAGE).into_owned(), |_| String::new())
    };
    let missing = |field: &Vec<&str>| format!("missing field `{}`", field.last().unwrap_or(&""));
    let unknown = |field: &Vec<&str>| format!("unknown field `{}`,", field.last().unwrap_or(&""));
    let lacks = complaint(Map::new());
    let changes: Vec<(Vec<&str>, String)> = fields(table)
        .into_iter()
        .map(|field| {
            let without = complaint(without(table, &field));
            (field, without)
        })
        .filter(|(_, without)| *without != error.message)
        .collect();
    let tag = |field: &Vec<&str>| lacks == missing(field);
    let alone = |(field, without): &&(Vec<&str>, String)| {
        !tag(field) && (without.is_empty() || *without == missing(field) || error.message.starts_with(&unknown(field)))
    };
    let guilty = changes.iter().find(alone).or_else(|| changes.iter().find(|(field, _)| !tag(field)));
    // A tag is blamed for what it does not allow, and not for what the table lacks.
    let last = changes.first().filter(|_| !error.message.starts_with("missing field"));
    let path = guilty.or(last).map(|(field, _)| field.join(".")).unwrap_or_default();
    ParamError { path, ..error }
}

/// Fields of the largest table that is searched for the one that is wrong: each is left out once.
const MOST_FIELDS: usize = 100;

/// Paths of all fields of a table, those within a field before it.
fn fields(table: &Map<String, Value>) -> Vec<Vec<&str>> {
    let mut all = Vec::new();
    for (name, value) in table {
        let inner = value.as_object().map(fields).unwrap_or_default();
        all.extend(inner.into_iter().map(|rest| [vec![name.as_str()], rest].concat()));
        all.push(vec![name]);
    }
    all
}

/// A table without the field at a path.
fn without(table: &Map<String, Value>, path: &[&str]) -> Map<String, Value> {
    let mut rest = table.clone();
    match path {
        [field] => drop(rest.remove(*field)),
        [first, inner @ ..] => {
            if let Some(Value::Object(table)) = rest.get_mut(*first) {
                *table = without(table, inner);
            }
        }
        [] => {}
    }
    rest
}

impl<S: Stage> AnyStage for Erased<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }
    fn about(&self) -> About {
        S::ABOUT
    }

    fn version(&self) -> u32 {
        S::VERSION
    }
    fn seeded(&self, params: &Value) -> Result<bool, StageError> {
        Ok(S::seeded(&typed(params)?))
    }
    fn uses_device(&self, params: &Value) -> Result<bool, StageError> {
        Ok(S::uses_device(&typed(params)?))
    }
    fn lists(&self) -> &'static [&'static str] {
        S::LISTS
    }
    fn ports(&self) -> &'static [Port] {
        S::Inputs::PORTS
    }
    fn need(&self, params: &Value, port: &Port) -> Result<Need, StageError> {
        Ok(S::need(&typed(params)?, port))
    }
    fn accepts(&self, params: &Value, port: &Port, made_with: &Value) -> Result<(), ParamError> {
        S::accepts(&typed(params)?, port, made_with)
    }
    fn parse(&self, table: Value) -> Result<Value, ParamError> {
        let params: S::Params = typed(&table)?;
        serde_json::to_value(params).map_err(|e| ParamError::new("", e.to_string()))
    }
    fn key_params(&self, params: &Value) -> Result<Value, StageError> {
        S::key_params(&typed(params)?).map_err(|e| StageError::new(ErrorKind::Internal, e))
    }
    fn source_id(&self, params: &Value) -> Result<String, StageError> {
        Ok(format!("{} {}", S::NAME, S::source_id(&typed(params)?)))
    }
    fn source(&self, params: &Value, env: &Environment) -> Result<Option<String>, StageError> {
        S::source(&typed(params)?, env)
    }
    fn run(&self, params: &Value, inputs: &InputSet, ctx: &Context, draft: &mut Draft) -> Result<Value, StageError> {
        let output = S::run(&typed(params)?, S::Inputs::load(inputs)?, ctx)?;
        // What came to its end after a stop was asked for may have been cut short.
        ctx.check()?;
        draft.write(&output)?;
        Ok(output.summary())
    }
    fn export(&self, store: &Store, output: &Manifest) -> Result<Exported, StageError> {
        S::export(&store.read::<S::Output>(output)?)
    }
}
