//! Draws the parts of a chart where its layout puts them.

use super::{
    Chart, GRID, INK, LINE, LegendEntry, MARGIN, MUTED, SAMPLE, UNIT, failed,
    layout::ChartLayout,
    marks::{self, Area},
};
use crate::ReportError;
use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

/// A position in pixels.
type Pixel = (i32, i32);

/// A drawing area, and the layout of the chart that is drawn there.
pub struct Canvas<'c, 's> {
    /// The area.
    pub area: &'c Area<'s>,
    /// The layout.
    pub layout: &'c ChartLayout<'c>,
}

impl Canvas<'_, '_> {
    /// Draws the grid and the labels of both axes, and then the lines of the axes.
    pub fn axes(&self) -> Result<(), ReportError> {
        let ChartLayout { left, right, top, bottom, .. } = *self.layout;
        self.horizontal_axis()?;
        self.vertical_axis()?;
        self.line([(left * UNIT, bottom * UNIT), (right * UNIT, bottom * UNIT)], MUTED.0)?;
        self.line([(left * UNIT, top * UNIT), (left * UNIT, bottom * UNIT)], MUTED.0)
    }

    fn horizontal_axis(&self) -> Result<(), ReportError> {
        let ChartLayout { top, bottom, .. } = *self.layout;
        let names = self.layout.x.has_names();
        for (at, label) in &self.layout.x_labels {
            let x = (self.layout.across(*at) * f64::from(UNIT)).round() as i32;
            if !names {
                self.line([(x, top * UNIT), (x, bottom * UNIT)], GRID.0)?;
            }
            for (i, part) in (0..).zip(label) {
                self.text(part, (x / UNIT, bottom + 8 + LINE * i), 15, Pos::new(HPos::Center, VPos::Top))?;
            }
        }
        Ok(())
    }

    fn vertical_axis(&self) -> Result<(), ReportError> {
        let ChartLayout { left, right, .. } = *self.layout;
        for (at, label) in &self.layout.y_labels {
            let y = (self.layout.down(*at) * f64::from(UNIT)).round() as i32;
            self.line([(left * UNIT, y), (right * UNIT, y)], GRID.0)?;
            for (i, part) in (0..).zip(label) {
                let middle = y / UNIT + LINE * (2 * i - label.len() as i32 + 1) / 2;
                self.text(part, (left - 8, middle), 15, Pos::new(HPos::Right, VPos::Center))?;
            }
        }
        Ok(())
    }

    /// Writes the title of the chart and the titles of its axes.
    pub fn titles(&self) -> Result<(), ReportError> {
        let ChartLayout { left, right, top, bottom, x_title_top, .. } = *self.layout;
        let centred = Pos::new(HPos::Center, VPos::Top);
        for (i, part) in (0..).zip(&self.layout.title) {
            self.text(part, (10, 8 + (LINE + 4) * i), 17, Pos::new(HPos::Left, VPos::Top))?;
        }
        for (i, part) in (0..).zip(&self.layout.y_title) {
            let at = (6 + (LINE + 1) * i, (top + bottom) / 2);
            self.turned_text(part, at, 16, FontTransform::Rotate270, centred)?;
        }
        for (i, part) in (0..).zip(&self.layout.x_title) {
            self.text(part, ((left + right) / 2, x_title_top + (LINE + 1) * i), 16, centred)?;
        }
        Ok(())
    }

    /// Draws the reference lines and the series.
    pub fn data(&self, chart: &Chart) -> Result<(), ReportError> {
        let ChartLayout { ref x, ref y, left, right, sideways, .. } = *self.layout;
        let unit = f64::from(UNIT);
        for (height, _) in &chart.references {
            let at = (self.layout.down(y.place(*height)) * unit).round() as i32;
            self.reference([(left * UNIT, at), (right * UNIT, at)])?;
        }
        let place = |px: f64, py: f64| {
            let (px, py) = (self.layout.across(x.place(px)), self.layout.down(y.place(py)));
            ((px * unit).round() as i32, (py * unit).round() as i32)
        };
        let floor = if sideways { x.floor() } else { y.floor() };
        for series in &chart.series {
            marks::series(self.area, series, &place, floor, sideways).map_err(failed)?;
        }
        Ok(())
    }

    /// Draws the legend.
    pub fn legend(&self) -> Result<(), ReportError> {
        for LegendEntry { series, left, row, lines } in &self.layout.legend {
            let (x, y) = (MARGIN + left, self.layout.legend_top + (LINE + 4) * row);
            let middle = y + SAMPLE.1 / 2;
            match series {
                Some(series) => marks::sample(self.area, (x * UNIT, y * UNIT), series).map_err(failed)?,
                None => self.reference([x, x + SAMPLE.0].map(|px| (px * UNIT, middle * UNIT)))?,
            }
            for (i, part) in (0..).zip(lines) {
                let beside = (x + SAMPLE.0 + 8, middle + (LINE + 4) * i);
                self.text(part, beside, 15, Pos::new(HPos::Left, VPos::Center))?;
            }
        }
        Ok(())
    }

    /// Draws a line of one pixel's width; the ends are in units of the drawing.
    fn line(&self, ends: [Pixel; 2], colour: RGBColor) -> Result<(), ReportError> {
        self.area.draw(&PathElement::new(ends.to_vec(), colour.stroke_width(UNIT as u32))).map_err(failed)
    }

    /// Draws a reference line; the ends are in units of the drawing.
    fn reference(&self, ends: [Pixel; 2]) -> Result<(), ReportError> {
        marks::dashed(self.area, &ends, &marks::REFERENCE, MUTED.0.stroke_width(6)).map_err(failed)
    }

    fn text(&self, text: &str, at: Pixel, size: i32, anchor: Pos) -> Result<(), ReportError> {
        self.turned_text(text, at, size, FontTransform::None, anchor)
    }

    fn turned_text(
        &self,
        text: &str,
        (x, y): Pixel,
        size: i32,
        turn: FontTransform,
        anchor: Pos,
    ) -> Result<(), ReportError> {
        let style = ("sans-serif", size * UNIT).into_font().transform(turn).color(&INK.0).pos(anchor);
        self.area.draw(&Text::new(text.to_owned(), (x * UNIT, y * UNIT), style)).map_err(failed)
    }
}
