//! Depthwise convolutions of stride 1: each channel is convolved with a kernel of its own.
//!
//! Images are `[pixels, channels]` in row-major order, as the matrix products and layer norms beside these convolutions
//! want them.

use pulp::{Arch, Simd, WithSimd};

use crate::blocked_tensor::{LANES, SimdBlock};
use crate::kernel::vectors;

/// A depthwise convolution whose padding keeps the image size, or its vector-Jacobian product with respect to the
/// input.
#[derive(Debug, Clone)]
pub struct Depthwise {
    side: usize,
    channels: usize,
    /// `[blocks][side * side]`.
    weights: Vec<SimdBlock>,
    /// One block each, zero in the vector-Jacobian product.
    bias: Vec<SimdBlock>,
}

impl Depthwise {
    /// The convolution with weights `[channels, side, side]`, where `side` is odd, and one bias per channel.
    ///
    /// # Panics
    /// If `side` is even, or if `weights` has another length.
    #[must_use]
    pub fn new(side: usize, weights: &[f32], bias: &[f32]) -> Self {
        let channels = bias.len();
        assert!(side % 2 == 1 && weights.len() == channels * side * side, "weights of another shape");
        let taps = side * side;
        let mut blocks = vec![SimdBlock::default(); channels.div_ceil(LANES) * taps];
        for (channel, kernel) in weights.chunks_exact(taps).enumerate() {
            for (block, weight) in blocks[channel / LANES * taps..].iter_mut().zip(kernel) {
                block.0[channel % LANES] = *weight;
            }
        }
        Self { side, channels, weights: blocks, bias: bias.chunks(LANES).map(SimdBlock::from_slice).collect() }
    }

    /// The vector-Jacobian product with respect to the input: the convolution with every kernel turned around.
    #[must_use]
    pub fn transposed(&self) -> Self {
        let weights = self.weights.chunks_exact(self.side * self.side).flat_map(|kernel| kernel.iter().rev()).copied();
        Self { weights: weights.collect(), bias: vec![SimdBlock::default(); self.bias.len()], ..self.clone() }
    }

    /// Writes the convolution of one image `[height * width, channels]` to `out`.
    ///
    /// # Panics
    /// If the slices are of other shapes.
    pub fn apply(&self, size: [usize; 2], x: &[f32], out: &mut [f32]) {
        self.apply_on(Arch::new(), size, x, out);
    }

    pub(crate) fn apply_on(&self, arch: Arch, [height, width]: [usize; 2], x: &[f32], out: &mut [f32]) {
        assert!(x.len() == height * width * self.channels && out.len() == x.len(), "images of another shape");
        let pitch = width + self.side - 1;
        let mut padded = vec![SimdBlock::default(); (height + self.side - 1) * pitch];
        for block in 0..self.bias.len() {
            arch.dispatch(Run { of: self, block, size: [height, width], pitch, x, padded: &mut padded, out });
        }
    }
}

/// One block of channels of one image.
struct Run<'a> {
    of: &'a Depthwise,
    block: usize,
    size: [usize; 2],
    /// The width of the padded image.
    pitch: usize,
    x: &'a [f32],
    /// Memory for the block within a border of zeros.
    padded: &'a mut [SimdBlock],
    out: &'a mut [f32],
}

impl WithSimd for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // The pixels of a tile, and the vectors per block.
        match S::F32_LANES {
            16 => self.rows::<S, 8, 1>(simd),
            8 => self.rows::<S, 4, 2>(simd),
            4 => self.rows::<S, 2, 4>(simd),
            2 => self.rows::<S, 1, 8>(simd),
            _ => self.rows::<S, 1, 16>(simd),
        }
    }
}

impl Run<'_> {
    #[inline(always)]
    fn rows<S: Simd, const P: usize, const V: usize>(mut self, simd: S) {
        let [height, width] = self.size;
        let (all, from, border) = (self.of.channels, self.block * LANES, self.of.side / 2);
        let count = (all - from).min(LANES);
        for (y, row) in self.x.chunks_exact(width * all).enumerate() {
            let to = &mut self.padded[(y + border) * self.pitch + border..][..width];
            for (to, pixel) in to.iter_mut().zip(row.chunks_exact(all)) {
                to.0[..count].copy_from_slice(&pixel[from..from + count]);
            }
        }
        for y in 0..height {
            let mut x = 0;
            while x + P <= width {
                self.tile::<S, P, V>(simd, [y, x], count);
                x += P;
            }
            while x < width {
                self.tile::<S, 1, V>(simd, [y, x], count);
                x += 1;
            }
        }
    }

    /// Computes `P` pixels of a row.
    #[inline(always)]
    fn tile<S: Simd, const P: usize, const V: usize>(&mut self, simd: S, [y, x]: [usize; 2], count: usize) {
        let side = self.of.side;
        let kernel = &self.of.weights[self.block * side * side..][..side * side];
        let mut sums = [vectors::<S, V>(simd, &self.of.bias[self.block]); P];
        for (row, weights) in kernel.chunks_exact(side).enumerate() {
            let pixels = &self.padded[(y + row) * self.pitch + x..][..P + side - 1];
            for (column, weight) in weights.iter().enumerate() {
                let weight = vectors::<S, V>(simd, weight);
                for (sums, pixel) in sums.iter_mut().zip(&pixels[column..column + P]) {
                    let pixel = vectors::<S, V>(simd, pixel);
                    for ((sum, pixel), weight) in sums.iter_mut().zip(pixel).zip(weight) {
                        *sum = simd.mul_add_e_f32s(pixel, weight, *sum);
                    }
                }
            }
        }
        let all = self.of.channels;
        for (p, sums) in sums.into_iter().enumerate() {
            let mut block = SimdBlock::default();
            let (to, _) = S::as_mut_simd_f32s(&mut block.0);
            for (to, sum) in to.iter_mut().zip(sums) {
                *to = sum;
            }
            let at = (y * self.size[1] + x + p) * all + self.block * LANES;
            self.out[at..at + count].copy_from_slice(&block.0[..count]);
        }
    }
}
