//! Where the parts of a chart stand.

use super::{Chart, HEIGHT, LETTER, LINE, LINES, LegendEntry, MARGIN, NAME, Scale, WIDTH, axis::Span};
use crate::words::wrapped;

/// The ticks of an axis: their places, and their labels in lines.
type Labels = Vec<(f64, Vec<String>)>;

/// The parts of a chart and their positions, in pixels from the upper left corner.
pub struct ChartLayout<'c> {
    /// The range of the horizontal axis.
    pub x: Span,
    /// The range of the vertical axis.
    pub y: Span,
    /// Whether the vertical axis has names, so that bars and error bars are horizontal.
    pub sideways: bool,
    /// The left edge of the plot.
    pub left: i32,
    /// The right edge of the plot.
    pub right: i32,
    /// The upper edge of the plot.
    pub top: i32,
    /// The lower edge of the plot.
    pub bottom: i32,
    /// The title, in lines; empty if it is not drawn.
    pub title: Vec<String>,
    /// The labels below the horizontal axis.
    pub x_labels: Labels,
    /// The labels beside the vertical axis.
    pub y_labels: Labels,
    /// The title of the horizontal axis, in lines.
    pub x_title: Vec<String>,
    /// The upper edge of the title of the horizontal axis.
    pub x_title_top: i32,
    /// The title of the vertical axis, in lines.
    pub y_title: Vec<String>,
    /// The entries of the legend; empty if it is not drawn.
    pub legend: Vec<LegendEntry<'c>>,
    /// The upper edge of the legend.
    pub legend_top: i32,
    /// The height of the chart.
    pub height: i32,
}

impl<'c> ChartLayout<'c> {
    /// Lays out a chart, with its title and its legend if it stands `alone`.
    pub fn new(chart: &'c Chart, alone: bool) -> Self {
        let sideways = matches!(chart.y.scale, Scale::Names(_));
        let (x, y) = spans(chart, sideways);
        let title = if alone { wrapped(&chart.title, 58) } else { Vec::new() };
        let legend = if alone { chart.legend() } else { Vec::new() };

        // Sizes depend on each other: the plot is as high as its names need, and titles break at its edges.
        let y_labels = labels(&y, NAME);
        let plot_height = if sideways { heights_of(&y_labels).max(HEIGHT / 3) } else { HEIGHT - 75 };
        let y_title = balanced(&chart.y.title, (f64::from(plot_height + 2 * MARGIN) / LETTER) as usize);
        let longest = y_labels.iter().flat_map(|(_, l)| l).map(|l| l.chars().count()).max().unwrap_or(0);
        let left = 16 + (LINE + 1) * y_title.len() as i32 + (LETTER * longest as f64) as i32;
        let right = WIDTH - 16;
        let top = MARGIN + (LINE + 4) * title.len() as i32;
        let bottom = top + plot_height;

        let broad = f64::from(right - left);
        let each = if x.has_names() { broad / (x.high() - x.low()) } else { broad };
        let x_labels = labels(&x, (each / LETTER) as usize);
        let x_title = balanced(&chart.x.title, (broad / LETTER) as usize);
        let x_lines = x_labels.iter().map(|(_, l)| l.len()).max().unwrap_or(1) as i32;
        let x_title_top = bottom + 8 + LINE * x_lines + 4;
        let legend_top = x_title_top + (LINE + 1) * x_title.len() as i32 + 6;
        let rows = legend.iter().map(|entry| entry.row + entry.lines.len() as i32).max().unwrap_or(0);
        let height = legend_top + (LINE + 4) * rows;
        Self {
            x,
            y,
            sideways,
            left,
            right,
            top,
            bottom,
            title,
            x_labels,
            y_labels,
            x_title,
            x_title_top,
            y_title,
            legend,
            legend_top,
            height,
        }
    }

    /// The horizontal position of a place on the horizontal axis.
    pub fn across(&self, place: f64) -> f64 {
        f64::from(self.left) + self.x.share(place) * f64::from(self.right - self.left)
    }

    /// The vertical position of a place on the vertical axis.
    pub fn down(&self, place: f64) -> f64 {
        f64::from(self.bottom) - self.y.share(place) * f64::from(self.bottom - self.top)
    }
}

/// The ranges of both axes: all points with their error bars, and the reference lines.
fn spans(chart: &Chart, sideways: bool) -> (Span, Span) {
    let points = || chart.series.iter().flat_map(|s| &s.points);
    let ends = |value: f64, spread: f64| [value - spread, value + spread];
    let x = points().flat_map(|p| ends(p.x, if sideways { p.spread } else { 0.0 }));
    let y = points().flat_map(|p| ends(p.y, if sideways { 0.0 } else { p.spread }));
    (Span::new(&chart.x, x), Span::new(&chart.y, y.chain(chart.references.iter().map(|r| r.0))))
}

/// The labels of an axis, in lines of at most `width` characters.
fn labels(span: &Span, width: usize) -> Labels {
    span.labels().into_iter().map(|(at, label)| (at, lines(&label, width))).collect()
}

/// The height that names beside the vertical axis need, in pixels.
fn heights_of(names: &Labels) -> i32 {
    let tallest = names.iter().map(|(_, l)| l.len()).max().unwrap_or(1) as i32;
    (LINE * tallest + 8) * names.len() as i32
}

/// A title in as few lines as it needs, of about the same length.
fn balanced(title: &str, width: usize) -> Vec<String> {
    let lines = wrapped(title, width).len();
    let narrowest = (1..width).find(|width| wrapped(title, *width).len() <= lines);
    wrapped(title, narrowest.unwrap_or(width))
}

/// A label in at most [`LINES`] lines; a longer one is cut.
fn lines(label: &str, width: usize) -> Vec<String> {
    // A number is not separated from its unit.
    let mut lines = balanced(&label.replace(" %", "\u{a0}%"), width);
    if lines.len() > LINES {
        lines.truncate(LINES);
        if let Some(last) = lines.last_mut() {
            let kept: String = last.chars().take(width.saturating_sub(1)).collect();
            *last = kept + "…";
        }
    }
    lines
}
