//! The max pooling of a stem.

use crate::blocked_tensor::{BlockedTensor, LANES, SimdBlock};

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
