//! The trait of everything that is timed.

use anyhow::{Context, Result};
use ndarray::{Array2, ArrayD};
use npyz::{AutoSerialize, WriterBuilder};
use serde::Serialize;
use serde_json::Value;
use std::{fs::File, io::BufWriter, path::Path};

/// A function that does one run of a work. All runs do the same.
pub type Run = Box<dyn FnMut() -> Result<()> + Send>;

/// Runs in the thread pool that tasks of a pipeline run in, so that no time is lost to entering the pool.
///
/// # Errors
/// The errors of the run.
pub fn in_task_pool(run: &mut Run) -> Result<()> {
    rayon::scope(|_| run())
}

/// Something that is timed.
pub trait Work {
    /// Describes one run in words.
    fn what(&self) -> String;

    /// Returns the least amount that one run takes of what a physical limit bounds; `None` if no limit bounds it.
    ///
    /// # Errors
    /// If the amount depends on the number of steps, which only a run can tell, and this run fails.
    fn amount(&self) -> Result<Option<Amount>>;

    /// Sets up everything that is not timed, and returns the function that is.
    ///
    /// # Errors
    /// If the inputs cannot be made.
    fn prepare(&self) -> Result<Run>;

    /// Returns the inputs that a peer needs to do the same work.
    ///
    /// # Errors
    /// If the inputs cannot be made.
    fn given(&self) -> Result<PeerInputs> {
        Ok(PeerInputs::default())
    }

    /// Whether a run takes so long that Criterion should leave it out.
    fn long(&self) -> bool {
        false
    }
}

/// An amount of what a physical limit bounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Amount {
    /// The limit that bounds it.
    pub limit: Limit,
    /// Number of floating-point operations (a multiplication and an addition are two), or of bytes.
    pub count: f64,
}

/// A physical limit of works: the highest rate that the machine reaches in a simple operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// Floating-point operations in single precision, in a product of large matrices.
    Single,
    /// Floating-point operations in double precision, in a product of large matrices.
    Double,
    /// Bytes that are copied in memory. Each copied byte counts twice, for reading and writing.
    Copy,
    /// Bytes that are written to the disk and synchronised.
    Disk,
}

impl Limit {
    /// The unit of a rate in this limit, in billions.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::Single => "Gflop/s, f32",
            Self::Double => "Gflop/s, f64",
            Self::Copy => "GB/s of memory",
            Self::Disk => "GB/s to disk",
        }
    }
}

/// The inputs of a work for a peer: sizes and options by name, and arrays.
#[derive(Debug, Default)]
pub struct PeerInputs {
    /// A JSON table of sizes and options.
    pub numbers: Value,
    /// Arrays by name.
    pub arrays: Vec<(&'static str, Array)>,
}

/// An array for a peer.
#[derive(Debug)]
pub enum Array {
    /// Floating-point numbers.
    Real(ArrayD<f64>),
    /// Labels.
    Labels(Vec<u32>),
}

impl From<Array2<f64>> for Array {
    fn from(array: Array2<f64>) -> Self {
        Self::Real(array.into_dyn())
    }
}

impl From<Vec<u32>> for Array {
    fn from(labels: Vec<u32>) -> Self {
        Self::Labels(labels)
    }
}

impl PeerInputs {
    /// Writes `numbers.json` and one `.npy` file per array to the folder `dir`.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let path = dir.join("numbers.json");
        std::fs::write(&path, self.numbers.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
        for (name, array) in &self.arrays {
            let path = dir.join(format!("{name}.npy"));
            let written = match array {
                Array::Real(array) => write(&path, array.shape(), array.iter().copied()),
                Array::Labels(labels) => write(&path, &[labels.len()], labels.iter().copied()),
            };
            written.with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

/// Writes values in C order as a `.npy` file.
fn write<T: AutoSerialize>(path: &Path, shape: &[usize], values: impl Iterator<Item = T>) -> std::io::Result<()> {
    let shape: Vec<u64> = shape.iter().map(|n| *n as u64).collect();
    let file = BufWriter::new(File::create(path)?);
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(file).begin_nd()?;
    writer.extend(values)?;
    writer.finish()
}
