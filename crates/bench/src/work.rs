//! The one face that everything has that is timed.

use anyhow::{Context, Result};
use ndarray::{Array2, ArrayD};
use npyz::{AutoSerialize, WriterBuilder};
use serde::Serialize;
use serde_json::Value;
use std::{fs::File, io::BufWriter, path::Path};

/// One run of a work. All runs take the same way.
pub type Run = Box<dyn FnMut() -> Result<()> + Send>;

/// Runs on the threads that tasks of a pipeline run on, so that nothing waits at the door of their pool.
///
/// # Errors
/// Those of the run.
pub fn on_threads(run: &mut Run) -> Result<()> {
    rayon::scope(|_| run())
}

/// Something that is timed.
pub trait Work {
    /// What one run does, in words.
    fn what(&self) -> String;

    /// What a run takes at least, where a physical limit bounds it.
    ///
    /// # Errors
    /// Those of a run, where only that knows how many steps it takes.
    fn amount(&self) -> Result<Option<Amount>>;

    /// Sets up, so that runs are what is timed and nothing else.
    ///
    /// # Errors
    /// What is needed cannot be made.
    fn prepare(&self) -> Result<Run>;

    /// What a peer needs to do the same.
    ///
    /// # Errors
    /// What is needed cannot be made.
    fn given(&self) -> Result<Given> {
        Ok(Given::default())
    }

    /// Whether a run takes so long that Criterion leaves it out.
    fn long(&self) -> bool {
        false
    }
}

/// How much of what a physical limit bounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Amount {
    /// What bounds it.
    pub limit: Limit,
    /// Floating point operations (a multiplication and an addition are two), or bytes.
    pub count: f64,
}

/// What a machine does at its best in something simple, and so what bounds a work, as far as that is of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// Operations in single precision, in a product of large matrices.
    Single,
    /// Operations in double precision, likewise.
    Double,
    /// Bytes that are copied in memory, each of which is read and written.
    Copy,
    /// Bytes that are written to the disk and synchronised.
    Disk,
}

impl Limit {
    /// The unit of a rate.
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

/// What a peer gets: sizes and options by name, and arrays.
#[derive(Debug, Default)]
pub struct Given {
    /// A table of JSON numbers.
    pub numbers: Value,
    /// Arrays by name.
    pub arrays: Vec<(&'static str, Array)>,
}

/// An array for a peer.
#[derive(Debug)]
pub enum Array {
    /// Numbers.
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

impl Given {
    /// Writes `numbers.json`, and every array as a `.npy` of its name, to the folder `dir`.
    ///
    /// # Errors
    /// A file cannot be written.
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

/// Writes an array's values in C order.
fn write<T: AutoSerialize>(path: &Path, shape: &[usize], values: impl Iterator<Item = T>) -> std::io::Result<()> {
    let shape: Vec<u64> = shape.iter().map(|n| *n as u64).collect();
    let file = BufWriter::new(File::create(path)?);
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(file).begin_nd()?;
    writer.extend(values)?;
    writer.finish()
}
