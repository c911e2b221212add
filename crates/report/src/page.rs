//! The HTML page of a report, and the list of the files beside it.

use crate::{
    Case, ReportError,
    case::quantity,
    chart,
    evidence::{Evidence, Scene},
    figures::{self, Figure},
    findings::{Finding, Verdict},
    provenance::Provenance,
    setting,
    statistics::Estimate,
    table::Table,
    tables, words,
};
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// The file with one line per result.
const ROWS: &str = "rows.csv";

/// A folder beside the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folder {
    /// The folder of the tables.
    Tables,
    /// The folder of the charts.
    Figures,
}

const STYLE: &str = include_str!("page.css");

/// Everything that the page shows.
pub struct Page<'a> {
    evidence: &'a Evidence<'a>,
    /// The command that makes the page again.
    command: &'a str,
    results: Table,
    /// A paper's numbers beside the measured ones, if a file of them was given.
    paper: Option<Table>,
    noise: Table,
    stages: Figure,
    figures: Vec<Figure>,
    /// One line per result, as CSV.
    rows: String,
    /// The findings that were tested, with their comparisons.
    findings: Vec<(Finding, Table)>,
    /// The findings for which there are too few results, with their comparisons.
    open: Vec<(Finding, Table)>,
    provenance: Provenance,
    times: Table,
    artifacts: Table,
}

/// The sections of the page: anchor and title.
const SECTIONS: [(&str, &str); 7] = [
    ("summary", "Summary"),
    ("setting", "Setting and threat model"),
    ("results", "Results"),
    ("stages", "Stage by stage"),
    ("findings", "Findings"),
    ("figures", "Figures"),
    ("provenance", "Provenance"),
];

impl<'a> Page<'a> {
    /// Makes the tables and figures, and tests the findings.
    pub fn new(evidence: &'a Evidence<'a>, paper: Option<Table>, command: &'a str) -> Result<Self, ReportError> {
        let provenance = Provenance::new(evidence)?;
        let judged = |finding: Finding| {
            let table = tables::comparisons(&finding);
            (finding, table)
        };
        let tested = |(finding, _): &(Finding, Table)| finding.comparisons.iter().any(|c| c.p.is_some());
        let (findings, open) = evidence.findings().into_iter().map(judged).partition(tested);
        Ok(Self {
            evidence,
            command,
            results: tables::results(&evidence.cases),
            paper,
            noise: tables::noise(&evidence.cases),
            stages: figures::stages(evidence)?,
            figures: figures::all(evidence, &provenance)?,
            rows: tables::rows(&evidence.cases)?,
            findings,
            open,
            times: provenance.times(),
            artifacts: provenance.table(),
            provenance,
        })
    }

    /// The files beside the page: folder, name and content.
    pub fn files(&self) -> Vec<(Folder, String, String)> {
        let comparisons = self.findings.iter().chain(&self.open).map(|(_, table)| table);
        let tables = [&self.results, &self.noise]
            .into_iter()
            .chain(&self.paper)
            .chain(comparisons)
            .chain([&self.times, &self.artifacts]);
        let tables = tables.filter(|t| !t.is_empty()).flat_map(|table| {
            let file = |ending: &str, text: String| (Folder::Tables, format!("{}.{ending}", table.name), text);
            [file("csv", table.csv()), file("md", table.markdown())]
        });
        let rows = (Folder::Tables, ROWS.to_owned(), self.rows.clone());
        let figures = std::iter::once(&self.stages).chain(&self.figures).flat_map(Figure::drawings);
        let drawings = figures.map(|d| (Folder::Figures, d.name.clone(), d.svg.clone()));
        tables.chain([rows]).chain(drawings).collect()
    }

    /// The page as HTML; `tables` and `drawings` are the names of the folders beside it.
    pub fn html(&self, tables: &str, drawings: &str) -> String {
        let names: Vec<String> = self.evidence.measured.iter().map(|m| m.subject.spec.name.clone()).collect();
        let scenes = self.evidence.scenes();
        let heading = |i: usize| html! { h2 { (SECTIONS[i].1) } };
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { "Hemlock: " (words::list(&names)) }
                    // An empty icon, because browsers would ask for a file otherwise.
                    link rel="icon" href="data:,";
                    style { (PreEscaped(STYLE)) (PreEscaped(chart::style())) }
                }
                body {
                    header {
                        p.kicker { "Hemlock report" }
                        h1 { (words::list(&names)) }
                        @for m in &self.evidence.measured {
                            @if !m.subject.spec.description.is_empty() { p.lead { (m.subject.spec.description) } }
                        }
                    }
                    @for missing in self.evidence.notes() { p.notice role="note" { strong { "Incomplete. " } (missing) "." } }
                    @if let Some(unverified) = self.evidence.unverified() {
                        p.notice role="note" { strong { "Unverified import. " } (unverified) }
                    }
                    nav aria-label="Contents" {
                        ol { @for (id, title) in SECTIONS { li { a href={ "#" (id) } { (title) } } } }
                    }
                    main {
                        section id="summary" { (heading(0)) (self.summary()) }
                        section id="setting" { (heading(1)) @for scene in &scenes { (self.setting(scene, scenes.len() > 1)) } }
                        section id="results" { (heading(2)) (self.results(tables)) }
                        section id="stages" { (heading(3)) (self.stages.untitled(drawings)) }
                        section id="findings" { (heading(4)) (self.findings(tables)) }
                        section id="figures" { (heading(5)) @for figure in &self.figures { (figure.html(drawings)) } }
                        section id="provenance" { (heading(6)) (self.provenance(tables)) }
                    }
                    footer { p { "Made by Hemlock " (env!("CARGO_PKG_VERSION")) " from cached artifacts. This page needs no network." } }
                }
            }
        }
        .into_string()
    }

    fn summary(&self) -> Markup {
        html! {
            div.headlines { @for scene in self.evidence.scenes() { (self.headline(&scene)) } }
            h3 { "Findings" }
            @if self.findings.is_empty() { p { "No claim of the paper is tested here: these results are too few for it." } }
            @else {
                p { "Claims of the paper that this pipeline reproduces, tested on the results of this page. A contradicted claim is a result." }
                ol.verdicts {
                    @for (f, _) in &self.findings {
                        li { a href={ "#" (f.id) } { (f.id) } (chip(f.verdict)) p { (f.claim) span.reason { (f.reason) } } }
                    }
                }
            }
            @if !self.open.is_empty() { p.absent { a href="#other-findings" { (self.others()) } "." } }
        }
    }

    /// A sentence about the number of findings that were not tested.
    fn others(&self) -> String {
        let more = if self.findings.is_empty() { "" } else { " more" };
        match self.open.len() {
            1 => format!("1{more} claim needs other or more results"),
            n => format!("{n}{more} claims need other or more results"),
        }
    }

    fn results(&self, folder: &str) -> Markup {
        let stepped_back = self.evidence.stepped_back();
        html! {
            (self.results.html(folder))
            p.files { a href={ (words::address(folder)) "/" (ROWS) } { "Every result by itself" } ", with all of its parameters and its key, as CSV." }
            @for said in stepped_back { p { (said) } }
            @if let Some(paper) = &self.paper { (paper.html(folder)) }
            @if !self.noise.is_empty() { (self.noise.html(folder)) }
        }
    }

    /// The headline of a scene: its strongest attack with images, its strongest one within 8/255, and its strongest one
    /// on features alone.
    fn headline(&self, scene: &Scene) -> Markup {
        let cases = &scene.cases;
        let drop = |c: &Case| c.mean(quantity::drop).map_or(f64::NEG_INFINITY, |e| e.mean);
        let best = |of: &dyn Fn(&Case) -> bool| {
            let of: Vec<&Case> = cases.iter().copied().filter(|c| of(c)).collect();
            Some((of.len(), of.into_iter().max_by(|a, b| drop(a).total_cmp(&drop(b)))?))
        };
        let features = best(&|c| c.mean(quantity::features).is_some() && c.mean(quantity::images).is_none());
        // Noise that replaces training images has another poison fraction, and a table of its own.
        let adds = |c: &Case| c.mean(quantity::images).is_some() && !c.replaces();
        let images = best(&adds).or_else(|| best(&|c| c.mean(quantity::images).is_some()));
        let clean = best(&|c| c.linf().is_some_and(|l| l <= 8.0) && adds(c));
        // If all attacks are within the limit, this line would repeat the first one.
        let clean = clean.filter(|(n, _)| images.is_none_or(|(all, _)| *n < all));
        let lines = [("with images", images), ("within 8/255", clean), ("on features alone", features)];
        html! {
            article {
                h3 { (scene.name) }
                @if cases.is_empty() { p { "No result yet. " code { (scene.measured.subject.command) } " makes them." } }
                div.lines { @for (what, best) in lines { @if let Some((n, case)) = best { (headline(&strongest(n, what), case)) } } }
            }
        }
    }

    fn setting(&self, scene: &Scene, several: bool) -> Markup {
        let cases = &scene.cases;
        html! {
            @if several { h3 { (scene.name) } }
            @if cases.is_empty() { p.absent { "Not shown: there is no result yet, or another pipeline on this page has the same ones." } }
            @else {
                dl.facts {
                    @for (what, text) in setting::describe(cases) { div { dt { (what) } dd { (text) } } }
                    @if let Some(test) = self.evidence.tested_on(&cases[0].rows[0]) {
                        div { dt { "Resolution" } dd { "Accuracy is measured on " (test) " images: one of them is " (words::percent(1.0 / test as f64)) " points." } }
                    }
                }
            }
        }
    }

    fn findings(&self, folder: &str) -> Markup {
        html! {
            p {
                "A finding is confirmed where every comparison shows what it claims at the level 0.05, one-sided; contradicted where one shows the \
                 opposite at that level divided by the number of comparisons; otherwise undecided. Tests and intervals tell apart what seeds share and \
                 what they draw anew, and count test images as a sample: beside each verdict stands what it holds for."
            }
            @for (f, table) in &self.findings {
                section.finding id=(f.id) {
                    h3 { (f.id) ". " (f.claim) " " (chip(f.verdict)) }
                    p { strong { "Test. " } (f.test) }
                    p { strong { "Verdict. " } (f.reason) }
                    @for scope in f.scopes() { p { strong { "Holds " } (scope) "." } }
                    (table.html(folder))
                    (apart(f))
                }
            }
            @if !self.open.is_empty() {
                details id="other-findings" {
                    summary { (self.others()) }
                    ul.open {
                        @for (f, table) in &self.open {
                            li.finding id=(f.id) {
                                strong { (f.id) ". " (f.claim) }
                                p { (f.reason) }
                                p { strong { "Test. " } (f.test) }
                                @if !table.is_empty() { (table.html(folder)) }
                                (apart(f))
                            }
                        }
                    }
                }
            }
        }
    }

    fn provenance(&self, folder: &str) -> Markup {
        let (missing, all) = self.provenance.missing();
        let runs: Vec<&str> = self.evidence.measured.iter().map(|m| m.subject.command.as_str()).collect();
        html! {
            dl.facts {
                div { dt { "Results" } dd { @for run in runs { code { (run) } } } }
                div { dt { "This page" } dd { code { (self.command) } } }
                @for (what, values) in self.provenance.facts() {
                    @if !values.is_empty() { div { dt { (what) } dd { @for v in values { span.value { (v) } } } } }
                }
                div { dt { "Artifacts" } dd { (all - missing) " of " (all) " are in the artifact root." } }
            }
            (self.times.html(folder))
            details { summary { "All " (all) " artifacts" } (self.artifacts.html(folder)) }
        }
    }
}

/// The pairs that a finding did not compare, and why.
fn apart(finding: &Finding) -> Markup {
    html! {
        @if !finding.apart.is_empty() {
            details.apart {
                summary { "Not comparable: " (finding.apart.len() + finding.apart_more) }
                p { "These would be compared, if they did not differ in what the finding does not ask about, too." }
                ul {
                    @for a in &finding.apart { li { (a.left) " and " (a.right) ": " span.reason { (a.why()) } } }
                    @if finding.apart_more > 0 { li { (words::count(finding.apart_more, "more pair")) } }
                }
            }
        }
    }
}

/// The beginning of a headline. It names the number of attacks that the strongest is chosen from, because that choice
/// is optimistic.
fn strongest(of: usize, what: &str) -> String {
    if of == 1 { format!("The one attack {what}") } else { format!("Strongest of {of} attacks {what}") }
}

fn headline(what: &str, case: &Case) -> Markup {
    let mean = |q| case.mean(q).map(|e| words::percent(e.mean)).unwrap_or_default();
    let drop = case.mean(quantity::drop);
    let interval = drop.and_then(|e| {
        Some(format!(
            "95 % CI {} to {}",
            words::percent(e.mean - e.half_width()?),
            words::percent(e.mean + e.half_width()?)
        ))
    });
    let poisoned = case.mean(|r| Some(r.accuracy.clean - quantity::drop(r)?));
    html! {
        div.headline {
            p.what { (what) }
            p.drop { strong { (drop.map(|e| words::number(100.0 * e.mean, 1)).unwrap_or_default()) } " points" @if let Some(i) = interval { span.interval { (i) } } }
            p.how {
                "Accuracy goes from " (mean(quantity::clean)) " to " (poisoned.map(|e| words::percent(e.mean)).unwrap_or_default()) " % with "
                (words::share(case.poison_fraction())) " of poisons (" (case.label) ")."
                @if let Some((control, e)) = control(case) { " " (control) " " (words::number(100.0 * e.mean, 1)) "." }
            }
        }
    }
}

/// The beginning of a sentence about the control of an attack, and the drop that the control costs. The control is
/// flipped labels; for noise, which should make images useless, it is training without these images.
fn control(case: &Case) -> Option<(&'static str, Estimate)> {
    if case.replaces() {
        return Some(("To train without these images costs", case.mean(quantity::drop_of_removed)?));
    }
    Some(("As many flipped labels cost", case.mean(quantity::drop_of_flips)?))
}

fn chip(verdict: Verdict) -> Markup {
    let sign = match verdict {
        Verdict::Confirmed => "✓",
        Verdict::Contradicted => "✗",
        Verdict::Undecided => "?",
    };
    html! { span class={ "chip " (verdict.word()) } { span aria-hidden="true" { (sign) " " } (verdict.word()) } }
}
