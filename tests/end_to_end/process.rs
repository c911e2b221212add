//! Extractors that are child processes.

use crate::project::{Project, SETTINGS, TINY, unlabelled};
use serde_json::Value;
use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

const LINEAR: &str = include_str!("../../examples/process/linear.py");
const TORCH: &str = include_str!("../../examples/process/extractor.py");
const FAULTY: &str = include_str!("../process/faulty.py");

/// Says that something was not tested.
#[allow(clippy::print_stderr)]
fn skipped(what: &str) {
    eprintln!("SKIPPED: {what}");
}

/// A Python with numpy; `None` if there is none, which CI does not accept.
fn python() -> Option<String> {
    let interpreter = std::env::var("HEMLOCK_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has = Command::new(&interpreter).args(["-c", "import numpy, safetensors, sys; print(sys.executable)"]).output();
    let has = has.ok().filter(|has| has.status.success());
    assert!(
        has.is_some() || std::env::var_os("HEMLOCK_REQUIRE_PYTHON").is_none(),
        "{interpreter} has no numpy, or no safetensors"
    );
    if has.is_none() {
        skipped("no Python with numpy and safetensors, so no extractor in a process was tried");
    }
    // The interpreter itself, and not a shim that starts it.
    has.map(|has| String::from_utf8(has.stdout).unwrap().trim().to_owned())
}

/// The tiny pipeline with `table` in the place of its pre-training.
fn spec(table: &str) -> String {
    let (before, rest) = TINY.split_once("[pretrain]").unwrap();
    let (_, after) = rest.split_once("[features]").unwrap();
    format!("{before}[pretrain]\n{table}\n[features]{after}")
}

/// The table of a process that runs `script` with some words.
fn table(python: &str, script: &str, words: &str) -> String {
    let words: String = words.split_whitespace().map(|word| format!(", \"{word}\"")).collect();
    format!("method = \"process\"\ncommand = [\"{python}\", \"{script}\"{words}]\n")
}

/// A project with the scripts in its data root; `None` without Python.
fn project() -> Option<(Project, String)> {
    let python = python()?;
    let project = Project::new();
    let data = project.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("linear.py"), LINEAR).unwrap();
    fs::write(data.join("faulty.py"), FAULTY).unwrap();
    project.spec("linear", &spec(&table(&python, "linear.py", "32 12")));
    Some((project, python))
}

/// The arrays of an exported file.
fn arrays(file: &Path) -> (Value, Vec<u8>) {
    let bytes = fs::read(file).unwrap();
    let (header, data) = unlabelled(&bytes);
    (header, data.to_vec())
}

/// Whether a process of that id runs.
fn alive(process: &str) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Waits until the processes whose ids a file holds have ended.
fn ended(file: &Path) {
    let text = fs::read_to_string(file).unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    for process in text.split_whitespace() {
        while alive(process) {
            assert!(Instant::now() < until, "process {process} still runs");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A pipeline through a linear map, which asks everything of the child: features, feature matching, refinement, a
/// decoder, pixels, noise, and victims with an extractor of their own.
#[test]
fn everything_works_through_a_process() {
    let Some((project, python)) = project() else { return };
    let attacks = "\
[poison-images]
attack = \"gradient-canceling\"
poison_fraction = 0.05
steps = 3

[unlearnable]
poison_fraction = 0.2
rounds = 2
steps = 2

[decoder]
epochs = 1
width = 4

";
    let refined = "steps = 3\nrefine = 2\nstart = \"decoder\"\n";
    let all = spec(&table(&python, "linear.py", "32 12")).replace("steps = 3\n", refined);
    let (before, after) = all.split_once("[evaluate]").unwrap();
    project.spec("all", &format!("{before}{attacks}[evaluate]{after}"));
    let ran = project.ok("run all --allow-command");
    let stages = Project::stages_that_ran(&ran);
    for stage in ["pretrain", "features", "decoder", "invert", "poison-images", "unlearnable", "evaluate"] {
        assert!(stages.iter().any(|ran| ran == stage), "{stages:?}");
    }
    // Nothing is asked for what is cached, and the same bytes come from any number of threads.
    assert!(project.ok("run all").err.contains("0 tasks ran"));
    let bytes = |out: &str| {
        let exported = project.ok(&format!("export all invert -o {out}")).out;
        let file = exported.lines().find(|line| line.ends_with("safetensors")).unwrap().to_owned();
        arrays(&project.path().join(file))
    };
    let first = bytes("one");
    let again = project.command("run all --allow-command --root other -j 2").env("RAYON_NUM_THREADS", "3").output();
    assert!(again.unwrap().status.success());
    fs::rename(project.path().join("artifacts"), project.path().join("before")).unwrap();
    fs::rename(project.path().join("other"), project.path().join("artifacts")).unwrap();
    assert!(first == bytes("two"));
    let report = project.ok("report all -o report.html").out;
    assert!(report.contains("report.html"));
    let page = fs::read_to_string(project.path().join("report.html")).unwrap();
    assert!(page.contains("a network of its own, computed by a process (trained elsewhere)"), "how it was made");
    // Victims have an extractor of their own; the attacker's is Hemlock's.
    let victims = format!(
        "\n[victim-extractor.pretrain]\n{}\n[victim-extractor.features]\n",
        table(&python, "linear.py", "32 8")
    );
    project.spec("black-box", &format!("{TINY}{victims}"));
    project.fails("run black-box", 2, &["--allow-command", "linear.py 32 8", "pipelines/black-box.toml"]);
    project.ok("run black-box --allow-command");
    let row: Value = serde_json::from_str(&project.ok("results black-box --json").out).unwrap();
    assert!(row["accuracy"]["images"].is_f64(), "{row}");
}

/// Features of a process are those of the same map in numpy, which the spec imports.
#[test]
fn features_are_those_of_the_same_map_outside_of_hemlock() {
    let Some((project, python)) = project() else { return };
    project.ok("features linear --allow-command");
    project.ok("export linear features -o out");
    project.ok("export linear dataset -o out");
    let script = "
import numpy, safetensors.numpy
images = safetensors.numpy.load_file('out/test-images.safetensors')['images']
found = safetensors.numpy.load_file('out/test.safetensors')['features']
scaling = safetensors.numpy.load_file('out/normalization.safetensors')
weights = numpy.random.default_rng(0).normal(0, 0.1, (12, 3 * 32 * 32))
mean, std = (numpy.array(v).reshape(3, 1, 1) for v in ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3)))
z = ((images / 255 - mean) / std).reshape(len(images), -1) @ weights.T
z = (z - scaling['shift']) * scaling['scale']
print(abs(z - found).max() / abs(z).max())
";
    let ran = Command::new(&python).args(["-c", script]).current_dir(project.path()).output().unwrap();
    let difference = String::from_utf8_lossy(&ran.stdout);
    let difference: f64 = difference.trim().parse().unwrap_or_else(|_| panic!("{ran:?}"));
    assert!(difference < 1e-5, "{difference}");
}

#[test]
fn a_spec_runs_a_command_only_if_that_is_allowed() {
    let Some((project, python)) = project() else { return };
    let words = ["pipelines/linear.toml runs on this machine, in data:", "linear.py 32 12", "--allow-command"];
    project.fails("run linear", 2, &words);
    project.fails("features linear", 2, &words);
    project.fails("submit slurm linear --dry-run", 2, &words);
    assert!(!project.path().join("artifacts/pretrain").exists(), "nothing ran");
    let jobs = project.ok("submit slurm linear --dry-run --allow-command").out;
    assert!(jobs.matches("--allow-command").count() >= 5, "{jobs}");
    project.ok("plan linear");
    project.ok("features linear --allow-command");
    assert!(project.ok("features linear").err.contains("0 tasks ran"));
    // What reads the extractor may run it.
    project.fails("run linear", 2, &words);
    project.ok("run linear --allow-command");
    project.ok("run linear");
    project.fails("features linear --force", 2, &words);
    project.fails("run linear --repair", 2, &words);
    let _ = python;
}

/// On a terminal, a run shows the command and asks.
#[cfg(unix)]
#[test]
fn on_a_terminal_the_answer_decides() {
    let Some((project, python)) = project() else { return };
    let script = "
import os, pty, sys
answer, command = sys.argv[1], sys.argv[2:]
process, terminal = pty.fork()
if process == 0:
    os.execvp(command[0], command)
said = b''
while True:
    try:
        some = os.read(terminal, 4096)
    except OSError:
        break
    if not some:
        break
    said += some
    if b'[y/N]' in said and answer:
        os.write(terminal, answer.encode() + b'\\n')
        answer = ''
print(said.decode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
";
    let answered = |answer: &str| {
        let hemlock = env!("CARGO_BIN_EXE_hemlock");
        let words = ["-c", script, answer, hemlock, "pretrain", "linear"];
        let mut python = Command::new(&python);
        for variable in SETTINGS {
            python.env_remove(variable);
        }
        let ran = python.args(words).current_dir(project.path()).output().unwrap();
        (ran.status.code().unwrap(), String::from_utf8(ran.stdout).unwrap())
    };
    let (code, said) = answered("no");
    assert_eq!(code, 2, "{said}");
    assert!(
        said.contains("linear.py 32 12") && said.contains("Run that? [y/N]") && said.contains("nothing ran"),
        "{said}"
    );
    let (code, said) = answered("y");
    assert_eq!(code, 0, "{said}");
    let (code, said) = answered("n");
    assert!(code == 0 && !said.contains("[y/N]"), "all is cached: {said}");
}

#[test]
fn the_content_of_files_and_the_words_are_in_the_key_and_the_timeout_is_not() {
    let Some((project, python)) = project() else { return };
    let data = project.path().join("data");
    let key = |fields: &str| {
        project.spec("keys", &spec(&format!("{}{fields}", table(&python, "linear.py", "32 12"))));
        let tasks = project.tasks("keys");
        let pretrain = tasks.iter().find(|task| task["stage"] == "pretrain").unwrap();
        assert_eq!(pretrain["inputs"], serde_json::json!({}));
        pretrain["key"].clone()
    };
    let before = key("");
    assert_eq!(key("timeout = 3.5\ntrained = \"never\"\n"), before);
    fs::write(data.join("w.npy"), "weights").unwrap();
    let weights = key("files = [\"w.npy\"]\n");
    assert_ne!(weights, before);
    assert_eq!(key(&format!("files = [\"{}\"]\n", data.join("w.npy").display())), weights);
    fs::write(data.join("w.npy"), "others").unwrap();
    assert_ne!(key("files = [\"w.npy\"]\n"), weights);
    fs::write(data.join("linear.py"), format!("{LINEAR}\n# another")).unwrap();
    assert_ne!(key(""), before);
    fs::remove_file(data.join("linear.py")).unwrap();
    project.spec("keys", &spec(&table("python3", "linear.py", "32 12")));
    project.fails("plan keys", 2, &["[pretrain]", "`command`: names no file below data", "`linear.py`"]);
    project.spec("keys", &spec("method = \"process\"\ncommand = []"));
    project.fails("plan keys", 2, &["`command`: is empty; expected a program and its arguments"]);
}

#[test]
fn what_needs_the_network_is_refused_by_the_plan() {
    let Some((project, python)) = project() else { return };
    let linear = spec(&table(&python, "linear.py", "32 12"));
    for kind in ["last-block", "fine-tune", "end-to-end"] {
        project.spec("needs", &format!("{linear}\n[victim]\nkind = \"{kind}\"\n"));
        project.fails("plan needs", 2, &["[victim] trains a network", "[pretrain] is a child process"]);
        // A victim extractor of Hemlock's is enough for that.
        let own =
            "[victim-extractor.pretrain]\nmethod = \"random\"\narch = \"resnet8-w4\"\n[victim-extractor.features]\n";
        project.spec("needs", &format!("{linear}\n[victim]\nkind = \"{kind}\"\n{own}"));
        project.ok("plan needs");
    }
    let noise = "[unlearnable]\nsurrogate = \"end-to-end\"\npoison_fraction = 0.2\n\n[evaluate]";
    project.spec("needs", &linear.replace("[evaluate]", noise));
    project.fails("plan needs", 2, &["[unlearnable] `surrogate = \"end-to-end\"`", "[pretrain] is a child process"]);
    project.ok("features linear --allow-command");
    project.fails("export linear pretrain -o out", 2, &["which keeps its network"]);
}

/// Runs the features of a process with that fault. Returns the exit code, stderr, and the number of starts.
fn faulty(project: &Project, python: &str, fault: &str, fields: &str) -> (i32, String, usize) {
    let starts = project.path().join("data/starts");
    let _ = fs::remove_file(&starts);
    let _ = fs::remove_dir_all(project.path().join("artifacts"));
    project.spec("faulty", &spec(&format!("{}{fields}", table(python, "faulty.py", fault))));
    let ran = project.run("features faulty --allow-command");
    if !starts.exists() {
        return (ran.code, ran.err, 0);
    }
    ended(&starts);
    let starts = fs::read_to_string(starts).unwrap().lines().count();
    (ran.code, ran.err, starts)
}

#[test]
fn every_fault_is_one_clear_error() {
    let Some((project, python)) = project() else { return };
    // The first start is that of `pretrain`, and the second that of `features`, which is restarted once.
    for (fault, code, starts, words) in [
        ("none", 0, 2, ""),
        ("forgets", 0, 2, ""),
        ("dies", 3, 3, "ended (exit status: 1) before it had answered `forward`"),
        ("hangs", 3, 3, "has not answered `forward` within 1.5 s"),
        ("nan", 1, 3, "answered `forward` with NaN for image 1, value 2"),
        ("short", 3, 3, "bytes, as 3 numbers of 4 bytes for each image"),
        ("long", 3, 3, "bytes, as 3 numbers of 4 bytes for each image"),
        ("prints", 3, 3, "wrote \"42 % done\\n\" to its stdout"),
        ("refuses", 3, 3, "cannot answer `forward`: RuntimeError: out of memory"),
        ("number", 3, 3, "answered `forward` with a frame of kind 0x8002 for request"),
        ("version", 3, 1, "speaks version 7 of the protocol; this Hemlock speaks version 1"),
        ("undescribed", 3, 1, "describes itself as {}: missing field `name`"),
        ("changes", 3, 2, "the process is `means` with 4 features"),
        ("dies-backward", 3, 2, "the child cannot go back"),
    ] {
        let fields = if fault == "hangs" { "timeout = 1.5\n" } else { "" };
        let (ran, said, started) = faulty(&project, &python, fault, fields);
        assert_eq!((ran, started), (code, starts), "{fault}: {said}");
        let errors = said.lines().filter(|line| line.starts_with("error: ")).count();
        assert_eq!(errors, usize::from(code > 0), "{fault}: {said}");
        assert!(said.contains(words), "{fault}: {said}");
        if code > 0 && fault != "changes" {
            assert!(said.contains("the end of its stderr:\n  the child says hello"), "{fault}: {said}");
        }
        assert_eq!(said.contains("(it was restarted once before)"), starts == 3 || fault == "dies-backward", "{said}");
    }
    let (code, said, starts) = faulty(&project, "no-such-python", "none", "");
    assert!((code, starts) == (2, 0) && said.contains("cannot be started (No such file"), "{said}");
}

/// A child that fails once is restarted, and the result is that of a child that never does.
#[test]
fn a_restarted_child_goes_on() {
    let Some((project, python)) = project() else { return };
    let features = |fault: &str| {
        let (code, said, starts) = faulty(&project, &python, fault, "timeout = 5.0\n");
        assert_eq!(code, 0, "{said}");
        project.ok(&format!("export faulty features -o {fault}"));
        (arrays(&project.path().join(fault).join("train.safetensors")), said.matches("it is restarted").count(), starts)
    };
    let (healthy, ..) = features("none");
    for fault in ["dies-once", "prints-once", "nan-once", "refuses-once"] {
        let (bytes, restarts, starts) = features(fault);
        assert!(bytes == healthy && restarts == 1 && starts == 3, "{fault}: {restarts} {starts}");
    }
}

/// Ctrl-C ends a child that hangs, and all that it has started.
#[cfg(unix)]
#[test]
fn an_interrupted_run_leaves_no_process() {
    let Some((project, python)) = project() else { return };
    project.spec("faulty", &spec(&table(&python, "faulty.py", "hangs")));
    let started = project.path().join("data/started");
    let mut run = project.spawn("features faulty --allow-command");
    let until = Instant::now() + Duration::from_secs(60);
    while fs::read_to_string(&started).is_ok_and(|text| text.contains(' ')).eq(&false) {
        assert!(Instant::now() < until && run.try_wait().unwrap().is_none(), "the child did not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    Command::new("kill").args(["-INT", &run.id().to_string()]).status().unwrap();
    let interrupted = Instant::now();
    assert_eq!(run.wait().unwrap().code(), Some(130));
    assert!(interrupted.elapsed() < Duration::from_secs(4), "it stopped by itself");
    ended(&started);
}

/// A child that ignores `shutdown` is killed with all that it has started.
#[test]
fn a_child_that_stays_is_killed() {
    let Some((project, python)) = project() else { return };
    let (code, said, _) = faulty(&project, &python, "stays", "");
    assert_eq!(code, 0, "{said}");
    ended(&project.path().join("data/started"));
}

/// The script for PyTorch has at most 80 lines, and attacks run through a network of it. CI has no PyTorch.
#[test]
fn the_script_for_pytorch_computes_features_and_gradients() {
    assert!(TORCH.lines().count() <= 80);
    let Some((project, python)) = project() else { return };
    if !Command::new(&python).args(["-c", "import torch"]).output().is_ok_and(|has| has.status.success()) {
        skipped("no PyTorch, so its script was not run");
        return;
    }
    let (before, rest) = TORCH.split_once("    import timm\n").unwrap();
    let (_, after) = rest.split_once("num_classes=0)\n").unwrap();
    let network = "    torch.manual_seed(0)\n    layers = torch.nn.Conv2d(3, 5, 5, 4), torch.nn.GELU(), torch.nn.Flatten()\n    \
                   return torch.nn.Sequential(*layers)\n";
    let script = format!("{before}{network}{after}").replace("SIDE = 224", "SIDE = 32");
    fs::write(project.path().join("data/net.py"), &script).unwrap();
    project.spec("net", &spec(&table(&python, "net.py", "")));
    project.ok("run net --allow-command");
    let tasks: Vec<Value> = project.tasks("net");
    assert!(tasks.iter().all(|task| task["state"] == "cached"), "{tasks:?}");
    let row: Value = serde_json::from_str(&project.ok("results net --json").out).unwrap();
    assert!(row["accuracy"]["images"].is_f64(), "{row}");
}
