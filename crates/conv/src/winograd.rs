//! 3x3 convolutions by Winograd's minimal filtering, F(4x4, 3x3).
//!
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016). A tile of 4x4 outputs is
//! `A^T [sum over channels (G g G^T) * (B^T d B)] A`, where `d` are the 6x6 inputs of the tile, `g` the weights, and
//! `*` the product of elements: 36 multiplications for each pair of channels, where the sum over taps takes 144.
//!
//! - The points of the interpolation are 0, ±5/8, ±3/2 and infinity. All constants of both transforms of images are
//!   exact in f32, and the error is half that of the usual 0, ±1, ±2: twice that of the sum over taps.
//! - Tiles are transformed in batches that stay in the second-level cache. For each of the 36 elements, a product of
//!   matrices follows, `[tiles, inputs] x [inputs, outputs]`, with its sums in registers.
//! - Of a convolution of stride 2, every second input meets two taps in each direction, F(4, 2), and the others one
//!   tap: 81 multiplications for 4x4 outputs. Backward, so do every second output and the others.
//! - The sum for an output does not depend on the batch that its tile is in.

/// Runs a pass with the sizes that fit into the processor's registers: `run::<S, WIDE, NARROW, B, V>(simd)`.
macro_rules! by_lanes {
    ($pass:expr, $simd:expr) => {
        match S::F32_LANES {
            16 => $pass.run::<S, 8, 16, 2, 1>($simd),
            8 => $pass.run::<S, 4, 4, 1, 2>($simd),
            4 => $pass.run::<S, 4, 4, 1, 4>($simd),
            2 => $pass.run::<S, 1, 1, 1, 8>($simd),
            _ => $pass.run::<S, 1, 1, 1, 16>($simd),
        }
    };
}
pub(crate) mod gradient;
mod transforms;

use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::blocked_tensor::{LANES, SimdBlock};
use crate::kernel::{ConvPass, Matrix, vectors};
use gradient::Sums;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use transforms::{
    Algorithm, ELEMENTS, GROUP, IN, STRIDE2_ELEMENTS, Stride1, Stride2Backward, Stride2Forward, Tile, ZERO, tiles,
    transform_input, transform_sums, transform_weights, two_taps, weight_of, weight_row,
};

pub(crate) use transforms::OUT;

/// Most tiles of a batch.
const BATCH: usize = 32;
/// Memory of the transformed inputs of a batch, in pixels of 16 channels: half of a second-level cache of 1 MiB. Twice
/// as much, so that weights are read less often, was slower with 128 and 256 channels.
const MEMORY: usize = 8192;
/// Tiles of the product at the end of a batch.
const FEW: usize = 4;

/// The transformed weights of a convolution: `[output blocks][36 weights][input blocks]`.
#[derive(Debug, Clone)]
pub(crate) struct Winograd {
    weights: Vec<Matrix>,
    direction: Direction,
    /// Where the memory of the weights goes back to; `None` frees it.
    workspace: Option<Workspace>,
}

/// Memory of transformed weights and of the sums of their gradients, to be used again: fresh memory costs more than a
/// transform.
#[derive(Debug, Clone, Default)]
pub struct Workspace {
    weights: FreeList<Matrix>,
    sums: FreeList<Sums>,
}

/// Memory that is free.
#[derive(Debug, Clone)]
struct FreeList<T>(Arc<Mutex<Vec<Vec<T>>>>);

impl<T> Default for FreeList<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone> FreeList<T> {
    /// Memory of `length` values, which are arbitrary where the memory was used before, and `zero` elsewhere.
    fn take(&self, length: usize, zero: T) -> Vec<T> {
        let mut free = self.all();
        let fits = (0..free.len()).filter(|i| free[*i].capacity() >= length);
        let found = fits.min_by_key(|i| free[*i].capacity()).map(|i| free.swap_remove(i));
        drop(free);
        let mut memory = found.unwrap_or_default();
        memory.resize(length, zero);
        memory
    }

    fn give_back(&self, memory: Vec<T>) {
        self.all().push(memory);
    }

    fn all(&self) -> MutexGuard<'_, Vec<Vec<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Winograd {
    fn drop(&mut self) {
        if let Some(workspace) = &self.workspace {
            workspace.weights.give_back(std::mem::take(&mut self.weights));
        }
    }
}

/// Stride and direction of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The convolution, of stride 1.
    Forward,
    /// Its vector-Jacobian product, for which the kernel is turned by 180 degrees.
    Backward,
    /// The convolution, of stride 2.
    StridedForward,
    /// Its vector-Jacobian product.
    StridedBackward,
}

impl Winograd {
    /// Transforms the weights `[output blocks][input blocks][9 taps]` of a convolution.
    pub(crate) fn new(
        arch: Arch,
        matrices: &[Matrix],
        inputs: usize,
        direction: Direction,
        workspace: Option<&Workspace>,
    ) -> Self {
        let mut weights = Self::memory(matrices, workspace);
        let outputs = weights.chunks_mut(ELEMENTS * inputs).zip(matrices.chunks(9 * inputs));
        outputs.for_each(|(weights, matrices)| arch.dispatch(Packing { weights, matrices, direction }));
        Self { weights, direction, workspace: workspace.cloned() }
    }

    /// [`Winograd::new`] on the threads of the current rayon pool.
    pub(crate) fn in_parallel(
        arch: Arch,
        matrices: &[Matrix],
        inputs: usize,
        direction: Direction,
        workspace: Option<&Workspace>,
    ) -> Self {
        let mut weights = Self::memory(matrices, workspace);
        let outputs = weights.par_chunks_mut(ELEMENTS * inputs).zip(matrices.par_chunks(9 * inputs));
        outputs.for_each(|(weights, matrices)| arch.dispatch(Packing { weights, matrices, direction }));
        Self { weights, direction, workspace: workspace.cloned() }
    }

    /// Memory for the transform of `matrices`.
    fn memory(matrices: &[Matrix], workspace: Option<&Workspace>) -> Vec<Matrix> {
        let (length, zero) = (matrices.len() / 9 * ELEMENTS, [ZERO; LANES]);
        workspace.map_or_else(|| vec![zero; length], |workspace| workspace.weights.take(length, zero))
    }

    /// Writes `finish(start + bias + conv(x))` to the outputs of all jobs, whose tensors have the same channels.
    pub(crate) fn apply(&self, arch: Arch, bias: &[SimdBlock], jobs: &mut [ConvPass<'_>]) {
        match self.direction {
            Direction::Forward | Direction::Backward => self.apply_by::<Stride1, IN, IN, OUT>(arch, bias, jobs),
            Direction::StridedForward => {
                self.apply_by::<Stride2Forward, STRIDE2_ELEMENTS, STRIDE2_ELEMENTS, OUT>(arch, bias, jobs)
            }
            Direction::StridedBackward => self.apply_by::<Stride2Backward, 5, STRIDE2_ELEMENTS, 8>(arch, bias, jobs),
        }
    }

    fn apply_by<A: Algorithm<N, E, O>, const N: usize, const E: usize, const O: usize>(
        &self,
        arch: Arch,
        bias: &[SimdBlock],
        jobs: &mut [ConvPass<'_>],
    ) {
        let tiles = tiles(jobs.iter().map(|job| job.out.shape()), O);
        let Some(first) = jobs.first() else { return };
        let (inputs, outputs, channels) = (first.x.blocks(), first.out.blocks(), first.x.channels);
        let together = self.direction.batch(inputs);
        SCRATCH.with_borrow_mut(|scratch| {
            for tiles in tiles.chunks(together) {
                let weights = &self.weights;
                let pass =
                    Pass { weights, bias, inputs, outputs, channels, tiles, jobs, scratch, by: PhantomData::<A> };
                arch.dispatch(pass);
            }
        });
    }
}

impl Direction {
    /// Tiles of a batch, for so many input blocks.
    pub(crate) fn batch(self, inputs: usize) -> usize {
        let elements =
            if matches!(self, Self::Forward | Self::Backward) { ELEMENTS } else { STRIDE2_ELEMENTS * STRIDE2_ELEMENTS };
        (MEMORY / (elements * inputs) / 16 * 16).clamp(16, BATCH)
    }
}

/// The weights of one output block, before (`[input blocks][9 taps]`) and after their transform.
struct Packing<'a> {
    weights: &'a mut [Matrix],
    matrices: &'a [Matrix],
    direction: Direction,
}

impl WithSimd for Packing<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) {
        for input in 0..self.matrices.len() / 9 {
            for row in 0..LANES {
                self.row(input, row);
            }
        }
    }
}

impl Packing<'_> {
    /// Transforms the weights from one channel.
    #[inline(always)]
    fn row(&mut self, input: usize, row: usize) {
        let taps = &self.matrices[input * 9..][..9];
        let mut kernel = [[0.0; LANES]; 9];
        for (tap, to) in kernel.iter_mut().enumerate() {
            let turned = matches!(self.direction, Direction::Backward | Direction::StridedBackward);
            *to = taps[if turned { 8 - tap } else { tap }][row].0;
        }
        let transformed = match self.direction {
            Direction::Forward | Direction::Backward => transform_weights(&kernel, weight_row),
            Direction::StridedForward | Direction::StridedBackward => transform_weights(&kernel, two_taps),
        };
        let elements = self.weights[input..].iter_mut().step_by(self.matrices.len() / 9);
        for (to, values) in elements.zip(transformed) {
            to[row].0 = values;
        }
    }
}

/// Transformed tiles, kept from call to call: fresh memory costs more than a transform.
#[derive(Default)]
struct Scratch {
    /// `[groups][input blocks][elements][GROUP]`.
    inputs: Vec<SimdBlock>,
    /// `[groups][output blocks of a pass][elements][GROUP]`.
    outputs: Vec<SimdBlock>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Memory of `count` items.
fn grown<T: Clone>(memory: &mut Vec<T>, count: usize, zero: T) -> &mut [T] {
    if memory.len() < count {
        memory.resize(count, zero);
    }
    &mut memory[..count]
}

/// A batch of tiles on its way through the transforms and the products, by an [`Algorithm`] from `N` inputs by `E`
/// elements to `O` outputs in each direction.
struct Pass<'a, 'j, A, const N: usize, const E: usize, const O: usize> {
    weights: &'a [Matrix],
    bias: &'a [SimdBlock],
    /// Blocks.
    inputs: usize,
    outputs: usize,
    /// Input channels.
    channels: usize,
    tiles: &'a [Tile],
    jobs: &'a mut [ConvPass<'j>],
    scratch: &'a mut Scratch,
    by: PhantomData<A>,
}

impl<A: Algorithm<N, E, O>, const N: usize, const E: usize, const O: usize> WithSimd for Pass<'_, '_, A, N, E, O> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // As for the sum over taps: the tiles of a product with two output blocks and with one, how many blocks there
        // are at most, and the vectors per block.
        by_lanes!(self, simd)
    }
}

impl<A: Algorithm<N, E, O>, const N: usize, const E: usize, const O: usize> Pass<'_, '_, A, N, E, O> {
    /// Length of one block of a group.
    const LENGTH: usize = E * E * GROUP;

    #[inline(always)]
    fn run<S: Simd, const WIDE: usize, const NARROW: usize, const B: usize, const V: usize>(mut self, simd: S) {
        let groups = self.tiles.len().div_ceil(GROUP);
        grown(&mut self.scratch.outputs, groups * B * Self::LENGTH, ZERO);
        let inputs = grown(&mut self.scratch.inputs, groups * self.inputs * Self::LENGTH, ZERO);
        for (tiles, inputs) in self.tiles.chunks(GROUP).zip(inputs.chunks_exact_mut(self.inputs * Self::LENGTH)) {
            for (i, tile) in tiles.iter().enumerate() {
                for (block, to) in inputs.chunks_exact_mut(Self::LENGTH).enumerate() {
                    transform_input::<S, A, N, E, O, V>(simd, self.jobs[tile[0]].x, *tile, block, (to, i));
                }
            }
        }
        let mut block = 0;
        while block < self.outputs {
            if block + B <= self.outputs {
                self.products::<S, WIDE, B, V>(simd, block);
                self.finish::<S, B, V>(simd, block);
                block += B;
            } else {
                self.products::<S, NARROW, 1, V>(simd, block);
                self.finish::<S, 1, V>(simd, block);
                block += 1;
            }
        }
    }

    /// The products of all elements for `B` output blocks.
    #[inline(always)]
    fn products<S: Simd, const T: usize, const B: usize, const V: usize>(&mut self, simd: S, block: usize) {
        let (inputs, tiles) = (self.inputs, self.tiles.len());
        let Scratch { inputs: x, outputs: out } = &mut *self.scratch;
        for element in 0..E * E {
            let weight = weight_of(element / E) * IN + weight_of(element % E);
            let mut weights: [&[Matrix]; B] = [&[]; B];
            for (b, weights) in weights.iter_mut().enumerate() {
                *weights = &self.weights[((block + b) * ELEMENTS + weight) * inputs..][..inputs];
            }
            let product = Product { weights, channels: self.channels, length: Self::LENGTH };
            let mut tile = 0;
            while tile < tiles {
                let first = element * GROUP + tile % GROUP;
                let x = &x[tile / GROUP * inputs * Self::LENGTH + first..];
                let out = &mut out[tile / GROUP * B * Self::LENGTH + first..];
                if T > FEW && tile + FEW >= tiles {
                    product.tiles::<S, FEW, V>(simd, x, out);
                    tile += FEW;
                } else if T > GROUP && tile + GROUP >= tiles {
                    product.tiles::<S, GROUP, V>(simd, x, out);
                    tile += GROUP;
                } else {
                    product.tiles::<S, T, V>(simd, x, out);
                    tile += T;
                }
            }
        }
    }

    /// Transforms the sums of `B` output blocks and writes the outputs.
    #[inline(always)]
    fn finish<S: Simd, const B: usize, const V: usize>(&mut self, simd: S, block: usize) {
        let groups = self.scratch.outputs.chunks_exact(B * Self::LENGTH);
        for (tiles, sums) in self.tiles.chunks(GROUP).zip(groups) {
            for (i, tile) in tiles.iter().enumerate() {
                let job = &mut self.jobs[tile[0]];
                for (b, sums) in sums.chunks_exact(Self::LENGTH).enumerate() {
                    let bias = self.bias.get(block + b).unwrap_or(&ZERO);
                    let outputs = transform_sums::<S, A, N, E, O, V>(simd, (sums, i), bias);
                    job.write_tile::<S, V, O>(simd, *tile, block + b, &outputs);
                }
            }
        }
    }
}

/// The weights of one element, from all input blocks to `B` output blocks.
struct Product<'a, const B: usize> {
    weights: [&'a [Matrix]; B],
    /// Input channels.
    channels: usize,
    /// Length of one block of a group.
    length: usize,
}

impl<const B: usize> Product<'_, B> {
    /// Writes the products of `T` tiles in `x` (`[groups][input blocks]`, from the first of the tiles on) to `out`
    /// (`[groups][B]`, in the same way).
    #[inline(always)]
    fn tiles<S: Simd, const T: usize, const V: usize>(&self, simd: S, x: &[SimdBlock], out: &mut [SimdBlock]) {
        let (inputs, groups, each) = (self.weights[0].len(), T.div_ceil(GROUP), T.min(GROUP));
        let mut sums = [[[simd.splat_f32s(0.0); V]; B]; T];
        for input in 0..inputs {
            let mut pixels = [&[][..]; 2];
            for (group, pixels) in pixels.iter_mut().enumerate().take(groups) {
                *pixels = &x[(group * inputs + input) * self.length..][..each];
            }
            let mut matrices = [&[SimdBlock([0.0; LANES]); LANES]; B];
            for (matrix, weights) in matrices.iter_mut().zip(self.weights) {
                *matrix = &weights[input];
            }
            for channel in 0..(self.channels - input * LANES).min(LANES) {
                let mut rows = [[simd.splat_f32s(0.0); V]; B];
                for (row, matrix) in rows.iter_mut().zip(matrices) {
                    *row = vectors::<S, V>(simd, &matrix[channel]);
                }
                for (t, sums) in sums.iter_mut().enumerate() {
                    let value = simd.splat_f32s(pixels[t / GROUP][t % GROUP].0[channel]);
                    for (sums, row) in sums.iter_mut().zip(rows) {
                        for (sum, weight) in sums.iter_mut().zip(row) {
                            *sum = simd.mul_add_e_f32s(value, weight, *sum);
                        }
                    }
                }
            }
        }
        // The compiler keeps an array in registers only if it is indexed by constants alone.
        for b in 0..B {
            for t in 0..T {
                let out = &mut out[(t / GROUP * B + b) * self.length..][..each][t % GROUP];
                S::as_mut_simd_f32s(&mut out.0).0[..V].copy_from_slice(&sums[t][b]);
            }
        }
    }
}

impl ConvPass<'_> {
    /// Finishes the sums of a tile in one block, and writes those that are inside of the image.
    #[inline(always)]
    fn write_tile<S: Simd, const V: usize, const O: usize>(
        &mut self,
        simd: S,
        [_, image, row, column]: Tile,
        block: usize,
        sums: &[[SimdBlock; O]; O],
    ) {
        let columns = (self.out.width - column * O).min(O);
        for (y, sums) in (row * O..self.out.height).zip(sums) {
            self.write::<S, V>(simd, [image, block, y], column * O, &sums[..columns]);
        }
    }
}
