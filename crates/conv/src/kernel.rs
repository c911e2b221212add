//! The inner loop of all convolutions.

use crate::blocked_tensor::{BlockedTensor, LANES, SimdBlock};
use pulp::{Simd, WithSimd};

/// Matrices that are read for one output block before the next pixels: with two blocks, the first-level cache has room
/// for them.
const MATRICES: usize = 16;

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

impl ConvPass<'_> {
    /// Adds the start to the sums of one block, finishes them and writes them, from column `x` on.
    #[inline(always)]
    pub(crate) fn write<S: Simd, const V: usize>(
        &mut self,
        simd: S,
        [image, block, y]: [usize; 3],
        x: usize,
        sums: &[SimdBlock],
    ) {
        let line = |tensor: &BlockedTensor| tensor.row(image, block, y) + x;
        let start = self.start.tensor().map(|start| &start.values[line(start)..][..sums.len()]);
        let mask = self.finish.tensor().map(|mask| &mask.values[line(mask)..][..sums.len()]);
        let at = line(self.out);
        let out = &mut self.out.values[at..][..sums.len()];
        for (i, (out, sum)) in out.iter_mut().zip(sums).enumerate() {
            let mut sum = vectors::<S, V>(simd, sum);
            let start = match (start, self.start) {
                (Some(start), _) => Some(vectors::<S, V>(simd, &start[i])),
                (None, Accumulate::Result) => Some(vectors::<S, V>(simd, out)),
                _ => None,
            };
            let mask = mask.map(|mask| vectors::<S, V>(simd, &mask[i]));
            let zero = simd.splat_f32s(0.0);
            for v in 0..V {
                if let Some(start) = start {
                    sum[v] = simd.add_f32s(sum[v], start[v]);
                }
                S::as_mut_simd_f32s(&mut out.0).0[v] = match (mask, self.finish) {
                    (Some(mask), _) => simd.select_f32s(simd.less_than_f32s(zero, mask[v]), sum[v], zero),
                    // Comparing in this order passes a NaN on.
                    (None, Epilogue::Relu) => simd.max_f32s(zero, sum[v]),
                    _ => sum[v],
                };
            }
        }
    }
}

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
pub(crate) struct Run<'a, 'j> {
    pub(crate) phase: &'a Phase,
    /// `[output blocks][input blocks][matrices]`.
    pub(crate) matrices: &'a [Matrix],
    /// The bias in blocks of 16 channels; empty if there is none.
    pub(crate) bias: &'a [SimdBlock],
    /// Their inputs have the same shape and border.
    pub(crate) jobs: &'a mut [ConvPass<'j>],
}

impl WithSimd for Run<'_, '_> {
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

impl Run<'_, '_> {
    #[inline(always)]
    fn strides<S: Simd, const WIDE: usize, const NARROW: usize, const B: usize, const V: usize>(self, simd: S) {
        match (self.phase.stride, self.phase.step) {
            (1, 1) => self.blocks::<S, WIDE, NARROW, B, V, 1, 1>(simd),
            (1, _) => self.blocks::<S, WIDE, NARROW, B, V, 1, 2>(simd),
            _ => self.blocks::<S, WIDE, NARROW, B, V, 2, 1>(simd),
        }
    }

    #[inline(always)]
    fn blocks<
        S: Simd,
        const WIDE: usize,
        const NARROW: usize,
        const B: usize,
        const V: usize,
        const STRIDE: usize,
        const STEP: usize,
    >(
        mut self,
        simd: S,
    ) {
        let Some(ConvPass { x, out, .. }) = self.jobs.first() else { return };
        let matrices = self.matrices.len() / (out.blocks() * x.blocks());
        let taps = |input: usize| {
            let channels = (x.channels - input * LANES).min(LANES);
            let along = |d: isize| x.border.wrapping_add_signed(d);
            self.phase.taps.iter().map(move |tap| Read {
                offset: input * x.size() + along(tap.dy) * x.pitch() + along(tap.dx),
                matrix: input * matrices + tap.matrix,
                channels,
            })
        };
        let reads: Vec<Read> = (0..x.blocks()).flat_map(taps).collect();
        let (all, mut block) = (out.blocks(), 0);
        while block < all {
            if block + B <= all {
                self.output_blocks::<S, WIDE, B, V, STRIDE, STEP>(simd, block, &reads);
                block += B;
            } else {
                self.output_blocks::<S, NARROW, 1, V, STRIDE, STEP>(simd, block, &reads);
                block += 1;
            }
        }
    }

    /// Computes `B` output blocks of all images, some input blocks after the others, so that the matrices of these stay
    /// in the first-level cache.
    #[inline(always)]
    fn output_blocks<
        S: Simd,
        const P: usize,
        const B: usize,
        const V: usize,
        const STRIDE: usize,
        const STEP: usize,
    >(
        &mut self,
        simd: S,
        block: usize,
        reads: &[Read],
    ) {
        let matrices = self.matrices.len() / self.jobs.first().map_or(1, |job| job.out.blocks());
        let mut weights: [&[Matrix]; B] = [&[]; B];
        for (b, weights) in weights.iter_mut().enumerate() {
            *weights = &self.matrices[(block + b) * matrices..][..matrices];
        }
        let taps = self.phase.taps.len().max(1);
        let together = (MATRICES / taps).max(1) * taps;
        // Without taps, the sums are those that they start from.
        let chunks = reads.len().div_ceil(together).max(1);
        for chunk in 0..chunks {
            let reads = &reads[chunk * together..reads.len().min((chunk + 1) * together)];
            let (first, last) = (chunk == 0, chunk + 1 == chunks);
            let from = Input { reads, weights, block, bias: self.bias, first, last };
            for job in &mut *self.jobs {
                from.add_to::<S, P, V, STRIDE, STEP>(simd, self.phase.offset, job);
            }
        }
    }
}

impl<const B: usize> Input<'_, B> {
    /// Adds what the input blocks contribute to all pixels of the phase.
    #[inline(always)]
    fn add_to<S: Simd, const P: usize, const V: usize, const STRIDE: usize, const STEP: usize>(
        &self,
        simd: S,
        [top, left]: [usize; 2],
        job: &mut ConvPass<'_>,
    ) {
        let [images, _, height, width] = job.out.shape();
        let columns = width.saturating_sub(left).div_ceil(STEP);
        // The pixels at the end of rows, where no tile fits, fill tiles of their own.
        let (mut ends, mut count) = ([Pixel::default(); P], 0);
        for image in 0..images {
            for y in (top..height).step_by(STEP) {
                let row = job.x.plane(image, 0) + y / STEP * STRIDE * job.x.pitch();
                let at = |column: usize| Pixel { from: row + column * STRIDE, to: [image, y, left + column * STEP] };
                for column in (0..columns / P * P).step_by(P) {
                    self.tile::<S, P, V, STRIDE, STEP, true>(simd, &[at(column); P], job);
                }
                for column in columns / P * P..columns {
                    ends[count] = at(column);
                    count += 1;
                    if count == P {
                        self.tile::<S, P, V, STRIDE, STEP, false>(simd, &ends, job);
                        count = 0;
                    }
                }
            }
        }
        if count > 0 {
            // The last pixel is computed several times, with the same result.
            let last = ends[count - 1];
            ends[count..].fill(last);
            self.tile::<S, P, V, STRIDE, STEP, false>(simd, &ends, job);
        }
    }

    /// Adds what the input blocks contribute to `P` pixels. `ROW` says that they are neighbours in a row, of which the
    /// first is given.
    #[allow(clippy::too_many_lines, reason = "a kernel: its sums stay in registers from the first tap to the last")]
    #[inline(always)]
    fn tile<S: Simd, const P: usize, const V: usize, const STRIDE: usize, const STEP: usize, const ROW: bool>(
        &self,
        simd: S,
        pixels: &[Pixel; P],
        ConvPass { x, start, finish, out }: &mut ConvPass<'_>,
    ) {
        // Where the pixels are in a tensor of the output's shape.
        let places = |tensor: &BlockedTensor, block: usize| -> [usize; P] {
            if ROW {
                let first = pixels[0].place(tensor, block);
                return std::array::from_fn(|p| first + p * STEP);
            }
            std::array::from_fn(|p| pixels[p].place(tensor, block))
        };
        let mut sums = [[[simd.splat_f32s(0.0); V]; B]; P];
        for (b, block) in (self.block..self.block + B).enumerate() {
            let old = match (self.first, *start) {
                (true, Accumulate::Zero) => None,
                (true, Accumulate::Add(tensor)) => Some(tensor),
                (false, _) | (true, Accumulate::Result) => Some(&**out),
            };
            if let Some(old) = old {
                for (sums, place) in sums.iter_mut().zip(places(old, block)) {
                    sums[b] = vectors::<S, V>(simd, &old.values[place]);
                }
            }
            if self.first
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
        for read in self.reads {
            let values: [&SimdBlock; P] = if ROW {
                let row = &x.values[pixels[0].from + read.offset..][..(P - 1) * STRIDE + 1];
                std::array::from_fn(|p| &row[p * STRIDE])
            } else {
                std::array::from_fn(|p| &x.values[pixels[p].from + read.offset])
            };
            let mut matrices = [&[SimdBlock([0.0; LANES]); LANES]; B];
            for (matrices, weights) in matrices.iter_mut().zip(self.weights) {
                *matrices = &weights[read.matrix];
            }
            for channel in 0..read.channels.min(LANES) {
                let mut rows = [[simd.splat_f32s(0.0); V]; B];
                for (row, matrix) in rows.iter_mut().zip(matrices) {
                    *row = vectors::<S, V>(simd, &matrix[channel]);
                }
                for (value, sums) in values.iter().zip(&mut fast) {
                    let value = simd.splat_f32s(value.0[channel]);
                    for (sums, row) in sums.iter_mut().zip(rows) {
                        for (sum, weight) in sums.iter_mut().zip(row) {
                            *sum = simd.mul_add_e_f32s(value, weight, *sum);
                        }
                    }
                }
            }
        }
        sums = fast;

        for (b, block) in (self.block..self.block + B).enumerate() {
            match (self.last, *finish) {
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
                    for (sums, place) in sums.iter_mut().zip(places(mask, block)) {
                        let outputs = vectors::<S, V>(simd, &mask.values[place]);
                        for (sum, output) in sums[b].iter_mut().zip(outputs) {
                            let zero = simd.splat_f32s(0.0);
                            *sum = simd.select_f32s(simd.less_than_f32s(zero, output), *sum, zero);
                        }
                    }
                }
            }
            let places = places(out, block);
            for (sums, place) in sums.iter().zip(places) {
                let (to, _) = S::as_mut_simd_f32s(&mut out.values[place].0);
                for (to, sum) in to.iter_mut().zip(sums[b]) {
                    *to = sum;
                }
            }
        }
    }
}

/// A pixel: its position in the first input block (for a tap with offset 0, and less the border), and in the output,
/// `[image, row, column]`.
#[derive(Clone, Copy, Default)]
struct Pixel {
    from: usize,
    to: [usize; 3],
}

impl Pixel {
    /// Its position in one block of a tensor of the output's shape.
    #[inline(always)]
    fn place(&self, tensor: &BlockedTensor, block: usize) -> usize {
        let [image, y, x] = self.to;
        tensor.row(image, block, y) + x
    }
}

/// One tap of one input block.
struct Read {
    /// The distance to read at, counted from the corner of the first block's border.
    offset: usize,
    /// The number of the matrix, among those of an output block.
    matrix: usize,
    /// Channels of the block that are not padding.
    channels: usize,
}

/// Some input blocks, and the weights to `B` output blocks.
struct Input<'a, const B: usize> {
    reads: &'a [Read],
    weights: [&'a [Matrix]; B],
    /// The first of the output blocks.
    block: usize,
    /// Of all output blocks.
    bias: &'a [SimdBlock],
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
