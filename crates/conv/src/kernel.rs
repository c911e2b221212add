//! The inner loop of all convolutions.

use crate::blocked_tensor::{BlockedTensor, LANES, SimdBlock};
use pulp::{Simd, WithSimd};

/// What the result of a convolution is added to.
#[derive(Debug, Clone, Copy)]
pub enum Accumulate<'a> {
    /// Nothing: the result is overwritten.
    Zero,
    /// A tensor of the output's shape.
    Add(&'a BlockedTensor),
    /// The values that the output already holds.
    Result,
}

/// What is applied to the sum before it is written.
#[derive(Debug, Clone, Copy)]
pub enum Epilogue<'a> {
    /// The identity.
    Keep,
    /// ReLU. NaN stays NaN.
    Relu,
    /// Zero where this tensor of the output's shape is not positive: the backward pass of a ReLU.
    Mask(&'a BlockedTensor),
}

impl<'a> Accumulate<'a> {
    pub(crate) fn tensor(self) -> Option<&'a BlockedTensor> {
        if let Self::Add(tensor) = self { Some(tensor) } else { None }
    }
}

impl<'a> Epilogue<'a> {
    pub(crate) fn tensor(self) -> Option<&'a BlockedTensor> {
        if let Self::Mask(tensor) = self { Some(tensor) } else { None }
    }
}

/// A tensor that a convolution reads, one that it writes, and what happens at the end.
#[derive(Debug)]
pub struct ConvPass<'a> {
    /// The input.
    pub x: &'a BlockedTensor,
    /// What the result is added to.
    pub start: Accumulate<'a>,
    /// What is applied to the sum.
    pub finish: Epilogue<'a>,
    /// The output.
    pub out: &'a mut BlockedTensor,
}

/// Pixels of the tiles at the end of a row, where no wider tile fits.
const REST: usize = 4;

/// A 16 x 16 block of weights: for each of 16 input channels, a row of 16 output channels.
pub(crate) type Matrix = [SimdBlock; LANES];

/// One tap of the kernel: the offset at which the input is read, and the number of the weight matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tap {
    pub(crate) dy: isize,
    pub(crate) dx: isize,
    pub(crate) matrix: usize,
}

/// A subset of the output's rows and columns, and the taps that are summed there.
///
/// The output at `(a step + oy, b step + ox)` is the sum over the taps of the tap's matrix times the input at
/// `(a stride + dy, b stride + dx)`.
#[derive(Debug, Clone)]
pub(crate) struct Phase {
    pub(crate) taps: Vec<Tap>,
    pub(crate) stride: usize,
    pub(crate) step: usize,
    pub(crate) offset: [usize; 2],
}

/// One phase of a convolution, ready to be dispatched.
pub(crate) struct Run<'a> {
    pub(crate) x: &'a BlockedTensor,
    pub(crate) phase: &'a Phase,
    /// `[output blocks][input blocks][matrices]`.
    pub(crate) matrices: &'a [Matrix],
    /// The bias in blocks of 16 channels; empty if there is none.
    pub(crate) bias: &'a [SimdBlock],
    pub(crate) start: Accumulate<'a>,
    pub(crate) finish: Epilogue<'a>,
    pub(crate) out: &'a mut BlockedTensor,
}

impl WithSimd for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // The sums that are held in registers must be at least as many as the processor can have in flight, and fewer
        // than its registers. The parameters are the pixels of a wide and of a narrow tile, the blocks of a wide tile,
        // and the vectors per block.
        match S::F32_LANES {
            16 => self.strides::<S, 8, 16, 2, 1>(simd),
            8 => self.strides::<S, 4, 4, 1, 2>(simd),
            4 => self.strides::<S, 4, 4, 1, 4>(simd),
            2 => self.strides::<S, 1, 1, 1, 8>(simd),
            _ => self.strides::<S, 1, 1, 1, 16>(simd),
        }
    }
}

impl Run<'_> {
    #[inline(always)]
    fn strides<S: Simd, const WIDE: usize, const NARROW: usize, const B: usize, const V: usize>(self, simd: S) {
        if self.phase.stride == 1 {
            self.blocks::<S, WIDE, NARROW, B, V, 1>(simd);
        } else {
            self.blocks::<S, WIDE, NARROW, B, V, 2>(simd);
        }
    }

    #[inline(always)]
    fn blocks<S: Simd, const WIDE: usize, const NARROW: usize, const B: usize, const V: usize, const STRIDE: usize>(
        mut self,
        simd: S,
    ) {
        let taps: Vec<(usize, usize)> = self
            .phase
            .taps
            .iter()
            .map(|tap| {
                let along = |d: isize| self.x.border.wrapping_add_signed(d);
                (along(tap.dy) * self.x.pitch() + along(tap.dx), tap.matrix)
            })
            .collect();
        let (all, mut block) = (self.out.blocks(), 0);
        while block < all {
            if block + B <= all {
                self.images::<S, WIDE, B, V, STRIDE>(simd, block, &taps);
                block += B;
            } else {
                self.images::<S, NARROW, 1, V, STRIDE>(simd, block, &taps);
                block += 1;
            }
        }
    }

    /// Computes `B` output blocks of all images, one input block after the other, so that the matrices of that block
    /// stay in the first-level cache.
    #[inline(always)]
    fn images<S: Simd, const P: usize, const B: usize, const V: usize, const STRIDE: usize>(
        &mut self,
        simd: S,
        block: usize,
        taps: &[(usize, usize)],
    ) {
        let Phase { step, offset: [top, left], .. } = *self.phase;
        let inputs = self.x.blocks();
        let matrices = self.matrices.len() / (self.out.blocks() * inputs);
        for input in 0..inputs {
            let mut weights: [&[Matrix]; B] = [&[]; B];
            for (b, weights) in weights.iter_mut().enumerate() {
                *weights = &self.matrices[((block + b) * inputs + input) * matrices..][..matrices];
            }
            let from = Input {
                channels: (self.x.channels - input * LANES).min(LANES),
                taps,
                weights,
                first: input == 0,
                last: input + 1 == inputs,
            };
            for image in 0..self.out.images {
                let plane = self.x.plane(image, input);
                for y in (top..self.out.height).step_by(step) {
                    let row = plane + y / step * STRIDE * self.x.pitch();
                    let columns = self.out.width.saturating_sub(left).div_ceil(step);
                    let to = |column: usize| (row + column * STRIDE, [image, block, y, left + column * step]);
                    let mut column = 0;
                    while column + P <= columns {
                        self.tile::<S, P, B, V, STRIDE>(simd, &from, to(column));
                        column += P;
                    }
                    while column + REST <= columns {
                        self.tile::<S, REST, B, V, STRIDE>(simd, &from, to(column));
                        column += REST;
                    }
                    while column < columns {
                        self.tile::<S, 1, B, V, STRIDE>(simd, &from, to(column));
                        column += 1;
                    }
                }
            }
        }
    }

    /// Adds what one input block contributes to `P` pixels of `B` output blocks. The last argument is the position of
    /// the first pixel in the input (for a tap with offset 0, and less the border) and in the output,
    /// `[image, block, row, column]`.
    #[allow(clippy::too_many_lines, reason = "a kernel: its sums stay in registers from the first tap to the last")]
    #[inline(always)]
    fn tile<S: Simd, const P: usize, const B: usize, const V: usize, const STRIDE: usize>(
        &mut self,
        simd: S,
        from: &Input<'_, B>,
        (at, [image, block, y, x]): (usize, [usize; 4]),
    ) {
        let step = self.phase.step;
        let mut sums = [[[simd.splat_f32s(0.0); V]; B]; P];
        for (b, block) in (block..block + B).enumerate() {
            let old = match (from.first, self.start) {
                (true, Accumulate::Zero) => None,
                (true, Accumulate::Add(tensor)) => Some(tensor),
                (false, _) | (true, Accumulate::Result) => Some(&*self.out),
            };
            if let Some(old) = old {
                let row = &old.values[old.row(image, block, y) + x..][..(P - 1) * step + 1];
                for (p, sums) in sums.iter_mut().enumerate() {
                    sums[b] = vectors::<S, V>(simd, &row[p * step]);
                }
            }
            if from.first
                && let Some(bias) = self.bias.get(block)
            {
                let bias = vectors::<S, V>(simd, bias);
                for sums in &mut sums {
                    for (sum, bias) in sums[b].iter_mut().zip(bias) {
                        *sum = simd.add_f32s(*sum, bias);
                    }
                }
            }
        }

        // The compiler keeps an array in registers only if it is indexed by constants alone, hence the copy.
        let mut fast = sums;
        for (offset, matrix) in from.taps {
            let pixels = &self.x.values[at + offset..][..(P - 1) * STRIDE + 1];
            let mut matrices = [&[SimdBlock([0.0; LANES]); LANES]; B];
            for (matrices, weights) in matrices.iter_mut().zip(from.weights) {
                *matrices = &weights[*matrix];
            }
            for channel in 0..from.channels.min(LANES) {
                let mut rows = [[simd.splat_f32s(0.0); V]; B];
                for (row, matrix) in rows.iter_mut().zip(matrices) {
                    *row = vectors::<S, V>(simd, &matrix[channel]);
                }
                for (p, sums) in fast.iter_mut().enumerate() {
                    let value = simd.splat_f32s(pixels[p * STRIDE].0[channel]);
                    for (sums, row) in sums.iter_mut().zip(rows) {
                        for (sum, weight) in sums.iter_mut().zip(row) {
                            *sum = simd.mul_add_e_f32s(value, weight, *sum);
                        }
                    }
                }
            }
        }
        sums = fast;

        for (b, block) in (block..block + B).enumerate() {
            match (from.last, self.finish) {
                (false, _) | (true, Epilogue::Keep) => {}
                (true, Epilogue::Relu) => {
                    for sums in &mut sums {
                        for sum in &mut sums[b] {
                            // Comparing in this order passes a NaN on.
                            *sum = simd.max_f32s(simd.splat_f32s(0.0), *sum);
                        }
                    }
                }
                (true, Epilogue::Mask(mask)) => {
                    let row = &mask.values[mask.row(image, block, y) + x..][..(P - 1) * step + 1];
                    for (p, sums) in sums.iter_mut().enumerate() {
                        for (sum, mask) in sums[b].iter_mut().zip(vectors::<S, V>(simd, &row[p * step])) {
                            let zero = simd.splat_f32s(0.0);
                            *sum = simd.select_f32s(simd.less_than_f32s(zero, mask), *sum, zero);
                        }
                    }
                }
            }
            let row = self.out.row(image, block, y) + x;
            let row = &mut self.out.values[row..][..(P - 1) * step + 1];
            for (p, sums) in sums.iter().enumerate() {
                let (to, _) = S::as_mut_simd_f32s(&mut row[p * step].0);
                for (to, sum) in to.iter_mut().zip(sums[b]) {
                    *to = sum;
                }
            }
        }
    }
}

/// One input block, and the weights from it to `B` output blocks.
struct Input<'a, const B: usize> {
    /// Channels of the block that are not padding.
    channels: usize,
    /// For each tap, the distance to read at, counted from the corner of the border, and the number of its matrix.
    taps: &'a [(usize, usize)],
    weights: [&'a [Matrix]; B],
    first: bool,
    last: bool,
}

/// Loads a block's channels at one pixel into registers.
#[inline(always)]
pub(crate) fn vectors<S: Simd, const V: usize>(simd: S, lanes: &SimdBlock) -> [S::f32s; V] {
    let mut vectors = [simd.splat_f32s(0.0); V];
    let (from, _) = S::as_simd_f32s(&lanes.0);
    for (to, from) in vectors.iter_mut().zip(from) {
        *to = *from;
    }
    vectors
}
