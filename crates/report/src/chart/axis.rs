//! Axes: what they span, and where their ticks are.

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use std::ops::Range;

/// How values are laid out along an axis.
#[derive(Debug, Clone, PartialEq)]
pub enum Scale {
    /// Evenly.
    Linear,
    /// By their logarithm; what is not above 0 is left out.
    Log,
    /// Names, at 0, 1, 2, ...
    Names(Vec<String>),
}

/// An axis.
#[derive(Debug, Clone)]
pub struct Axis {
    /// What it counts, and in which unit.
    pub title: String,
    /// How.
    pub scale: Scale,
    /// A value that it holds, whatever the data.
    pub holds: Option<f64>,
}

impl Axis {
    /// An even axis around its data.
    pub fn linear(title: impl Into<String>) -> Self {
        Self { title: title.into(), scale: Scale::Linear, holds: None }
    }

    /// An even axis that shows 0.
    pub fn from_zero(title: impl Into<String>) -> Self {
        Self { title: title.into(), scale: Scale::Linear, holds: Some(0.0) }
    }

    /// A logarithmic axis.
    pub fn log(title: impl Into<String>) -> Self {
        Self { title: title.into(), scale: Scale::Log, holds: None }
    }

    /// The room that it takes beside a chart, in pixels.
    pub fn width(&self) -> i32 {
        let letters = match &self.scale {
            Scale::Names(names) => names.iter().map(|n| n.chars().count()).max().unwrap_or(0),
            _ => 5,
        };
        (22 + 7 * letters as i32).clamp(58, 180)
    }

    /// An axis of names.
    pub fn names(title: impl Into<String>, names: Vec<String>) -> Self {
        Self { title: title.into(), scale: Scale::Names(names), holds: None }
    }
}

/// An axis with its data: a range of places, which are logarithms on a logarithmic axis.
#[derive(Debug, Clone)]
pub struct Span {
    scale: Scale,
    low: f64,
    high: f64,
    /// Places of the ticks.
    ticks: Vec<f64>,
    /// Digits behind the point.
    digits: usize,
}

impl Span {
    /// An axis that spans some values.
    pub fn new(axis: &Axis, values: impl Iterator<Item = f64>) -> Self {
        let values = values.chain(axis.holds).filter(|v| v.is_finite() && (axis.scale != Scale::Log || *v > 0.0));
        let (mut low, mut high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if low > high {
            (low, high) = (1.0, 2.0);
        }
        let scale = axis.scale.clone();
        match &axis.scale {
            Scale::Names(names) => {
                let ticks = (0..names.len()).map(|i| i as f64).collect();
                Self { scale, low: -0.5, high: names.len() as f64 - 0.5, ticks, digits: 0 }
            }
            Scale::Linear => {
                let pad = if high > low { 0.06 * (high - low) } else { 0.5 * high.abs().max(1.0) };
                // 0 is an edge where all data are on one side of it.
                let edge = |v: f64, padded: f64| if axis.holds == Some(v) { v } else { padded };
                (low, high) = (edge(low, low - pad), if high > low { edge(high, high + pad) } else { high + pad });
                let step = nice((high - low) / 6.0);
                let first = (low / step).ceil() as i64;
                let last = (high / step).floor() as i64;
                let digits = (-step.log10().floor()).max(0.0) as usize;
                Self { scale, low, high, ticks: (first..=last).map(|i| i as f64 * step).collect(), digits }
            }
            Scale::Log => {
                let (low, high) = (low.log10() - 0.1, high.log10() + 0.1);
                let decades = high - low;
                let mantissas: &[f64] = match decades {
                    many if many > 3.0 => &[1.0],
                    few if few < 0.6 => &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0],
                    _ => &[1.0, 2.0, 5.0],
                };
                let ticks = (low.floor() as i32..=high.ceil() as i32)
                    .flat_map(|power| mantissas.iter().map(move |m| (m * 10f64.powi(power)).log10()))
                    .filter(|tick| (low..=high).contains(tick))
                    .collect();
                Self { scale, low, high, ticks, digits: 0 }
            }
        }
    }

    /// Where a value is.
    pub fn place(&self, value: f64) -> f64 {
        if self.scale == Scale::Log { value.log10() } else { value }
    }

    /// The place where it begins.
    pub fn low(&self) -> f64 {
        self.low
    }

    /// The place where it ends.
    pub fn high(&self) -> f64 {
        self.high
    }

    /// The value that bars stand on: 0, or the nearest to it.
    pub fn floor(&self) -> f64 {
        match self.scale {
            Scale::Log => 10f64.powf(self.low),
            _ => 0f64.clamp(self.low, self.high),
        }
    }

    /// What stands at a tick.
    pub fn label(&self, place: f64) -> String {
        match &self.scale {
            Scale::Names(names) => names.get(place.round() as usize).cloned().unwrap_or_default(),
            Scale::Linear => crate::words::number(place, self.digits),
            Scale::Log => {
                let value = 10f64.powf(place);
                match place.round() {
                    power if !(-4.0..=5.0).contains(&power) => format!("{value:.0e}"),
                    _ => crate::words::number(value, (-place.floor()).max(0.0) as usize),
                }
            }
        }
    }
}

/// The least of 1, 2 and 5 times a power of ten that is not below `step`.
fn nice(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= step * (1.0 - 1e-9)).unwrap_or(10.0 * power)
}

impl Ranged for Span {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value - self.low) / (self.high - self.low);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Span {
    fn format_ext(&self, value: &f64) -> String {
        self.label(*value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis, values: &[f64]) -> Vec<String> {
        let span = Span::new(axis, values.iter().copied());
        span.ticks.iter().map(|t| span.label(*t)).collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(labels(&Axis::from_zero("x"), &[0.7, 9.8]), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(labels(&Axis::linear("x"), &[0.21, 0.39]), ["0.20", "0.25", "0.30", "0.35", "0.40"]);
        assert_eq!(labels(&Axis::log("x"), &[0.1, 10.0]), ["0.1", "0.2", "0.5", "1", "2", "5", "10"]);
        assert_eq!(labels(&Axis::log("x"), &[1e-3, 10.0]), ["0.001", "0.01", "0.1", "1", "10"]);
        assert_eq!(labels(&Axis::names("x", vec!["a".into(), "b".into()]), &[0.0]), ["a", "b"]);
    }

    #[test]
    fn a_span_is_never_empty() {
        for values in [&[][..], &[3.0], &[0.0], &[f64::NAN, f64::INFINITY]] {
            for axis in [Axis::linear("x"), Axis::from_zero("x"), Axis::log("x")] {
                let span = Span::new(&axis, values.iter().copied());
                assert!(span.high > span.low, "{axis:?} {values:?}");
            }
        }
    }
}
