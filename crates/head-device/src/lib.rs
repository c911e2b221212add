//! Passes of a linear head over large samples, on a device that computes with tensors, such as a GPU.
//!
//! A pass gives the summed cross-entropy, its gradient and the number of correct predictions. The device computes them
//! in f32 and, where it has it, in f64. They lead a search ([`Passes::led_by`]), whose last steps are the host's in
//! f64: so the minimum is the same, within the tolerance that the search has on the host.

use burn::tensor::{DType, Device, FloatDType, IndexingUpdateOp, Int, Tensor, TensorData};
use hemlock_head::{LossAndGradient, Passes, Precision, RoughPass, SamplePass, Samples, volume};
use hemlock_models::device::{open_named, runs_on_rayon};
use hemlock_stage::{Context, StageError};
use ndarray::{Array2, ArrayView2, Axis};
use std::rc::Rc;

/// Samples whose numbers, features and classes have a smaller product than this stay on the host: there a pass takes
/// less than a tenth of a second.
const WORTHWHILE: usize = 1 << 30;
/// Largest number of scores of a tile, and of its features.
const TILE: usize = 1 << 26;
/// Largest number of features that stay on the device, which are 4 GiB in f32. Further ones are uploaded for every
/// pass.
const KEPT: usize = 1 << 30;

/// Passes over samples for a search: led by those of the run's device if the samples are large and it is not the host,
/// and otherwise those of the host.
///
/// # Errors
/// If the device cannot be used.
pub fn passes<'b, 'a>(blocks: &'b [Samples<'a>], ctx: &Context) -> Result<Passes<'b, 'a>, StageError> {
    if volume(blocks) < WORTHWHILE {
        return Ok(Passes::new(blocks));
    }
    let device = open_named(ctx.device)?;
    if runs_on_rayon(&device) {
        return Ok(Passes::new(blocks));
    }
    ctx.computes_on_device();
    Ok(passes_on(&device, blocks))
}

/// Passes over samples that are led by those of a device, whatever their size.
#[must_use]
pub fn passes_on<'b, 'a>(device: &Device, blocks: &'b [Samples<'a>]) -> Passes<'b, 'a> {
    let samples = Rc::new(DeviceSamples::new(device, blocks, (TILE, KEPT)));
    let mut precisions = vec![Precision::Single];
    precisions.extend(device.supports_dtype(FloatDType::F64).then_some(Precision::Double));
    let rough = precisions.into_iter().map(|precision| {
        let samples = samples.clone();
        let pass: Box<SamplePass<'b>> = Box::new(move |packed| samples.pass(packed, precision));
        RoughPass { precision, pass }
    });
    Passes::led_by(rough.collect(), blocks)
}

/// Samples on a device, in tiles.
struct DeviceSamples<'a> {
    device: Device,
    tiles: Vec<Tile<'a>>,
}

/// Some rows of the samples.
struct Tile<'a> {
    host: Samples<'a>,
    /// The features `[n, d]` in the precision in which they are stored, unless they are uploaded for every pass.
    kept: Option<Tensor<2>>,
    /// The labels, `[n, 1]`.
    labels: Tensor<2, Int>,
}

impl<'a> DeviceSamples<'a> {
    /// Tiles of at most `size` scores and features each, of which some with `most` features in all stay on the device.
    fn new(device: &Device, blocks: &[Samples<'a>], (size, most): (usize, usize)) -> Self {
        let mut kept = 0;
        let mut tiles = Vec::new();
        for block in blocks {
            let rows = (size / block.dim().max(block.classes())).max(1);
            for host in block.chunks_of(rows) {
                let features = host.len() * host.dim();
                let stays = kept + features <= most;
                kept += if stays { features } else { 0 };
                let labels: Vec<i32> = host.labels().iter().map(|label| *label as i32).collect();
                tiles.push(Tile {
                    kept: stays.then(|| upload(&host, device)),
                    labels: Tensor::from_data(TensorData::new(labels, [host.len(), 1]), device),
                    host,
                });
            }
        }
        Self { device: device.clone(), tiles }
    }

    /// A pass at packed parameters `[K, d + 1]`. It downloads one array.
    fn pass(&self, packed: ArrayView2<'_, f64>, precision: Precision) -> LossAndGradient {
        let dtype = match precision {
            Precision::Single => FloatDType::F32,
            Precision::Double => FloatDType::F64,
        };
        let (classes, dim) = (packed.nrows(), packed.ncols() - 1);
        let up = |values: ArrayView2<'_, f64>| -> Tensor<2> {
            let data = TensorData::new(values.iter().copied().collect(), [values.nrows(), values.ncols()]);
            Tensor::from_data(data.convert_dtype(dtype.into()), (&self.device, dtype.into()))
        };
        let (weight, bias) = packed.split_at(Axis(1), dim);
        let (weight, bias) = (up(weight.t()), up(bias.t()));
        let mut sums: Option<[Tensor<2>; 2]> = None;
        let (mut losses, mut correct) = (Vec::new(), Vec::new());
        for tile in &self.tiles {
            let z = tile.kept.clone().unwrap_or_else(|| upload(&tile.host, &self.device)).cast(dtype);
            let scores = z.clone().matmul(weight.clone()) + bias.clone();
            let largest = scores.clone().max_dim(1);
            let own = scores.clone().gather(1, tile.labels.clone());
            let powers = (scores - largest.clone()).exp();
            let total = powers.clone().sum_dim(1);
            let loss = total.clone().log() + largest.clone() - own.clone();
            losses.push(loss.sum_dim(0));
            correct.push(own.clone().greater_equal(largest).float().cast(dtype).sum_dim(0));
            let probabilities = powers / total;
            let residual = probabilities.scatter(1, tile.labels.clone(), -own.ones_like(), IndexingUpdateOp::Add);
            let sum = [residual.clone().transpose().matmul(z), residual.sum_dim(0)];
            sums = Some(match sums {
                None => sum,
                Some([by_weight, by_bias]) => {
                    let [more_by_weight, more_by_bias] = sum;
                    [by_weight + more_by_weight, by_bias + more_by_bias]
                }
            });
        }
        let Some([by_weight, by_bias]) = sums else {
            return LossAndGradient { loss: 0.0, gradient: Array2::zeros(packed.dim()), correct: 0 };
        };
        let tiles = losses.len();
        let row = [vec![by_weight.reshape([1, classes * dim]), by_bias], losses, correct].concat();
        let numbers: Vec<f64> = Tensor::cat(row, 1).into_data().iter().collect();
        let (by_weight, rest) = numbers.split_at(classes * dim);
        let (by_bias, rest) = rest.split_at(classes);
        let (losses, correct) = rest.split_at(tiles);
        let gradient = Array2::from_shape_fn(packed.dim(), |(k, j)| match j {
            j if j < dim => by_weight[k * dim + j],
            _ => by_bias[k],
        });
        LossAndGradient { loss: losses.iter().sum(), gradient, correct: correct.iter().sum::<f64>() as usize }
    }
}

/// The features of some samples on a device, `[n, d]`: in the precision in which they are stored, or in f32 if the
/// device has no f64.
fn upload(samples: &Samples<'_>, device: &Device) -> Tensor<2> {
    let shape = [samples.len(), samples.dim()];
    if samples.is_single() || !device.supports_dtype(FloatDType::F64) {
        let features = samples.to_f32().iter().copied().collect();
        return Tensor::from_data(TensorData::new(features, shape), (device, DType::F32));
    }
    let features = samples.to_f64().iter().copied().collect();
    Tensor::from_data(TensorData::new(features, shape), (device, DType::F64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hemlock_head::testing::{GaussianClusters, random};
    use hemlock_head::{FitOptions, Head, fit, fit_with};
    use ndarray::Slice;

    /// Features in both precisions, in tiles of which some are uploaded for every pass.
    #[test]
    fn a_pass_is_that_of_the_host() {
        let data = GaussianClusters::new(500, 7, 5, 1);
        let single = data.features.slice_axis(Axis(0), Slice::from(..300)).mapv(|z| z as f32);
        let samples = data.samples();
        let (first, second) = (
            Samples::from_f32(single.view(), &samples.labels()[..300], 5).unwrap(),
            Samples::new(data.features.slice_axis(Axis(0), Slice::from(300..)), &samples.labels()[300..], 5).unwrap(),
        );
        let blocks = [first, second];
        let head = Head::from_packed(random(5, 8, 2)).unwrap();
        let expected = Passes::new(&blocks).exact(&head).unwrap();
        let device = Device::flex();
        for sizes in [(TILE, KEPT), (7 * 64, 1500), (7 * 64, 0)] {
            let on_device = DeviceSamples::new(&device, &blocks, sizes);
            for (precision, tolerance) in [(Precision::Single, 1e-5), (Precision::Double, 1e-12)] {
                let found = on_device.pass(head.packed(), precision);
                assert_eq!(found.correct, expected.correct);
                assert!((found.loss - expected.loss).abs() < tolerance * expected.loss, "{precision:?}");
                let largest = expected.gradient.iter().fold(0.0f64, |most, g| most.max(g.abs()));
                let off = (&found.gradient - &expected.gradient).iter().fold(0.0f64, |most, g| most.max(g.abs()));
                assert!(off < tolerance * largest, "{precision:?}: {off}");
            }
        }
        assert_eq!(DeviceSamples::new(&device, &[], (TILE, KEPT)).pass(head.packed(), Precision::Single).correct, 0);
    }

    #[test]
    fn a_search_ends_at_the_host_s_minimum() {
        let data = GaussianClusters::new(2_000, 20, 6, 3);
        let (blocks, options) = ([data.samples()], FitOptions::new(1e-3));
        let expected = fit(&blocks, &options, &|_, _| true).unwrap();
        let found = fit_with(&passes_on(&Device::flex(), &blocks), &options, &|_, _| true).unwrap();
        assert!(found.converged);
        let off = (&found.head.packed() - &expected.head.packed()).iter().fold(0.0f64, |most, w| most.max(w.abs()));
        assert!(off < 1e-4, "{off}");
    }

    #[test]
    fn small_samples_and_the_host_stay_as_they_are() {
        let data = GaussianClusters::new(50, 4, 3, 3);
        let blocks = [data.samples()];
        hemlock_fixtures::context(0, |ctx| {
            assert!(passes(&blocks, ctx).unwrap().are_exact());
            let elsewhere = Context { device: "nowhere", ..*ctx };
            assert!(passes(&blocks, &elsewhere).is_ok(), "the device is not asked for");
        });
    }
}
