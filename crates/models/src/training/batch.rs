//! Batches of images in tiles, and the pool that their memory comes from.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Device, Tensor, TensorData};
use hemlock_conv::{BlockedTensor, Workspace};
use rayon::prelude::*;

use super::{TILE, values};

/// A batch of images in tiles, whose memory comes from a pool and returns to it.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    /// The shape, `[n, c, h, w]`.
    pub(super) shape: [usize; 4],
    tiles: Vec<BlockedTensor>,
    pub(super) pool: Pool,
}

impl Batch {
    pub(super) fn from_tensor(images: Tensor<4>, border: usize, pool: &Pool) -> Self {
        let shape @ [_, c, h, w] = images.dims();
        let mut batch = pool.batch(shape, border);
        let values = values(images);
        batch.par_iter_mut().zip(values.par_chunks(TILE * c * h * w)).for_each(|(tile, values)| tile.load(values));
        batch
    }

    pub(super) fn into_tensor(self) -> Tensor<4> {
        let shape @ [n, c, h, w] = self.shape;
        let mut values = vec![0.0; n * c * h * w];
        self.par_iter().zip(values.par_chunks_mut(TILE * c * h * w)).for_each(|(tile, values)| tile.store(values));
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }
}

impl Deref for Batch {
    type Target = [BlockedTensor];

    fn deref(&self) -> &[BlockedTensor] {
        &self.tiles
    }
}

impl DerefMut for Batch {
    fn deref_mut(&mut self) -> &mut [BlockedTensor] {
        &mut self.tiles
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let mut free = self.pool.free.lock().unwrap_or_else(PoisonError::into_inner);
        for tile in self.tiles.drain(..) {
            free.entry((tile.shape(), tile.border())).or_default().push(tile);
        }
    }
}

/// Tensors of finished passes, to be reused: fresh memory costs more than a convolution.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pool {
    pub(super) free: Arc<Mutex<HashMap<Kind, Vec<BlockedTensor>>>>,
    /// The same for transformed weights and the sums of their gradients.
    pub(super) workspace: Workspace,
}

/// Shape and border of a tensor.
type Kind = ([usize; 4], usize);

impl Pool {
    /// A batch with arbitrary values, within a border of zeros.
    pub(super) fn batch(&self, shape @ [n, c, h, w]: [usize; 4], border: usize) -> Batch {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let tiles = (0..n).step_by(TILE).map(|first| {
            let shape = [TILE.min(n - first), c, h, w];
            let used = free.get_mut(&(shape, border)).and_then(Vec::pop);
            used.unwrap_or_else(|| BlockedTensor::new(shape, border))
        });
        let tiles = tiles.collect();
        drop(free);
        Batch { shape, tiles, pool: self.clone() }
    }
}
