//! Charts as SVG. Axes have titles and units, series differ in colour, shape and dash, and the legend is HTML, which
//! wraps.
//!
//! - Colours are written as they look on paper. For each of them, the page's style sheet has a rule that says what it
//!   becomes in dark mode ([`style`]).
//! - Charts are drawn in units of a quarter of a pixel, because plotters rounds to whole units.
//! - The width of a text depends on the fonts of whoever shows it, so axes leave room for wide letters.

mod axis;
mod marks;

pub use axis::{Axis, Scale};

use crate::{ReportError, words::wrapped};
use axis::Span;
use maud::{Markup, PreEscaped, html};
use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

/// Units per pixel.
const UNIT: i32 = 4;
/// Width of a chart in pixels, and its height if its names need no more.
const WIDTH: i32 = 520;
const HEIGHT: i32 = 330;
/// Upper bounds of the height of a line of labels and of the width of a letter, in pixels.
const LINE: i32 = 18;
const LETTER: f64 = 8.4;
/// Least space above the plot, in pixels.
const MARGIN: i32 = 10;
/// The largest number of letters in a line of a name beside the vertical axis, and of lines of a label.
const NAME: usize = 25;
const LINES: usize = 3;
/// Width and height of a sample in a legend, in pixels.
const SAMPLE: (i32, i32) = (30, 14);
/// A comment in every chart's file, by which a report recognises its own files.
pub const MARK: &str = "<!-- a chart of a Hemlock report -->";
/// The fonts of a chart that stands alone, in order of preference.
const FONT: &str = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif";

/// Colours of series, on paper and in dark mode: the palette of Okabe and Ito, which colour-blind people can
/// distinguish.
const SERIES: [(RGBColor, &str); 7] = [
    (RGBColor(0x00, 0x72, 0xB2), "#5AB0E8"),
    (RGBColor(0xD5, 0x5E, 0x00), "#FF9250"),
    (RGBColor(0x00, 0x9E, 0x73), "#3CCBA0"),
    (RGBColor(0xCC, 0x79, 0xA7), "#E9A6CB"),
    (RGBColor(0xE6, 0x9F, 0x00), "#F4BE4A"),
    (RGBColor(0x56, 0xB4, 0xE9), "#A5DAF8"),
    (RGBColor(0x44, 0x44, 0x44), "#CFCFCF"),
];
/// Colours of text, of axes and reference lines, and of the grid, on paper and in dark mode.
const INK: (RGBColor, &str) = (RGBColor(0x22, 0x26, 0x2A), "#E6E7E9");
const MUTED: (RGBColor, &str) = (RGBColor(0x6A, 0x71, 0x78), "#9EA5AD");
const GRID: (RGBColor, &str) = (RGBColor(0xE4, 0xE7, 0xEA), "#34393F");

/// The largest number of series in a chart that can be distinguished.
pub const MOST: usize = 7;

/// A point of a series.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    /// The horizontal position; on an axis of names, the index of the name.
    pub x: f64,
    /// The vertical position; on an axis of names, the index of the name.
    pub y: f64,
    /// Half the length of the error bar, along the axis that has no names; 0 for no error bar.
    pub spread: f64,
}

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drawn {
    /// Markers joined by a line.
    Line,
    /// A line without markers.
    Curve,
    /// Markers without a line.
    Points,
    /// Small markers, for many points.
    Cloud,
    /// Bars that begin at 0.
    Bars,
}

/// A series of points with a name and a style.
#[derive(Debug, Clone)]
pub struct Series {
    /// The name in the legend.
    pub name: String,
    /// The points.
    pub points: Vec<Point>,
    /// How the points are drawn.
    pub drawn: Drawn,
    /// The number of its colour, marker and dash.
    pub style: usize,
}

/// A chart with two axes.
#[derive(Debug, Clone)]
pub struct Chart {
    /// The title: what the chart shows, in a few words.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The series.
    pub series: Vec<Series>,
    /// Horizontal reference lines: height and name.
    pub references: Vec<(f64, String)>,
}

fn failed<E: std::error::Error + Send + Sync>(e: DrawingAreaErrorKind<E>) -> ReportError {
    ReportError::draw(e)
}

impl Chart {
    /// The chart with its legend as HTML. `describe` is the text for readers who cannot see it. `titled` says whether
    /// the title is shown, which is not necessary if the figure has the same title.
    pub fn html(&self, describe: &str, titled: bool) -> Result<Markup, ReportError> {
        let label = html! { svg role="img" aria-label={ (self.title) ". " (describe) } {} }.into_string();
        // The opening tag of the drawing gets a label for screen readers.
        let svg = self.draw(false)?.replacen("<svg", label.trim_end_matches("></svg>"), 1);
        let mut entries = Vec::new();
        for series in self.told() {
            entries.push((marks::swatch(series)?, &series.name));
        }
        Ok(html! {
            @if titled { p.chart-title { (self.title) } }
            div.drawing { (PreEscaped(svg)) }
            @if !entries.is_empty() || !self.references.is_empty() {
                ul.legend {
                    @for (swatch, name) in &entries { li { (PreEscaped(swatch)) span { (name) } } }
                    @for (_, name) in &self.references { li { span.reference {} span { (name) } } }
                }
            }
        })
    }

    /// The chart as an SVG file that stands alone: with title and legend, on white.
    pub fn svg(&self) -> Result<String, ReportError> {
        let svg = self.draw(true)?;
        let (opening, rest) = svg.split_once('>').unwrap_or((&svg, ""));
        // The size is given in pixels, and the view box in the units of the drawing.
        let size = |name: &str| {
            let (_, rest) = opening.split_once(&format!("{name}=\""))?;
            rest.split('"').next()?.parse::<i32>().ok()
        };
        let [width, height] = ["width", "height"].map(|name| size(name).unwrap_or(0));
        let opening = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" viewBox=\"0 0 {width} {height}\"",
            width / UNIT,
            height / UNIT
        );
        let rest = rest.replace("font-family=\"sans-serif\"", &format!("font-family=\"{FONT}\""));
        Ok(format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{opening}>{MARK}{rest}"))
    }

    /// The series in the legend; none, if there is only one series and no reference line.
    fn told(&self) -> Vec<&Series> {
        let named: Vec<&Series> = self.series.iter().filter(|s| !s.name.is_empty()).collect();
        if named.len() > 1 || !self.references.is_empty() { named } else { Vec::new() }
    }

    /// Draws the chart. If `alone`, it is on white and has its title and its legend, which are HTML in the page.
    fn draw(&self, alone: bool) -> Result<String, ReportError> {
        let points = || self.series.iter().flat_map(|s| &s.points);
        // Names are beside the vertical axis if they need more room than a horizontal axis has. Bars and error bars are
        // then horizontal.
        let sideways = matches!(self.y.scale, Scale::Names(_));
        let ends = |p: &Point, value: f64, along: bool| {
            let spread = if along { p.spread } else { 0.0 };
            [value - spread, value + spread]
        };
        let x = Span::new(&self.x, points().flat_map(|p| ends(p, p.x, sideways)));
        let heights = points().flat_map(|p| ends(p, p.y, !sideways));
        let y = Span::new(&self.y, heights.chain(self.references.iter().map(|r| r.0)));

        let title = if alone { wrapped(&self.title, 58) } else { Vec::new() };
        let legend = if alone { self.legend() } else { Vec::new() };
        let y_labels: Vec<(f64, Vec<String>)> =
            y.labels().into_iter().map(|(at, label)| (at, lines(&label, NAME))).collect();
        let longest = y_labels.iter().flat_map(|(_, l)| l).map(|l| l.chars().count()).max().unwrap_or(0);
        let tallest = y_labels.iter().map(|(_, l)| l.len()).max().unwrap_or(1) as i32;
        let top = MARGIN + (LINE + 4) * title.len() as i32;
        // Sizes depend on each other: the plot is as high as its names need, and titles break at its edges.
        let rows = (LINE * tallest + 8) * y_labels.len() as i32;
        let plot_height = if sideways { rows.max(HEIGHT / 3) } else { HEIGHT - 75 };
        let y_title = balanced(&self.y.title, (f64::from(plot_height + 2 * MARGIN) / LETTER) as usize);
        let left = 16 + (LINE + 1) * y_title.len() as i32 + (LETTER * longest as f64) as i32;
        let (right, bottom) = (WIDTH - 16, top + plot_height);
        let broad = f64::from(right - left);
        let name = if matches!(self.x.scale, Scale::Names(_)) { broad / (x.high() - x.low()) } else { broad };
        let x_labels: Vec<(f64, Vec<String>)> =
            x.labels().into_iter().map(|(at, label)| (at, lines(&label, (name / LETTER) as usize))).collect();
        let x_title = balanced(&self.x.title, (broad / LETTER) as usize);
        let x_lines = x_labels.iter().map(|(_, l)| l.len()).max().unwrap_or(1) as i32;
        let foot = bottom + 8 + LINE * x_lines + 4;
        let legend_top = foot + (LINE + 1) * x_title.len() as i32 + 6;
        let height = legend_top + (LINE + 4) * legend.iter().map(|e| e.row + e.lines.len() as i32).max().unwrap_or(0);

        let mut svg = String::new();
        let root =
            SVGBackend::with_string(&mut svg, ((WIDTH * UNIT) as u32, (height * UNIT) as u32)).into_drawing_area();
        if alone {
            root.fill(&WHITE).map_err(failed)?;
        }
        let across = |place: f64| (f64::from(left) + x.share(place) * broad) * f64::from(UNIT);
        let up = |place: f64| (f64::from(bottom) - y.share(place) * f64::from(plot_height)) * f64::from(UNIT);
        let [edge_left, edge_right, edge_top, edge_bottom] = [left, right, top, bottom].map(|px| px * UNIT);
        let line = |ends: [(i32, i32); 2], style: ShapeStyle| root.draw(&PathElement::new(ends.to_vec(), style));
        let text = |text: &str, (px, py): (i32, i32), size: i32, turn: FontTransform, h: HPos, v: VPos| {
            let style = ("sans-serif", size * UNIT).into_font().transform(turn).color(&INK.0).pos(Pos::new(h, v));
            root.draw(&Text::new(text.to_owned(), (px * UNIT, py * UNIT), style))
        };
        let upright = FontTransform::None;

        let grid = GRID.0.stroke_width(UNIT as u32);
        for (at, label) in &x_labels {
            let px = across(*at).round() as i32;
            if !matches!(self.x.scale, Scale::Names(_)) {
                line([(px, edge_top), (px, edge_bottom)], grid).map_err(failed)?;
            }
            for (i, label) in (0..).zip(label) {
                text(label, (px / UNIT, bottom + 8 + LINE * i), 15, upright.clone(), HPos::Center, VPos::Top)
                    .map_err(failed)?;
            }
        }
        for (at, label) in &y_labels {
            let py = up(*at).round() as i32;
            line([(edge_left, py), (edge_right, py)], grid).map_err(failed)?;
            for (i, part) in (0..).zip(label) {
                let middle = py / UNIT + LINE * (2 * i - label.len() as i32 + 1) / 2;
                text(part, (left - 8, middle), 15, upright.clone(), HPos::Right, VPos::Center).map_err(failed)?;
            }
        }
        let muted = MUTED.0.stroke_width(UNIT as u32);
        line([(edge_left, edge_bottom), (edge_right, edge_bottom)], muted).map_err(failed)?;
        line([(edge_left, edge_top), (edge_left, edge_bottom)], muted).map_err(failed)?;
        for (i, part) in (0..).zip(&title) {
            text(part, (10, 8 + (LINE + 4) * i), 17, upright.clone(), HPos::Left, VPos::Top).map_err(failed)?;
        }
        for (i, part) in (0..).zip(&y_title) {
            let at = (6 + (LINE + 1) * i, (top + bottom) / 2);
            text(part, at, 16, FontTransform::Rotate270, HPos::Center, VPos::Top).map_err(failed)?;
        }
        for (i, part) in (0..).zip(&x_title) {
            let at = ((left + right) / 2, foot + (LINE + 1) * i);
            text(part, at, 16, upright.clone(), HPos::Center, VPos::Top).map_err(failed)?;
        }

        let pixel = |px: f64, py: f64| (across(x.place(px)).round() as i32, up(y.place(py)).round() as i32);
        for (height, _) in &self.references {
            let py = up(y.place(*height)).round() as i32;
            let style = MUTED.0.stroke_width(6);
            marks::dashed(&root, &[(edge_left, py), (edge_right, py)], &marks::REFERENCE, style).map_err(failed)?;
        }
        for series in &self.series {
            marks::series(&root, series, &pixel, if sideways { x.floor() } else { y.floor() }, sideways)
                .map_err(failed)?;
        }
        for Entry { series, left, row, lines } in &legend {
            let at = (MARGIN + left, legend_top + (LINE + 4) * row);
            let middle = at.1 + SAMPLE.1 / 2;
            if let Some(series) = series {
                marks::sample(&root, (at.0 * UNIT, at.1 * UNIT), series).map_err(failed)?;
            } else {
                let ends = [at.0, at.0 + SAMPLE.0].map(|px| (px * UNIT, middle * UNIT));
                marks::dashed(&root, &ends, &marks::REFERENCE, MUTED.0.stroke_width(6)).map_err(failed)?;
            }
            for (i, part) in (0..).zip(lines) {
                let beside = (at.0 + SAMPLE.0 + 8, middle + (LINE + 4) * i);
                text(part, beside, 15, upright.clone(), HPos::Left, VPos::Center).map_err(failed)?;
            }
        }
        root.present().map_err(failed)?;
        drop(root);
        Ok(svg)
    }

    /// The entries of the legend with their positions.
    fn legend(&self) -> Vec<Entry<'_>> {
        let series = self.told().into_iter().map(|s| (Some(s), s.name.as_str()));
        let references = self.references.iter().map(|(_, name)| (None, name.as_str()));
        let (mut left, mut row, beside) = (0, 0, SAMPLE.0 + 8);
        let placed = series.chain(references).map(|(series, name)| {
            let lines = wrapped(name, (f64::from(WIDTH - 2 * MARGIN - beside) / LETTER) as usize);
            let letters = lines.iter().map(|l| l.chars().count()).max().unwrap_or(0);
            let wide = beside + (LETTER * letters as f64) as i32;
            if left > 0 && left + wide > WIDTH - 2 * MARGIN {
                (left, row) = (0, row + 1);
            }
            let entry = Entry { series, left, row, lines };
            // An entry of several lines has its row to itself.
            row += entry.lines.len() as i32 - 1;
            left = if entry.lines.len() > 1 { WIDTH } else { left + wide + 20 };
            entry
        });
        placed.collect()
    }
}

/// An entry of a legend.
struct Entry<'c> {
    /// The series; `None` for a reference line.
    series: Option<&'c Series>,
    /// The left edge, in pixels from the left edge of the legend.
    left: i32,
    /// The index of its first line.
    row: i32,
    /// The name, in lines.
    lines: Vec<String>,
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

/// The rules of the style sheet that give charts other colours in dark mode.
pub fn style() -> String {
    let all = SERIES.iter().chain([&INK, &MUTED, &GRID]);
    let rules: String = all
        .map(|(RGBColor(r, g, b), dark)| {
            let paper = format!("#{r:02X}{g:02X}{b:02X}");
            format!(".chart [fill=\"{paper}\"]{{fill:{dark}}}.chart [stroke=\"{paper}\"]{{stroke:{dark}}}\n")
        })
        .collect();
    format!("@media screen and (prefers-color-scheme:dark){{\n{rules}}}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(scale: Scale) -> Chart {
        let points = [(1.0, 2.0), (10.0, 4.0), (100.0, 3.0)].map(|(x, y)| Point { x, y, spread: 0.5 }).to_vec();
        let series =
            |style, drawn| Series { name: format!("series {style} <&>"), points: points.clone(), drawn, style };
        Chart {
            title: "A \"chart\" <1>".to_owned(),
            x: Axis { scale, ..Axis::linear("x, s") },
            y: Axis::from_zero("y, points"),
            series: vec![series(0, Drawn::Line), series(1, Drawn::Bars), series(2, Drawn::Cloud)],
            references: vec![(1.0, "nothing".to_owned())],
        }
    }

    #[test]
    fn a_chart_is_vector_graphics_with_a_text_alternative() {
        let html = chart(Scale::Log).html("It rises & falls", true).unwrap().into_string();
        assert!(
            html.contains("role=\"img\" aria-label=\"A &quot;chart&quot; &lt;1&gt;. It rises &amp; falls\""),
            "{html}"
        );
        assert!(
            html.contains("x, s") && html.contains("y, points") && html.contains("series 1 &lt;&amp;&gt;"),
            "{html}"
        );
        assert!(!html.contains("NaN") && !html.contains("<image"), "{html}");
    }

    /// The texts of a drawing. For each: where it begins and ends along the direction in which it is written, if its
    /// letters are as wide as [`LETTER`] allows, and the size of the drawing in this direction.
    fn texts(svg: &str) -> Vec<(String, [f64; 2], f64)> {
        let attribute = |tag: &str, name: &str| -> Option<f64> {
            tag.split_once(&format!(" {name}=\""))?.1.split('"').next()?.parse().ok()
        };
        let size = ["width", "height"].map(|name| attribute(svg, name).unwrap());
        let texts = svg.split("<text").skip(1).map(|tag| {
            let (opening, rest) = tag.split_once('>').unwrap();
            let text = rest.split("</text>").next().unwrap().trim().to_owned();
            let text = [("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")].iter().fold(text, |t, (a, b)| t.replace(a, b));
            let turned = opening.contains("rotate(270");
            let at = attribute(opening, if turned { "y" } else { "x" }).unwrap();
            let long = text.chars().count() as f64 * LETTER * f64::from(UNIT);
            let before = match opening.split_once("text-anchor=\"").map_or("start", |(_, a)| &a[..3]) {
                "mid" => 0.5,
                "end" => 1.0,
                _ => 0.0,
            };
            let begin = if turned { at - (1.0 - before) * long } else { at - before * long };
            (text, [begin, begin + long], size[usize::from(turned)])
        });
        texts.collect()
    }

    #[test]
    fn no_label_is_cut_however_long_it_is() {
        let mut long = chart(Scale::Log);
        long.y.title =
            "Gradient that is left at the target, as a share of the clean one, in as many words as it takes".to_owned();
        long.x.title = long.y.title.clone();
        long.title = long.y.title.clone();
        long.series[1].name = long.y.title.clone();
        let names = Axis::names(
            "y",
            vec!["a class of a name that nobody would write: antidisestablishmentarianism".into(); 12],
        );
        let named = Chart { y: names.clone(), ..long.clone() };
        let sizes = Chart { y: Axis { ..Axis::linear("y") }, ..long.clone() };
        let large = sizes.series.iter().cloned().map(|mut s| {
            s.points.iter_mut().for_each(|p| p.y *= 1e9);
            s
        });
        let sizes = Chart { series: large.collect(), ..sizes };
        for chart in [&long, &named, &sizes] {
            for svg in [chart.draw(false).unwrap(), chart.draw(true).unwrap()] {
                let texts = texts(&svg);
                assert!(texts.len() > 8, "{texts:?}");
                for (text, [begin, end], size) in texts {
                    assert!(begin >= 0.0 && end <= size, "'{text}' goes from {begin} to {end} of {size}");
                }
            }
        }
        // No word of the titles is lost.
        let svg = long.draw(false).unwrap();
        let said: String = texts(&svg).into_iter().map(|(text, ..)| text + " ").collect();
        assert!(long.y.title.split(' ').all(|word| said.matches(word).count() >= 2), "{said}");
    }

    #[test]
    fn a_file_stands_alone() {
        let svg = chart(Scale::Linear).svg().unwrap();
        assert!(svg.starts_with(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"520\""
        ));
        for inside in ["A &quot;chart&quot; &lt;1&gt;", "series 1 &lt;&amp;&gt;", "nothing", "Helvetica", "#FFFFFF"] {
            assert!(svg.contains(inside), "{inside}: {svg}");
        }
        assert!(svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn every_colour_has_a_counterpart_in_the_dark() {
        let (html, style) = (chart(Scale::Linear).html("", true).unwrap().into_string(), style());
        for attribute in ["fill=\"", "stroke=\""] {
            for colour in html.split(attribute).skip(1).filter_map(|rest| rest.split('"').next()) {
                assert!(colour == "none" || style.contains(colour), "{colour}");
            }
        }
    }

    #[test]
    fn one_point_is_enough() {
        let mut one = chart(Scale::Linear);
        one.series.iter_mut().for_each(|s| s.points.truncate(1));
        assert!(!one.html("", false).unwrap().into_string().contains("NaN"));
    }
}
