//! The figures of a report. Each consists of charts or pictures, or says why there are none.

mod bounds;
mod certified;
mod classes;
mod curves;
mod drops;
mod map;
mod pictures;
mod stages;
mod times;

use crate::{
    ConfigGroup, ReportError, chart::Chart, config_group::quantity, provenance::Provenance, result_set::ResultSet,
    words,
};
use maud::{Markup, html};

/// A figure: a title, a caption, and charts or pictures.
pub struct Figure {
    /// The anchor in the page, and the beginning of the names of its files.
    pub id: &'static str,
    /// The title.
    pub title: &'static str,
    /// The caption, which says how to read the figure; if the figure is empty, the reason for it.
    pub caption: String,
    /// The charts or pictures; empty if there is nothing to show.
    pub body: Vec<Panel>,
    /// Whether the figure lacks something because artifacts do not exist any more.
    pub incomplete: bool,
}

/// A chart, or a group of pictures.
pub struct Panel {
    shown: Markup,
    /// The file of the chart beside the page; `None` for pictures.
    pub drawing: Option<Drawing>,
}

/// A chart as an SVG file.
pub struct Drawing {
    /// The name of the file.
    pub name: String,
    /// The content of the file.
    pub svg: String,
}

impl Figure {
    fn new(id: &'static str, title: &'static str, caption: impl Into<String>) -> Self {
        Self { id, title, caption: caption.into(), body: Vec::new(), incomplete: false }
    }

    /// Adds a chart; `describe` is the text for readers who cannot see it.
    fn chart(&mut self, chart: &Chart, describe: &str) -> Result<(), ReportError> {
        let titled = !chart.title.eq_ignore_ascii_case(self.title);
        let named = if titled { words::file_name(&format!("{} {}", self.id, chart.title)) } else { self.id.to_owned() };
        // Names are cut after 80 characters, so that two long titles may give the same one.
        let names = std::iter::once(named.clone()).chain((2..).map(|n| format!("{named}-{n}")));
        let taken = |name: &str| self.drawings().any(|drawing| drawing.name == name);
        let name = names.map(|name| name + ".svg").find(|name| !taken(name)).expect("numbers do not end");
        let drawing = Some(Drawing { name, svg: chart.svg()? });
        self.body.push(Panel { shown: chart.html(describe, titled)?, drawing });
        Ok(())
    }

    /// Adds a group of pictures.
    fn pictures(&mut self, shown: Markup) {
        self.body.push(Panel { shown, drawing: None });
    }

    /// The files of the charts.
    pub fn drawings(&self) -> impl Iterator<Item = &Drawing> {
        self.body.iter().filter_map(|panel| panel.drawing.as_ref())
    }

    /// Adds a sentence to the caption, unless the caption has it already.
    fn remark(&mut self, remark: Option<String>) {
        let new = remark.filter(|remark| !self.caption.contains(remark.as_str()));
        self.caption += &new.unwrap_or_default();
    }

    /// The figure; if it is empty, with `why` as its caption.
    fn or(self, why: &str) -> Self {
        if self.body.is_empty() { Self { caption: why.to_owned(), ..self } } else { self }
    }

    /// The figure as HTML under its title; `folder` is the folder of the charts' files.
    pub fn html(&self, folder: &str) -> Markup {
        html! { section id=(self.id) { h3 { (self.title) } (self.untitled(folder)) } }
    }

    /// The figure as HTML without its title.
    pub fn untitled(&self, folder: &str) -> Markup {
        let address = |drawing: &Drawing| format!("{}/{}", words::address(folder), drawing.name);
        html! {
            @if self.incomplete { p.notice role="note" { strong { "Incomplete. " } "Artifacts that this figure needs are not in the artifact root." } }
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

/// Draws accuracy from stage to stage of the attack.
pub fn stages(result_set: &ResultSet) -> Result<Figure, ReportError> {
    stages::figure(result_set)
}

/// A function that draws a figure.
type Draw = fn(&ResultSet) -> Result<Figure, ReportError>;

/// Draws all other figures, in the order of the page.
pub fn all(result_set: &ResultSet, provenance: &Provenance) -> Result<Vec<Figure>, ReportError> {
    let of: [Draw; 11] = [
        drops::over_budget,
        drops::over_visibility,
        drops::over_beta,
        drops::over_passes,
        pictures::figure,
        map::figure,
        classes::figure,
        bounds::figure,
        certified::figure,
        curves::of_attacks,
        curves::pretraining,
    ];
    let drawn = of.into_iter().map(|figure| {
        let (figure, incomplete) = result_set.watched(|| figure(result_set));
        Ok(Figure { incomplete, ..figure? })
    });
    drawn.chain(std::iter::once_with(|| times::figure(provenance))).collect()
}

/// The title of a chart, after the name of its experiment if the report has several.
fn titled(result_set: &ResultSet, experiment: &str, title: &str) -> String {
    if result_set.experiments().len() > 1 { format!("{experiment}: {title}") } else { words::capital(title) }
}

/// The name of a configuration's poisoned features, which all inversions of them share: solver, constraint and poison
/// fraction, as far as the attack has them.
fn features_name(config: &ConfigGroup) -> String {
    let of = |field: &str| config.of_feature_attack(field).map(words::value);
    let constraint = of("constraint").map(|set| if set == "none" { "no constraint".to_owned() } else { set });
    let parts = [of("solver"), constraint, Some(words::share(config.poison_fraction()))];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// The `most` configurations with the largest drops, in their original order, and a remark if others are left out.
fn strongest<'c>(configs: &[&'c ConfigGroup], most: usize) -> (Vec<&'c ConfigGroup>, Option<String>) {
    let drop = |c: &ConfigGroup| c.mean(quantity::drop).map_or(f64::NEG_INFINITY, |e| e.mean);
    let mut ranked = configs.to_vec();
    ranked.sort_by(|a, b| drop(b).total_cmp(&drop(a)));
    ranked.truncate(most);
    let kept: Vec<&ConfigGroup> =
        configs.iter().copied().filter(|c| ranked.iter().any(|r| std::ptr::eq(*r, *c))).collect();
    let left = configs.len() - kept.len();
    let remark = format!(" Only the {} results with the largest drops are drawn, of {}.", kept.len(), configs.len());
    (kept, (left > 0).then_some(remark))
}
