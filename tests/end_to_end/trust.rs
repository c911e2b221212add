//! The README's section "Trust" says what is verified when. These tests check it claim by claim.

use crate::project::{Project, TINY, flip};
use std::{fs, path::Path, time::Duration};

/// Commands that show or use artifacts. For each: whether it notices a changed byte in a payload of `features`, and in
/// one of `evaluate`.
const PAYLOADS: [(&str, bool, bool); 12] = [
    ("run tiny", false, false),
    ("status tiny", false, false),
    ("plan tiny", false, false),
    ("why tiny", false, false),
    ("results tiny", false, true),
    ("results tiny --json", false, true),
    ("report tiny -o report.html", true, true),
    ("export tiny evaluate -o out", false, true),
    ("export tiny features -o out", true, false),
    ("evaluate tiny --force", true, false),
    ("diff artifacts other", true, true),
    ("gc", false, false),
];

fn notices(project: &Project, command: &str) -> bool {
    let ran = project.run(command);
    assert!([0, 4].contains(&ran.code), "{command}: {}", ran.err);
    let told = ran.err.contains("is damaged") || ran.out.contains("is damaged");
    assert_eq!(ran.code == 4, told, "{command}: {}{}", ran.out, ran.err);
    told
}

/// Copies a folder.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|e| e.unwrap()) {
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

#[test]
fn digests_of_payloads_are_checked_by_what_reads_them() {
    let project = Project::new();
    project.ok("run tiny");
    copy(&project.path().join("artifacts"), &project.path().join("other"));
    let damage = |stage: &str, file: &str, noticed: &dyn Fn(&(&str, bool, bool)) -> bool| {
        let path = project.artifact("artifacts", stage).join(file);
        let good = fs::read(&path).unwrap();
        for claim in &PAYLOADS {
            flip(&path);
            assert_eq!(notices(&project, claim.0), noticed(claim), "{stage}, {}", claim.0);
            // The file is written, not flipped back, because a forced stage may have replaced the whole artifact.
            fs::write(&path, &good).unwrap();
        }
        flip(&path);
        assert_eq!(Project::stages_that_ran(&project.ok("run tiny --repair")), [stage]);
        assert!(project.ok("diff artifacts other").out.contains("verdict: the same bytes"));
    };
    damage("features", "train.features", &|claim| claim.1);
    damage("evaluate", "info", &|claim| claim.2);
}

/// All commands check manifests, and that every file exists and has the right length.
#[test]
fn every_command_checks_manifests_and_lengths() {
    let project = Project::new();
    project.ok("run tiny");
    copy(&project.path().join("artifacts"), &project.path().join("other"));
    let folder = project.artifact("artifacts", "features");
    let shorten = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
    };
    for (command, _, _) in PAYLOADS {
        // These two commands read only what is named, so that damage to other artifacts does not stop them.
        if ["export tiny evaluate -o out", "gc"].contains(&command) {
            continue;
        }
        for file in ["manifest.json", "train.features"] {
            let good = fs::read(folder.join(file)).unwrap();
            if file == "manifest.json" {
                flip(&folder.join(file))
            } else {
                shorten(&folder.join(file))
            }
            let ran = project.run(command);
            let told = [&ran.out, &ran.err].iter().any(|text| text.contains("damaged"));
            assert!(told, "{command} of a damaged {file}: {}{}", ran.out, ran.err);
            fs::write(folder.join(file), good).unwrap();
        }
    }
}

#[test]
fn diff_says_of_nothing_damaged_that_it_is_the_same() {
    let project = Project::new();
    project.ok("run tiny");
    copy(&project.path().join("artifacts"), &project.path().join("other"));
    let mut flipped = Vec::new();
    for (root, stage) in [("other", "features"), ("artifacts", "dataset"), ("other", "invert")] {
        let folder = project.artifact(root, stage);
        let files = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path());
        let file = files.filter(|p| !p.ends_with("manifest.json")).max().unwrap();
        flip(&file);
        flipped.push(format!("{root}/{stage}/"));
    }
    let ran = project.run("diff artifacts other");
    assert_eq!(ran.code, 4, "{}{}", ran.out, ran.err);
    assert!(flipped.iter().all(|place| ran.err.contains(place)), "{}", ran.err);
    assert!(!ran.out.contains("identical") && !ran.out.contains("same"), "{}", ran.out);
    project.fails("diff artifacts other --json", 4, &["artifacts are damaged"]);
}

/// If an artifact is gone, only the part of the results that depends on it is unknown.
#[test]
fn results_say_what_is_not_known() {
    let project = Project::new();
    project.ok("run tiny");
    let row = || -> serde_json::Value { serde_json::from_str(&project.ok("results tiny --json").out).unwrap() };
    let whole = row();
    assert!(whole["seconds"].as_f64().unwrap() > 0.0);
    assert!(!project.ok("results tiny").err.contains("not known"));
    let cases = [
        ("target-params", "seconds", "seconds"),
        ("poison-features", "seconds", "seconds"),
        ("invert", "seconds", "seconds"),
        ("features", "device", "device"),
        ("pretrain", "collapsed", "collapsed"),
    ];
    let aside = project.path().join("aside");
    for (stage, field, word) in cases {
        let folder = project.artifact("artifacts", stage);
        fs::rename(&folder, &aside).unwrap();
        let mut now = row();
        assert!(now[field].is_null(), "{stage}: {now}");
        now[field] = whole[field].clone();
        assert_eq!(now, whole, "{stage}: all else is known");
        let said = project.ok("results tiny --wide");
        let name = format!("{stage}/{}", folder.file_name().unwrap().to_string_lossy());
        assert!(said.err.contains("not known of 1 result:") && said.err.contains(&name), "{}", said.err);
        assert!(said.err.contains(word), "{}", said.err);
        assert_eq!(field == "seconds", said.out.contains("?\n"), "{}", said.out);
        let report = project.ok("report tiny -o report.html");
        assert!(report.err.contains(&name), "{}", report.err);
        assert!(fs::read_to_string(project.path().join("report.html")).unwrap().contains(&name));
        fs::rename(&aside, &folder).unwrap();
    }
    // An artifact is not reported as gone if nothing that is shown comes from it.
    fs::rename(project.artifact("artifacts", "dataset"), &aside).unwrap();
    assert_eq!(row(), whole);
}

/// Reading a fifo never ends if nobody writes to it, and reading a device may never end.
#[cfg(unix)]
#[test]
fn what_is_no_file_is_refused_in_time_and_rebuilt() {
    use std::process::Command;
    let project = Project::new();
    project.ok("run tiny");
    copy(&project.path().join("artifacts"), &project.path().join("other"));
    let put = |what: &str, path: &Path| {
        fs::remove_file(path).unwrap();
        match what {
            "a fifo" => assert!(Command::new("mkfifo").arg(path).status().unwrap().success()),
            "a folder" => fs::create_dir(path).unwrap(),
            _ => std::os::unix::fs::symlink("/dev/zero", path).unwrap(),
        }
    };
    let in_time = |command: &str| project.command(command).timeout(Duration::from_secs(30)).output().unwrap();
    for (what, file) in [("a fifo", "train.features"), ("a fifo", "manifest.json"), ("a device", "train.features")] {
        let path = project.artifact("artifacts", "features").join(file);
        put(what, &path);
        for command in [
            "run tiny",
            "status tiny",
            "plan tiny",
            "export tiny features -o out",
            "results tiny",
            "diff artifacts other",
        ] {
            let said = in_time(command);
            let text = [said.stdout, said.stderr].concat();
            let text = String::from_utf8_lossy(&text);
            let told = text.contains(&format!("it is {what}, where a file was expected"));
            assert!(told || (command == "status tiny" && text.contains("(damaged)")), "{command}: {text}");
        }
        assert!(in_time("gc").status.success());
        assert!(in_time("run tiny --repair").status.success());
        assert!(path.is_file());
    }
    let record = fs::read_dir(project.path().join("artifacts/.pipelines")).unwrap().next().unwrap().unwrap().path();
    put("a fifo", &record);
    assert_eq!(in_time("gc --delete").status.code(), Some(4));
    let ran = in_time("run tiny");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert!(record.is_file());
}

/// If an output cannot be written, the command says so and fails. It is no error if the reader has gone.
#[cfg(target_os = "linux")]
#[test]
fn output_that_is_lost_is_no_success() {
    use std::process::{Command, Stdio};
    let project = Project::new();
    project.ok("run tiny");
    project.spec("two", &TINY.replace("poison_fraction = 0.05", "poison_fraction = [0.05, 0.1]"));
    project.ok("run two");
    fs::create_dir(project.path().join("raw")).unwrap();
    let commands = [
        "--help",
        "--version",
        "help",
        "help run",
        "run --help",
        "plan tiny",
        "plan tiny --json",
        "status tiny",
        "why tiny",
        "why tiny --json",
        "results tiny",
        "results tiny --json",
        "report tiny -o report.html",
        "export tiny features -o out",
        "diff artifacts artifacts",
        "diff artifacts artifacts --json",
        "diff two --a poison_fraction=0.05 --b poison_fraction=0.1",
        "diff two --a poison_fraction=0.05 --b poison_fraction=0.1 --json",
        "submit slurm tiny --dry-run --root empty",
    ];
    let run = |args: &str, out: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hemlock"));
        command.current_dir(project.path()).args(args.split_whitespace()).stdout(out).stderr(Stdio::piped());
        let ran = command.spawn().unwrap().wait_with_output().unwrap();
        (ran.status.code(), String::from_utf8_lossy(&ran.stderr).into_owned())
    };
    for command in commands {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let (code, err) = run(command, full.into());
        assert_eq!(code, Some(4), "{command}: {err}");
        assert!(err.contains("cannot write to stdout: No space left on device"), "{command}: {err}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let (code, err) = run(command, writer.into());
        assert_eq!((code, err.contains("cannot write")), (Some(0), false), "{command}: {err}");
    }
    // The list of garbage is an output, too.
    project.ok("run tiny --set poison-features.poison_fraction=0.2");
    project.ok("run tiny");
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    assert_eq!(run("gc", full.into()).0, Some(4));
}
