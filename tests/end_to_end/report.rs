//! The report: what it says, that it stands by itself, and how a browser takes it.

use crate::house::{House, TINY};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Two inversions, so that there is something to compare.
fn house() -> House {
    let house = House::new();
    house.spec("tiny", &TINY.replace("steps = 3", "steps = 3\nbeta = [0.0, 1.0]"));
    house
}

#[test]
fn a_report_stands_by_itself_and_tells_the_same_every_time() {
    let house = house();
    let sets = "--set seeds=[0,1]";
    house.fails("report tiny", 4, &["no results of tiny", "`hemlock run tiny`"]);
    house.ok(&format!("run tiny {sets}"));
    let said = house.ok(&format!("report tiny {sets} -o out/page.html"));
    assert_eq!(said.out, "out/page.html\nout/page.tables\n");
    assert_eq!(said.err, "");
    let page = fs::read_to_string(house.path().join("out/page.html")).unwrap();
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
        "undecided",
    ] {
        assert!(page.to_lowercase().contains(&inside.to_lowercase()), "{inside}");
    }
    let table = |name: &str| fs::read_to_string(house.path().join("out/page.tables").join(name)).unwrap();
    assert_eq!(table("results.csv").lines().count(), 1 + 2, "{}", table("results.csv"));
    assert!(table("results.md").contains("| gradient-canceling, feature matching, β = 1 |"), "{}", table("results.md"));
    assert_eq!(table("artifacts.csv").lines().count(), 1 + house.tasks(&format!("tiny {sets}")).len());
    house.ok(&format!("report tiny {sets} -o out/page.html"));
    assert!(page == fs::read_to_string(house.path().join("out/page.html")).unwrap());
}

#[test]
fn what_is_missing_is_said() {
    let house = house();
    house.ok("run tiny");
    let said = house.ok("report tiny --set seeds=[0,1]");
    assert!(said.err.contains("tiny: 2 of 4 branches have no result yet"), "{}", said.err);
    let page = fs::read_to_string(house.path().join("reports/tiny.html")).unwrap();
    assert!(page.contains("2 of 4 branches have no result yet"));
    // A pipeline without results beside one with some.
    house.spec("other", &TINY.replace("eps_d = 0.05", "eps_d = 0.1"));
    let said = house.ok("report tiny other -o both.html");
    assert!(said.err.contains("other: 1 of 1 branch have no result yet"), "{}", said.err);
    house.spec("bare", &TINY.replace("[evaluate]", ""));
    house.fails("report bare", 2, &["has no [evaluate]"]);
}

/// A browser, or why there is none. Where one is required, that is a failure.
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

/// The page in a frame of a phone's width (a window cannot be that narrow), and a script that measures it there.
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
    let house = house();
    house.ok("run tiny --set seeds=[0,1]");
    house.ok("report tiny --set seeds=[0,1] -o page.html");
    let page = house.path().join("page.html");
    let frame = house.path().join("frame.html");
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
