//! The pooling of a stem.

use crate::planes::{BlockedTensor, LANES, SimdBlock};

impl BlockedTensor {
    /// Writes the largest of the 3x3 pixels around every second one. What is pooled must not be negative, as after a
    /// ReLU: then the border's zeros are never larger.
    ///
    /// # Panics
    /// `out` is not of half the height and width, rounded up, or there is no border.
    pub fn max_pool(&self, out: &mut Self) {
        self.each_window(out.shape(), |[image, block, y, x], window| {
            let mut largest = SimdBlock::default();
            for at in window {
                for (largest, value) in largest.0.iter_mut().zip(self.values[at].0) {
                    // In this order a NaN is handed on.
                    *largest = if value <= *largest { *largest } else { value };
                }
            }
            let to = out.row(image, block, y) + x;
            out.values[to] = largest;
        });
    }

    /// From the derivative `of` by what [`BlockedTensor::max_pool`] makes, that by what it pools, where this is above
    /// zero; elsewhere zero. Of equals, the first is the largest.
    ///
    /// # Panics
    /// As [`BlockedTensor::max_pool`]; `by` is of another shape or border.
    pub fn max_pool_derivative(&self, of: &Self, by: &mut Self) {
        assert_eq!((self.shape(), self.border), (by.shape(), by.border), "planes of another shape");
        by.values.fill(SimdBlock::default());
        self.each_window(of.shape(), |[image, block, y, x], window| {
            let of = of.values[of.row(image, block, y) + x];
            for lane in 0..LANES {
                let (mut largest, mut first) = (0.0, None);
                for at in window {
                    let value = self.values[at].0[lane];
                    if value > largest {
                        (largest, first) = (value, Some(at));
                    }
                }
                if let Some(at) = first {
                    by.values[at].0[lane] += of.0[lane];
                }
            }
        });
    }

    /// Calls `visit` with the image, block, row and column of every result, and where its pixels lie.
    fn each_window(&self, shape: [usize; 4], mut visit: impl FnMut([usize; 4], [usize; 9])) {
        let [images, channels, height, width] = self.shape();
        assert_eq!(shape, [images, channels, height.div_ceil(2), width.div_ceil(2)], "planes of another shape");
        assert!(self.border > 0, "planes without a border");
        for (image, block) in (0..images).flat_map(|image| (0..self.blocks()).map(move |block| (image, block))) {
            for (y, x) in (0..shape[2]).flat_map(|y| (0..shape[3]).map(move |x| (y, x))) {
                // A row and a column before the middle.
                let corner = self.row(image, block, 2 * y) + 2 * x - self.pitch() - 1;
                let window = std::array::from_fn(|i| corner + i / 3 * self.pitch() + i % 3);
                visit([image, block, y, x], window);
            }
        }
    }
}
