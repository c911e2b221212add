//! Axes: their ranges and their ticks.

/// How values are laid out along an axis.
#[derive(Debug, Clone, PartialEq)]
pub enum Scale {
    /// Proportional to the value.
    Linear,
    /// Proportional to the logarithm; values that are not above 0 are left out.
    Log,
    /// Names, at the positions 0, 1, 2, ...
    Names(Vec<String>),
}

/// An axis of a chart, without its data.
#[derive(Debug, Clone)]
pub struct ChartAxis {
    /// The title: the quantity and its unit.
    pub title: String,
    /// How values are laid out.
    pub scale: Scale,
    /// A value that the axis contains even if no data are there.
    pub holds: Option<f64>,
    /// Where the ticks are.
    pub ticks: Ticks,
}

/// Where the ticks of an axis of numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ticks {
    /// At round numbers.
    Round,
    /// At whole numbers, for counts.
    Whole,
    /// At the values of the data if there are few of them, for values that somebody chose; otherwise at round numbers.
    Data,
}

/// The largest number of values that get a tick each, and the least distance between two ticks as a share of the axis.
const FEW: usize = 8;
const APART: f64 = 0.06;

impl ChartAxis {
    /// A linear axis around its data.
    pub fn linear(title: impl Into<String>) -> Self {
        Self { title: title.into(), scale: Scale::Linear, holds: None, ticks: Ticks::Round }
    }

    /// A linear axis that contains 0.
    pub fn from_zero(title: impl Into<String>) -> Self {
        Self { holds: Some(0.0), ..Self::linear(title) }
    }

    /// A linear axis of counts, such as steps.
    pub fn count(title: impl Into<String>) -> Self {
        Self { ticks: Ticks::Whole, ..Self::linear(title) }
    }

    /// A logarithmic axis.
    pub fn log(title: impl Into<String>) -> Self {
        Self { scale: Scale::Log, ..Self::linear(title) }
    }

    /// A logarithmic axis of values that somebody chose, such as poison fractions.
    pub fn chosen(title: impl Into<String>) -> Self {
        Self { ticks: Ticks::Data, ..Self::log(title) }
    }

    /// An axis of names.
    pub fn names(title: impl Into<String>, names: Vec<String>) -> Self {
        Self { scale: Scale::Names(names), ..Self::linear(title) }
    }
}

/// An axis with the range of its data. Places are values or, on a logarithmic axis, logarithms to base 10.
#[derive(Debug, Clone)]
pub struct Span {
    scale: Scale,
    low: f64,
    high: f64,
    /// The places of the ticks.
    ticks: Vec<f64>,
    /// Digits after the decimal point, on a linear axis.
    digits: usize,
}

impl Span {
    /// Finds the range and the ticks for some values.
    pub fn new(axis: &ChartAxis, values: impl Iterator<Item = f64>) -> Self {
        let values = values.chain(axis.holds).filter(|v| v.is_finite() && (axis.scale != Scale::Log || *v > 0.0));
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        values.dedup();
        let [mut low, mut high] = [values.first(), values.last()].map(|v| v.copied().unwrap_or(f64::NAN));
        if values.is_empty() {
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
                // The value that the axis has to contain is its edge if all data are on one side of it.
                let edge = |v: f64, padded: f64| if axis.holds == Some(v) { v } else { padded };
                (low, high) = (edge(low, low - pad), if high > low { edge(high, high + pad) } else { high + pad });
                let least = if axis.ticks == Ticks::Whole { 1.0 } else { 0.0 };
                let step = nice((high - low) / 6.0).max(least);
                let digits = (-step.log10().floor()).max(0.0) as usize;
                Self { scale, low, high, ticks: multiples(step, low, high), digits }
            }
            Scale::Log => {
                let (low, high) = (low.log10() - 0.1, high.log10() + 0.1);
                let places: Vec<f64> = values.iter().map(|v| v.log10()).collect();
                let ticks = match axis.ticks {
                    Ticks::Data if (1..=FEW).contains(&places.len()) => apart(&places, APART * (high - low)),
                    _ => logarithmic(low, high),
                };
                Self { scale, low, high, ticks, digits: 0 }
            }
        }
    }

    /// Whether the axis has names instead of numbers.
    pub fn has_names(&self) -> bool {
        matches!(self.scale, Scale::Names(_))
    }

    /// The place of a value.
    pub fn place(&self, value: f64) -> f64 {
        if self.scale == Scale::Log { value.log10() } else { value }
    }

    /// The position of a place along the axis, from 0 at its beginning to 1 at its end.
    pub fn share(&self, place: f64) -> f64 {
        (place - self.low) / (self.high - self.low)
    }

    /// The place where the axis begins.
    pub fn low(&self) -> f64 {
        self.low
    }

    /// The place where the axis ends.
    pub fn high(&self) -> f64 {
        self.high
    }

    /// The value at which bars begin: 0, or the value of the axis that is nearest to it.
    pub fn floor(&self) -> f64 {
        match self.scale {
            Scale::Log => 10f64.powf(self.low),
            _ => 0f64.clamp(self.low, self.high),
        }
    }

    /// The label of a tick.
    fn label(&self, place: f64) -> String {
        match &self.scale {
            Scale::Names(names) => names.get(place.round() as usize).cloned().unwrap_or_default(),
            Scale::Linear if self.low.abs().max(self.high.abs()) >= 1e6 || self.digits > 5 => format!("{place:.1e}"),
            Scale::Linear => crate::words::number(place, self.digits),
            Scale::Log => {
                // The logarithm of 3 is not exact, so the value is rounded.
                let value = crate::words::rounded(10f64.powf(place), 3);
                if value >= 1e6 { format!("{value:e}") } else { crate::words::short(value, 3) }
            }
        }
    }

    /// The places and labels of all ticks.
    pub fn labels(&self) -> Vec<(f64, String)> {
        self.ticks.iter().map(|tick| (*tick, self.label(*tick))).collect()
    }
}

/// The multiples of a step from `low` to `high`.
fn multiples(step: f64, low: f64, high: f64) -> Vec<f64> {
    ((low / step).ceil() as i64..=(high / step).floor() as i64).map(|i| i as f64 * step).collect()
}

/// Drops places that are nearer than `distance` to the next place that is kept. The last place is always kept.
fn apart(places: &[f64], distance: f64) -> Vec<f64> {
    let mut kept: Vec<f64> = Vec::new();
    for place in places.iter().rev() {
        if kept.last().is_none_or(|last| last - place >= distance) {
            kept.push(*place);
        }
    }
    kept.reverse();
    kept
}

/// The logarithms of at least two round numbers on a logarithmic axis from `low` to `high`, which are logarithms as
/// well.
fn logarithmic(low: f64, high: f64) -> Vec<f64> {
    let mantissas: &[f64] = match high - low {
        many if many > 3.0 => &[1.0],
        few if few < 0.8 => &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0],
        _ => &[1.0, 2.0, 5.0],
    };
    let ticks: Vec<f64> = (low.floor() as i32..=high.ceil() as i32)
        .flat_map(|power| mantissas.iter().map(move |m| (m * 10f64.powi(power)).log10()))
        .filter(|tick| (low..=high).contains(tick))
        .collect();
    if ticks.len() > 1 {
        return ticks;
    }
    let [low, high] = [low, high].map(|place| 10f64.powf(place));
    multiples(nice((high - low) / 6.0), low, high).into_iter().map(f64::log10).collect()
}

/// The smallest number that is 1, 2 or 5 times a power of ten and is not below `step`.
fn nice(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= step * (1.0 - 1e-9)).unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &ChartAxis, values: &[f64]) -> Vec<String> {
        let span = Span::new(axis, values.iter().copied());
        span.labels().into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(labels(&ChartAxis::from_zero("x"), &[0.7, 9.8]), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(labels(&ChartAxis::linear("x"), &[0.21, 0.39]), ["0.20", "0.25", "0.30", "0.35", "0.40"]);
        assert_eq!(labels(&ChartAxis::log("x"), &[0.1, 10.0]), ["0.1", "0.2", "0.5", "1", "2", "5", "10"]);
        assert_eq!(labels(&ChartAxis::log("x"), &[1e-3, 10.0]), ["0.001", "0.01", "0.1", "1", "10"]);
        assert_eq!(labels(&ChartAxis::log("x"), &[1.2, 2.4]), ["1", "1.5", "2", "3"]);
        assert_eq!(
            labels(&ChartAxis::log("x"), &[1e-7, 1e-5]),
            ["1e-7", "2e-7", "5e-7", "1e-6", "2e-6", "5e-6", "1e-5"]
        );
        assert_eq!(labels(&ChartAxis::count("x"), &[1.0, 4.0]), ["1", "2", "3", "4"]);
        assert_eq!(labels(&ChartAxis::names("x", vec!["a".into(), "b".into()]), &[0.0]), ["a", "b"]);
        assert!((1..200).all(|i| labels(&ChartAxis::log("x"), &[1.03f64.powi(i)]).len() > 1));
    }

    #[test]
    fn ticks_stand_at_few_chosen_values() {
        assert_eq!(labels(&ChartAxis::chosen("x"), &[1.0, 3.0, 1.0]), ["1", "3"]);
        assert_eq!(labels(&ChartAxis::chosen("x"), &[0.5, 1.0, 1.01, 3.0]), ["0.5", "1.01", "3"]);
        assert_eq!(labels(&ChartAxis::chosen("x"), &[100.0 * 0.03]), ["3"]);
        let many: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!(labels(&ChartAxis::chosen("x"), &many), ["1", "2", "5", "10", "20"]);
    }

    #[test]
    fn a_span_is_never_empty() {
        for values in [&[][..], &[3.0], &[0.0], &[f64::NAN, f64::INFINITY]] {
            for axis in [ChartAxis::linear("x"), ChartAxis::from_zero("x"), ChartAxis::log("x")] {
                let span = Span::new(&axis, values.iter().copied());
                assert!(span.high > span.low, "{axis:?} {values:?}");
            }
        }
    }
}
