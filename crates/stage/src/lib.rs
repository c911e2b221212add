//! The trait that every stage implements, and what a run of a stage is given.
//!
//! A stage has typed parameters, typed inputs, a version, and a `run` that turns them into an output. All that
//! surrounds a run (keys, caching, locks, publishing, progress, logs) is written once, in `hemlock-pipeline`, against
//! the object-safe trait [`AnyStage`], which every [`Stage`] implements through [`erase`].

mod about;
mod context;
mod error;
mod file;
mod inputs;
mod memory;
mod part;
mod schema;
mod seed;
mod words;

pub use about::{About, Column, StageRole};
pub use context::{Bar, Cancel, Checkpoints, ChildCommand, Context, Environment, NoCheckpoints, Progress, Silent};
pub use error::{MOST_EPOCHS, MOST_UNITS, ParamError, StageError};
pub use file::{FileError, open_file, read_file};
pub use hemlock_failure::{ErrorKind, Failure};
pub use inputs::{InputSet, Inputs, Need, Port};
pub use memory::{Bytes, available};
pub use part::Part;
pub use schema::{each, output_schema, spec_schema};
pub use seed::Seed;
pub use words::{MESSAGE, VALUE, few, short};

use hemlock_artifact::{Export, Exported};
use hemlock_store::{Artifact, Draft, Manifest, Store};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// Typed parameters of a stage, as they are written in a spec.
///
/// The reference and the JSON Schema of specs are made from the type: doc comments of fields are their descriptions.
/// Ranges that [`Params::check`] holds a single field to stand beside it, as `#[schemars(range(...))]`.
pub trait Params: Serialize + DeserializeOwned + JsonSchema + Send + Sync {
    /// Checks what the types cannot express: ranges, and fields that depend on each other.
    ///
    /// # Errors
    /// A value is out of range, or does not go with another field. The error names the first such field.
    fn check(&self) -> Result<(), ParamError> {
        Ok(())
    }
}

/// A step of a pipeline: a pure function from parameters, seed and input artifacts to one artifact.
pub trait Stage: Send + Sync + 'static {
    /// The stage's name in specs, on the command line and in the artifact root.
    const NAME: &'static str;
    /// What the command line, results and reports know about the stage.
    const ABOUT: About;
    /// Version of the stage, which is part of the key. It is raised whenever the same inputs would give another output.
    const VERSION: u32;
    /// Whether the stage draws random numbers from the pipeline's seed; only then is the seed in its key.
    const SEEDED: bool;
    /// Whether the stage computes on the chosen backend rather than on the host alone.
    const USES_DEVICE: bool;
    /// Fields whose value is a list. In a spec, a list for such a field is one value, and a list of lists fans out. For
    /// any other field, a list fans out.
    const LISTS: &'static [&'static str] = &[];
    /// Pairs of a role, and the role that is read in its place if the pipeline has it. What fills the former is then
    /// not checked by [`Stage::accepts`].
    const INSTEAD: &'static [(&'static str, &'static str)] = &[];
    /// Parameters, parsed from the stage's table in the spec.
    type Params: Params;
    /// Artifacts that the stage reads.
    type Inputs: Inputs;
    /// The artifact that the stage makes.
    type Output: Artifact + Export;

    /// Returns the parameters as they enter the key. A stage leaves out what does not decide the result, such as the
    /// path of data whose digest [`Stage::source`] returns.
    ///
    /// # Errors
    /// The parameters cannot be written as JSON.
    fn key_params(params: &Self::Params) -> Result<Value, serde_json::Error> {
        serde_json::to_value(params)
    }

    /// Returns the digest of data that is no artifact (a raw dataset, a file of weights), which becomes part of the
    /// key. `None`: the stage reads no such data.
    ///
    /// # Errors
    /// The data cannot be read.
    fn source(_params: &Self::Params, _env: &Environment) -> Result<Option<String>, StageError> {
        Ok(None)
    }

    /// Names the data that [`Stage::source`] digests. Tasks whose data has the same name share one computation of the
    /// digest.
    #[must_use]
    fn source_id(_params: &Self::Params) -> String {
        String::new()
    }

    /// Returns the command that stages run as a child process if they read what this one makes with these parameters.
    /// It runs only if [`Environment::commands`] has it.
    fn command(_params: &Self::Params) -> Option<ChildCommand> {
        None
    }

    /// Whether a stage with these parameters draws random numbers from the pipeline's seed. Override this if the
    /// parameters decide it; the default is [`Stage::SEEDED`].
    #[must_use]
    fn seeded(_params: &Self::Params) -> bool {
        Self::SEEDED
    }

    /// Whether a stage with these parameters computes on the chosen backend. Override this if the parameters decide it;
    /// the default is [`Stage::USES_DEVICE`].
    #[must_use]
    fn uses_device(_params: &Self::Params) -> bool {
        Self::USES_DEVICE
    }

    /// How a stage with these parameters needs a role to be filled. Override this if the parameters decide it; the
    /// default is the port's own [`Port::need`].
    #[must_use]
    fn need(_params: &Self::Params, port: &Port) -> Need {
        port.need
    }

    /// Checks whether a stage with these parameters can read, in the role of `port`, an artifact that was made with the
    /// parameters `made_with`.
    ///
    /// # Errors
    /// The stage cannot read it; the error says why.
    fn accepts(_params: &Self::Params, _port: &Port, _made_with: &Value) -> Result<(), ParamError> {
        Ok(())
    }

    /// Converts a published output to open formats. A stage that has more to export than the artifact itself adds it
    /// here.
    ///
    /// # Errors
    /// What the stage adds cannot be computed.
    fn export(output: &Self::Output) -> Result<Exported, StageError> {
        Ok(output.export())
    }

    /// Whether a stage with these parameters can be computed in parts ([`Stage::part`]).
    #[must_use]
    fn splits(_params: &Self::Params) -> bool {
        false
    }

    /// Computes one part of what [`Stage::run`] needs, and adds it to [`Context::checkpoints`] as pieces, where `run`
    /// finds it. The output does not depend on which parts were computed before. It is called only if
    /// [`Stage::splits`].
    ///
    /// # Errors
    /// As [`Stage::run`].
    fn part(_params: &Self::Params, _inputs: Self::Inputs, _part: Part, _ctx: &Context) -> Result<(), StageError> {
        Err(StageError::internal(format!("the stage '{}' has no parts", Self::NAME)))
    }

    /// Computes the output from parameters and inputs.
    ///
    /// # Errors
    /// - The computation fails.
    /// - A stop was requested ([`ErrorKind::Interrupted`]).
    fn run(params: &Self::Params, inputs: Self::Inputs, ctx: &Context) -> Result<Self::Output, StageError>;
}

/// A stage whose types are erased: what the graph holds, and what the planner and the runner use.
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
    /// The parameters are not this stage's.
    fn seeded(&self, params: &Value) -> Result<bool, StageError>;
    /// [`Stage::uses_device`], from parsed parameters.
    ///
    /// # Errors
    /// The parameters are not this stage's.
    fn uses_device(&self, params: &Value) -> Result<bool, StageError>;
    /// [`Stage::LISTS`].
    fn lists(&self) -> &'static [&'static str];
    /// [`Stage::INSTEAD`].
    fn instead(&self) -> &'static [(&'static str, &'static str)];
    /// The roles that the stage can read, each with the node of the pipeline that fills it.
    fn ports(&self) -> &'static [Port];
    /// [`Stage::need`], from parsed parameters.
    ///
    /// # Errors
    /// The parameters are not this stage's.
    fn need(&self, params: &Value, port: &Port) -> Result<Need, StageError>;
    /// [`Stage::accepts`], from parsed parameters.
    ///
    /// # Errors
    /// The parameters are not this stage's, or the stage cannot read what was made with `made_with`.
    fn accepts(&self, params: &Value, port: &Port, made_with: &Value) -> Result<(), ParamError>;
    /// [`Stage::command`], from parsed parameters.
    ///
    /// # Errors
    /// The parameters are not this stage's.
    fn command(&self, params: &Value) -> Result<Option<ChildCommand>, StageError>;
    /// The JSON Schema of a table for this stage, of one branch: lists that fan out are not part of it.
    fn schema(&self) -> Value;
    /// Checks a spec's table for this stage, and returns it complete: defaults are filled in, and numbers have one
    /// form.
    ///
    /// # Errors
    /// A field is unknown, missing, of the wrong type or out of range. The error names the first such field.
    fn parse(&self, table: Value) -> Result<Value, ParamError>;
    /// [`Stage::key_params`], from parsed parameters.
    ///
    /// # Errors
    /// The parameters are not this stage's, or cannot be written as JSON.
    fn key_params(&self, params: &Value) -> Result<Value, StageError>;
    /// Names the data that [`AnyStage::source`] digests. Equal names mean equal digests.
    ///
    /// # Errors
    /// The parameters are not this stage's.
    fn source_id(&self, params: &Value) -> Result<String, StageError>;
    /// [`Stage::source`], from parsed parameters.
    ///
    /// # Errors
    /// The parameters are not this stage's, or the data cannot be read.
    fn source(&self, params: &Value, env: &Environment) -> Result<Option<String>, StageError>;
    /// [`Stage::splits`], from parsed parameters.
    ///
    /// # Errors
    /// The parameters are not this stage's.
    fn splits(&self, params: &Value) -> Result<bool, StageError>;
    /// [`Stage::part`], from parsed parameters.
    ///
    /// # Errors
    /// - [`Stage::part`] returns an error.
    /// - The parameters are not this stage's, or an input cannot be read.
    fn part(&self, params: &Value, inputs: &InputSet, part: Part, ctx: &Context) -> Result<(), StageError>;
    /// Runs the stage, writes its output to `draft`, and returns the output's summary for the manifest.
    ///
    /// # Errors
    /// - [`Stage::run`] returns an error, or a stop was requested while it ran.
    /// - The parameters are not this stage's.
    /// - An input cannot be read, or the output cannot be written.
    fn run(&self, params: &Value, inputs: &InputSet, ctx: &Context, draft: &mut Draft) -> Result<Value, StageError>;
    /// Reads a published output of this stage and converts it to open formats ([`Stage::export`]).
    ///
    /// # Errors
    /// The artifact cannot be read or is damaged, or [`Stage::export`] returns an error.
    fn export(&self, store: &Store, output: &Manifest) -> Result<Exported, StageError>;
}

/// A zero-sized stand-in for the stage `S`, which implements [`AnyStage`].
pub struct ErasedStage<S>(std::marker::PhantomData<fn() -> S>);

/// Returns the stage `S` with its types erased, as a node of the graph holds it.
pub fn erase<S: Stage>() -> Box<dyn AnyStage> {
    Box::new(ErasedStage::<S>(std::marker::PhantomData))
}

fn typed<P: Params>(value: &Value) -> Result<P, ParamError> {
    let params: P = read(value)?;
    params.check()?;
    Ok(params)
}

/// Parses a part of a spec as a value of type `T`.
///
/// # Errors
/// A field is unknown, missing or of the wrong type. The error names the first such field.
pub fn read<T: DeserializeOwned>(value: &Value) -> Result<T, ParamError> {
    serde_path_to_error::deserialize(value).map_err(|e| locate::<T>(value, e.into()).in_words())
}

/// Finds the field that an error without a path is about. serde loses the path inside an enum with a tag.
///
/// The guilty field is the one without which the table gives another error. Leaving out the tag changes the error, too,
/// so the tag is blamed last: it is recognised as the field that an empty table is said to lack. If the table lacks a
/// field, another one is guilty only if the table would be right without it.
///
/// This reads the wording of serde's messages; `the_guilty_field_is_found` fails if that changes.
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
    let incomplete = error.message.starts_with("missing field");
    let alone = |(field, without): &&(Vec<&str>, String)| {
        let explains = *without == missing(field) || error.message.starts_with(&unknown(field));
        !tag(field) && (without.is_empty() || explains && !incomplete)
    };
    let other = || changes.iter().find(|(field, _)| !tag(field)).filter(|_| !incomplete);
    let guilty = changes.iter().find(alone).or_else(other);
    let last = changes.first().filter(|_| !incomplete);
    let path = guilty.or(last).map(|(field, _)| field.join(".")).unwrap_or_default();
    ParamError { path, ..error }
}

/// Most fields of a table that is searched for the wrong one. The table is parsed once per field, without it.
const MOST_FIELDS: usize = 100;

/// Paths of all fields of a table. The fields inside a field come before it.
fn fields(table: &Map<String, Value>) -> Vec<Vec<&str>> {
    let mut all = Vec::new();
    for (name, value) in table {
        let inner = value.as_object().map(fields).unwrap_or_default();
        all.extend(inner.into_iter().map(|rest| [vec![name.as_str()], rest].concat()));
        all.push(vec![name]);
    }
    all
}

/// Returns the table without the field at `path`.
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

impl<S: Stage> AnyStage for ErasedStage<S> {
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
    fn instead(&self) -> &'static [(&'static str, &'static str)] {
        S::INSTEAD
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
    fn command(&self, params: &Value) -> Result<Option<ChildCommand>, StageError> {
        Ok(S::command(&typed(params)?))
    }
    fn schema(&self) -> Value {
        spec_schema::<S::Params>()
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
    fn splits(&self, params: &Value) -> Result<bool, StageError> {
        Ok(S::splits(&typed(params)?))
    }
    fn part(&self, params: &Value, inputs: &InputSet, part: Part, ctx: &Context) -> Result<(), StageError> {
        S::part(&typed(params)?, S::Inputs::load(inputs)?, part, ctx)
    }
    fn run(&self, params: &Value, inputs: &InputSet, ctx: &Context, draft: &mut Draft) -> Result<Value, StageError> {
        let output = S::run(&typed(params)?, S::Inputs::load(inputs)?, ctx)?;
        // A run that ended after a stop was requested may have been cut short, so its output is not written.
        ctx.check()?;
        draft.write(&output)?;
        Ok(output.summary())
    }
    fn export(&self, store: &Store, output: &Manifest) -> Result<Exported, StageError> {
        S::export(&store.read::<S::Output>(output)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, Deserialize)]
    #[serde(tag = "method", rename_all = "kebab-case", deny_unknown_fields)]
    #[allow(dead_code)]
    enum Method {
        Train { epochs: u32, rate: f64 },
        Import { path: String },
    }

    #[test]
    fn the_guilty_field_is_found() {
        let found = |table: Value| read::<Method>(&table).unwrap_err();
        let path = |table: Value| found(table).path;
        assert_eq!(path(json!({ "method": "train", "epochs": 3, "rate": 0.1, "batch": 8 })), "batch");
        assert_eq!(path(json!({ "method": "train", "epochs": "many", "rate": 0.1 })), "epochs");
        assert_eq!(path(json!({ "method": "walk", "epochs": 3, "rate": 0.1 })), "method");
        let lacks = found(json!({ "method": "train", "epochs": 3 }));
        assert_eq!((&*lacks.path, &*lacks.message), ("", "missing field `rate`"));
    }
}
