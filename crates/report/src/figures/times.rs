//! The figure of times: seconds by stage.

use super::Figure;
use crate::{
    ReportError,
    chart::{Chart, ChartAxis, MarkKind, Point, Series},
    provenance::Provenance,
    words,
};

/// Draws the time of every task, and of all tasks of a stage together.
pub fn figure(provenance: &Provenance) -> Result<Figure, ReportError> {
    let mut figure = Figure::new(
        "times",
        "Time of every stage",
        "The chart shows the time of every task, from its manifest, and of all tasks of a stage together. A cached \
         task counts with the time that it took when it ran.",
    );
    let taken = provenance.taken();
    if taken.is_empty() {
        return Ok(figure.or("there is no artifact."));
    }
    // The first stage is at the top.
    let stages = || taken.iter().rev().enumerate();
    let point = |stage: usize, seconds: f64| Point { x: seconds.max(1e-3), y: stage as f64, spread: 0.0 };
    let tasks = stages().flat_map(|(i, t)| t.seconds.iter().map(move |s| point(i, *s))).collect();
    let totals = stages().map(|(i, t)| point(i, t.seconds.iter().sum())).collect();
    let chart = Chart {
        title: figure.title.to_owned(),
        x: ChartAxis::log("Time, s (logarithmic)"),
        y: ChartAxis::names("Stage", taken.iter().rev().map(|t| t.stage.clone()).collect()),
        series: vec![
            Series { name: "one task".to_owned(), points: tasks, drawn: MarkKind::Cloud, style: 0 },
            Series { name: "all tasks of the stage".to_owned(), points: totals, drawn: MarkKind::Points, style: 3 },
        ],
        references: Vec::new(),
    };
    let values = taken.iter().map(|t| format!("{} {}", t.stage, words::seconds(t.seconds.iter().sum())));
    figure.chart(&chart, &format!("All tasks together: {}.", values.collect::<Vec<_>>().join(", ")))?;
    Ok(figure)
}
