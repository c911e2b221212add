//! What works run on: a description, and measured limits.

use crate::Limit;
use anyhow::Result;
use burn::tensor::{DType, Distribution, Tensor};
use hemlock_models::{Backend, device};
use rayon::prelude::*;
use serde::Serialize;
use std::{fs, io::Write, process::Command, time::Instant};

/// Rows and columns of the matrices that are multiplied.
const SIDE: usize = 2048;
/// Bytes that are copied or written.
const BYTES: usize = 256 << 20;
/// Bytes that one thread copies at a time.
const CHUNK: usize = 1 << 20;
/// Measurements, of which the best counts: what else runs only makes them worse.
const TIMES: usize = 10;

/// A machine, and what runs on it.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Model of the processor, where the system says it.
    pub processor: String,
    /// Threads that works use.
    pub threads: usize,
    /// GiB of memory, where the system says it.
    pub memory: Option<f64>,
    /// The operating system.
    pub system: String,
    /// The compiler, where it is there.
    pub rustc: Option<String>,
    /// The version of Hemlock.
    pub hemlock: &'static str,
    /// What it can do.
    pub limits: Limits,
}

/// Measured rates, in operations or bytes a second, over all threads.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Limits {
    /// [`Limit::Single`].
    pub single: f64,
    /// [`Limit::Double`].
    pub double: f64,
    /// [`Limit::Copy`].
    pub copy: f64,
    /// [`Limit::Disk`], of the folder for temporary files.
    pub disk: f64,
}

impl Machine {
    /// Describes this machine and measures its limits, for some seconds.
    ///
    /// # Errors
    /// The device cannot be opened, or a temporary file cannot be written.
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
            limits: Limits::measure()?,
        })
    }
}

impl Limits {
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

    /// The rate that bounds.
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

/// The best rate at which `run` does `count` of something.
fn best(count: f64, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut most = 0f64;
    for _ in 0..TIMES {
        let started = Instant::now();
        run()?;
        most = most.max(count / started.elapsed().as_secs_f64());
    }
    Ok(most)
}
