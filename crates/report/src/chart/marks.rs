//! The marks that stand for data: dashed lines, markers of several shapes, bars and bands.

use super::{MarkKind, SAMPLE, SERIES, Series, UNIT};
use crate::ReportError;
use plotters::{coord::Shift, prelude::*};

/// A drawing area of a chart.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// The result of drawing.
pub type DrawResult<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;
type Pixel = (i32, i32);

/// Lengths of dashes and gaps by style, in pixels; empty for a solid line.
const DASHES: [&[i32]; 4] = [&[], &[7, 4], &[2, 3], &[9, 3, 2, 3]];

/// The opacity of a band.
const SHADE: f64 = 0.2;

/// Lengths of dashes and gaps of reference lines, in pixels.
pub const REFERENCE: [i32; 2] = [6, 4];

fn colour(style: usize) -> RGBColor {
    SERIES[style % SERIES.len()].0
}

/// Draws a series. Bars begin at the value `floor` and go up or, if `sideways`, to the right.
pub fn series(
    area: &Area,
    series: &Series,
    place: &dyn Fn(f64, f64) -> Pixel,
    floor: f64,
    sideways: bool,
) -> DrawResult<'static> {
    let colour = colour(series.style);
    let points = || series.points.iter().filter(|p| p.x.is_finite() && p.y.is_finite());
    let joined: Vec<Pixel> = points().map(|p| place(p.x, p.y)).collect();
    if matches!(series.drawn, MarkKind::Line | MarkKind::Curve) {
        let dash = DASHES[series.style % DASHES.len()];
        dashed(area, &joined, dash, colour.stroke_width(7))?;
    }
    if series.drawn == MarkKind::Band {
        let upper = points().map(|p| place(p.x, p.y + p.spread));
        let outline: Vec<Pixel> = upper.chain(points().rev().map(|p| place(p.x, p.y - p.spread))).collect();
        return area.draw(&Polygon::new(outline, colour.mix(SHADE).filled()));
    }
    for p in points() {
        let at = place(p.x, p.y);
        match series.drawn {
            MarkKind::Curve | MarkKind::Band => {}
            MarkKind::Line | MarkKind::Points => marker(area, at, series.style, 5 * UNIT)?,
            MarkKind::Cloud => marker(area, at, series.style, 9)?,
            MarkKind::Bars => {
                let corners = match sideways {
                    true => [place(floor, p.y - 0.3), place(p.x, p.y + 0.3)],
                    false => [place(p.x - 0.3, floor), place(p.x + 0.3, p.y)],
                };
                area.draw(&Rectangle::new(corners, colour.mix(0.75).filled()))?;
            }
        }
        if p.spread > 0.0 {
            let cap = 4 * UNIT;
            let stroke = if series.drawn == MarkKind::Bars { super::INK.0 } else { colour }.stroke_width(5);
            let (dx, dy, across) = if sideways { (p.spread, 0.0, (0, cap)) } else { (0.0, p.spread, (cap, 0)) };
            let ends = [place(p.x - dx, p.y - dy), place(p.x + dx, p.y + dy)];
            area.draw(&PathElement::new(ends.to_vec(), stroke))?;
            for (x, y) in ends {
                area.draw(&PathElement::new(vec![(x - across.0, y - across.1), (x + across.0, y + across.1)], stroke))?;
            }
        }
    }
    Ok(())
}

/// Draws a line through some points, with dashes.
pub fn dashed(area: &Area, points: &[Pixel], dash: &[i32], style: ShapeStyle) -> DrawResult<'static> {
    if dash.is_empty() {
        return area.draw(&PathElement::new(points.to_vec(), style));
    }
    // The pen is down for the first length, up for the second, and so on.
    let lengths: Vec<f64> = dash.iter().map(|l| f64::from(l * UNIT)).collect();
    let (mut phase, mut left) = (0, lengths[0]);
    let mut stroke: Vec<Pixel> = points.first().into_iter().copied().collect();
    for pair in points.windows(2) {
        let [from, to] = [pair[0], pair[1]].map(|(x, y)| (f64::from(x), f64::from(y)));
        let length = (to.0 - from.0).hypot(to.1 - from.1);
        let mut at = 0.0;
        while length - at > left {
            at += left;
            let t = at / length;
            let turn = ((from.0 + t * (to.0 - from.0)).round() as i32, (from.1 + t * (to.1 - from.1)).round() as i32);
            if phase % 2 == 0 {
                stroke.push(turn);
                area.draw(&PathElement::new(std::mem::take(&mut stroke), style))?;
            } else {
                stroke = vec![turn];
            }
            phase = (phase + 1) % lengths.len();
            left = lengths[phase];
        }
        left -= length - at;
        if phase % 2 == 0 {
            stroke.push(pair[1]);
        }
    }
    if stroke.len() > 1 { area.draw(&PathElement::new(stroke, style)) } else { Ok(()) }
}

/// Draws the marker of a style, with radius `r`.
fn marker(area: &Area, (x, y): Pixel, style: usize, r: i32) -> DrawResult<'static> {
    let colour = colour(style);
    let (fill, stroke) = (colour.filled(), colour.stroke_width((r / 3) as u32));
    let polygon = |corners: &[Pixel]| {
        let corners: Vec<Pixel> = corners.iter().map(|(a, b)| (x + a, y + b)).collect();
        area.draw(&Polygon::new(corners, fill))
    };
    match style % 7 {
        0 => area.draw(&Circle::new((x, y), r, fill)),
        1 => area.draw(&Rectangle::new([(x - r * 7 / 8, y - r * 7 / 8), (x + r * 7 / 8, y + r * 7 / 8)], fill)),
        2 => polygon(&[(0, -r * 5 / 4), (r * 9 / 8, r * 3 / 4), (-r * 9 / 8, r * 3 / 4)]),
        3 => polygon(&[(0, -r * 5 / 4), (r * 5 / 4, 0), (0, r * 5 / 4), (-r * 5 / 4, 0)]),
        4 => polygon(&[(0, r * 5 / 4), (r * 9 / 8, -r * 3 / 4), (-r * 9 / 8, -r * 3 / 4)]),
        5 => area.draw(&Circle::new((x, y), r, stroke)),
        _ => {
            area.draw(&PathElement::new(vec![(x - r, y - r), (x + r, y + r)], stroke))?;
            area.draw(&PathElement::new(vec![(x - r, y + r), (x + r, y - r)], stroke))
        }
    }
}

/// The sample of a series for the page's legend, as SVG.
pub fn swatch(series: &Series) -> Result<String, ReportError> {
    let (width, height) = (SAMPLE.0 * UNIT, SAMPLE.1 * UNIT);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (width as u32, height as u32)).into_drawing_area();
        sample(&area, (0, 0), series).map_err(super::failed)?;
        area.present().map_err(super::failed)?;
    }
    Ok(svg.replacen("<svg", "<svg aria-hidden=\"true\"", 1))
}

/// Draws the sample of a series for a legend; the position is its upper left corner.
pub fn sample(area: &Area, (x, y): Pixel, series: &Series) -> DrawResult<'static> {
    let (width, height) = (SAMPLE.0 * UNIT, SAMPLE.1 * UNIT);
    let middle = (x + width / 2, y + height / 2);
    if matches!(series.drawn, MarkKind::Line | MarkKind::Curve) {
        let line = [(x, middle.1), (x + width, middle.1)];
        dashed(area, &line, DASHES[series.style % DASHES.len()], colour(series.style).stroke_width(7))?;
    }
    match series.drawn {
        MarkKind::Curve => Ok(()),
        MarkKind::Bars => {
            let corners = [(x + width / 4, y + UNIT), (x + width * 3 / 4, y + height - UNIT)];
            area.draw(&Rectangle::new(corners, colour(series.style).mix(0.75).filled()))
        }
        MarkKind::Band => {
            let corners = [(x, y + UNIT), (x + width, y + height - UNIT)];
            area.draw(&Rectangle::new(corners, colour(series.style).mix(SHADE).filled()))
        }
        MarkKind::Cloud => marker(area, middle, series.style, 3 * UNIT),
        MarkKind::Line | MarkKind::Points => marker(area, middle, series.style, 5 * UNIT),
    }
}
