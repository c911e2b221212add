//! A description of the machine that works run on, and its measured limits.

use crate::Limit;
use anyhow::Result;
use burn::tensor::{DType, Distribution, Tensor};
use hemlock_models::{Backend, device};
use rayon::prelude::*;
use serde::Serialize;
use std::{fs, io::Write, process::Command, time::Instant};

/// Number of rows and columns of the matrices that are multiplied.
const SIDE: usize = 2048;
/// Number of bytes that are copied or written.
const BYTES: usize = 256 << 20;
/// Number of bytes that one thread copies at a time.
const CHUNK: usize = 1 << 20;
/// Number of measurements. The best one counts, because other programs can only slow it down.
const TIMES: usize = 10;

/// A machine, the software on it, and its limits.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Model of the processor, or its architecture if the system does not name the model.
    pub processor: String,
    /// Number of threads that works use.
    pub threads: usize,
    /// Size of the memory in GiB; `None` if the system does not say it.
    pub memory: Option<f64>,
    /// The operating system.
    pub system: String,
    /// The version of the compiler; `None` if there is none.
    pub rustc: Option<String>,
    /// The version of Hemlock.
    pub hemlock: &'static str,
    /// The measured limits.
    pub limits: MeasuredRates,
}

/// Measured rates over all threads, in operations or bytes per second.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct MeasuredRates {
    /// The rate of [`Limit::Single`].
    pub single: f64,
    /// The rate of [`Limit::Double`].
    pub double: f64,
    /// The rate of [`Limit::Copy`].
    pub copy: f64,
    /// The rate of [`Limit::Disk`], for the folder of temporary files.
    pub disk: f64,
}

impl Machine {
    /// Describes this machine and measures its limits, which takes some seconds.
    ///
    /// # Errors
    /// If the device cannot be opened, or if a temporary file cannot be written.
    pub fn measure() -> Result<Self> {
        let value = |file: &str, field: &str| {
            let text = fs::read_to_string(file).ok()?;
            let line = text.lines().find(|line| line.starts_with(field))?;
            Some(line[field.len()..].trim_matches([' ', '\t', ':', '=', '"']).to_owned())
        };
        let kilobytes =
            value("/proc/meminfo", "MemTotal").and_then(|kb| kb.trim_end_matches(" kB").parse::<f64>().ok());
        let version = Command::new("rustc").arg("--version").output().ok();
        Ok(Self {
            processor: value("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            threads: rayon::current_num_threads(),
            memory: kilobytes.map(|kb| (kb / f64::from(1 << 20) * 10.0).round() / 10.0),
            system: value("/etc/os-release", "PRETTY_NAME").unwrap_or_else(|| std::env::consts::OS.to_owned()),
            rustc: version.map(|said| String::from_utf8_lossy(&said.stdout).trim().to_owned()),
            hemlock: env!("CARGO_PKG_VERSION"),
            limits: MeasuredRates::measure()?,
        })
    }
}

impl MeasuredRates {
    fn measure() -> Result<Self> {
        let device = device::open(Backend::Flex)?;
        let multiply = |kind| {
            let matrix = || Tensor::<2>::random([SIDE; 2], Distribution::Default, (&device, kind));
            let (a, b) = (matrix(), matrix());
            best(2.0 * (SIDE * SIDE * SIDE) as f64, || {
                a.clone().matmul(b.clone()).into_data();
                Ok(())
            })
        };
        let bytes = vec![1u8; BYTES];
        let mut copy = vec![0u8; BYTES];
        Ok(Self {
            single: multiply(DType::F32)?,
            double: multiply(DType::F64)?,
            copy: best(2.0 * BYTES as f64, || {
                copy.par_chunks_mut(CHUNK).zip(bytes.par_chunks(CHUNK)).for_each(|(to, from)| to.copy_from_slice(from));
                Ok(())
            })?,
            disk: best(BYTES as f64, || {
                let mut file = tempfile::tempfile()?;
                file.write_all(&bytes)?;
                Ok(file.sync_all()?)
            })?,
        })
    }

    /// Returns the measured rate of a limit.
    #[must_use]
    pub fn of(&self, limit: Limit) -> f64 {
        match limit {
            Limit::Single => self.single,
            Limit::Double => self.double,
            Limit::Copy => self.copy,
            Limit::Disk => self.disk,
        }
    }
}

/// Returns the best rate, in units per second, at which `run` does `count` units of work.
fn best(count: f64, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut most = 0f64;
    for _ in 0..TIMES {
        let started = Instant::now();
        run()?;
        most = most.max(count / started.elapsed().as_secs_f64());
    }
    Ok(most)
}
