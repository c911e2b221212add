//! The figure of times: seconds by stage.

use super::Figure;
use crate::{
    ReportError,
    chart::{Axis, Chart, Drawn, Point, Series},
    provenance::Provenance,
    words,
};

/// Draws the time of every task, and of all tasks of a stage together.
pub fn figure(provenance: &Provenance) -> Result<Figure, ReportError> {
    let mut figure = Figure::new(
        "times",
        "Time of every stage",
        "Time of every task, as its manifest says, and of all tasks of a stage together. Tasks that were cached count as when they were made.",
    );
    let taken = provenance.taken();
    if taken.is_empty() {
        return Ok(figure.or("no artifact is there."));
    }
    // The first stage is at the top.
    let stages = || taken.iter().rev().enumerate();
    let point = |stage: usize, seconds: f64| Point { x: seconds.max(1e-3), y: stage as f64, spread: 0.0 };
    let tasks = stages().flat_map(|(i, t)| t.seconds.iter().map(move |s| point(i, *s))).collect();
    let totals = stages().map(|(i, t)| point(i, t.seconds.iter().sum())).collect();
    let chart = Chart {
        title: figure.title.to_owned(),
        x: Axis::log("Time, s (logarithmic)"),
        y: Axis::names("Stage", taken.iter().rev().map(|t| t.stage.clone()).collect()),
        series: vec![
            Series { name: "one task".to_owned(), points: tasks, drawn: Drawn::Cloud, style: 0 },
            Series { name: "all tasks of the stage".to_owned(), points: totals, drawn: Drawn::Points, style: 3 },
        ],
        references: Vec::new(),
    };
    let told = taken.iter().map(|t| format!("{} {}", t.stage, words::seconds(t.seconds.iter().sum())));
    figure.chart(&chart, &format!("All tasks together: {}.", told.collect::<Vec<_>>().join(", ")))?;
    Ok(figure)
}
