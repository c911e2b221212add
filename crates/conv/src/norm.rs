//! Batch norm: the moments of channels, and affine maps per channel.
//!
//! Ioffe and Szegedy, "Batch normalization" (2015), algorithm 1 and the gradients after it.

use crate::blocked_tensor::{BlockedTensor, LANES, SimdBlock};
use crate::kernel::vectors;
use pulp::{Arch, Simd, WithSimd};

/// Number, mean and scatter of the values of every channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// Values per channel.
    pub count: f64,
    /// Mean of every channel.
    pub mean: Vec<f64>,
    /// Sum of the squared distances to the mean, of every channel.
    pub scatter: Vec<f64>,
}

impl Moments {
    /// The moments of `tensor` over all images and pixels.
    #[must_use]
    pub fn new(tensor: &BlockedTensor) -> Self {
        Self::new_on(Arch::new(), tensor)
    }

    pub(crate) fn new_on(arch: Arch, tensor: &BlockedTensor) -> Self {
        let count = (tensor.images * tensor.height * tensor.width) as f64;
        // Sums are taken about one of the values, so that they stay exact if the mean is much larger than the
        // deviation.
        let near: Vec<SimdBlock> = (0..tensor.blocks()).map(|block| tensor.values[tensor.row(0, block, 0)]).collect();
        let [sums, squares] = Sums { values: tensor, with: tensor, about: [&near, &near] }.run(arch);
        let (mut mean, mut scatter) = (Vec::with_capacity(tensor.channels), Vec::with_capacity(tensor.channels));
        for (channel, (sum, square)) in sums.into_iter().zip(squares).enumerate() {
            mean.push(f64::from(near[channel / LANES].0[channel % LANES]) + sum / count);
            scatter.push((square - sum * sum / count).max(0.0));
        }
        Self { count, mean, scatter }
    }

    /// The moments of the union of `parts` (Chan, Golub and LeVeque, 1979).
    ///
    /// # Panics
    /// If the parts have different numbers of channels.
    #[must_use]
    pub fn merge(parts: &[Self]) -> Self {
        let channels = parts.first().map_or(0, |part| part.mean.len());
        let mut all = Self { count: 0.0, mean: vec![0.0; channels], scatter: vec![0.0; channels] };
        for part in parts {
            assert_eq!(part.mean.len(), channels, "moments of other channels");
            let count = all.count + part.count;
            for channel in 0..channels {
                let apart = part.mean[channel] - all.mean[channel];
                all.mean[channel] += apart * part.count / count;
                all.scatter[channel] += part.scatter[channel] + apart * apart * all.count * part.count / count;
            }
            all.count = count;
        }
        all
    }

    /// The variance of every channel, with division by the number of values.
    pub fn variance(&self) -> impl Iterator<Item = f64> {
        self.scatter.iter().map(|scatter| scatter / self.count)
    }
}

impl BlockedTensor {
    /// Writes `scale * self + shift + plus` to `out`, with `scale` and `shift` per channel, followed by a ReLU if
    /// `rectified`. NaN stays NaN.
    ///
    /// # Panics
    /// If the shapes differ, or if `scale` or `shift` does not have one value per channel.
    pub fn affine(&self, [scale, shift]: [&[f32]; 2], plus: Option<&Self>, rectified: bool, out: &mut Self) {
        let ones = vec![1.0; self.channels];
        let maps = [scale, shift, &ones].map(|values| self.lanes(values));
        let floor = if rectified { 0.0 } else { f32::NEG_INFINITY };
        out.map(Arch::new(), Map { x: Some(self), plus, maps: &maps, floor });
    }

    /// Replaces `self` by `scale * self + shift + factor * other`, where `maps` holds `scale`, `shift` and `factor` per
    /// channel.
    ///
    /// # Panics
    /// As [`BlockedTensor::affine`].
    pub fn combine(&mut self, maps: [&[f32]; 3], other: &Self) {
        let maps = maps.map(|values| self.lanes(values));
        self.map(Arch::new(), Map { x: None, plus: Some(other), maps: &maps, floor: f32::NEG_INFINITY });
    }

    /// For every channel, the sum of `self` and the sum of `self * (x - about)`, over all images and pixels.
    ///
    /// # Panics
    /// As [`BlockedTensor::affine`].
    #[must_use]
    pub fn products(&self, x: &Self, about: &[f32]) -> [Vec<f64>; 2] {
        assert_eq!(self.shape(), x.shape(), "tensors of different shapes");
        Sums { values: self, with: x, about: [&vec![SimdBlock::default(); self.blocks()], &self.lanes(about)] }
            .run(Arch::new())
    }

    /// One value per channel, in blocks that are filled up with zeros.
    pub(crate) fn lanes(&self, values: &[f32]) -> Vec<SimdBlock> {
        assert_eq!(values.len(), self.channels, "not one number for each channel");
        values.chunks(LANES).map(SimdBlock::from_slice).collect()
    }

    pub(crate) fn map(&mut self, arch: Arch, map: Map<'_>) {
        for tensor in [map.x, map.plus].into_iter().flatten() {
            assert_eq!(tensor.shape(), self.shape(), "tensors of different shapes");
        }
        arch.dispatch(Mapped { map, out: self });
    }

    /// `[image, block, row]` of every stored row.
    pub(crate) fn lines(&self) -> impl Iterator<Item = [usize; 3]> + use<> {
        let (blocks, height) = (self.blocks(), self.height);
        (0..self.images * blocks * height).map(move |i| [i / (blocks * height), i / height % blocks, i % height])
    }

    #[inline(always)]
    fn line(&self, [image, block, y]: [usize; 3]) -> &[SimdBlock] {
        &self.values[self.row(image, block, y)..][..self.width]
    }
}

/// The map `max(scale * x + shift + factor * plus, floor)`.
#[derive(Clone, Copy)]
pub(crate) struct Map<'a> {
    /// `None` reads the values that are overwritten.
    pub(crate) x: Option<&'a BlockedTensor>,
    pub(crate) plus: Option<&'a BlockedTensor>,
    /// Scale, shift and factor, per block.
    pub(crate) maps: &'a [Vec<SimdBlock>; 3],
    pub(crate) floor: f32,
}

struct Mapped<'a> {
    map: Map<'a>,
    out: &'a mut BlockedTensor,
}

impl WithSimd for Mapped<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            16 => self.rows::<S, 1>(simd),
            8 => self.rows::<S, 2>(simd),
            4 => self.rows::<S, 4>(simd),
            2 => self.rows::<S, 8>(simd),
            _ => self.rows::<S, 16>(simd),
        }
    }
}

impl Mapped<'_> {
    #[inline(always)]
    fn rows<S: Simd, const V: usize>(self, simd: S) {
        let Self { map: Map { x, plus, maps: [scale, shift, factor], floor }, out } = self;
        let floor = simd.splat_f32s(floor);
        for line @ [image, block, y] in out.lines() {
            let scale = vectors::<S, V>(simd, &scale[block]);
            let shift = vectors::<S, V>(simd, &shift[block]);
            let factor = vectors::<S, V>(simd, &factor[block]);
            let (x, plus) = (x.map(|x| x.line(line)), plus.map(|plus| plus.line(line)));
            let at = out.row(image, block, y);
            let to = &mut out.values[at..at + out.width];
            let map = |x: &SimdBlock, plus: Option<&SimdBlock>| {
                let (mut x, plus) = (vectors::<S, V>(simd, x), plus.map(|plus| vectors::<S, V>(simd, plus)));
                for v in 0..V {
                    let mut sum = simd.mul_add_e_f32s(x[v], scale[v], shift[v]);
                    if let Some(plus) = plus {
                        sum = simd.mul_add_e_f32s(plus[v], factor[v], sum);
                    }
                    x[v] = simd.select_f32s(simd.less_than_f32s(sum, floor), floor, sum);
                }
                x
            };
            let store = |to: &mut SimdBlock, values: [S::f32s; V]| {
                S::as_mut_simd_f32s(&mut to.0).0[..V].copy_from_slice(&values);
            };
            match (x, plus) {
                (Some(x), Some(plus)) => {
                    to.iter_mut().zip(x).zip(plus).for_each(|((to, x), plus)| store(to, map(x, Some(plus))));
                }
                (Some(x), None) => to.iter_mut().zip(x).for_each(|(to, x)| store(to, map(x, None))),
                (None, Some(plus)) => {
                    to.iter_mut().zip(plus).for_each(|(to, plus)| store(to, map(to, Some(plus))));
                }
                (None, None) => to.iter_mut().for_each(|to| store(to, map(to, None))),
            }
        }
    }
}

/// For every channel, the sum of `values - about[0]` and the sum of `(values - about[0]) * (with - about[1])`.
pub(crate) struct Sums<'a> {
    pub(crate) values: &'a BlockedTensor,
    pub(crate) with: &'a BlockedTensor,
    pub(crate) about: [&'a [SimdBlock]; 2],
}

impl Sums<'_> {
    pub(crate) fn run(self, arch: Arch) -> [Vec<f64>; 2] {
        let channels = self.values.channels;
        arch.dispatch(self).map(|sums| sums.into_iter().flatten().take(channels).collect())
    }

    #[inline(always)]
    fn rows<S: Simd, const V: usize>(self, simd: S) -> [Vec<[f64; LANES]>; 2] {
        let Self { values, with, about } = self;
        let mut all = [vec![[0.0; LANES]; values.blocks()], vec![[0.0; LANES]; values.blocks()]];
        for line @ [_, block, _] in values.lines() {
            let about = [vectors::<S, V>(simd, &about[0][block]), vectors::<S, V>(simd, &about[1][block])];
            // Each row is summed in f32 and the rows in f64, because a channel has up to millions of values.
            let mut row = [[simd.splat_f32s(0.0); V]; 2];
            for (value, with) in values.line(line).iter().zip(with.line(line)) {
                let (value, with) = (vectors::<S, V>(simd, value), vectors::<S, V>(simd, with));
                for v in 0..V {
                    let value = simd.sub_f32s(value[v], about[0][v]);
                    row[0][v] = simd.add_f32s(row[0][v], value);
                    row[1][v] = simd.mul_add_e_f32s(value, simd.sub_f32s(with[v], about[1][v]), row[1][v]);
                }
            }
            for (all, row) in all.iter_mut().zip(&row) {
                let mut lanes = SimdBlock::default();
                let (to, _) = S::as_mut_simd_f32s(&mut lanes.0);
                to.copy_from_slice(row);
                for (sum, value) in all[block].iter_mut().zip(lanes.0) {
                    *sum += f64::from(value);
                }
            }
        }
        all
    }
}

impl WithSimd for Sums<'_> {
    type Output = [Vec<[f64; LANES]>; 2];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        match S::F32_LANES {
            16 => self.rows::<S, 1>(simd),
            8 => self.rows::<S, 2>(simd),
            4 => self.rows::<S, 4>(simd),
            2 => self.rows::<S, 8>(simd),
            _ => self.rows::<S, 16>(simd),
        }
    }
}
