//! Images in blocks of channels.

/// Channels of a block.
pub(crate) const LANES: usize = 16;

/// The channels of a block at one pixel.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct SimdBlock(pub(crate) [f32; LANES]);

impl SimdBlock {
    /// Up to as many values, and zeros.
    pub(crate) fn from_slice(values: &[f32]) -> Self {
        let mut lanes = Self::default();
        lanes.0[..values.len()].copy_from_slice(values);
        lanes
    }
}

/// Images `[images, channels, height, width]` of f32, as `[images, blocks, height + 2 border, width + 2 border]` of 16
/// channels each.
///
/// The border is zero, and so are the channels that fill the last block.
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
    /// Black images of that shape, `[images, channels, height, width]`. A convolution that pads by more than `border`
    /// cannot read them.
    #[must_use]
    pub fn new([images, channels, height, width]: [usize; 4], border: usize) -> Self {
        let mut planes = Self { images, channels, height, width, border, values: Vec::new() };
        planes.values = vec![SimdBlock::default(); images * planes.blocks() * planes.size()];
        planes
    }

    /// `[images, channels, height, width]`.
    #[must_use]
    pub fn shape(&self) -> [usize; 4] {
        [self.images, self.channels, self.height, self.width]
    }

    /// Memory that planes of that shape and border take.
    #[must_use]
    pub fn bytes([images, channels, height, width]: [usize; 4], border: usize) -> usize {
        let none = Self { images, channels, height, width, border, values: Vec::new() };
        images * none.blocks() * none.size() * size_of::<SimdBlock>()
    }

    /// Zeros at each side of every image.
    #[must_use]
    pub fn border(&self) -> usize {
        self.border
    }

    /// Replaces all values by those of images in that shape.
    ///
    /// # Panics
    /// `values` are not as many as the shape has.
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

    /// All values, images in that shape.
    ///
    /// # Panics
    /// `values` are not as many as the shape has.
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

    /// The mean over the image of every channel, `[images, channels]`.
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

    /// Writes the derivative of a function of [`BlockedTensor::means`] of `of`, of that shape, where these are above
    /// zero; elsewhere zero: the means' derivative through a ReLU.
    ///
    /// # Panics
    /// Another shape.
    pub fn spread(&mut self, means: &[f32], of: &Self) {
        assert_eq!(self.shape(), of.shape(), "planes of another shape");
        assert_eq!(means.len(), self.images * self.channels, "means of another shape");
        let share = 1.0 / (self.height * self.width) as f32;
        for image in 0..self.images {
            for block in 0..self.blocks() {
                let mut value = [0.0; LANES];
                let channels = (self.channels - block * LANES).min(LANES);
                let from = image * self.channels + block * LANES;
                for (value, mean) in value.iter_mut().zip(&means[from..from + channels]) {
                    *value = mean * share;
                }
                for y in 0..self.height {
                    let (to, from) = (self.row(image, block, y), of.row(image, block, y));
                    let of = &of.values[from..from + self.width];
                    for (to, of) in self.values[to..].iter_mut().zip(of) {
                        for ((to, of), value) in to.0.iter_mut().zip(of.0).zip(value) {
                            *to = if of > 0.0 { value } else { 0.0 };
                        }
                    }
                }
            }
        }
    }

    /// Blocks of channels.
    #[inline(always)]
    pub(crate) fn blocks(&self) -> usize {
        self.channels.div_ceil(LANES)
    }

    /// Pixels of a row, with its borders.
    #[inline(always)]
    pub(crate) fn pitch(&self) -> usize {
        self.width + 2 * self.border
    }

    /// Pixels of a block of an image, with its borders.
    #[inline(always)]
    pub(crate) fn size(&self) -> usize {
        self.pitch() * (self.height + 2 * self.border)
    }

    /// Where a block of an image begins, its border first.
    #[inline(always)]
    pub(crate) fn plane(&self, image: usize, block: usize) -> usize {
        (image * self.blocks() + block) * self.size()
    }

    /// The rows of all blocks of all images.
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

    /// Where a row of a block of an image begins.
    #[inline(always)]
    pub(crate) fn row(&self, image: usize, block: usize, y: usize) -> usize {
        self.plane(image, block) + (y + self.border) * self.pitch() + self.border
    }
}

/// A row of a block of an image: where it lies, how many of its channels are not filled with zeros, and where the first
/// of these lies in images `[images, channels, height, width]`.
struct Row {
    at: usize,
    lanes: usize,
    from: usize,
}
