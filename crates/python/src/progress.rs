//! Progress of work, which the thread that waits for it shows in Python.

use hemlock_stage::{Bar, Progress};
use pyo3::prelude::*;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The bars of some work, and notes about it. Work writes into it without Python; [`Bars::show`] reads it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bars(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The number of bars that were ever started.
    started: u64,
    bars: BTreeMap<u64, BarState>,
    notes: Vec<String>,
    changed: bool,
}

/// One bar. A `total` of 0 is not known.
#[derive(Debug, Clone)]
struct BarState {
    label: String,
    done: u64,
    total: u64,
    unit: &'static str,
    message: String,
}

struct OneBar {
    bars: Bars,
    number: u64,
}

impl Bars {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line of text.
    pub(crate) fn note(&self, text: String) {
        let mut state = self.state();
        state.notes.push(text);
        state.changed = true;
    }

    /// Calls `show` with the bars that there are now and with new notes, if anything has changed.
    pub(crate) fn show(&self, py: Python<'_>, show: &Py<PyAny>) -> PyResult<()> {
        let (bars, notes) = {
            let mut state = self.state();
            if !std::mem::take(&mut state.changed) {
                return Ok(());
            }
            (state.bars.clone(), std::mem::take(&mut state.notes))
        };
        let bars: Vec<_> = bars
            .into_iter()
            .map(|(number, bar)| (number, bar.label, bar.done, bar.total, bar.unit, bar.message))
            .collect();
        show.call1(py, (bars, notes)).map(|_| ())
    }
}

impl Progress for Bars {
    fn start(&self, label: &str, total: u64, unit: &'static str) -> Box<dyn Bar> {
        let mut state = self.state();
        state.started += 1;
        let number = state.started;
        let bar = BarState { label: label.to_owned(), done: 0, total, unit, message: String::new() };
        state.bars.insert(number, bar);
        state.changed = true;
        Box::new(OneBar { bars: self.clone(), number })
    }
}

impl OneBar {
    fn change(&self, change: impl FnOnce(&mut BarState)) {
        let mut state = self.bars.state();
        if let Some(bar) = state.bars.get_mut(&self.number) {
            change(bar);
            state.changed = true;
        }
    }
}

impl Bar for OneBar {
    fn at(&self, done: u64) {
        self.change(|bar| bar.done = done);
    }
    fn say(&self, message: String) {
        self.change(|bar| bar.message = message);
    }
}

impl Drop for OneBar {
    fn drop(&mut self) {
        let mut state = self.bars.state();
        state.bars.remove(&self.number);
        state.changed = true;
    }
}
