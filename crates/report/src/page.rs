//! The HTML page of a report, and the list of the files beside it.

use crate::{
    ConfigGroup, ReportError, chart,
    config_group::quantity,
    figures::{self, Figure},
    findings::{Finding, Verdict},
    provenance::Provenance,
    result_set::{Experiment, ResultSet},
    setting,
    statistics::Estimate,
    table::Table,
    tables, words,
};
use hemlock_pipeline::ResultRow;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::path::Path;

/// The file with one line per result.
const ROWS: &str = "rows.csv";
/// The file that the report can be made from again.
pub const RESULTS: &str = "results.jsonl.zst";

/// A folder beside the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportFolder {
    /// The folder of the tables.
    Tables,
    /// The folder of the charts.
    Figures,
}

const STYLE: &str = include_str!("page.css");

/// Everything that the page shows.
pub struct Page<'a> {
    result_set: &'a ResultSet<'a>,
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
    /// The verdicts.
    verdicts: Table,
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

/// The number of test images of a row; `None` if the answers to them are not known.
fn tested_on(row: &ResultRow) -> Option<usize> {
    row.answers.as_ref().map(|answers| answers.right.clean.len()).filter(|n| *n > 0)
}

impl<'a> Page<'a> {
    /// Makes the tables and figures, and tests the findings.
    pub fn new(result_set: &'a ResultSet<'a>, paper: Option<Table>, command: &'a str) -> Result<Self, ReportError> {
        let provenance = Provenance::new(result_set)?;
        let judged = |finding: Finding| {
            let table = tables::comparisons(&finding);
            (finding, table)
        };
        let tested = |(finding, _): &(Finding, Table)| finding.comparisons.iter().any(|c| c.p.is_some());
        let (findings, open): (Vec<_>, Vec<_>) = result_set.findings().into_iter().map(judged).partition(tested);
        Ok(Self {
            result_set,
            command,
            results: tables::results(&result_set.configs),
            paper,
            noise: tables::noise(&result_set.configs),
            stages: figures::stages(result_set)?,
            figures: figures::all(result_set, &provenance)?,
            rows: tables::rows(&result_set.configs)?,
            verdicts: tables::findings(findings.iter().map(|(finding, _)| finding)),
            findings,
            open,
            times: provenance.times(),
            artifacts: provenance.table(),
            provenance,
        })
    }

    /// The files beside the page: folder, name and content.
    pub fn files(&self) -> Result<Vec<(ReportFolder, String, Vec<u8>)>, ReportError> {
        let comparisons = self.findings.iter().chain(&self.open).map(|(_, table)| table);
        let tables = [&self.results, &self.noise]
            .into_iter()
            .chain(&self.paper)
            .chain([&self.verdicts])
            .chain(comparisons)
            .chain([&self.times, &self.artifacts]);
        let tables = tables.filter(|t| !t.is_empty()).flat_map(|table| {
            let file =
                |ending: &str, text: String| (ReportFolder::Tables, format!("{}.{ending}", table.name), text.into());
            [file("csv", table.csv()), file("md", table.markdown())]
        });
        let rows = (ReportFolder::Tables, ROWS.to_owned(), self.rows.clone().into_bytes());
        let saved = self.result_set.saved().to_bytes().map_err(|e| ReportError::write(Path::new(RESULTS), e))?;
        let saved = (ReportFolder::Tables, RESULTS.to_owned(), saved);
        let figures = std::iter::once(&self.stages).chain(&self.figures).flat_map(Figure::drawings);
        let drawings = figures.map(|d| (ReportFolder::Figures, d.name.clone(), d.svg.clone().into_bytes()));
        Ok(tables.chain([rows, saved]).chain(drawings).collect())
    }

    /// The page as HTML; `tables` and `drawings` are the names of the folders beside it.
    pub fn html(&self, tables: &str, drawings: &str) -> String {
        let names: Vec<String> = self.result_set.pipelines.iter().map(|m| m.name.clone()).collect();
        let experiments = self.result_set.experiments();
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
                        @for m in &self.result_set.pipelines {
                            @if !m.description.is_empty() { p.lead { (m.description) } }
                        }
                    }
                    @for missing in self.result_set.notes() { p.notice role="note" { strong { "Incomplete. " } (missing) "." } }
                    @if let Some(unverified) = self.result_set.unverified() {
                        p.notice role="note" { strong { "Unverified import. " } (unverified) }
                    }
                    nav aria-label="Contents" {
                        ol { @for (id, title) in SECTIONS { li { a href={ "#" (id) } { (title) } } } }
                    }
                    main {
                        section id="summary" { (heading(0)) (self.summary()) }
                        section id="setting" { (heading(1)) @for experiment in &experiments { (self.setting(experiment, experiments.len() > 1)) } }
                        section id="results" { (heading(2)) (self.results(tables)) }
                        section id="stages" { (heading(3)) (self.stages.untitled(drawings)) }
                        section id="findings" { (heading(4)) (self.findings(tables)) }
                        section id="figures" { (heading(5)) @for figure in &self.figures { (figure.html(drawings)) } }
                        section id="provenance" { (heading(6)) (self.provenance(tables)) }
                    }
                    footer { p { "Made by Hemlock " (env!("CARGO_PKG_VERSION")) ". This page needs no network." } }
                }
            }
        }
        .into_string()
    }

    fn summary(&self) -> Markup {
        html! {
            div.headlines { @for experiment in self.result_set.experiments() { (self.headline(&experiment)) } }
            h3 { "Findings" }
            @if self.findings.is_empty() { p { "None of the paper's claims can be tested on these results." } }
            @else {
                p { "These claims of the paper are tested on the results of this page. A contradicted claim is a result like any \
                     other." }
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
        let stepped_back = self.result_set.stepped_back();
        html! {
            (self.results.html(folder))
            p.files { a href={ (words::address(folder)) "/" (ROWS) } { (ROWS) } " has one line per result, with all of its parameters and its key. " a href={ (words::address(folder)) "/" (RESULTS) } { (RESULTS) } " also has every victim's answer to every test image; " code { "hemlock report --from" } " makes this page from it." }
            @for said in stepped_back { p { (said) } }
            @if let Some(paper) = &self.paper { (paper.html(folder)) }
            @if !self.noise.is_empty() { (self.noise.html(folder)) }
        }
    }

    /// The headline of an experiment: its strongest attack with images, its strongest one within 8/255, and its
    /// strongest one on features alone.
    fn headline(&self, experiment: &Experiment) -> Markup {
        let configs = &experiment.configs;
        let drop = |c: &ConfigGroup| c.mean(quantity::drop).map_or(f64::NEG_INFINITY, |e| e.mean);
        let best = |of: &dyn Fn(&ConfigGroup) -> bool| {
            let of: Vec<&ConfigGroup> = configs.iter().copied().filter(|c| of(c)).collect();
            Some((of.len(), of.into_iter().max_by(|a, b| drop(a).total_cmp(&drop(b)))?))
        };
        let features = best(&|c| c.mean(quantity::features).is_some() && c.mean(quantity::images).is_none());
        // Noise that replaces training images has another poison fraction, and a table of its own.
        let adds = |c: &ConfigGroup| c.mean(quantity::images).is_some() && !c.replaces();
        let images = best(&adds).or_else(|| best(&|c| c.mean(quantity::images).is_some()));
        let clean = best(&|c| c.linf().is_some_and(|l| l <= 8.0) && adds(c));
        // If all attacks are within the limit, this line would repeat the first one.
        let clean = clean.filter(|(n, _)| images.is_none_or(|(all, _)| *n < all));
        let lines = [("with images", images), ("within 8/255", clean), ("on features alone", features)];
        html! {
            article {
                h3 { (experiment.name) }
                @if configs.is_empty() { p { "No result yet. " code { (experiment.results.command) } " computes results." } }
                div.lines { @for (what, best) in lines { @if let Some((n, config)) = best { (headline(&strongest(n, what), config)) } } }
            }
        }
    }

    fn setting(&self, experiment: &Experiment, several: bool) -> Markup {
        let configs = &experiment.configs;
        html! {
            @if several { h3 { (experiment.name) } }
            @if configs.is_empty() { p.absent { "Not shown: there is no result yet, or another pipeline on this page has the same ones." } }
            @else {
                dl.facts {
                    @for (what, text) in setting::describe(configs) { div { dt { (what) } dd { (text) } } }
                    @if let Some(test) = tested_on(&configs[0].rows[0]) {
                        div { dt { "Resolution" } dd { "Accuracy is measured on " (test) " test images. One image is " (words::percent(1.0 / test as f64)) " points." } }
                    }
                }
            }
        }
    }

    fn findings(&self, folder: &str) -> Markup {
        html! {
            p {
                "A claim is confirmed if every comparison supports it at the level 0.05 (one-sided). It is \
                 contradicted if some comparison shows the opposite at this level divided by the number of \
                 comparisons. Otherwise it is undecided. Tests and intervals treat extractors, training data, attacks \
                 and test images as random effects (docs/findings.md), and each verdict states what it generalises to."
            }
            @if !self.verdicts.is_empty() {
                p.files { a href={ (words::address(folder)) "/" (self.verdicts.name) ".csv" } { (self.verdicts.name) ".csv" } " has one line per claim that was tested." }
            }
            @for (f, table) in &self.findings {
                section.finding id=(f.id) {
                    h3 { (f.id) ". " (f.claim) " " (chip(f.verdict)) }
                    p { strong { "Test. " } (f.test) }
                    p { strong { "Verdict. " } (f.reason) }
                    @for scope in f.scopes() { p { strong { "Scope. " } "The verdict holds " (scope) "." } }
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
        let runs: Vec<&str> = self.result_set.pipelines.iter().map(|m| m.command.as_str()).collect();
        html! {
            dl.facts {
                div { dt { "Results" } dd { @for run in runs { code { (run) } } } }
                div { dt { "This page" } dd { code { (self.command) } } }
                @for (what, values) in self.provenance.facts() {
                    @if !values.is_empty() { div { dt { (what) } dd { @for v in values { span.value { (v) } } } } }
                }
                @if all > 0 { div { dt { "Artifacts" } dd { (all - missing) " of " (all) " are in the artifact root." } } }
                @else { div { dt { "Artifacts" } dd { "The results are from files, without the artifacts that they come from." } } }
            }
            @if !self.times.is_empty() { (self.times.html(folder)) }
            @if all > 0 { details { summary { "All " (all) " artifacts" } (self.artifacts.html(folder)) } }
        }
    }
}

/// The pairs that a finding did not compare, and why.
fn apart(finding: &Finding) -> Markup {
    html! {
        @if !finding.apart.is_empty() {
            details.apart {
                summary { "Not comparable: " (finding.apart.len() + finding.apart_more) }
                p { "These pairs would be compared if they did not also differ in parameters that the finding does not ask \
                     about." }
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
    if of == 1 { format!("The only attack {what}") } else { format!("The strongest of {of} attacks {what}") }
}

fn headline(what: &str, config: &ConfigGroup) -> Markup {
    let mean = |q| config.mean(q).map(|e| words::percent(e.mean)).unwrap_or_default();
    let drop = config.mean(quantity::drop);
    let interval = drop.and_then(|e| {
        Some(format!(
            "95 % CI {} to {}",
            words::percent(e.mean - e.half_width()?),
            words::percent(e.mean + e.half_width()?)
        ))
    });
    let poisoned = config.mean(|r| Some(r.accuracy.clean - quantity::drop(r)?));
    html! {
        div.headline {
            p.what { (what) }
            p.drop { strong { (drop.map(|e| words::number(100.0 * e.mean, 1)).unwrap_or_default()) } " points of accuracy" @if let Some(i) = interval { span.interval { (i) } } }
            p.how {
                "Accuracy changes from " (mean(quantity::clean)) " % to " (poisoned.map(|e| words::percent(e.mean)).unwrap_or_default()) " % with "
                (words::share(config.poison_fraction())) " of poisons (" (config.label) ")."
                @if let Some((control, e)) = control(config) { " " (control) " " (words::number(100.0 * e.mean, 1)) " points." }
            }
        }
    }
}

/// The beginning of a sentence about the control of an attack, and the drop that the control costs. The control is
/// flipped labels; for noise, which should make images useless, it is training without these images.
fn control(config: &ConfigGroup) -> Option<(&'static str, Estimate)> {
    if config.replaces() {
        return Some(("Training without these images costs", config.mean(quantity::drop_of_removed)?));
    }
    Some(("Flipping as many labels costs", config.mean(quantity::drop_of_flips)?))
}

fn chip(verdict: Verdict) -> Markup {
    let sign = match verdict {
        Verdict::Confirmed => "✓",
        Verdict::Contradicted => "✗",
        Verdict::Undecided => "?",
    };
    html! { span class={ "chip " (verdict.word()) } { span aria-hidden="true" { (sign) " " } (verdict.word()) } }
}
