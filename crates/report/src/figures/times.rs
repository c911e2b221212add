//! What every stage took.

use super::Figure;
use crate::{
    ReportError,
    chart::{Axis, Chart, Drawn, Point, Series},
    provenance::Provenance,
    words,
};

/// Seconds by stage.
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
    let point = |x: usize, y: f64| Point { x: x as f64, y: y.max(1e-3), spread: 0.0 };
    let tasks = taken.iter().enumerate().flat_map(|(x, t)| t.seconds.iter().map(move |s| point(x, *s))).collect();
    let totals = taken.iter().enumerate().map(|(x, t)| point(x, t.seconds.iter().sum())).collect();
    let chart = Chart {
        title: "time by stage".to_owned(),
        x: Axis::names("Stage", taken.iter().map(|t| t.stage.clone()).collect()),
        y: Axis::log("Time, s (logarithmic)"),
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
