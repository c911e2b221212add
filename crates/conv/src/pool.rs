//! Pooling: the maximum of 3x3 pixels after a stem, and the mean of 2x2 pixels before a convolution.

use crate::blocked_tensor::{BlockedTensor, LANES, SimdBlock};
use crate::kernel::ConvPass;
use pulp::{Arch, Simd, WithSimd};
use std::cell::RefCell;

impl BlockedTensor {
    /// Writes 3x3 max pooling of stride 2 and padding 1 to `out`. The values must not be negative, as after a ReLU, so
    /// that the zeros of the border never win.
    ///
    /// # Panics
    /// If `out` does not have half the height and width, rounded up, or if `self` has no border.
    pub fn max_pool(&self, out: &mut Self) {
        self.each_window(out.shape(), |[image, block, y, x], window| {
            let mut largest = SimdBlock::default();
            for at in window {
                for (largest, value) in largest.0.iter_mut().zip(self.values[at].0) {
                    // A NaN replaces what was found so far, and is replaced by the next value of the window.
                    *largest = if value <= *largest { *largest } else { value };
                }
            }
            let to = out.row(image, block, y) + x;
            out.values[to] = largest;
        });
    }

    /// The backward pass of [`BlockedTensor::max_pool`]: given `grad_output`, the gradient with respect to its
    /// output, overwrites `grad_input` with the gradient with respect to its input `self`. Only positive values receive
    /// a gradient, so that the ReLU before the pooling is included. Of equal values, the first one receives it.
    ///
    /// # Panics
    /// As [`BlockedTensor::max_pool`], and if `grad_input` has another shape or border than `self`.
    pub fn max_pool_derivative(&self, grad_output: &Self, grad_input: &mut Self) {
        assert_eq!((self.shape(), self.border), (grad_input.shape(), grad_input.border), "tensors of different shapes");
        grad_input.values.fill(SimdBlock::default());
        self.each_window(grad_output.shape(), |[image, block, y, x], window| {
            let gradient = grad_output.values[grad_output.row(image, block, y) + x];
            for lane in 0..LANES {
                let (mut largest, mut first) = (0.0, None);
                for at in window {
                    let value = self.values[at].0[lane];
                    if value > largest {
                        (largest, first) = (value, Some(at));
                    }
                }
                if let Some(at) = first {
                    grad_input.values[at].0[lane] += gradient.0[lane];
                }
            }
        });
    }

    /// Calls `visit` for every output pixel with `[image, block, row, column]` and the positions of its nine input
    /// pixels.
    fn each_window(&self, shape: [usize; 4], mut visit: impl FnMut([usize; 4], [usize; 9])) {
        let [images, channels, height, width] = self.shape();
        assert_eq!(shape, [images, channels, height.div_ceil(2), width.div_ceil(2)], "tensors of different shapes");
        assert!(self.border > 0, "a tensor without a border");
        for (image, block) in (0..images).flat_map(|image| (0..self.blocks()).map(move |block| (image, block))) {
            for (y, x) in (0..shape[2]).flat_map(|y| (0..shape[3]).map(move |x| (y, x))) {
                // The window begins one row above and one column to the left of its centre.
                let corner = self.row(image, block, 2 * y) + 2 * x - self.pitch() - 1;
                let window = std::array::from_fn(|i| corner + i / 3 * self.pitch() + i % 3);
                visit([image, block, y, x], window);
            }
        }
    }
}

thread_local! {
    /// Memory of averages, kept from call to call.
    static SCRATCH: RefCell<Vec<SimdBlock>> = const { RefCell::new(Vec::new()) };
}

/// Calls `work` with a tensor of that shape, without a border and with arbitrary values.
pub(crate) fn with_scratch([images, channels, height, width]: [usize; 4], work: impl FnOnce(&mut BlockedTensor)) {
    let mut half = BlockedTensor { images, channels, height, width, border: 0, values: SCRATCH.take() };
    half.values.resize(images * half.blocks() * half.size(), SimdBlock::default());
    work(&mut half);
    SCRATCH.set(half.values);
}

/// Writes the means of 2x2 pixels of `x` to `half`.
pub(crate) fn average(arch: Arch, x: &BlockedTensor, half: &mut BlockedTensor) {
    arch.dispatch(Average { x, half });
}

/// Writes `finish(start + d)`, where `d` is the gradient with respect to the input of [`average`], given that with
/// respect to its result, `half`.
pub(crate) fn average_derivative(arch: Arch, half: &BlockedTensor, pass: &mut ConvPass<'_>) {
    arch.dispatch(AverageDerivative { half, pass });
}

struct Average<'a> {
    x: &'a BlockedTensor,
    half: &'a mut BlockedTensor,
}

impl WithSimd for Average<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { x, half } = self;
        for [image, block, y] in half.lines() {
            let (from, to) = (x.row(image, block, 2 * y), half.row(image, block, y));
            let rows = [0, x.pitch()].map(|below| &x.values[from + below..][..2 * half.width]);
            let pixels = rows[0].chunks_exact(2).zip(rows[1].chunks_exact(2));
            for (to, (above, below)) in half.values[to..].iter_mut().zip(pixels) {
                for (lane, to) in to.0.iter_mut().enumerate() {
                    *to = 0.25 * ((above[0].0[lane] + above[1].0[lane]) + (below[0].0[lane] + below[1].0[lane]));
                }
            }
        }
    }
}

struct AverageDerivative<'a, 'j> {
    half: &'a BlockedTensor,
    pass: &'a mut ConvPass<'j>,
}

impl WithSimd for AverageDerivative<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            16 => self.run::<S, 1>(simd),
            8 => self.run::<S, 2>(simd),
            4 => self.run::<S, 4>(simd),
            2 => self.run::<S, 8>(simd),
            _ => self.run::<S, 16>(simd),
        }
    }
}

impl AverageDerivative<'_, '_> {
    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) {
        let Self { half, pass } = self;
        for line @ [image, block, y] in pass.out.lines() {
            let gradients = if y / 2 < half.height {
                let from = half.row(image, block, y / 2);
                &half.values[from..from + half.width]
            } else {
                &[]
            };
            for x in 0..pass.out.width {
                // Of an odd side, the last pixel is in no mean.
                let sum = gradients.get(x / 2).map_or([0.0; LANES], |gradient| gradient.0.map(|g| 0.25 * g));
                pass.write::<S, V>(simd, line, x, &[SimdBlock(sum)]);
            }
        }
    }
}
