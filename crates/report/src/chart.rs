//! Charts as SVG: axes with titles and units, series that differ in colour, shape and dash, and a legend in HTML, which
//! wraps.
//!
//! Colours are written as they look on paper; the page's style sheet has a rule for each of them that says what it is
//! in the dark ([`style`]). Charts are drawn in units of a quarter of a pixel, since plotters rounds to whole units.
//! How wide a text is depends on who shows it: axes leave room for wide letters.

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

/// Units in a pixel.
const UNIT: i32 = 4;
/// Width of a chart in pixels, and its height where nothing needs more.
const WIDTH: i32 = 520;
const HEIGHT: i32 = 330;
/// Pixels of a line of labels, and of a letter in it, at most.
const LINE: i32 = 18;
const LETTER: f64 = 8.4;
/// Pixels above the plot, at least: below it there are more.
const MARGIN: i32 = 10;
/// Most letters of a name down the side, and most of its lines.
const NAME: usize = 25;
const LINES: usize = 3;
/// What a sample in a legend takes, in pixels.
const SAMPLE: (i32, i32) = (30, 14);
/// Says of a file who made it.
pub const MARK: &str = "<!-- a chart of a Hemlock report -->";
/// Who shows a chart by itself may have any of these letters.
const FONT: &str = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif";

/// Colours of series: Okabe and Ito's, which colour-blind people can tell apart. On paper, and in the dark.
const SERIES: [(RGBColor, &str); 7] = [
    (RGBColor(0x00, 0x72, 0xB2), "#5AB0E8"),
    (RGBColor(0xD5, 0x5E, 0x00), "#FF9250"),
    (RGBColor(0x00, 0x9E, 0x73), "#3CCBA0"),
    (RGBColor(0xCC, 0x79, 0xA7), "#E9A6CB"),
    (RGBColor(0xE6, 0x9F, 0x00), "#F4BE4A"),
    (RGBColor(0x56, 0xB4, 0xE9), "#A5DAF8"),
    (RGBColor(0x44, 0x44, 0x44), "#CFCFCF"),
];
/// Of text, of axes and references, and of the grid.
const INK: (RGBColor, &str) = (RGBColor(0x22, 0x26, 0x2A), "#E6E7E9");
const MUTED: (RGBColor, &str) = (RGBColor(0x6A, 0x71, 0x78), "#9EA5AD");
const GRID: (RGBColor, &str) = (RGBColor(0xE4, 0xE7, 0xEA), "#34393F");

/// Most series of a chart, so that they can be told apart.
pub const MOST: usize = 7;

/// A point of a series.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    /// Where it is.
    pub x: f64,
    /// How high.
    pub y: f64,
    /// Half the length of its error bar, along the axis that has no names; 0: none.
    pub spread: f64,
}

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drawn {
    /// Points, joined.
    Line,
    /// A curve without points.
    Curve,
    /// Points alone.
    Points,
    /// Small points, of which there are many.
    Cloud,
    /// Bars from 0.
    Bars,
}

/// Some points that belong together.
#[derive(Debug, Clone)]
pub struct Series {
    /// What the legend calls it.
    pub name: String,
    /// Its points.
    pub points: Vec<Point>,
    /// How it is drawn.
    pub drawn: Drawn,
    /// Which colour, shape and dash it has.
    pub style: usize,
}

/// A chart.
#[derive(Debug, Clone)]
pub struct Chart {
    /// What it shows, in a few words.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical one.
    pub y: Axis,
    /// What is drawn.
    pub series: Vec<Series>,
    /// Horizontal lines to compare with: height, and name.
    pub references: Vec<(f64, String)>,
}

fn failed<E: std::error::Error + Send + Sync>(e: DrawingAreaErrorKind<E>) -> ReportError {
    ReportError::draw(e)
}

impl Chart {
    /// The chart with its legend; `describe` is what it shows, for who cannot see it. Its title may be that of its
    /// figure, and not shown.
    pub fn html(&self, describe: &str, titled: bool) -> Result<Markup, ReportError> {
        let label = html! { svg role="img" aria-label={ (self.title) ". " (describe) } {} }.into_string();
        // The drawing library's own opening tag, with what a screen reader is told.
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

    /// The chart as a file that stands alone: with its title and its legend, on white.
    pub fn svg(&self) -> Result<String, ReportError> {
        let svg = self.draw(true)?;
        let (opening, rest) = svg.split_once('>').unwrap_or((&svg, ""));
        // As large as it is to be shown, not as fine as it is drawn.
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

    /// The series that a legend tells apart: of one alone there is nothing to tell.
    fn told(&self) -> Vec<&Series> {
        let named: Vec<&Series> = self.series.iter().filter(|s| !s.name.is_empty()).collect();
        if named.len() > 1 || !self.references.is_empty() { named } else { Vec::new() }
    }

    /// The drawing; `alone`, on white, with title and legend, which the page sets as text otherwise.
    fn draw(&self, alone: bool) -> Result<String, ReportError> {
        let points = || self.series.iter().flat_map(|s| &s.points);
        // Names down the side stand where names along the foot have more room than there is: values go to the right
        // then.
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
        // The sizes that depend on each other: the plot is as high as its names need, and titles break at its edges.
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

    /// What a legend has, and where.
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
            // Nothing stands beside what takes several lines.
            row += entry.lines.len() as i32 - 1;
            left = if entry.lines.len() > 1 { WIDTH } else { left + wide + 20 };
            entry
        });
        placed.collect()
    }
}

/// What a legend explains.
struct Entry<'c> {
    /// A series; `None`: a line to compare with.
    series: Option<&'c Series>,
    /// Where it begins, in pixels.
    left: i32,
    /// Its first line.
    row: i32,
    /// What it is called.
    lines: Vec<String>,
}

/// A title in as few lines as it takes, of about the same length.
fn balanced(title: &str, width: usize) -> Vec<String> {
    let lines = wrapped(title, width).len();
    let narrowest = (1..width).find(|width| wrapped(title, *width).len() <= lines);
    wrapped(title, narrowest.unwrap_or(width))
}

/// A label in lines; of one that is too long the beginning.
fn lines(label: &str, width: usize) -> Vec<String> {
    // A number stays with its unit.
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

/// The style sheet's rules for the colours of charts.
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

    /// The texts of a drawing, with where they begin and end along the axis that they are written on, if letters are as
    /// wide as they may be, and the size of the drawing along it.
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
        // All words of the titles are there.
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
