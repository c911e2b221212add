//! Charts as SVG. Axes have titles and units, series differ in colour, shape and dash, and the legend is HTML, which
//! wraps.
//!
//! - Colours are written as they look on paper. For each of them, the page's style sheet has a rule that says what it
//!   becomes in dark mode ([`style`]).
//! - Charts are drawn in units of a quarter of a pixel, because plotters rounds to whole units.
//! - The width of a text depends on the fonts of whoever shows it, so axes leave room for wide letters.

mod axis;
mod canvas;
mod layout;
mod marks;

pub use axis::{ChartAxis, Scale};

use crate::{ReportError, words::wrapped};
use canvas::Canvas;
use layout::ChartLayout;
use maud::{Markup, PreEscaped, html};
use plotters::prelude::*;

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
    /// Half the length of the error bar, along the axis that has no names, or half the height of the band; 0 for none.
    pub spread: f64,
}

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkKind {
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
    /// A shaded band around the points.
    Band,
}

/// A series of points with a name and a style.
#[derive(Debug, Clone)]
pub struct Series {
    /// The name in the legend.
    pub name: String,
    /// The points.
    pub points: Vec<Point>,
    /// How the points are drawn.
    pub drawn: MarkKind,
    /// The number of its colour, marker and dash.
    pub style: usize,
}

/// A chart with two axes.
#[derive(Debug, Clone)]
pub struct Chart {
    /// The title: what the chart shows, in a few words.
    pub title: String,
    /// The horizontal axis.
    pub x: ChartAxis,
    /// The vertical axis.
    pub y: ChartAxis,
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
        for series in self.named() {
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
    fn named(&self) -> Vec<&Series> {
        let named: Vec<&Series> = self.series.iter().filter(|s| !s.name.is_empty()).collect();
        if named.len() > 1 || !self.references.is_empty() { named } else { Vec::new() }
    }

    /// Draws the chart. If `alone`, it is on white and has its title and its legend, which are HTML in the page.
    fn draw(&self, alone: bool) -> Result<String, ReportError> {
        let layout = ChartLayout::new(self, alone);
        let mut svg = String::new();
        {
            let size = ((WIDTH * UNIT) as u32, (layout.height * UNIT) as u32);
            let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
            if alone {
                area.fill(&WHITE).map_err(failed)?;
            }
            let canvas = Canvas { area: &area, layout: &layout };
            canvas.axes()?;
            canvas.titles()?;
            canvas.data(self)?;
            canvas.legend()?;
            area.present().map_err(failed)?;
        }
        Ok(svg)
    }

    /// The entries of the legend with their positions.
    fn legend(&self) -> Vec<LegendEntry<'_>> {
        let series = self.named().into_iter().map(|s| (Some(s), s.name.as_str()));
        let references = self.references.iter().map(|(_, name)| (None, name.as_str()));
        let (mut left, mut row, beside) = (0, 0, SAMPLE.0 + 8);
        let placed = series.chain(references).map(|(series, name)| {
            let lines = wrapped(name, (f64::from(WIDTH - 2 * MARGIN - beside) / LETTER) as usize);
            let letters = lines.iter().map(|l| l.chars().count()).max().unwrap_or(0);
            let wide = beside + (LETTER * letters as f64) as i32;
            if left > 0 && left + wide > WIDTH - 2 * MARGIN {
                (left, row) = (0, row + 1);
            }
            let entry = LegendEntry { series, left, row, lines };
            // An entry of several lines has its row to itself.
            row += entry.lines.len() as i32 - 1;
            left = if entry.lines.len() > 1 { WIDTH } else { left + wide + 20 };
            entry
        });
        placed.collect()
    }
}

/// An entry of a legend.
pub struct LegendEntry<'c> {
    /// The series; `None` for a reference line.
    series: Option<&'c Series>,
    /// The left edge, in pixels from the left edge of the legend.
    left: i32,
    /// The index of its first line.
    row: i32,
    /// The name, in lines.
    lines: Vec<String>,
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
            x: ChartAxis { scale, ..ChartAxis::linear("x, s") },
            y: ChartAxis::from_zero("y, points"),
            series: vec![
                series(0, MarkKind::Line),
                series(1, MarkKind::Bars),
                series(2, MarkKind::Cloud),
                series(3, MarkKind::Band),
            ],
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
        let names = ChartAxis::names(
            "y",
            vec!["a class of a name that nobody would write: antidisestablishmentarianism".into(); 12],
        );
        let named = Chart { y: names.clone(), ..long.clone() };
        let sizes = Chart { y: ChartAxis { ..ChartAxis::linear("y") }, ..long.clone() };
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
