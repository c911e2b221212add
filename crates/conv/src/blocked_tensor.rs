//! Images in blocks of 16 channels.

/// Channels of a block.
pub(crate) const LANES: usize = 16;

/// The 16 channels of a block at one pixel.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct SimdBlock(pub(crate) [f32; LANES]);

impl SimdBlock {
    /// A block that begins with `values`, of which there are at most 16, and is filled up with zeros.
    pub(crate) fn from_slice(values: &[f32]) -> Self {
        let mut lanes = Self::default();
        lanes.0[..values.len()].copy_from_slice(values);
        lanes
    }
}

/// Images `[images, channels, height, width]` in f32, stored as `[images, blocks, height + 2 border, width + 2 border]`
/// with 16 channels per block.
///
/// The border and the channels that fill up the last block are zero.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockedTensor {
    pub(crate) images: usize,
    pub(crate) channels: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) border: usize,
    pub(crate) values: Vec<SimdBlock>,
}

impl BlockedTensor {
    /// Images of zeros of the shape `[images, channels, height, width]`. A convolution can read them only if `border`
    /// is at least [`Conv::border`](crate::Conv::border).
    #[must_use]
    pub fn new([images, channels, height, width]: [usize; 4], border: usize) -> Self {
        let mut tensor = Self { images, channels, height, width, border, values: Vec::new() };
        tensor.values = vec![SimdBlock::default(); images * tensor.blocks() * tensor.size()];
        tensor
    }

    /// The shape, `[images, channels, height, width]`.
    #[must_use]
    pub fn shape(&self) -> [usize; 4] {
        [self.images, self.channels, self.height, self.width]
    }

    /// Memory of a tensor with that shape and border, in bytes.
    #[must_use]
    pub fn bytes([images, channels, height, width]: [usize; 4], border: usize) -> usize {
        let none = Self { images, channels, height, width, border, values: Vec::new() };
        images * none.blocks() * none.size() * size_of::<SimdBlock>()
    }

    /// Width of the border of zeros at each side of an image, in pixels.
    #[must_use]
    pub fn border(&self) -> usize {
        self.border
    }

    /// Replaces all values by `values`, in row-major order of [`BlockedTensor::shape`].
    ///
    /// # Panics
    /// If `values` has another length than the shape.
    pub fn load(&mut self, values: &[f32]) {
        assert_eq!(values.len(), self.shape().iter().product(), "values of another shape");
        let (area, width) = (self.height * self.width, self.width);
        for Row { at, lanes, from } in self.rows() {
            for lane in 0..lanes {
                let values = &values[from + lane * area..][..width];
                for (pixel, value) in self.values[at..at + width].iter_mut().zip(values) {
                    pixel.0[lane] = *value;
                }
            }
        }
    }

    /// Writes all values to `values`, in row-major order of [`BlockedTensor::shape`].
    ///
    /// # Panics
    /// If `values` has another length than the shape.
    pub fn store(&self, values: &mut [f32]) {
        assert_eq!(values.len(), self.shape().iter().product(), "values of another shape");
        let (area, width) = (self.height * self.width, self.width);
        for Row { at, lanes, from } in self.rows() {
            for lane in 0..lanes {
                let values = &mut values[from + lane * area..][..width];
                for (pixel, value) in self.values[at..at + width].iter().zip(values) {
                    *value = pixel.0[lane];
                }
            }
        }
    }

    /// The mean of every channel over the image (global average pooling), `[images, channels]`.
    #[must_use]
    pub fn means(&self) -> Vec<f32> {
        let mut means = Vec::with_capacity(self.images * self.channels);
        let count = (self.height * self.width) as f32;
        for image in 0..self.images {
            for block in 0..self.blocks() {
                let mut sums = [0.0; LANES];
                for y in 0..self.height {
                    let at = self.row(image, block, y);
                    for pixel in &self.values[at..at + self.width] {
                        for (sum, value) in sums.iter_mut().zip(pixel.0) {
                            *sum += value;
                        }
                    }
                }
                let channels = (self.channels - block * LANES).min(LANES);
                means.extend(sums[..channels].iter().map(|sum| sum / count));
            }
        }
        means
    }

    /// The backward pass of a ReLU followed by [`BlockedTensor::means`]. Given the gradient with respect to the means,
    /// `[images, channels]`, overwrites `self` with the gradient with respect to the input of the ReLU, whose output is
    /// `y`: the mean's gradient divided by the number of pixels where `y` is positive, and zero elsewhere.
    ///
    /// # Panics
    /// If `y` has another shape than `self`, or if `grad_means` has another length.
    pub fn means_derivative(&mut self, grad_means: &[f32], y: &Self) {
        assert_eq!(self.shape(), y.shape(), "tensors of different shapes");
        assert_eq!(grad_means.len(), self.images * self.channels, "means of another shape");
        let share = 1.0 / (self.height * self.width) as f32;
        for image in 0..self.images {
            for block in 0..self.blocks() {
                let mut value = [0.0; LANES];
                let channels = (self.channels - block * LANES).min(LANES);
                let from = image * self.channels + block * LANES;
                for (value, grad_mean) in value.iter_mut().zip(&grad_means[from..from + channels]) {
                    *value = grad_mean * share;
                }
                for row in 0..self.height {
                    let (to, from) = (self.row(image, block, row), y.row(image, block, row));
                    let outputs = &y.values[from..from + self.width];
                    for (to, output) in self.values[to..].iter_mut().zip(outputs) {
                        for ((to, output), value) in to.0.iter_mut().zip(output.0).zip(value) {
                            *to = if output > 0.0 { value } else { 0.0 };
                        }
                    }
                }
            }
        }
    }

    /// Number of blocks of channels.
    #[inline(always)]
    pub(crate) fn blocks(&self) -> usize {
        self.channels.div_ceil(LANES)
    }

    /// Length of a stored row, with the border at both ends.
    #[inline(always)]
    pub(crate) fn pitch(&self) -> usize {
        self.width + 2 * self.border
    }

    /// Stored pixels of one block of one image, with its border.
    #[inline(always)]
    pub(crate) fn size(&self) -> usize {
        self.pitch() * (self.height + 2 * self.border)
    }

    /// Position at which a block of an image begins, with its border.
    #[inline(always)]
    pub(crate) fn plane(&self, image: usize, block: usize) -> usize {
        (image * self.blocks() + block) * self.size()
    }

    /// All rows of all blocks of all images.
    fn rows(&self) -> impl Iterator<Item = Row> + use<> {
        let Self { images, channels, height, width, .. } = *self;
        let (blocks, first, size, pitch) = (self.blocks(), self.row(0, 0, 0), self.size(), self.pitch());
        (0..images * blocks).flat_map(move |plane| {
            let (image, channel) = (plane / blocks, plane % blocks * LANES);
            let from = (image * channels + channel) * height * width;
            let lanes = (channels - channel).min(LANES);
            (0..height).map(move |y| Row { at: plane * size + first + y * pitch, lanes, from: from + y * width })
        })
    }

    /// Position of the first pixel of a row, after the border.
    #[inline(always)]
    pub(crate) fn row(&self, image: usize, block: usize, y: usize) -> usize {
        self.plane(image, block) + (y + self.border) * self.pitch() + self.border
    }
}

/// A row of a block of an image: its position, how many of its channels are not padding, and the position of its first
/// value in an array `[images, channels, height, width]`.
struct Row {
    at: usize,
    lanes: usize,
    from: usize,
}
