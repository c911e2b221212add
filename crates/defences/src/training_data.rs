//! The training set that a defence sees.

use hemlock_head::{Head, HeadError, Samples};
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use crate::DefenceError;

/// A training set as a defender has it, poisons included: at least one sample, blocks with the same features and
/// classes. Sample `i` is row `i` of the blocks one after the other.
#[derive(Debug, Clone)]
pub struct TrainingData<'a> {
    blocks: Vec<Samples<'a>>,
    weight_decay: f64,
    seed: u64,
}

impl<'a> TrainingData<'a> {
    /// `weight_decay` is `λ >= 0` of the victim's objective `mean cross-entropy + λ/2 |W|²`. `seed` decides what a
    /// defence draws at random; most draw nothing.
    ///
    /// # Errors
    /// Returns an error if there are no samples, if the blocks differ in features or classes, or if the weight decay is
    /// negative or not finite.
    pub fn new(blocks: &[Samples<'a>], weight_decay: f64, seed: u64) -> Result<Self, DefenceError> {
        HeadError::check_non_negative("weight_decay", weight_decay)?;
        let set = Self { blocks: blocks.to_vec(), weight_decay, seed };
        if set.is_empty() {
            return Err(HeadError::Empty.into());
        }
        Head::zeros(set.classes(), set.dim())?.check_samples(blocks)?;
        Ok(set)
    }

    /// The blocks of samples.
    #[must_use]
    pub fn blocks(&self) -> &[Samples<'a>] {
        &self.blocks
    }

    /// `λ` of the victim's objective.
    #[must_use]
    pub fn weight_decay(&self) -> f64 {
        self.weight_decay
    }

    /// The seed of what a defence draws.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The number of samples `N`.
    #[must_use]
    pub fn len(&self) -> usize {
        self.blocks.iter().map(Samples::len).sum()
    }

    /// Whether there are no samples. It is false for every set that [`TrainingData::new`] makes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of classes `K`.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.blocks.first().map_or(0, Samples::classes)
    }

    /// The number of features `d`.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.blocks.first().map_or(0, Samples::dim)
    }

    /// The labels, `[N]`.
    #[must_use]
    pub fn labels(&self) -> Vec<u32> {
        self.blocks.iter().flat_map(|block| block.labels()).copied().collect()
    }

    /// The rows of every class, ascending, `[K]`.
    #[must_use]
    pub fn class_rows(&self) -> Vec<Vec<usize>> {
        let mut rows = vec![Vec::new(); self.classes()];
        self.labels().iter().enumerate().for_each(|(row, label)| rows[*label as usize].push(row));
        rows
    }

    /// A copy of the samples of the given rows, in the given order.
    ///
    /// # Panics
    /// Panics if a row is not below `N`.
    #[must_use]
    pub fn select(&self, rows: &[usize]) -> Subset {
        let mut features = Array2::zeros((rows.len(), self.dim()));
        let mut labels = vec![0; rows.len()];
        let mut start = 0;
        for block in &self.blocks {
            let inside: Vec<_> = (0..rows.len()).filter(|i| (start..start + block.len()).contains(&rows[*i])).collect();
            // A few rows at a time, so that no second copy of a large block is made.
            for places in inside.chunks(4096) {
                let from: Vec<usize> = places.iter().map(|i| rows[*i] - start).collect();
                for (place, row) in places.iter().zip(block.select(&from).rows()) {
                    features.row_mut(*place).assign(&row);
                }
            }
            inside.iter().for_each(|i| labels[*i] = block.labels()[rows[*i] - start]);
            start += block.len();
        }
        assert!(rows.iter().all(|row| *row < start), "rows are below {start}");
        Subset { features, labels, classes: self.classes() }
    }

    /// A copy of the samples of which `chosen` is true.
    ///
    /// # Errors
    /// Returns an error if `chosen` does not have one element for each sample.
    pub fn filter(&self, chosen: &[bool]) -> Result<Subset, DefenceError> {
        DefenceError::check_length("the list of chosen samples", chosen.len(), self.len())?;
        Ok(self.select(&(0..self.len()).filter(|row| chosen[*row]).collect::<Vec<_>>()))
    }

    /// Calls `part` in parallel with chunks of a few hundred samples and their features, and returns its results in the
    /// order of the samples.
    pub(crate) fn map_chunks<T: Send>(
        &self,
        part: impl Fn(&Samples<'a>, ArrayView2<'_, f64>) -> T + Sync,
    ) -> impl Iterator<Item = T> {
        let chunks: Vec<_> = self.blocks.iter().flat_map(Samples::chunks).collect();
        let results: Vec<T> = chunks.par_iter().map(|chunk| part(chunk, chunk.to_f64().view())).collect();
        results.into_iter()
    }
}

/// A copy of some samples of a training set.
#[derive(Debug, Clone, PartialEq)]
pub struct Subset {
    /// The features, `[n, d]`.
    pub features: Array2<f64>,
    /// The labels, `[n]`.
    pub labels: Vec<u32>,
    classes: usize,
}

impl Subset {
    /// A view of the samples.
    ///
    /// # Panics
    /// Panics if features or labels were changed to something that is no sample.
    #[must_use]
    pub fn samples(&self) -> Samples<'_> {
        Samples::new(self.features.view(), &self.labels, self.classes).expect("rows of samples are samples")
    }
}
