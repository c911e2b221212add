//! The gradient of a convolution with respect to its weights.

use crate::blocked_tensor::{BlockedTensor, LANES, SimdBlock};
use crate::conv::Geometry;
use crate::kernel::{Matrix, Phase, vectors};
use crate::winograd::Workspace;
use crate::winograd::gradient::{self, Sums};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Pixels whose products are summed in registers before the sums are written back to memory.
const SPAN: usize = 32;
/// Output blocks that are computed from the same loaded input.
const TOGETHER: usize = 2;
/// Output blocks of a task by Winograd's algorithm, for which inputs are transformed once.
const TRANSFORMED: usize = 4;
/// Tasks to split the sum into, provided that there are as many tiles. A constant, so that results do not depend on the
/// threads.
const TASKS: usize = 64;

/// The gradient with respect to the weights from some tensors.
#[derive(Debug)]
pub struct PartialGradient(Partial);

#[derive(Debug)]
enum Partial {
    /// `[outputs, inputs, kernel, kernel]`.
    Taps(Vec<f32>),
    /// Sums of transformed tiles, for every [`TRANSFORMED`] output blocks.
    Elements(Vec<Vec<Sums>>),
}

impl Geometry {
    /// The gradient with respect to the weights, `[outputs, inputs, kernel, kernel]`. `x` holds the inputs, tile by
    /// tile, and `grad_output` the gradient with respect to the convolution's output for each of them. It is computed
    /// on the threads of the current rayon pool, whose number does not change the result.
    ///
    /// # Panics
    /// If the shapes do not fit, or if a border is smaller than the padding.
    #[must_use]
    pub fn weight_gradient(&self, x: &[BlockedTensor], grad_output: &[BlockedTensor]) -> Vec<f32> {
        self.weight_gradient_on(Arch::new(), x, grad_output)
    }

    pub(crate) fn weight_gradient_on(
        &self,
        arch: Arch,
        x: &[BlockedTensor],
        grad_output: &[BlockedTensor],
    ) -> Vec<f32> {
        assert_eq!(x.len(), grad_output.len(), "different numbers of tensors");
        let group = self.gradient_group(x);
        let groups = x.par_chunks(group).zip(grad_output.par_chunks(group));
        let workspace = Workspace::default();
        let partials = groups.map(|(x, grad_output)| self.partial_gradient_on(arch, x, grad_output, &workspace));
        self.merge_on(arch, partials.collect(), &workspace)
    }

    /// How many of the tensors `x` a [`PartialGradient`] should be made of. It depends on their shapes and number, and
    /// not on the threads.
    #[must_use]
    pub fn gradient_group(&self, x: &[BlockedTensor]) -> usize {
        // With few output channels there are few tasks, so tiles are summed in groups.
        let minimal = x.iter().all(|x| self.has_minimal_gradient(x.shape()));
        let together = if minimal { TRANSFORMED } else { TOGETHER };
        let groups = TASKS.div_ceil(self.outputs.div_ceil(together * LANES));
        let groups = if minimal { groups.min(gradient::groups(x)) } else { groups };
        x.len().div_ceil(groups).max(1)
    }

    /// What some tensors contribute to [`Geometry::weight_gradient`], in memory of the workspace, to which
    /// [`Geometry::merge`] gives it back.
    ///
    /// # Panics
    /// As [`Geometry::weight_gradient`].
    #[must_use]
    pub fn partial_gradient(
        &self,
        x: &[BlockedTensor],
        grad_output: &[BlockedTensor],
        workspace: &Workspace,
    ) -> PartialGradient {
        self.partial_gradient_on(Arch::new(), x, grad_output, workspace)
    }

    fn partial_gradient_on(
        &self,
        arch: Arch,
        x: &[BlockedTensor],
        grad_output: &[BlockedTensor],
        workspace: &Workspace,
    ) -> PartialGradient {
        for (x, grad_output) in x.iter().zip(grad_output) {
            assert_eq!(x.shape()[1], self.inputs, "a tensor with other channels");
            assert_eq!(grad_output.shape(), self.output(x.shape()), "tensors of different shapes");
            assert!(x.border >= self.padding, "a border of {} is read to {}", x.border, self.padding);
        }
        if !x.iter().all(|x| self.has_minimal_gradient(x.shape())) {
            return PartialGradient(Partial::Taps(self.weight_sums(arch, x, grad_output)));
        }
        let blocks: Vec<usize> = (0..self.outputs.div_ceil(LANES)).collect();
        let parts = blocks.par_chunks(TRANSFORMED).map(|part| gradient::sums(arch, x, grad_output, part, workspace));
        PartialGradient(Partial::Elements(parts.collect()))
    }

    /// The sum of partial gradients, in their order: the gradient `[outputs, inputs, kernel, kernel]`.
    #[must_use]
    pub fn merge(&self, partials: Vec<PartialGradient>, workspace: &Workspace) -> Vec<f32> {
        self.merge_on(Arch::new(), partials, workspace)
    }

    fn merge_on(&self, arch: Arch, partials: Vec<PartialGradient>, workspace: &Workspace) -> Vec<f32> {
        let mut weights = vec![0.0; self.weights()];
        let mut elements = vec![Vec::new(); self.outputs.div_ceil(TRANSFORMED * LANES)];
        for PartialGradient(partial) in partials {
            match partial {
                Partial::Taps(sums) => weights.iter_mut().zip(sums).for_each(|(all, sum)| *all += sum),
                Partial::Elements(parts) => elements.iter_mut().zip(parts).for_each(|(all, part)| all.push(part)),
            }
        }
        weights
            .par_chunks_mut((TRANSFORMED * LANES * self.inputs * self.kernel * self.kernel).max(1))
            .zip(elements)
            .for_each(|(weights, sums)| gradient::unpack(arch, sums, self.inputs, weights, workspace));
        weights
    }

    /// The sum over one group of tiles, tap by tap.
    fn weight_sums(&self, arch: Arch, x: &[BlockedTensor], grad_output: &[BlockedTensor]) -> Vec<f32> {
        let taps = self.kernel * self.kernel;
        let phase = self.forwards();
        let mut weights = vec![0.0; self.weights()];
        weights.par_chunks_mut(TOGETHER * LANES * self.inputs * taps).enumerate().for_each(|(i, weights)| {
            let (output, outputs) = (TOGETHER * i, weights.len() / (self.inputs * taps));
            for input in 0..self.inputs.div_ceil(LANES) {
                let mut sums = vec![[[SimdBlock::default(); LANES]; TOGETHER]; taps];
                let blocks = outputs.div_ceil(LANES);
                for (x, grad_output) in x.iter().zip(grad_output) {
                    arch.dispatch(Products { x, grad_output, phase: &phase, input, output, blocks, sums: &mut sums });
                }
                let channels = (self.inputs - input * LANES).min(LANES);
                for (tap, sums) in sums.iter().enumerate() {
                    for o in 0..outputs {
                        for (i, row) in sums[o / LANES].iter().enumerate().take(channels) {
                            weights[(o * self.inputs + input * LANES + i) * taps + tap] = row.0[o % LANES];
                        }
                    }
                }
            }
        });
        weights
    }
}

/// The products of one input block with one or two output blocks, summed over all pixels.
struct Products<'a> {
    x: &'a BlockedTensor,
    grad_output: &'a BlockedTensor,
    phase: &'a Phase,
    input: usize,
    output: usize,
    blocks: usize,
    /// The sums for each tap.
    sums: &'a mut [[Matrix; TOGETHER]],
}

impl WithSimd for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Input channels, output blocks, and vectors per block, chosen so that their sums fit into the registers.
        match (S::F32_LANES, self.blocks) {
            (16, 2) => self.rows::<S, 8, 2, 1>(simd),
            (16, _) => self.rows::<S, 16, 1, 1>(simd),
            (8, _) => self.rows::<S, 4, 1, 2>(simd),
            (4, _) => self.rows::<S, 4, 1, 4>(simd),
            (2, _) => self.rows::<S, 1, 1, 8>(simd),
            _ => self.rows::<S, 1, 1, 16>(simd),
        }
    }
}

impl Products<'_> {
    /// Goes through all images a few rows at a time, so that these rows stay in the first-level cache for all taps.
    #[inline(always)]
    fn rows<S: Simd, const C: usize, const B: usize, const V: usize>(mut self, simd: S) {
        let [images, _, height, width] = self.grad_output.shape();
        let together = SPAN.div_ceil(width).min(height);
        for image in 0..images {
            for top in (0..height).step_by(together) {
                let rows = [top, (top + together).min(height)];
                for tap in 0..self.phase.taps.len() {
                    for channel in (0..LANES).step_by(C) {
                        for block in (0..self.blocks).step_by(B) {
                            self.span::<S, C, B, V>(simd, image, rows, tap, channel, block);
                        }
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn span<S: Simd, const C: usize, const B: usize, const V: usize>(
        &mut self,
        simd: S,
        image: usize,
        [top, bottom]: [usize; 2],
        tap: usize,
        channel: usize,
        block: usize,
    ) {
        let (stride, width) = (self.phase.stride, self.grad_output.width);
        let at = self.phase.taps[tap];
        let mut sums = [[[simd.splat_f32s(0.0); V]; B]; C];
        for (c, sums) in sums.iter_mut().enumerate() {
            for (b, sums) in sums.iter_mut().enumerate() {
                *sums = vectors::<S, V>(simd, &self.sums[tap][block + b][channel + c]);
            }
        }
        // The compiler keeps an array in registers only if it is indexed by constants alone, hence the copy.
        let mut fast = sums;
        for y in top..bottom {
            let row = self.x.border.wrapping_add_signed(at.dy) + y * stride;
            let column = self.x.border.wrapping_add_signed(at.dx);
            let x = &self.x.values[self.x.plane(image, self.input) + row * self.x.pitch() + column..];
            let mut grad_output = [&[][..]; B];
            for (b, grad_output) in grad_output.iter_mut().enumerate() {
                *grad_output =
                    &self.grad_output.values[self.grad_output.row(image, self.output + block + b, y)..][..width];
            }
            for (pixel, x) in x.iter().step_by(stride).take(width).enumerate() {
                let mut vector = [[simd.splat_f32s(0.0); V]; B];
                for (vector, grad_output) in vector.iter_mut().zip(grad_output) {
                    *vector = vectors::<S, V>(simd, &grad_output[pixel]);
                }
                for (c, sums) in fast.iter_mut().enumerate() {
                    let value = simd.splat_f32s(x.0[channel + c]);
                    for (sums, vector) in sums.iter_mut().zip(vector) {
                        for (sum, vector) in sums.iter_mut().zip(vector) {
                            *sum = simd.mul_add_e_f32s(value, vector, *sum);
                        }
                    }
                }
            }
        }
        sums = fast;
        for (c, sums) in sums.iter().enumerate() {
            for (b, sums) in sums.iter().enumerate() {
                let (to, _) = S::as_mut_simd_f32s(&mut self.sums[tap][block + b][channel + c].0);
                for (to, sum) in to.iter_mut().zip(sums) {
                    *to = *sum;
                }
            }
        }
    }
}
