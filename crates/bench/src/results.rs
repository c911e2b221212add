//! Criterion's measurements, and the shares of physical limits that works reach.

use crate::{Amount, Machine, works};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::{fmt, fs, path::Path};

/// Measurements on one machine.
#[derive(Debug, Serialize)]
pub struct Results {
    /// The machine.
    pub machine: Machine,
    /// The works that were measured.
    pub works: Vec<WorkMeasurement>,
}

/// The measurement of one work.
#[derive(Debug, Serialize)]
pub struct WorkMeasurement {
    /// The name of the work.
    pub name: &'static str,
    /// A description of one run.
    pub what: String,
    /// The duration of a run.
    pub seconds: Seconds,
    /// The least amount of what the limit bounds that a run takes; `None` if no limit bounds it.
    pub amount: Option<Amount>,
    /// The rate of a run, divided by the limit.
    pub share: Option<f64>,
}

/// The duration of a run in seconds: the median and its confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Seconds {
    /// The median.
    pub median: f64,
    /// Lower end of the 95 % confidence interval.
    pub low: f64,
    /// Upper end of the 95 % confidence interval.
    pub high: f64,
}

/// Criterion's `estimates.json`, in nanoseconds.
#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    confidence_interval: Interval,
    point_estimate: f64,
}

#[derive(Deserialize)]
struct Interval {
    lower_bound: f64,
    upper_bound: f64,
}

impl Seconds {
    /// Parses the text of an `estimates.json`.
    fn parse(text: &str) -> serde_json::Result<Self> {
        let Estimates { median } = serde_json::from_str(text)?;
        let Interval { lower_bound, upper_bound } = median.confidence_interval;
        Ok(Self { median: median.point_estimate / 1e9, low: lower_bound / 1e9, high: upper_bound / 1e9 })
    }
}

impl Results {
    /// Reads Criterion's last measurement of every work from its folder, and measures the machine. Works without a
    /// measurement are left out.
    ///
    /// # Errors
    /// If a file of Criterion cannot be read, or if the machine cannot be measured.
    pub fn collect(criterion: &Path) -> Result<Self> {
        let machine = Machine::measure()?;
        let mut rows = Vec::new();
        for (name, work) in works() {
            let path = criterion.join(name).join("new/estimates.json");
            if !path.exists() {
                continue;
            }
            let read = || anyhow::Ok(Seconds::parse(&fs::read_to_string(&path)?)?);
            let seconds = read().with_context(|| format!("cannot read {}", path.display()))?;
            let amount = work.amount()?;
            let share = amount.map(|Amount { limit, count }| count / seconds.median / machine.limits.of(limit));
            rows.push(WorkMeasurement { name, what: work.what(), seconds, amount, share });
        }
        Ok(Self { machine, works: rows })
    }
}

/// Formats the measurements as a Markdown table.
impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { processor, threads, limits, .. } = &self.machine;
        let giga = |rate: f64| rate / 1e9;
        writeln!(
            f,
            "{processor}, {threads} threads. Limits: {:.0} Gflop/s in f32, {:.0} in f64, {:.1} GB/s copied in memory, {:.2} GB/s to disk.\n",
            giga(limits.single),
            giga(limits.double),
            giga(limits.copy),
            giga(limits.disk),
        )?;
        writeln!(f, "| work | seconds | rate | share of the limit |\n| --- | --- | --- | --- |")?;
        for row in &self.works {
            let Seconds { median, low, high } = row.seconds;
            let rate =
                row.amount.map(|Amount { limit, count }| format!("{:.1} {}", giga(count / median), limit.unit()));
            let share = row.share.map(|share| format!("{:.0} %", 100.0 * share));
            let [rate, share] = [rate, share].map(|cell| cell.unwrap_or_else(|| "-".to_owned()));
            writeln!(f, "| {} | {median:.3} ({low:.3} to {high:.3}) | {rate} | {share} |", row.what)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_those_of_criterion_s_median() {
        let estimate = |value: f64| {
            let interval =
                format!(r#"{{"confidence_level":0.95,"lower_bound":{},"upper_bound":{}}}"#, value - 1e6, value + 2e6);
            format!(r#"{{"confidence_interval":{interval},"point_estimate":{value},"standard_error":1.0}}"#)
        };
        let text = format!(r#"{{"mean":{},"median":{},"slope":null}}"#, estimate(9e9), estimate(5e8));
        assert_eq!(Seconds::parse(&text).unwrap(), Seconds { median: 0.5, low: 0.499, high: 0.502 });
        assert!(Seconds::parse("{}").is_err());
    }
}
