//! Comparison of what a device and the processor (`flex`) compute on fixed inputs: networks, derivatives, steps of
//! training, and attacks on images. A device that passes computes correctly what pipelines need.

mod checks;

use hemlock_stage::{Cancel, StageError};
use serde::{Deserialize, Serialize};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

/// Name of the device that others are compared with.
pub const REFERENCE: &str = "flex";

/// The version of Hemlock.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Arrays with their names.
type Arrays = Vec<(String, Vec<f32>)>;
/// A function that computes arrays on the device of the given name, and stops early if it is cancelled.
type Compute = Box<dyn Fn(&str, &Cancel) -> Result<Arrays, StageError> + Send + Sync>;

/// A computation that is done on both devices and compared.
pub struct Check {
    /// A description in words.
    pub name: String,
    /// The largest difference that passes.
    pub tolerance: f64,
    compute: Compute,
}

/// The result of a check on a device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// The name of the check.
    pub check: String,
    /// The name of the device.
    pub device: String,
    /// The version of Hemlock that ran the check.
    pub hemlock_version: String,
    /// The relative L2 norm of the difference, for the array where it is largest: the norm of the difference between
    /// the device's array and the processor's, divided by the norm of the processor's. `None` if the device gave no
    /// finite numbers, or an array of another shape.
    pub difference: Option<f64>,
    /// The name of that array.
    pub array: String,
    /// The largest difference that passes.
    pub tolerance: f64,
    /// The time that the processor and the device took, in seconds, including the compilation of kernels.
    pub seconds: [f64; 2],
    /// The reason why the device gave no numbers; `None` if it gave some.
    pub failure: Option<String>,
}

impl Found {
    /// Whether the device passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.difference.is_some_and(|difference| difference <= self.tolerance)
    }
}

/// Returns all checks.
#[must_use]
pub fn checks() -> Vec<Check> {
    checks::all()
}

impl Check {
    fn new(
        name: impl Into<String>,
        tolerance: f64,
        compute: impl Fn(&str, &Cancel) -> Result<Arrays, StageError> + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), tolerance, compute: Box::new(compute) }
    }

    /// Computes on the processor and on a device, and compares. If the device is the processor, it is compared with
    /// itself on one thread.
    ///
    /// # Errors
    /// If the processor fails, or if the run is interrupted. The failure of another device is a result and not an
    /// error.
    pub fn run(&self, device: &str, cancel: &Cancel) -> Result<Found, StageError> {
        let timed = |work: &dyn Fn() -> Result<Arrays, StageError>| {
            let started = Instant::now();
            (work(), started.elapsed().as_secs_f64())
        };
        let (expected, reference) = timed(&|| (self.compute)(REFERENCE, cancel));
        let expected = expected?;
        let (computed, took) = timed(&|| {
            let work = || (self.compute)(device, cancel);
            if device == REFERENCE { on_one_thread(work) } else { caught(work) }
        });
        if cancel.requested() {
            return Err(StageError::interrupted());
        }
        let found = match computed {
            Ok(computed) => {
                let (difference, array) = farthest(&expected, &computed);
                Found { difference, array, failure: None, ..self.failed(device, String::new()) }
            }
            Err(e) => self.failed(device, e.to_string()),
        };
        Ok(Found { seconds: [reference, took], ..found })
    }

    /// Returns the result of a device that gave no numbers, and why.
    #[must_use]
    pub fn failed(&self, device: &str, why: String) -> Found {
        Found {
            check: self.name.clone(),
            device: device.to_owned(),
            hemlock_version: VERSION.to_owned(),
            difference: None,
            array: String::new(),
            tolerance: self.tolerance,
            seconds: [0.0; 2],
            failure: Some(why),
        }
    }
}

fn on_one_thread<T: Send>(work: impl FnOnce() -> Result<T, StageError> + Send) -> Result<T, StageError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    pool.map_err(|e| StageError::internal(format!("there is no thread: {e}")))?.install(work)
}

/// Turns panics into errors, because backends panic when they fail.
fn caught<T>(work: impl FnOnce() -> Result<T, StageError>) -> Result<T, StageError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(StageError::internal(format!("it failed inside: {}", what.unwrap_or("unknown panic"))))
    })
}

/// Returns the largest relative difference between arrays of the same name, and this name.
fn farthest(expected: &Arrays, computed: &Arrays) -> (Option<f64>, String) {
    let mut worst = (Some(0.0), expected.first().map(|(name, _)| name.clone()).unwrap_or_default());
    for (i, (name, values)) in expected.iter().enumerate() {
        let other = computed.get(i).filter(|(other, computed)| other == name && computed.len() == values.len());
        let Some(apart) = other.and_then(|(_, computed)| apart(values, computed)) else { return (None, name.clone()) };
        if worst.0.is_some_and(|most| apart > most) {
            worst = (Some(apart), name.clone());
        }
    }
    worst
}

/// The L2 norm of the difference, divided by the norm of the expected values; `None` if it is not finite.
fn apart(expected: &[f32], computed: &[f32]) -> Option<f64> {
    let length = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = length(&mut expected.iter().zip(computed).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    let scale = length(&mut expected.iter().map(|v| f64::from(*v)));
    let share = if difference == 0.0 { 0.0 } else { difference / scale };
    share.is_finite().then_some(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(compute: impl Fn(&str) -> Vec<f32> + Send + Sync + 'static) -> Found {
        let check = Check::new("made up", 1e-3, move |device, _| Ok(vec![("a".to_owned(), compute(device))]));
        check.run("other", &Cancel::default()).unwrap()
    }

    #[test]
    fn what_differs_by_more_than_the_tolerance_has_not_passed() {
        let of = |by: f32| check(move |device| vec![3.0, if device == REFERENCE { 4.0 } else { 4.0 + by }]);
        assert!(of(0.0).passed() && of(0.004).passed());
        let found = of(0.01);
        assert!(!found.passed() && (found.difference.unwrap() - 0.002).abs() < 1e-6);
        assert!(!of(f32::NAN).passed());
        let short = check(|device| vec![1.0; if device == REFERENCE { 3 } else { 2 }]);
        assert_eq!((short.passed(), short.difference, short.array.as_str()), (false, None, "a"));
    }

    #[test]
    fn a_device_that_fails_has_not_passed() {
        let found = check(|device| if device == REFERENCE { vec![1.0] } else { panic!("out of memory") });
        assert!(!found.passed());
        assert_eq!(found.failure.as_deref(), Some("it failed inside: out of memory"));
    }

    /// The number of threads changes nothing, and no check computes only zeros.
    #[test]
    fn the_processor_passes_its_own_test() {
        for check in checks().iter().filter(|check| !check.name.contains("resnet50")) {
            let found = check.run(REFERENCE, &Cancel::default()).unwrap();
            assert_eq!((found.difference, found.failure), (Some(0.0), None), "{}", check.name);
            let arrays = (check.compute)(REFERENCE, &Cancel::default()).unwrap();
            assert!(arrays.iter().any(|(_, values)| values.iter().any(|v| *v != 0.0)), "{}", check.name);
        }
    }
}
