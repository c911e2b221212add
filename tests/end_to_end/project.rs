//! A temporary folder with an artifact root, and the binary to run in it.

use assert_cmd::Command;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};
use tempfile::TempDir;

/// The smallest complete pipeline.
pub const TINY: &str = include_str!("../specs/tiny.toml");

pub struct Project {
    dir: TempDir,
    binary: PathBuf,
}

/// The exit code and the output of a run of the binary.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Project {
    pub fn new() -> Self {
        Self::with(Path::new(env!("CARGO_BIN_EXE_hemlock")))
    }

    /// A project for another binary than `hemlock`.
    pub fn with(binary: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("pipelines")).unwrap();
        let project = Self { dir, binary: binary.to_owned() };
        project.spec("tiny", TINY);
        project
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn spec(&self, name: &str, text: &str) {
        fs::write(self.path().join(format!("pipelines/{name}.toml")), text).unwrap();
    }

    /// Makes a folder of images of `side` pixels. Each element of `classes` has the numbers of images of a class in the
    /// first and in the second split. Every class has a colour, and every image has noise.
    pub fn images(&self, splits: [&str; 2], classes: &[(usize, usize)], side: usize) {
        for (class, (first, second)) in classes.iter().enumerate() {
            for (split, count) in [(splits[0], *first), (splits[1], *second)].into_iter().filter(|(_, n)| *n > 0) {
                let folder = self.path().join(format!("{split}/class {class}"));
                fs::create_dir_all(&folder).unwrap();
                for i in 0..count {
                    let mut ppm = format!("P6\n{side} {side}\n255\n").into_bytes();
                    let mut state = (class * 7919 + i * 104_729 + split.len() * 13) as u32;
                    for byte in 0..3 * side * side {
                        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        let colour = if byte % 3 == class % 3 { 40 + 10 * (class as u32 / 3) } else { 0 };
                        ppm.push((state >> 25) as u8 + colour as u8);
                    }
                    fs::write(folder.join(format!("{i}.ppm")), ppm).unwrap();
                }
            }
        }
    }

    pub fn command(&self, args: &str) -> Command {
        let mut command = Command::new(&self.binary);
        command.current_dir(self.path()).args(args.split_whitespace());
        for variable in SETTINGS {
            command.env_remove(variable);
        }
        command
    }

    /// Starts the binary without waiting for it.
    pub fn spawn(&self, args: &str) -> std::process::Child {
        let mut command = std::process::Command::new(&self.binary);
        for variable in SETTINGS {
            command.env_remove(variable);
        }
        let command = command.current_dir(self.path()).args(args.split_whitespace());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs the binary. The arguments are separated by white space.
    pub fn run(&self, args: &str) -> Ran {
        let output = self.command(args).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let ran = Ran { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) };
        assert!(!ran.err.contains("panicked"), "{}", ran.err);
        ran
    }

    /// Runs the binary, which must succeed.
    #[track_caller]
    pub fn ok(&self, args: &str) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "hemlock {args}: {}", ran.err);
        ran
    }

    /// Runs the binary, which must fail with the exit code `code` and print all of `words`.
    #[track_caller]
    pub fn fails(&self, args: &str, code: i32, words: &[&str]) {
        let ran = self.run(args);
        assert_eq!(ran.code, code, "hemlock {args}: {}{}", ran.out, ran.err);
        for word in words {
            assert!(ran.err.contains(word), "hemlock {args}: '{word}' is not in: {}", ran.err);
        }
    }

    /// The tasks in the output of `plan --json`.
    pub fn tasks(&self, args: &str) -> Vec<Value> {
        let plan: Value = serde_json::from_str(&self.ok(&format!("plan {args} --json")).out).unwrap();
        plan["tasks"].as_array().unwrap().clone()
    }

    /// The folder of the only artifact of a stage.
    pub fn artifact(&self, root: &str, stage: &str) -> PathBuf {
        let mut found: Vec<PathBuf> =
            fs::read_dir(self.path().join(root).join(stage)).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    /// The stages that ran, in order, according to the output of a run.
    pub fn stages_that_ran(ran: &Ran) -> Vec<String> {
        ran.err
            .lines()
            .filter_map(|l| l.trim_start().strip_prefix("done"))
            .map(|l| l.split_whitespace().next().unwrap().to_owned())
            .collect()
    }
}

/// Changes one byte in the middle of a file.
pub fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// The header of a safetensors file without its metadata, and its data.
pub fn unlabelled(file: &[u8]) -> (Value, &[u8]) {
    let (length, rest) = file.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let mut header: Value = serde_json::from_slice(header).unwrap();
    assert!(header.as_object_mut().unwrap().remove("__metadata__").is_some(), "the file says nothing of itself");
    (header, data)
}

/// The settings of whoever runs the tests, which are kept from the commands of tests.
pub const SETTINGS: [&str; 5] =
    ["HEMLOCK_ARTIFACTS", "HEMLOCK_DATA", "HEMLOCK_DEVICE", "HEMLOCK_PIPELINES", "RUST_LOG"];
