//! The figures. Each is made of charts or pictures, or says why there is none.

mod bounds;
mod classes;
mod curves;
mod drops;
mod map;
mod pictures;
mod stages;
mod times;

use crate::{Case, ReportError, case::quantity, chart::Chart, evidence::Evidence, provenance::Provenance, words};
use maud::{Markup, html};

/// A figure.
pub struct Figure {
    /// Where it can be linked to.
    pub id: &'static str,
    /// What it shows.
    pub title: &'static str,
    /// How to read it.
    pub caption: String,
    /// Its charts or pictures; none: the caption says why.
    pub body: Vec<Panel>,
    /// Whether artifacts are gone that it would show, too.
    pub incomplete: bool,
}

/// A chart or pictures.
pub struct Panel {
    shown: Markup,
    /// Of a chart: its file beside the page.
    pub drawing: Option<Drawing>,
}

/// A chart as a file.
pub struct Drawing {
    /// Its name.
    pub name: String,
    /// What is in it.
    pub svg: String,
}

impl Figure {
    fn new(id: &'static str, title: &'static str, caption: impl Into<String>) -> Self {
        Self { id, title, caption: caption.into(), body: Vec::new(), incomplete: false }
    }

    /// Adds a chart; `describe` is what it shows, for who cannot see it.
    fn chart(&mut self, chart: &Chart, describe: &str) -> Result<(), ReportError> {
        let titled = !chart.title.eq_ignore_ascii_case(self.title);
        let named = if titled { words::file_name(&format!("{} {}", self.id, chart.title)) } else { self.id.to_owned() };
        // Long titles may begin alike.
        let names = std::iter::once(named.clone()).chain((2..).map(|n| format!("{named}-{n}")));
        let taken = |name: &str| self.drawings().any(|drawing| drawing.name == name);
        let name = names.map(|name| name + ".svg").find(|name| !taken(name)).expect("numbers do not end");
        let drawing = Some(Drawing { name, svg: chart.svg()? });
        self.body.push(Panel { shown: chart.html(describe, titled)?, drawing });
        Ok(())
    }

    /// Adds pictures.
    fn pictures(&mut self, shown: Markup) {
        self.body.push(Panel { shown, drawing: None });
    }

    /// The files of its charts.
    pub fn drawings(&self) -> impl Iterator<Item = &Drawing> {
        self.body.iter().filter_map(|panel| panel.drawing.as_ref())
    }

    /// Adds a sentence to the caption, if there is one that it does not have.
    fn remark(&mut self, remark: Option<String>) {
        let new = remark.filter(|remark| !self.caption.contains(remark.as_str()));
        self.caption += &new.unwrap_or_default();
    }

    /// The figure, or why there is none.
    fn or(self, why: &str) -> Self {
        if self.body.is_empty() { Self { caption: why.to_owned(), ..self } } else { self }
    }

    /// The figure in the page, under its title; `folder` is where the files of its charts are.
    pub fn html(&self, folder: &str) -> Markup {
        html! { section id=(self.id) { h3 { (self.title) } (self.untitled(folder)) } }
    }

    /// The same without its title.
    pub fn untitled(&self, folder: &str) -> Markup {
        let address = |drawing: &Drawing| format!("{}/{}", words::address(folder), drawing.name);
        html! {
            @if self.incomplete { p.notice role="note" { strong { "Incomplete. " } "Artifacts that this figure is drawn from are gone." } }
            @if self.body.is_empty() {
                @if !self.incomplete { p.absent { "Not shown: " (self.caption) } }
            } @else {
                figure {
                    div.panels {
                        @for panel in &self.body {
                            @match &panel.drawing {
                                Some(drawing) => div.chart { (panel.shown) p.files { a href=(address(drawing)) { (drawing.name) } } },
                                None => (panel.shown),
                            }
                        }
                    }
                    figcaption { (self.caption) }
                }
            }
        }
    }
}

/// Accuracy from stage to stage.
pub fn stages(evidence: &Evidence) -> Result<Figure, ReportError> {
    stages::figure(evidence)
}

/// What draws a figure.
type Draw = fn(&Evidence) -> Result<Figure, ReportError>;

/// All other figures, in order.
pub fn all(evidence: &Evidence, provenance: &Provenance) -> Result<Vec<Figure>, ReportError> {
    let of: [Draw; 10] = [
        drops::over_budget,
        drops::over_visibility,
        drops::over_beta,
        drops::over_passes,
        pictures::figure,
        map::figure,
        classes::figure,
        bounds::figure,
        curves::of_attacks,
        curves::pretraining,
    ];
    let drawn = of.into_iter().map(|figure| {
        let (figure, incomplete) = evidence.watched(|| figure(evidence));
        Ok(Figure { incomplete, ..figure? })
    });
    drawn.chain(std::iter::once_with(|| times::figure(provenance))).collect()
}

/// What a chart is called where a report has several scenes.
fn titled(evidence: &Evidence, scene: &str, title: &str) -> String {
    if evidence.scenes().len() > 1 { format!("{scene}: {title}") } else { words::capital(title) }
}

/// The cases that cost most, in their order, and a remark about the others.
fn strongest<'c>(cases: &[&'c Case], most: usize) -> (Vec<&'c Case>, Option<String>) {
    let drop = |c: &Case| c.mean(quantity::drop).map_or(f64::NEG_INFINITY, |e| e.mean);
    let mut ranked = cases.to_vec();
    ranked.sort_by(|a, b| drop(b).total_cmp(&drop(a)));
    ranked.truncate(most);
    let kept: Vec<&Case> = cases.iter().copied().filter(|c| ranked.iter().any(|r| std::ptr::eq(*r, *c))).collect();
    let left = cases.len() - kept.len();
    (kept, (left > 0).then(|| format!(" Of {} results the {} that cost most.", cases.len(), cases.len() - left)))
}
