//! The gradient with respect to the weights, in the same products of elements.
//!
//! `B^T d B` and `A d' A^T`, where `d'` is the gradient with respect to the outputs of a tile, are multiplied element
//! by element and summed over all tiles. `G^T m G` of the sums `m` is the gradient.

use super::transforms::{
    ELEMENTS, GROUP, Group, IN, OUT, Stride1, Tile, ZERO, tiles, transform_gradient, transform_input,
    transform_weight_gradient,
};
use super::{Workspace, grown};
use crate::blocked_tensor::{BlockedTensor, LANES};
use crate::kernel::{Matrix, vectors};
use pulp::{Arch, Simd, WithSimd};
use std::cell::RefCell;

/// Tiles whose products are summed in registers before the sums are written back to memory.
const BATCH: usize = 32;

/// Tiles of a group.
const ENOUGH: usize = 256;

/// A group before its tiles are transformed.
static EMPTY: Group = [[ZERO; GROUP]; ELEMENTS];

/// The sums of products for each element.
pub(crate) type Sums = [Matrix; ELEMENTS];

/// Sums of no products.
static NOTHING: Sums = [[ZERO; LANES]; ELEMENTS];

/// The number of groups in which the sums of these tensors should be made: each reads and writes all sums.
pub(crate) fn groups(x: &[BlockedTensor]) -> usize {
    (tiles(x.iter().map(BlockedTensor::shape), OUT).len() / ENOUGH).max(1)
}

/// The sums of products of all input blocks with the output blocks `outputs`, `[input blocks][output blocks]`.
pub(crate) fn sums(
    arch: Arch,
    x: &[BlockedTensor],
    grad_output: &[BlockedTensor],
    outputs: &[usize],
    workspace: &Workspace,
) -> Vec<Sums> {
    let inputs = x.first().map_or(0, BlockedTensor::blocks);
    let mut sums = workspace.sums.take(inputs * outputs.len(), NOTHING);
    sums.fill(NOTHING);
    let tiles = tiles(grad_output.iter().map(BlockedTensor::shape), OUT);
    SCRATCH.with_borrow_mut(|scratch| {
        for tiles in tiles.chunks(BATCH) {
            arch.dispatch(Pass { x, grad_output, tiles, outputs, sums: &mut sums, scratch });
        }
    });
    sums
}

/// Writes the gradient `[outputs, inputs, 3, 3]`, which has `inputs` channels, given the sums of all groups.
pub(crate) fn unpack(arch: Arch, groups: Vec<Vec<Sums>>, inputs: usize, weights: &mut [f32], workspace: &Workspace) {
    let mut groups = groups.into_iter();
    let Some(mut sums) = groups.next() else { return };
    for group in groups {
        for (sum, value) in
            sums.as_flattened_mut().as_flattened_mut().iter_mut().zip(group.as_flattened().as_flattened())
        {
            for (sum, value) in sum.0.iter_mut().zip(value.0) {
                *sum += value;
            }
        }
        workspace.sums.give_back(group);
    }
    arch.dispatch(Unpacking { sums: &sums, inputs, weights });
    workspace.sums.give_back(sums);
}

/// Transformed tiles, kept from call to call: `[groups]` of one input block, `[groups][output blocks]`.
type Scratch = [Vec<Group>; 2];

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A batch of tiles.
struct Pass<'a> {
    x: &'a [BlockedTensor],
    grad_output: &'a [BlockedTensor],
    tiles: &'a [Tile],
    outputs: &'a [usize],
    /// `[input blocks][output blocks]`.
    sums: &'a mut [Sums],
    scratch: &'a mut Scratch,
}

impl WithSimd for Pass<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Input channels of a product with two output blocks and with one, how many blocks there are at most, and the
        // vectors per block, chosen so that the sums fit into the registers.
        by_lanes!(self, simd)
    }
}

impl Pass<'_> {
    #[inline(always)]
    fn run<S: Simd, const WIDE: usize, const NARROW: usize, const B: usize, const V: usize>(self, simd: S) {
        let Self { x, grad_output, tiles, outputs, sums, scratch: [inputs, gradients] } = self;
        let (groups, blocks) = (tiles.len().div_ceil(GROUP), outputs.len());
        let inputs = grown(inputs, groups, EMPTY);
        let gradients = grown(gradients, groups * blocks, EMPTY);
        for (tiles, gradients) in tiles.chunks(GROUP).zip(gradients.chunks_exact_mut(blocks)) {
            for (output, to) in outputs.iter().zip(gradients) {
                if tiles.len() < GROUP {
                    to.as_flattened_mut().fill(ZERO);
                }
                for (i, tile) in tiles.iter().enumerate() {
                    transform_gradient::<S, V>(simd, &grad_output[tile[0]], *tile, *output, (to, i));
                }
            }
        }
        for (input, sums) in sums.chunks_exact_mut(blocks).enumerate() {
            for (tiles, to) in tiles.chunks(GROUP).zip(inputs.iter_mut()) {
                if tiles.len() < GROUP {
                    to.as_flattened_mut().fill(ZERO);
                }
                for (i, tile) in tiles.iter().enumerate() {
                    let to = (to.as_flattened_mut(), i);
                    transform_input::<S, Stride1, IN, IN, OUT, V>(simd, &x[tile[0]], *tile, input, to);
                }
            }
            for element in 0..ELEMENTS {
                let product = Product { x: inputs, gradients, blocks, element };
                product.all::<S, WIDE, NARROW, B, V>(simd, sums);
            }
        }
    }
}

/// The products of one element.
struct Product<'a> {
    /// `[groups]`.
    x: &'a [Group],
    /// `[groups][blocks]`.
    gradients: &'a [Group],
    blocks: usize,
    element: usize,
}

impl Product<'_> {
    #[inline(always)]
    fn all<S: Simd, const WIDE: usize, const NARROW: usize, const B: usize, const V: usize>(
        &self,
        simd: S,
        sums: &mut [Sums],
    ) {
        let mut block = 0;
        while block < self.blocks {
            if block + B <= self.blocks {
                for row in (0..LANES).step_by(WIDE) {
                    self.add::<S, WIDE, B, V>(simd, block, row, sums);
                }
                block += B;
            } else {
                for row in (0..LANES).step_by(NARROW) {
                    self.add::<S, NARROW, 1, V>(simd, block, row, sums);
                }
                block += 1;
            }
        }
    }

    /// Adds the products of `C` input channels from `row` on with `B` output blocks from `block` on.
    #[inline(always)]
    fn add<S: Simd, const C: usize, const B: usize, const V: usize>(
        &self,
        simd: S,
        block: usize,
        row: usize,
        all: &mut [Sums],
    ) {
        // The compiler keeps an array in registers only if it is indexed by constants alone.
        let all = &mut all[block..block + B];
        let mut sums = [[[simd.splat_f32s(0.0); V]; B]; C];
        for c in 0..C {
            for b in 0..B {
                sums[c][b] = vectors::<S, V>(simd, &all[b][self.element][row..][..C][c]);
            }
        }
        for (x, gradients) in self.x.iter().zip(self.gradients.chunks_exact(self.blocks)) {
            let gradients = &gradients[block..block + B];
            for t in 0..GROUP {
                let pixel = &x[self.element][t].0[row..][..C];
                let mut gradient = [[simd.splat_f32s(0.0); V]; B];
                for b in 0..B {
                    gradient[b] = vectors::<S, V>(simd, &gradients[b][self.element][t]);
                }
                for c in 0..C {
                    let value = simd.splat_f32s(pixel[c]);
                    for b in 0..B {
                        for v in 0..V {
                            sums[c][b][v] = simd.mul_add_e_f32s(value, gradient[b][v], sums[c][b][v]);
                        }
                    }
                }
            }
        }
        for c in 0..C {
            for b in 0..B {
                let to = &mut all[b][self.element][row..][..C][c];
                S::as_mut_simd_f32s(&mut to.0).0[..V].copy_from_slice(&sums[c][b]);
            }
        }
    }
}

/// The sums of all tiles, `[input blocks][output blocks]`, and the weights that are made of them.
struct Unpacking<'a> {
    sums: &'a [Sums],
    /// Channels.
    inputs: usize,
    weights: &'a mut [f32],
}

impl WithSimd for Unpacking<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let outputs = self.weights.len() / (9 * self.inputs);
        let blocks = outputs.div_ceil(LANES);
        for (i, sums) in self.sums.iter().enumerate() {
            let (input, block) = (i / blocks * LANES, i % blocks * LANES);
            for row in 0..LANES.min(self.inputs - input) {
                let mut elements = [[0.0; LANES]; ELEMENTS];
                for (element, sums) in elements.iter_mut().zip(sums) {
                    *element = sums[row].0;
                }
                let taps = transform_weight_gradient(&elements);
                for o in 0..LANES.min(outputs - block) {
                    let to = &mut self.weights[((block + o) * self.inputs + input + row) * 9..][..9];
                    for (to, tap) in to.iter_mut().zip(&taps) {
                        *to = tap[o];
                    }
                }
            }
        }
    }
}
