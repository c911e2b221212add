//! Charts as SVG: axes with titles and units, series that differ in colour, shape and dash, and a legend in HTML, which wraps.
//!
//! Colours are written as they look on paper; the page's style sheet has a rule for each of them that says what it is in the dark
//! ([`style`]). Charts are drawn in units of a quarter of a pixel, since plotters rounds to whole units.

mod axis;
mod marks;

pub use axis::{Axis, Scale};

use crate::ReportError;
use axis::Span;
use maud::{Markup, PreEscaped, html};
use plotters::prelude::*;

/// Units in a pixel.
const UNIT: i32 = 4;
/// Size of a chart, in pixels.
const SIZE: (i32, i32) = (520, 330);

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
    /// The chart with its legend; `describe` is what it shows, for who cannot see it. Its title may be that of its figure, and not shown.
    pub fn html(&self, describe: &str, titled: bool) -> Result<Markup, ReportError> {
        let mut svg = String::new();
        self.draw(&mut svg)?;
        let label = html! { svg role="img" aria-label={ (self.title) ". " (describe) } {} }.into_string();
        // The drawing library's own opening tag, with what a screen reader is told.
        let opening = label.trim_end_matches("></svg>");
        let svg = svg.replacen("<svg", opening, 1);
        let mut entries = Vec::new();
        for series in self.series.iter().filter(|s| !s.name.is_empty()) {
            entries.push((marks::swatch(series)?, &series.name));
        }
        Ok(html! {
            div.chart {
                @if titled { p.chart-title { (self.title) } }
                div.drawing { (PreEscaped(svg)) }
                @if entries.len() > 1 || !self.references.is_empty() {
                    ul.legend {
                        @for (swatch, name) in &entries { li { (PreEscaped(swatch)) span { (name) } } }
                        @for (_, name) in &self.references { li { span.reference {} span { (name) } } }
                    }
                }
            }
        })
    }

    fn draw(&self, svg: &mut String) -> Result<(), ReportError> {
        let points = || self.series.iter().flat_map(|s| &s.points);
        // Names down the side stand where names along the foot have more room than there is: values go to the right then.
        let sideways = matches!(self.y.scale, Scale::Names(_));
        let ends = |p: &Point, value: f64, along: bool| {
            let spread = if along { p.spread } else { 0.0 };
            [value - spread, value + spread]
        };
        let x = Span::new(&self.x, points().flat_map(|p| ends(p, p.x, sideways)));
        let heights = points().flat_map(|p| ends(p, p.y, !sideways));
        let y = Span::new(&self.y, heights.chain(self.references.iter().map(|r| r.0)));
        let size = ((SIZE.0 * UNIT) as u32, (SIZE.1 * UNIT) as u32);
        let root = SVGBackend::with_string(svg, size).into_drawing_area();
        let font = |px: i32, colour: RGBColor| ("sans-serif", px * UNIT).into_font().color(&colour);
        let mut builder = ChartBuilder::on(&root);
        builder.margin(8 * UNIT).margin_right(14 * UNIT);
        builder.x_label_area_size(40 * UNIT).y_label_area_size(self.y.width() * UNIT);
        let (x_label, y_label) = (x.clone(), y.clone());
        let mut chart = builder.build_cartesian_2d(x.clone(), y.clone()).map_err(failed)?;
        let mut mesh = chart.configure_mesh();
        mesh.bold_line_style(GRID.0.stroke_width(UNIT as u32)).light_line_style(TRANSPARENT);
        mesh.axis_style(MUTED.0.stroke_width(UNIT as u32));
        mesh.label_style(font(15, INK.0)).axis_desc_style(font(16, INK.0));
        mesh.x_desc(&self.x.title).y_desc(&self.y.title);
        let (format_x, format_y) = (move |v: &f64| x_label.label(*v), move |v: &f64| y_label.label(*v));
        mesh.x_label_formatter(&format_x).y_label_formatter(&format_y);
        if matches!(self.x.scale, Scale::Names(_)) {
            mesh.disable_x_mesh();
        }
        if sideways {
            mesh.disable_y_mesh();
        }
        mesh.draw().map_err(failed)?;
        for (height, _) in &self.references {
            let line = [(x.low(), *height), (x.high(), *height)].map(|(a, b)| chart.backend_coord(&(a, y.place(b))));
            marks::dashed(&root, &line, &[6, 4], MUTED.0.stroke_width(6)).map_err(failed)?;
        }
        for series in &self.series {
            let place = |px: f64, py: f64| chart.backend_coord(&(x.place(px), y.place(py)));
            marks::series(&root, series, &place, if sideways { x.floor() } else { y.floor() }, sideways)
                .map_err(failed)?;
        }
        root.present().map_err(failed)?;
        drop(chart);
        drop(root);
        Ok(())
    }
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
            x: Axis { title: "x, s".to_owned(), scale, holds: None },
            y: Axis { title: "y, points".to_owned(), scale: Scale::Linear, holds: Some(0.0) },
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
