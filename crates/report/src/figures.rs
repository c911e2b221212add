//! The figures. Each is made of charts or pictures, or says why there is none.

mod bounds;
mod classes;
mod curves;
mod drops;
mod map;
mod pictures;
mod stages;
mod times;

use crate::{
    Case, ReportError,
    case::quantity,
    chart::{Chart, MOST},
    evidence::Evidence,
    provenance::Provenance,
    words,
};
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
    pub body: Vec<Markup>,
}

impl Figure {
    fn new(id: &'static str, title: &'static str, caption: impl Into<String>) -> Self {
        Self { id, title, caption: caption.into(), body: Vec::new() }
    }

    /// Adds a chart; `describe` is what it shows, for who cannot see it.
    fn chart(&mut self, chart: &Chart, describe: &str) -> Result<(), ReportError> {
        self.body.push(chart.html(describe, !chart.title.eq_ignore_ascii_case(self.title))?);
        Ok(())
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

    /// The figure in the page, under its title.
    pub fn html(&self) -> Markup {
        html! { section id=(self.id) { h3 { (self.title) } (self.untitled()) } }
    }

    /// The same without its title.
    pub fn untitled(&self) -> Markup {
        html! {
                @if self.body.is_empty() { p.absent { "Not shown: " (self.caption) } }
                @else {
                    figure {
                        div.panels { @for panel in &self.body { (panel) } }
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

/// All other figures, in order.
pub fn all(evidence: &Evidence, provenance: &Provenance) -> Result<Vec<Figure>, ReportError> {
    Ok(vec![
        drops::over_budget(evidence)?,
        drops::over_visibility(evidence)?,
        drops::over_beta(evidence)?,
        pictures::figure(evidence)?,
        map::figure(evidence)?,
        classes::figure(evidence)?,
        bounds::figure(evidence)?,
        curves::of_attacks(evidence)?,
        curves::pretraining(evidence)?,
        times::figure(provenance)?,
    ])
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
    ranked.truncate(most.min(MOST));
    let kept: Vec<&Case> = cases.iter().copied().filter(|c| ranked.iter().any(|r| std::ptr::eq(*r, *c))).collect();
    let left = cases.len() - kept.len();
    (kept, (left > 0).then(|| format!(" Of {} results the {} that cost most.", cases.len(), cases.len() - left)))
}
