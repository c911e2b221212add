//! The report: its content, that it needs no other files, and how a browser shows it.

use crate::project::{Project, TINY};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A project whose pipeline has two inversions, so that there is something to compare.
fn project() -> Project {
    let project = Project::new();
    project.spec("tiny", &TINY.replace("steps = 3", "steps = 3\nbeta = [0.0, 1.0]"));
    project
}

#[test]
fn a_report_stands_by_itself_and_tells_the_same_every_time() {
    let project = project();
    let sets = "--set seeds=[0,1]";
    project.fails("report tiny", 4, &["no results of tiny", "`hemlock run tiny`"]);
    project.ok(&format!("run tiny {sets}"));
    let said = project.ok(&format!("report tiny {sets} -o out/page.html"));
    assert_eq!(said.out, "out/page.html\nout/page.tables\nout/page.figures\n");
    assert_eq!(said.err, "");
    let page = fs::read_to_string(project.path().join("out/page.html")).unwrap();
    for outside in ["<script", "src=\"http", "href=\"http", "url(", "@import"] {
        assert!(!page.contains(outside), "{outside}");
    }
    for inside in [
        "F1",
        "F6",
        "Threat model",
        "<svg",
        "data:image/png;base64,",
        "hemlock run tiny --set 'seeds=[0,1]'",
        "claims need other or more results",
    ] {
        assert!(page.to_lowercase().contains(&inside.to_lowercase()), "{inside}");
    }
    // Findings for which there are too few results come last, in a folded section.
    let (before, folded) = page.split_once("<details id=\"other-findings\">").unwrap();
    assert!(folded.contains("There is nothing to compare") && !before.contains("There is nothing to compare"));
    let table = |name: &str| fs::read_to_string(project.path().join("out/page.tables").join(name)).unwrap();
    assert_eq!(table("results.csv").lines().count(), 1 + 2, "{}", table("results.csv"));
    assert!(table("results.md").contains("| gradient-canceling, feature matching, β = 1 |"), "{}", table("results.md"));
    assert_eq!(table("artifacts.csv").lines().count(), 1 + project.tasks(&format!("tiny {sets}")).len());
    // A row of the tables can be traced to artifacts.
    let rows = table("rows.csv");
    for column in ["key", "accuracy.clean", "params.invert.beta", "params.target-params.radius"] {
        assert!(rows.lines().next().unwrap().split(',').any(|c| c == column), "{rows}");
    }
    assert_eq!(rows.lines().count(), 1 + 4);
    assert!(table("results.csv").lines().next().unwrap().contains("invert.beta"), "{}", table("results.csv"));
    // Every chart is a file that the page links to.
    let charts: Vec<PathBuf> =
        fs::read_dir(project.path().join("out/page.figures")).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(charts.len() >= 4, "{charts:?}");
    for chart in &charts {
        let name = chart.file_name().unwrap().to_str().unwrap();
        assert!(page.contains(&format!("href=\"page.figures/{name}\"")), "{name}");
        assert!(fs::read_to_string(chart).unwrap().trim_end().ends_with("</svg>"), "{name}");
    }
    project.ok(&format!("report tiny {sets} -o out/page.html"));
    assert!(page == fs::read_to_string(project.path().join("out/page.html")).unwrap());
}

/// The results of two runs, each in a file, give the tables that both runs give together, without any artifact.
#[test]
fn a_report_is_made_again_from_results_files() {
    let project = project();
    project.ok("run tiny --set seeds=[0,1]");
    for (sets, page) in [("[0,1]", "both"), ("[0]", "first"), ("[1]", "second")] {
        project.ok(&format!("report tiny --set seeds={sets} -o {page}.html"));
    }
    let saved = |page: &str| format!("{page}.tables/results.jsonl.zst");
    let read = |file: &str| fs::read(project.path().join(file)).unwrap();
    project.fails(&format!("report tiny --from {}", saved("both")), 2, &["cannot be used with"]);
    fs::remove_dir_all(project.path().join("artifacts")).unwrap();
    let said = project.ok(&format!("report --from {} -o again.html", saved("both")));
    assert_eq!((said.err.as_str(), read(&saved("again"))), ("", read(&saved("both"))));
    project.ok(&format!("report --from {} --from {} -o joined.html", saved("first"), saved("second")));
    let tables = fs::read_dir(project.path().join("both.tables")).unwrap().map(|e| e.unwrap().file_name());
    let compared: Vec<String> =
        tables.map(|name| name.into_string().unwrap()).filter(|name| name.ends_with(".csv")).collect();
    assert!(compared.iter().any(|name| name == "finding-F6.csv") && compared.len() > 5, "{compared:?}");
    // The times of stages and the list of artifacts are not in the file.
    for name in compared.iter().filter(|name| !["times.csv", "artifacts.csv"].contains(&name.as_str())) {
        let [both, again, joined] = ["both", "again", "joined"].map(|page| read(&format!("{page}.tables/{name}")));
        assert!(both == again && both == joined, "{name}");
    }
}

/// Results files that are no such files, or contradict themselves or each other, are one error each.
#[test]
fn results_files_are_checked() {
    let project = project();
    project.ok("run tiny");
    project.ok("report tiny -o page.html");
    let whole = fs::read(project.path().join("page.tables/results.jsonl.zst")).unwrap();
    let text = String::from_utf8(zstd::decode_all(&*whole).unwrap()).unwrap();
    let fails = |content: &[u8], words: &[&str]| {
        fs::write(project.path().join("bad.zst"), content).unwrap();
        project.fails("report --from bad.zst", 4, &[&["bad.zst"], words].concat());
    };
    let edited = |text: &str, words: &[&str]| fails(&zstd::encode_all(text.as_bytes(), 1).unwrap(), words);
    fails(&whole[..whole.len() - 20], &["compressed with Zstandard"]);
    fails(b"", &["compressed with Zstandard"]);
    fails(text.as_bytes(), &["compressed with Zstandard"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "the first line, samples, and two results");
    edited(lines[0], &["has no results"]);
    edited(&lines[..3].join("\n"), &["has 1 results; expected 2"]);
    edited(&text.replace("\"version\":1", "\"version\":2"), &["line 1", "of version 2", "expected `hemlock-results`"]);
    edited(&[lines[0], lines[2], lines[3]].join("\n"), &["line 2", "`samples` of", "are missing"]);
    edited(&[lines[0], &lines[1][..9]].join("\n"), &["line 2", "at column 9"]);
    edited(&text.replace("\"name\":\"tiny\"", "\"name\":\"other\""), &["line 3", "`pipeline` is `tiny`"]);
    let clean = "\"accuracy\":{\"clean\":";
    edited(&text.replace(clean, &format!("{clean}1")), &["line 3", "`accuracy.clean` is 1", "expected 0."]);
    // Another result under the same key: all answers are wrong.
    let (before, right) = lines[2].split_once("\"right\":{\"clean\":\"").unwrap();
    let wrong = "A".repeat(right.find(['=', '"']).unwrap());
    let rest = &right[wrong.len()..];
    let (first, accuracy) = before.split_once(clean).unwrap();
    let accuracy = accuracy.split_once(',').unwrap().1;
    let other = format!("{first}{clean}0.0,{accuracy}\"right\":{{\"clean\":\"{wrong}{rest}");
    let other = [lines[0], lines[1], &other, lines[3]].join("\n");
    fs::write(project.path().join("other.zst"), zstd::encode_all(other.as_bytes(), 1).unwrap()).unwrap();
    project.ok("report --from other.zst");
    let both = "report --from page.tables/results.jsonl.zst --from other.zst";
    project.fails(both, 4, &["other.zst", "has another accuracy than in a file before it"]);
    project.fails("report --from nothing.zst", 4, &["nothing.zst", "No such file"]);
}

/// One attack on features that must lie in a ball, and one on pixels without that condition, within the same limit.
#[test]
fn what_is_not_comparable_is_listed_with_what_differs() {
    let project = Project::new();
    let matched = "steps = 3\nlinf = \"8/255\"\n\n[poison-images]\nattack = \"gradient-canceling\"\npoison_fraction = 0.05\nlinf = \"8/255\"\nsteps = 3";
    let spec = TINY
        .replace("poison_fraction = 0.05", "poison_fraction = 0.05\nconstraint = \"ball\"")
        .replace("steps = 3", matched);
    project.spec("routes", &spec);
    let page = |sets: &str| {
        project.ok(&format!("run routes {sets}"));
        project.ok(&format!("report routes {sets} -o page.html"));
        let page = fs::read_to_string(project.path().join("page.html")).unwrap();
        let finding = page.split("id=\"F2\"").nth(1).unwrap().to_owned();
        finding.split("id=\"F2-refined\"").next().unwrap().to_owned()
    };
    let apart = page("--set seeds=[0,1]");
    assert!(apart.contains("Not comparable: 1") && apart.contains("constraint: none against ball at 0.95"), "{apart}");
    assert!(apart.contains("no two of these results"), "{apart}");
    let together = page("--set seeds=[0,1] --set poison-images.constraint=ball");
    assert!(together.contains("same objective") && !together.contains("Not comparable"), "{together}");
}

#[test]
fn what_is_missing_is_said() {
    let project = project();
    project.ok("run tiny");
    let said = project.ok("report tiny --set seeds=[0,1]");
    assert!(said.err.contains("tiny: 2 of 4 branches have no result yet"), "{}", said.err);
    let page = fs::read_to_string(project.path().join("reports/tiny.html")).unwrap();
    assert!(page.contains("2 of 4 branches have no result yet"));
    // One pipeline without results is reported together with one that has some.
    project.spec("other", &TINY.replace("poison_fraction = 0.05", "poison_fraction = 0.1"));
    let said = project.ok("report tiny other -o both.html");
    assert!(said.err.contains("other: 1 of 1 branch has no result yet"), "{}", said.err);
    project.spec("bare", &TINY.replace("[evaluate]", ""));
    project.fails("report bare", 2, &["has no [evaluate]"]);
}

/// Results are kept when artifacts behind them are deleted. The report begins by naming the figures that it cannot draw
/// any more.
#[test]
fn figures_of_artifacts_that_are_gone_are_missed_aloud() {
    let project = project();
    project.ok("run tiny");
    let whole = project.ok("report tiny -o page.html");
    assert_eq!(whole.err, "");
    let map = project.path().join("page.figures/map.svg");
    assert!(fs::read_dir(project.path().join("page.figures")).unwrap().count() > 3 && map.parent().unwrap().is_dir());
    fs::remove_dir_all(project.path().join("artifacts/features")).unwrap();
    fs::remove_dir_all(project.path().join("artifacts/invert")).unwrap();
    let said = project.ok("report tiny -o page.html");
    let expected = "1 artifact of features and 2 artifacts of invert are left out, because these artifacts are gone; `hemlock run tiny` computes them again";
    assert!(said.err.contains(expected), "{}", said.err);
    let page = fs::read_to_string(project.path().join("page.html")).unwrap();
    let (head, rest) = page.split_once("<main>").unwrap();
    assert!(head.contains("Incomplete.") && head.contains("artifact of features"), "{head}");
    let figure =
        |id: &str| rest.split(&format!("<section id=\"{id}\">")).nth(1).unwrap().split("</section>").next().unwrap();
    for id in ["pictures", "map"] {
        assert!(
            figure(id).contains("Artifacts that this figure needs are not in the artifact root"),
            "{id}: {}",
            figure(id)
        );
    }
    assert!(!figure("pretraining").contains("not in the artifact root"), "{}", figure("pretraining"));
    // The charts of the earlier page are not among the charts of this one.
    let left: Vec<_> =
        fs::read_dir(project.path().join("page.figures")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| page.contains(name.to_str().unwrap())), "{left:?}");
    project.ok("run tiny");
    assert_eq!(project.ok("report tiny -o page.html").err, "");
}

/// A paper's own numbers are shown next to ours. If a line of them fits no result, this is an error, and nothing is
/// written.
#[test]
fn a_paper_s_numbers_stand_beside_ours() {
    let project = Project::new();
    project.ok("run tiny");
    let typed = |text: &str| fs::write(project.path().join("paper.csv"), text).unwrap();
    typed("# made up\nattack,poison_fraction,clean,drop\ngradient-canceling,0.05,91.25,3\n");
    project.ok("report tiny --paper paper.csv -o page.html");
    let page = fs::read_to_string(project.path().join("page.html")).unwrap();
    assert!(page.contains("91.25") && page.contains("The paper's numbers beside ours"));
    let table = fs::read_to_string(project.path().join("page.tables/paper.csv")).unwrap();
    assert_eq!(table.lines().count(), 3, "{table}");

    typed("attack,poison_fraction,drop\ngradient-canceling,0.05,3\ntgda,0.05,3\n");
    let told = ["paper.csv, line 3", "no result has `attack` tgda", "gradient-canceling"];
    project.fails("report tiny --paper paper.csv -o other.html", 2, &told);
    project.fails("report tiny --paper nowhere.csv -o other.html", 2, &["nowhere.csv", "cannot be read"]);
    assert!(!project.path().join("other.html").exists() && !project.path().join("other.tables").exists());
}

/// Whenever a report is killed, no file has half of its content, and the next report removes what is left.
#[test]
fn a_killed_report_leaves_no_half_file_and_nothing_for_good() {
    let project = project();
    project.ok("run tiny");
    let files = || {
        let mut found: Vec<PathBuf> = vec![project.path().join("out")];
        let mut files = Vec::new();
        while let Some(folder) = found.pop() {
            for path in fs::read_dir(folder).into_iter().flatten().map(|e| e.unwrap().path()) {
                let hidden = path.file_name().unwrap().to_str().unwrap().starts_with('.');
                match path.is_dir() {
                    true if hidden => {}
                    true => found.push(path),
                    false => files.push((path.clone(), fs::read(&path).unwrap())),
                }
            }
        }
        files.sort();
        files
    };
    let start = std::time::Instant::now();
    project.ok("report tiny -o out/page.html");
    let (took, whole) = (start.elapsed(), files());
    for round in 0..12 {
        if project.path().join("out").exists() {
            fs::remove_dir_all(project.path().join("out")).unwrap();
        }
        let mut report = project.spawn("report tiny -o out/page.html");
        // Files are written at the end of the report.
        std::thread::sleep(took * (12 + round) / 24);
        report.kill().unwrap();
        report.wait().unwrap();
        for file in files() {
            assert!(whole.contains(&file), "{}", file.0.display());
        }
    }
    let left = project.path().join("out/.hemlock-report-page.html.killed");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("lock"), "").unwrap();
    project.ok("report tiny -o out/page.html");
    assert_eq!(files(), whole);
    // A folder without a lock is kept for a minute, because a report that is just beginning might own it.
    let lives = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) && !path.join("lock").exists()
    };
    let left = fs::read_dir(project.path().join("out")).unwrap().map(|e| e.unwrap().path()).filter(|path| !lives(path));
    let mut names: Vec<_> = left.map(|path| path.file_name().unwrap().to_owned()).collect();
    names.sort();
    assert_eq!(names, ["page.figures", "page.html", "page.tables"]);
}

/// Calibration would leave nothing of this target. Every kind of output says which target was used instead.
#[test]
fn a_target_that_was_stepped_back_is_told_everywhere() {
    let project = Project::new();
    project.spec("tiny", &TINY.replace("radius = 0.5", "radius = 9.0\ncalibration = \"scale-and-bias\""));
    let ran = project.ok("run tiny");
    assert!(ran.err.contains("WARN") && ran.err.contains("instead of 9"), "{}", ran.err);
    let row: serde_json::Value = serde_json::from_str(&project.ok("results tiny --json").out).unwrap();
    let told = &row["stepped_back"];
    let used = told["used"].as_f64().unwrap();
    assert!(told["field"] == "radius" && told["asked"] == 9.0 && used < 9.0, "{told}");
    let said = format!("radius is {used} instead of 9");
    assert!(
        project
            .ok("results tiny")
            .out
            .contains(&format!("WEAKER TARGET: calibration leaves nothing of a stronger target: {said}"))
    );
    assert!(project.ok("status tiny").out.contains("radius used"));
    project.ok("report tiny -o page.html");
    let page = fs::read_to_string(project.path().join("page.html")).unwrap();
    assert!(
        page.contains(&format!("the radius of the target is {used} instead of 9"))
            && page.contains(&format!("The {said}")),
        "{page}"
    );
    let set = "--set target-params.step_back=false";
    project.fails(&format!("run tiny {set}"), 2, &["`calibration`: leaves nothing", &format!("at most {used}")]);
    // The radius that the message names works.
    project.ok(&format!("run tiny {set} --set target-params.radius={used}"));
}

/// Path of a browser. If there is none, the test says so, or fails if a browser is required.
fn browser() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = std::env::split_paths(&folders).flat_map(|dir| names.map(|n| dir.join(n))).find(|p| p.is_file());
    if found.is_none() {
        assert!(std::env::var_os("HEMLOCK_REQUIRE_BROWSER").is_none(), "there is no chromium, and one is required");
        writeln!(std::io::stderr(), "SKIPPED: there is no chromium in PATH, so no browser opened the report").unwrap();
    }
    found
}

fn open(browser: &Path, page: &Path) -> Output {
    let profile = tempfile::tempdir().unwrap();
    Command::new(browser)
        .args("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-dev-shm-usage".split(' '))
        .args("--disable-background-networking --disable-component-update --disable-sync --hide-scrollbars".split(' '))
        .args(["--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap()
}

/// A page that shows the report in a frame as wide as a phone (a window cannot be that narrow), with a script that
/// measures it.
fn framed(page: &str) -> String {
    let page = page.replace('&', "&amp;").replace('"', "&quot;");
    format!(
        r#"<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">
<iframe style="width:400px;height:800px;border:0" srcdoc="{page}" onload="
  const page = this.contentDocument, images = Array.from(page.images), root = page.documentElement;
  const wide = Array.from(page.querySelectorAll('body *')).filter(e => !e.closest('.scroll, .drawing') && e.getBoundingClientRect().right > 400.5);
  document.body.dataset.measured = JSON.stringify({{
    width: root.clientWidth, scroll: root.scrollWidth, images: images.length, wide: wide.map(e => e.outerHTML.slice(0, 80)),
    broken: images.filter(i => !i.complete || i.naturalWidth === 0).length,
    charts: page.querySelectorAll('svg[role=img][aria-label]').length,
    dangling: Array.from(page.querySelectorAll('a[href^=\'#\']')).filter(a => !page.querySelector(a.getAttribute('href'))).length,
  }})"></iframe>"#
    )
}

#[test]
fn a_browser_shows_all_of_it_on_a_phone_too() {
    let Some(browser) = browser() else { return };
    let project = project();
    project.ok("run tiny --set seeds=[0,1]");
    project.ok("report tiny --set seeds=[0,1] -o page.html");
    let page = project.path().join("page.html");
    let frame = project.path().join("frame.html");
    fs::write(&frame, framed(&fs::read_to_string(&page).unwrap())).unwrap();
    for file in [&page, &frame] {
        let opened = open(&browser, file);
        let log = String::from_utf8_lossy(&opened.stderr);
        assert!(opened.status.success(), "{log}");
        assert!(!log.contains("CONSOLE"), "{log}");
    }
    let dom = String::from_utf8(open(&browser, &frame).stdout).unwrap();
    let measured =
        dom.split("data-measured=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("the frame was measured");
    let measured: serde_json::Value =
        serde_json::from_str(&measured.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">")).unwrap();
    assert_eq!(measured["width"], 400, "{measured}");
    assert_eq!(measured["scroll"], 400, "it scrolls sideways: {measured}");
    assert_eq!(measured["wide"], serde_json::json!([]), "{measured}");
    assert_eq!((&measured["broken"], &measured["dangling"]), (&0.into(), &0.into()), "{measured}");
    assert!(measured["images"].as_u64().unwrap() >= 6 && measured["charts"].as_u64().unwrap() >= 4, "{measured}");
}
