//! The command line.

use crate::{exit::CODES, results::words::wrapped};
use clap::{
    ArgMatches, Args as ClapArgs, FromArgMatches, Parser, Subcommand, ValueEnum,
    builder::PossibleValuesParser,
    error::{ContextKind, ContextValue, ErrorKind},
};
use hemlock_data::{Cifar, KnownDataset};
use hemlock_models::Backend;
use hemlock_pipeline::{Graph, Override, Selection};
use hemlock_stage::Part;
use hemlock_store::Key;
use std::{ffi::OsString, num::NonZeroUsize, path::PathBuf, str::FromStr, sync::OnceLock};

/// Measures how fragile a frozen feature extractor with a linear head is under indiscriminate data poisoning.
#[derive(Debug, Parser)]
#[command(
    name = "hemlock",
    version,
    arg_required_else_help = true,
    after_help = with_exit_codes("\
Examples:
  hemlock run quickstart                          run a whole pipeline, on built-in data
  hemlock results quickstart                      print its results
  hemlock data cifar10                            download, verify and unpack a dataset
  hemlock init --images flowers                   write a spec for your own images
  hemlock invert transfer-cifar100 --force        run one stage again, from cached artifacts
  hemlock plan finetune-cifar10 --set invert.steps=300
  hemlock why finetune-cifar10                    explain why tasks would run
  hemlock run quickstart --set seeds=[0] --as one    run with an override, and name the run
  hemlock results quickstart --as one             print the results of the named run
  hemlock -C DIR results quickstart               work in another folder")
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Work in this folder: relative paths start there, also those in a spec
    #[arg(short = 'C', long = "directory", global = true, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Folder of the artifacts
    #[arg(long, global = true, env = "HEMLOCK_ARTIFACTS", default_value = "artifacts", value_name = "DIR")]
    pub root: PathBuf,
    /// Folder of the raw datasets, and of weights and features to import
    #[arg(long, global = true, env = "HEMLOCK_DATA", default_value = "data", value_name = "DIR")]
    pub data: PathBuf,
    /// Folder of the specs that are given by name
    #[arg(long, global = true, env = "HEMLOCK_PIPELINES", default_value = "pipelines", value_name = "DIR")]
    pub pipelines: PathBuf,
    /// Backend to compute on, if it is compiled in: flex, wgpu, cuda or cpu
    #[arg(long, global = true, env = "HEMLOCK_DEVICE", value_name = "BACKEND", default_value_t)]
    pub device: Backend,
    /// Print more to stderr: -v adds cached tasks and log messages, -vv adds debug messages
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Print only errors to stderr
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

/// Examples, followed by the exit codes.
fn with_exit_codes(examples: &str) -> String {
    let codes = CODES.map(|(code, meaning)| {
        let meaning = wrapped(meaning, 72).trim_end().replace('\n', "\n       ");
        format!("\n  {code:>3}  {meaning}")
    });
    format!("{examples}\n\nExit codes:{}", codes.concat())
}

/// A pipeline, and changes to its spec.
#[derive(Debug, ClapArgs)]
pub struct Pipeline {
    /// Name of a spec in the pipelines folder, or path of a .toml file
    pub pipeline: String,
    #[command(flatten)]
    pub changes: Changes,
}

/// Changes to a spec.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct Changes {
    /// Override a field of the spec; can be given several times
    #[arg(long = "set", value_name = "STAGE.FIELD=VALUE")]
    pub set: Vec<Override>,
    /// Give the run a name, which later stands for its overrides
    #[arg(long = "as", value_name = "NAME")]
    pub label: Option<Label>,
}

/// Whether the commands of a spec may run.
#[derive(Debug, Clone, Copy, Default, ClapArgs)]
pub struct Commands {
    /// Run the commands that the spec names, such as an extractor's (docs/process-extractor.md)
    #[arg(long)]
    pub allow_command: bool,
}

/// The label of a run, or the name of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label(pub String);

impl FromStr for Label {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
        match text.chars().count() {
            1..=64 if text.chars().all(plain) && text.chars().any(char::is_alphanumeric) => Ok(Self(text.to_owned())),
            _ => Err("expected up to 64 letters, digits, `-`, `_` and `.`, such as `try1`".to_owned()),
        }
    }
}

/// Variables of the justfile, which are given before a recipe.
const VARIABLES: [&str; 4] = ["set", "as", "backend", "jobs"];

/// If `argument` is a variable of the justfile that was given after its recipe, and so became an argument of `hemlock`,
/// returns what to write instead.
pub fn misplaced(argument: &str) -> Option<String> {
    let (variable, value) = argument.split_once('=').filter(|(variable, _)| VARIABLES.contains(variable))?;
    let value: String = value.chars().take(60).collect();
    let option = match variable {
        "set" => "--set STAGE.FIELD=VALUE",
        "as" => "--as NAME",
        "jobs" => "--jobs N",
        _ => "--device BACKEND",
    };
    let just = format!("just {variable}='{value}' RECIPE NAME");
    Some(format!("write '{variable}=…' before the recipe: {just}; after the recipe, write the option {option}"))
}

/// Parses the command line, for the stages of a graph. An error has a message of its own if the parser's would not
/// help.
pub fn parse(
    graph: &Graph,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Args, (clap::Error, Option<String>)> {
    STAGES.get_or_init(|| stages(graph));
    Args::try_parse_from(arguments).map_err(|e| {
        let hint = match (e.kind(), e.get(ContextKind::InvalidArg)) {
            (ErrorKind::UnknownArgument, Some(ContextValue::String(argument))) => misplaced(argument),
            _ => None,
        };
        (e, hint)
    })
}

/// The form of results.
#[derive(Debug, ClapArgs)]
pub struct Form {
    /// Print one JSON object per result; every seed is a result of its own
    #[arg(long, conflicts_with_all = ["csv", "columns", "wide", "sort", "legend"])]
    pub json: bool,
    /// Print the same results as comma-separated values, with a header
    #[arg(long, conflicts_with_all = ["columns", "wide", "sort", "legend"])]
    pub csv: bool,
    /// Print these columns, in this order
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub columns: Vec<String>,
    /// Print all columns, whatever the width of the terminal
    #[arg(long, conflicts_with = "columns")]
    pub wide: bool,
    /// Sort rows by a column; a `-` before its name reverses the order
    #[arg(long, value_name = "[-]NAME", allow_hyphen_values = true)]
    pub sort: Option<String>,
    /// Explain the columns below the table
    #[arg(long)]
    pub legend: bool,
}

/// One stage of a pipeline.
#[derive(Debug, ClapArgs)]
pub struct OneStage {
    #[command(flatten)]
    pub pipeline: Pipeline,
    /// Run the stage even if its artifacts exist
    #[arg(long)]
    pub force: bool,
    /// Check artifacts byte by byte, and rebuild damaged ones
    #[arg(long)]
    pub repair: bool,
    /// Number of tasks to run in parallel; they share the threads of the processor
    #[arg(short, long, value_name = "N", default_value = "1")]
    pub jobs: NonZeroUsize,
    #[command(flatten)]
    pub commands: Commands,
    // Set by recipes that run this stage on the way to a later one, whose run prints plan and summary.
    #[arg(long, hide = true)]
    pub on_the_way: bool,
}

/// A first spec for images or features at hand.
#[derive(Debug, ClapArgs)]
pub struct Init {
    /// The spec to write, a .toml file [default: NAME.toml in the pipelines folder]
    pub file: Option<PathBuf>,
    /// Folder of images: DIR/train/CLASS/ and DIR/test/CLASS/, or DIR/CLASS/
    #[arg(long, value_name = "DIR", required_unless_present = "features", conflicts_with = "features")]
    pub images: Option<PathBuf>,
    /// Features with their labels: a .npz or .safetensors file, or a folder of .npy files
    #[arg(long, value_name = "FILE")]
    pub features: Option<PathBuf>,
    /// Folder of a network of transformers, timm or OpenCLIP, to take as the extractor of the images
    #[arg(long, value_name = "DIR", requires = "images")]
    pub extractor: Option<PathBuf>,
    /// Name of the pipeline [default: that of the images or features]
    #[arg(long, conflicts_with = "file")]
    pub name: Option<Label>,
    /// Replace the spec if it exists
    #[arg(long)]
    pub force: bool,
}

/// What to do: run a command, or run a pipeline up to a stage.
#[derive(Debug)]
pub enum Command {
    /// A command that is not a stage.
    Fixed(Fixed),
    /// The name of a stage, with its arguments.
    Stage(String, OneStage),
}

/// The stages that the command line knows, as pairs of a name and what the stage does.
static STAGES: OnceLock<Vec<(&'static str, &'static str)>> = OnceLock::new();

/// The stages of a graph, without duplicates, as pairs of a name and what the stage does.
fn stages(graph: &Graph) -> Vec<(&'static str, &'static str)> {
    let mut stages: Vec<(&str, &str)> = Vec::new();
    for stage in graph.nodes().map(|node| &node.stage) {
        if stages.iter().all(|(name, _)| *name != stage.name()) {
            stages.push((stage.name(), stage.about().does));
        }
    }
    stages
}

fn known_stages() -> &'static [(&'static str, &'static str)] {
    STAGES.get().map_or(&[], Vec::as_slice)
}

impl FromArgMatches for Command {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        match matches.subcommand() {
            Some((name, of)) if known_stages().iter().any(|(stage, _)| *stage == name) => {
                Ok(Self::Stage(name.to_owned(), OneStage::from_arg_matches(of)?))
            }
            _ => Fixed::from_arg_matches(matches).map(Self::Fixed),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Subcommand for Command {
    fn augment_subcommands(command: clap::Command) -> clap::Command {
        let all = Fixed::augment_subcommands(command);
        known_stages().iter().fold(all, |all, (name, does)| {
            let stage = OneStage::augment_args(clap::Command::new(*name));
            all.subcommand(stage.about(format!("Run up to the stage `{name}`: {does}")))
        })
    }

    fn augment_subcommands_for_update(command: clap::Command) -> clap::Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        known_stages().iter().any(|(stage, _)| *stage == name) || Fixed::has_subcommand(name)
    }
}

/// A command that is not a stage.
#[derive(Debug, Subcommand)]
pub enum Fixed {
    /// Write a first spec for your own images or features, with sizes that fit them
    #[command(after_help = "\
Examples:
  hemlock init --images flowers                   writes pipelines/flowers.toml
  hemlock init --images flowers --name try1       writes pipelines/try1.toml
  hemlock init --images flowers --extractor data/dinov2-small
  hemlock init specs/clip.toml --features data/clip.npz

A file of features has the arrays `train` [n, d] and `train_labels` [n], `test` and `test_labels`, and optionally
`validation` and `validation_labels`. Labels are integers from 0. docs/images.md describes how to lay out a folder of
images.")]
    Init(Init),
    /// Run a pipeline; tasks whose artifacts exist are skipped
    #[command(
        after_help = "Examples:\n  hemlock run quickstart\n  hemlock run finetune-cifar10 --set 'seeds=[0,1,2]'\n  hemlock run findings -j 4\n  hemlock run paper-finetune-cifar10 --task 1f0c…   run one task of `plan --json`\n  hemlock run findings --task 1f0c… --part 3/64     compute a part of it, as a job of an array does"
    )]
    Run {
        #[command(flatten)]
        pipeline: Pipeline,
        /// Run only the task with this key; its inputs must exist
        #[arg(long, value_name = "KEY")]
        task: Option<Key>,
        /// Compute only this part of the task, such as `3/64`, and keep it for the run of the whole task
        /// (docs/cluster.md)
        #[arg(long, value_name = "I/N", requires = "task", conflicts_with = "repair")]
        part: Option<Part>,
        // Accepted only so that an error can say what to use instead.
        #[arg(long, hide = true)]
        force: bool,
        /// Check artifacts byte by byte, and rebuild damaged ones
        #[arg(long)]
        repair: bool,
        /// Number of tasks to run in parallel; they share the threads of the processor
        #[arg(short, long, value_name = "N", default_value = "1", conflicts_with = "task")]
        jobs: NonZeroUsize,
        #[command(flatten)]
        commands: Commands,
    },
    /// Submit the remaining tasks of a pipeline to a cluster, as jobs that wait for their inputs
    #[command(
        after_help = "Examples:\n  hemlock submit slurm findings\n  hemlock submit slurm findings --dry-run > findings.sh\n  hemlock submit hyperqueue findings --set 'seeds=[0,1,2]'"
    )]
    Submit {
        /// Engine that runs the jobs
        engine: EngineArg,
        #[command(flatten)]
        pipeline: Pipeline,
        /// Print what would be submitted, without submitting it
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        commands: Commands,
    },
    /// Show the tasks of a pipeline, and which of them would run
    #[command(
        after_help = "Examples:\n  hemlock plan quickstart\n  hemlock plan quickstart --json | jq '.tasks[].argv'"
    )]
    Plan {
        #[command(flatten)]
        pipeline: Pipeline,
        /// Print the tasks as JSON for any scheduler, with id, argv, inputs, outputs, key and dependencies
        #[arg(long)]
        json: bool,
    },
    /// Show which artifacts of a pipeline exist, and what they contain
    Status {
        #[command(flatten)]
        pipeline: Pipeline,
    },
    /// Explain why tasks would run: which parameters or inputs differ from those of earlier artifacts
    Why {
        #[command(flatten)]
        pipeline: Pipeline,
        /// Explain only the tasks of this stage
        #[arg(long)]
        stage: Option<String>,
        /// Print one JSON object per task
        #[arg(long)]
        json: bool,
    },
    /// Print the results of a pipeline, by default as a table of the main columns that fits the terminal
    #[command(after_help = "\
Examples:
  hemlock results quickstart
  hemlock results quickstart --sort -drop               the strongest attack first
  hemlock results quickstart --columns attack,poison,drop,ssim
  hemlock results quickstart --wide --legend            all columns, and what each means
  hemlock results quickstart --csv > quickstart.csv     for other programs
  hemlock results quickstart --list                     the runs of the pipeline
  hemlock results quickstart --as try1                  the results of the run named `try1`")]
    Results {
        #[command(flatten)]
        pipeline: Pipeline,
        #[command(flatten)]
        form: Form,
        /// List the runs of the pipeline with their overrides, the newest first
        #[arg(long, conflicts_with_all = ["json", "csv", "columns", "wide", "sort", "legend", "label", "set"])]
        list: bool,
    },
    /// Write an HTML page of the results of pipelines, with tables, figures and findings
    #[command(
        after_help = "Examples:\n  hemlock report quickstart\n  hemlock report finetune-cifar10 transfer-cifar100 -o report.html\n  hemlock report paper-finetune-cifar10 --paper tables.csv\n  hemlock report --from reports/quickstart.tables/results.jsonl.zst -o again.html"
    )]
    Report {
        /// Names of specs in the pipelines folder, or paths of .toml files
        #[arg(required_unless_present = "from", value_name = "PIPELINE")]
        names: Vec<String>,
        /// Report on the results in this file, which another report wrote; may be given several times
        #[arg(long, value_name = "FILE", conflicts_with_all = ["names", "set", "label"])]
        from: Vec<PathBuf>,
        #[command(flatten)]
        changes: Changes,
        /// CSV file with the numbers of a paper, which are compared with the results (docs/findings.md)
        #[arg(long, value_name = "FILE")]
        paper: Option<PathBuf>,
        /// The page to write [default: reports/PIPELINE.html]; its tables are written to a folder beside it
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Export the artifacts of a stage as safetensors files or PNG images, or a whole data set with its poisons
    #[command(after_help = "\
Examples:
  hemlock export quickstart features -o features
  hemlock export quickstart invert --select seed=0,poison_fraction=0.03 -o poisons --format png
  hemlock export quickstart evaluate --select poison-features.constraint=ball,invert.method=decoder -o heads
  hemlock export quickstart invert --select seed=0,attack=bilevel,poison_fraction=0.03 -o poisoned --dataset folder

A field is `seed` or a parameter: `stage.field`, or `field` if only one stage of a branch has it. If several artifacts
are selected, each is written to its own folder, and index.csv lists the parameters of all.")]
    Export {
        #[command(flatten)]
        pipeline: Pipeline,
        /// Stage whose artifacts are exported
        stage: String,
        /// Folder to write to
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
        /// Export only branches in which fields have these values
        #[arg(long, value_name = "FIELD=VALUE,…", default_value = "")]
        select: Selection,
        /// Format of the files
        #[arg(long, value_enum, default_value_t = FormatArg::Safetensors)]
        format: FormatArg,
        /// Write the whole data set instead, with the stage's poisons among the clean samples, and a manifest.csv that
        /// says which they are
        #[arg(long, value_enum, value_name = "FORMAT", conflicts_with = "format")]
        dataset: Option<DatasetArg>,
    },
    /// List the artifacts that no pipeline uses any more, and delete them on request
    #[command(
        after_help = "The artifacts that a pipeline used when it last ran are kept, even if its spec was moved or deleted. The artifacts of
a pipeline that has neither a spec nor a record are kept as well, unless the command names that pipeline."
    )]
    Gc {
        /// Consider only artifacts that this pipeline made
        pipeline: Option<String>,
        /// Delete the listed artifacts
        #[arg(long)]
        delete: bool,
    },
    /// Download a dataset, or take it from a file; verify its digest, and unpack it
    #[command(
        after_help = "Examples:\n  hemlock data list\n  hemlock data cifar10\n  hemlock data svhn\n  hemlock data cifar100 --from ~/downloads/cifar-100-binary.tar.gz\n  hemlock data cifar10 --url https://mirror.example/cifar-10-binary.tar.gz"
    )]
    Data(DataArgs),
    /// Compare results of a device with those of the processor: networks, derivatives, training, attacks on images
    #[command(
        after_help = "Examples:\n  hemlock self-test --device cuda\n  hemlock self-test --device cuda -o self-test.jsonl    save the results, or resume an interrupted self-test\n  hemlock self-test --device wgpu gradient              run the checks whose names contain `gradient`"
    )]
    SelfTest {
        /// Run only the check with this name, or the checks whose names contain it
        filter: Option<String>,
        /// Number of checks to run in parallel, each in its own process [default: 4 on a device that compiles its
        /// kernels, otherwise 1]
        #[arg(short, long, value_name = "N")]
        jobs: Option<NonZeroUsize>,
        /// Print one JSON object per check
        #[arg(long)]
        json: bool,
        /// Append the results to a file of JSON lines; checks whose results it contains are not run again
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Print the JSON Schema of specs or of results, for editors and other programs
    #[command(
        after_help = "Examples:\n  hemlock schema > hemlock.schema.json\n  hemlock schema results\n\nEditors with TOML support check and complete a spec whose first line is `#:schema hemlock.schema.json`."
    )]
    Schema {
        /// What the schema describes
        #[arg(value_enum, default_value_t = SchemaArg::Spec)]
        of: SchemaArg,
    },
    /// Write the pages of the reference
    #[command(hide = true)]
    Reference {
        /// Folder to write to
        folder: PathBuf,
    },
    /// Compare the results of two settings of a pipeline, or the artifacts that two artifact roots have in common
    #[command(after_help = "\
Examples:
  hemlock diff quickstart --a poison-features.constraint=none --b poison-features.constraint=ball
  hemlock diff quickstart --set 'invert.beta=[0,0.1]' --a invert.beta=0 --b invert.beta=0.1
  hemlock diff quickstart --set-b profile=paper
  hemlock diff artifacts other
  hemlock diff artifacts other --tolerance 0.1 --points 2")]
    Diff(DiffArgs),
}

/// Which dataset to download, and from where.
#[derive(Debug, ClapArgs)]
pub struct DataArgs {
    /// The dataset; `list` prints all that are known, and how a spec reads them
    #[arg(value_name = "DATASET|list", hide_possible_values = true, value_parser = datasets())]
    pub dataset: String,
    /// Download from this address instead of the official one
    #[arg(long, conflicts_with = "from")]
    pub url: Option<String>,
    /// Use a local archive, a folder of the published files or an unpacked folder of CIFAR, and download nothing
    #[arg(long, value_name = "PATH")]
    pub from: Option<PathBuf>,
    /// Expected digest of an archive that is not an official one, `sha256:…` or `md5:…`
    #[arg(long, value_name = "DIGEST", conflicts_with = "trust")]
    pub digest: Option<String>,
    /// Accept an archive with any digest
    #[arg(long)]
    pub trust: bool,
}

/// What to compare.
#[derive(Debug, ClapArgs)]
pub struct DiffArgs {
    /// A pipeline whose results are compared, or an artifact root
    #[arg(value_name = "PIPELINE|ROOT")]
    pub one: String,
    /// The other artifact root
    #[arg(value_name = "ROOT")]
    pub other: Option<PathBuf>,
    /// Print one JSON object per pair of results, or per pair of artifacts
    #[arg(long)]
    pub json: bool,
    /// Branches of a pipeline in the first setting, selected as with `export --select`
    #[arg(long, value_name = "FIELD=VALUE,…", default_value = "", hide_default_value = true)]
    pub a: Selection,
    /// Branches of a pipeline in the second setting
    #[arg(long, value_name = "FIELD=VALUE,…", default_value = "", hide_default_value = true)]
    pub b: Selection,
    /// Override a field of the spec in both settings; can be given several times
    #[arg(long = "set", value_name = "STAGE.FIELD=VALUE")]
    pub set: Vec<Override>,
    /// Override a field in the first setting only
    #[arg(long, value_name = "STAGE.FIELD=VALUE")]
    pub set_a: Vec<Override>,
    /// Override a field in the second setting only
    #[arg(long, value_name = "STAGE.FIELD=VALUE")]
    pub set_b: Vec<Override>,
    /// Fail if tensors of two artifact roots differ by more than this share of their largest value
    #[arg(long, value_name = "SHARE", value_parser = at_least_0)]
    pub tolerance: Option<f64>,
    /// Fail if accuracies of two artifact roots differ by more than this many percentage points
    #[arg(long, value_name = "POINTS", value_parser = at_least_0)]
    pub points: Option<f64>,
}

/// What stands for the list of all datasets.
pub const LIST: &str = "list";

/// Names of datasets that can be downloaded, and what stands for the list of them.
fn datasets() -> PossibleValuesParser {
    let known = KnownDataset::all().iter().map(|known| known.name);
    PossibleValuesParser::new(Cifar::ALL.map(Cifar::name).into_iter().chain(known).chain([LIST]))
}

/// What a JSON Schema describes.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum SchemaArg {
    /// A spec
    Spec,
    /// A line of `hemlock results --json`
    Results,
}

/// What runs jobs.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum EngineArg {
    /// Slurm's sbatch
    Slurm,
    /// HyperQueue's hq
    Hyperqueue,
}

/// The format of exported files.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum FormatArg {
    /// Tensors with their names
    Safetensors,
    /// One PNG file per image
    Png,
}

/// The files of an exported data set.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum DatasetArg {
    /// PNG files in one folder per class: train/CLASS/000000.png
    Folder,
    /// One data.npz
    Npz,
    /// A Parquet file per split, with encoded images
    Parquet,
}

/// Parses a finite number of at least 0.
fn at_least_0(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    number.ok_or_else(|| "expected a number from 0".to_owned())
}
