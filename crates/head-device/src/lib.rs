//! Passes of a linear head over large samples, on a device that computes with tensors, such as a GPU.
//!
//! A pass gives the summed cross-entropy, its gradient and the number of correct predictions, or a product with the
//! Hessian. The device computes them in f32 and, where it has it, in f64. They lead a search ([`Passes::led_by`]) or
//! the solution of a linear system, whose last steps are the host's in f64: so the result is the same, within the
//! tolerance that there is on the host.

use burn::tensor::activation::softmax;
use burn::tensor::{DType, Device, FloatDType, IndexingUpdateOp, Int, Tensor, TensorData};
use hemlock_head::{
    HessianProduct, LossAndGradient, MakePasses, OnHost, Passes, Precision, RoughPass, SamplePass, Samples, volume,
};
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
    Ok(match worthwhile(blocks, ctx)? {
        Some(device) => passes_on(&device, blocks),
        None => Passes::new(blocks),
    })
}

/// Makes passes over clean samples and poisons: led by those of the run's device if the clean samples are large and it
/// is not the host, and otherwise those of the host. Clean samples are sent to the device once.
///
/// # Errors
/// If the device cannot be used.
pub fn make_passes<'a>(clean: Samples<'a>, ctx: &Context) -> Result<Box<dyn MakePasses + 'a>, StageError> {
    Ok(match worthwhile(&[clean], ctx)? {
        Some(device) => Box::new(CleanOnDevice(DeviceSamples::new(&device, &[clean], (TILE, KEPT)))),
        None => Box::new(OnHost),
    })
}

/// The run's device, unless it is the host or the samples are too small.
fn worthwhile(blocks: &[Samples<'_>], ctx: &Context) -> Result<Option<Device>, StageError> {
    if volume(blocks) < WORTHWHILE {
        return Ok(None);
    }
    let device = open_named(ctx.device)?;
    if runs_on_rayon(&device) {
        return Ok(None);
    }
    ctx.computes_on_device();
    Ok(Some(device))
}

/// Passes over samples that are led by those of a device, whatever their size.
#[must_use]
pub fn passes_on<'b, 'a>(device: &Device, blocks: &'b [Samples<'a>]) -> Passes<'b, 'a> {
    led(DeviceSamples::new(device, blocks, (TILE, KEPT)), blocks)
}

/// Passes over `blocks`, which `samples` holds as well, that are led by those of the device.
fn led<'b, 'a, 's: 'b>(samples: DeviceSamples<'s>, blocks: &'b [Samples<'a>]) -> Passes<'b, 'a> {
    let samples = Rc::new(samples);
    let mut precisions = vec![Precision::Single];
    precisions.extend(samples.device.supports_dtype(FloatDType::F64).then_some(Precision::Double));
    let rough = precisions.into_iter().map(|precision| {
        let of_passes = samples.clone();
        let pass: Box<SamplePass<'b>> = Box::new(move |packed| of_passes.pass(packed, precision));
        let samples = samples.clone();
        let hessian: Box<HessianProduct<'b>> =
            Box::new(move |head, direction| samples.hessian(head, direction, precision));
        RoughPass { precision, pass, hessian: Some(hessian) }
    });
    Passes::led_by(rough.collect(), blocks)
}

/// The clean samples of training sets, on a device.
struct CleanOnDevice<'a>(DeviceSamples<'a>);

impl MakePasses for CleanOnDevice<'_> {
    fn over<'b>(&'b self, training: &'b [Samples<'b>; 2]) -> Passes<'b, 'b> {
        led(self.0.and(&training[1..], (TILE, KEPT)), training)
    }
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

impl Tile<'_> {
    /// The same tile, whose tensors are shared.
    fn reborrow(&self) -> Tile<'_> {
        Tile { host: self.host.reborrow(), kept: self.kept.clone(), labels: self.labels.clone() }
    }
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

    /// These samples, which are not sent again, and further ones.
    fn and<'b>(&'b self, further: &[Samples<'b>], sizes: (usize, usize)) -> DeviceSamples<'b> {
        let mut all = DeviceSamples::new(&self.device, further, sizes);
        all.tiles.splice(0..0, self.tiles.iter().map(Tile::reborrow));
        all
    }

    /// A pass at packed parameters `[K, d + 1]`. It downloads one array.
    fn pass(&self, packed: ArrayView2<'_, f64>, precision: Precision) -> LossAndGradient {
        let [weight, bias] = self.upload_packed(packed, precision);
        let mut sum = None;
        let (mut losses, mut correct) = (Vec::new(), Vec::new());
        for tile in &self.tiles {
            let z = self.features(tile, precision);
            let scores = z.clone().matmul(weight.clone()) + bias.clone();
            let largest = scores.clone().max_dim(1);
            let own = scores.clone().gather(1, tile.labels.clone());
            let powers = (scores - largest.clone()).exp();
            let total = powers.clone().sum_dim(1);
            let loss = total.clone().log() + largest.clone() - own.clone();
            losses.push(loss.sum_dim(0));
            correct.push(own.clone().greater_equal(largest).float().cast(dtype(precision)).sum_dim(0));
            let probabilities = powers / total;
            let residual = probabilities.scatter(1, tile.labels.clone(), -own.ones_like(), IndexingUpdateOp::Add);
            add_outer(&mut sum, residual, z);
        }
        let tiles = losses.len();
        let (gradient, rest) = download(sum, [losses, correct].concat(), packed.dim());
        let (losses, correct) = rest.split_at(tiles);
        LossAndGradient { loss: losses.iter().sum(), gradient, correct: correct.iter().sum::<f64>() as usize }
    }

    /// The Hessian of the summed cross-entropy at a packed head, times a packed direction. It downloads one array.
    fn hessian(&self, head: ArrayView2<'_, f64>, direction: ArrayView2<'_, f64>, precision: Precision) -> Array2<f64> {
        let [weight, bias] = self.upload_packed(head, precision);
        let [weight_direction, bias_direction] = self.upload_packed(direction, precision);
        let mut sum = None;
        for tile in &self.tiles {
            let z = self.features(tile, precision);
            let probabilities = softmax(z.clone().matmul(weight.clone()) + bias.clone(), 1);
            let along = z.clone().matmul(weight_direction.clone()) + bias_direction.clone();
            let mean = (probabilities.clone() * along.clone()).sum_dim(1);
            add_outer(&mut sum, probabilities * (along - mean), z);
        }
        download(sum, Vec::new(), head.dim()).0
    }

    /// The weights, transposed, and the biases of something packed, `[K, d + 1]`.
    fn upload_packed(&self, packed: ArrayView2<'_, f64>, precision: Precision) -> [Tensor<2>; 2] {
        let dtype = dtype(precision);
        let up = |values: ArrayView2<'_, f64>| -> Tensor<2> {
            let data = TensorData::new(values.iter().copied().collect(), [values.nrows(), values.ncols()]);
            Tensor::from_data(data.convert_dtype(dtype.into()), (&self.device, dtype.into()))
        };
        let (weight, bias) = packed.split_at(Axis(1), packed.ncols() - 1);
        [up(weight.t()), up(bias.t())]
    }

    /// The features of a tile, `[n, d]`.
    fn features(&self, tile: &Tile<'_>, precision: Precision) -> Tensor<2> {
        tile.kept.clone().unwrap_or_else(|| upload(&tile.host, &self.device)).cast(dtype(precision))
    }
}

/// Adds `Rᵀ [Z, 1]` to a sum, its weights and its biases apart. `rows` are `R`, `[n, K]`.
fn add_outer(sum: &mut Option<[Tensor<2>; 2]>, rows: Tensor<2>, z: Tensor<2>) {
    let [weight, bias] = [rows.clone().transpose().matmul(z), rows.sum_dim(0)];
    *sum = Some(match sum.take() {
        None => [weight, bias],
        Some([weights, biases]) => [weights + weight, biases + bias],
    });
}

/// Downloads a sum of [`add_outer`], packed to the given shape, and some numbers, `[1, 1]` each, as one array. The sum
/// of no tiles is zero.
fn download(
    sum: Option<[Tensor<2>; 2]>,
    numbers: Vec<Tensor<2>>,
    (classes, width): (usize, usize),
) -> (Array2<f64>, Vec<f64>) {
    let Some([weight, bias]) = sum else { return (Array2::zeros((classes, width)), Vec::new()) };
    let dim = width - 1;
    let row = [vec![weight.reshape([1, classes * dim]), bias], numbers].concat();
    let all: Vec<f64> = Tensor::cat(row, 1).into_data().iter().collect();
    let packed = Array2::from_shape_fn((classes, width), |(k, j)| match j {
        j if j < dim => all[k * dim + j],
        _ => all[classes * dim + k],
    });
    (packed, all[classes * width..].to_vec())
}

fn dtype(precision: Precision) -> FloatDType {
    match precision {
        Precision::Single => FloatDType::F32,
        Precision::Double => FloatDType::F64,
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
    use hemlock_attack::testing::{Clouds, clouds};
    use hemlock_attack::{BilevelObjective, Objective};
    use hemlock_head::testing::{GaussianClusters, random};
    use hemlock_head::{FitOptions, Head, SolveOptions, fit, fit_with, hessian_vector_sum, solve_hessian_with};
    use hemlock_stage::Cancel;
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

    fn largest(values: &Array2<f64>) -> f64 {
        values.iter().fold(0.0, |most, v| most.max(v.abs()))
    }

    /// Clean samples in tiles, and poisons that were not there when the clean samples were sent.
    #[test]
    fn a_product_with_the_hessian_is_that_of_the_host() {
        let (clean, poisons) = (GaussianClusters::new(420, 7, 5, 1), GaussianClusters::new(80, 7, 5, 2));
        let training = [clean.samples(), poisons.samples()];
        let (head, direction) = (Head::from_packed(random(5, 8, 2)).unwrap(), random(5, 8, 3));
        let expected = hessian_vector_sum(&head, &training, direction.view()).unwrap();
        for sizes in [(TILE, KEPT), (7 * 64, 1500), (7 * 64, 0)] {
            let clean = CleanOnDevice(DeviceSamples::new(&Device::flex(), &training[..1], sizes));
            let all = clean.0.and(&[poisons.samples()], sizes);
            for (precision, tolerance) in [(Precision::Single, 1e-5), (Precision::Double, 1e-12)] {
                let off = &all.hessian(head.packed(), direction.view(), precision) - &expected;
                assert!(largest(&off) < tolerance * largest(&expected), "{precision:?}: {}", largest(&off));
            }
        }
    }

    #[test]
    fn a_linear_system_has_the_host_s_solution() {
        let (clean, poisons) = (GaussianClusters::new(500, 12, 4, 3), GaussianClusters::new(100, 12, 4, 4));
        let training = [clean.samples(), poisons.samples()];
        let head = Head::from_packed(random(4, 13, 2)).unwrap();
        let (_, right_side) = hemlock_head::loss_and_gradient(&head, &training, 0.0).unwrap();
        let options = SolveOptions::new(1e-2);
        let clean = CleanOnDevice(DeviceSamples::new(&Device::flex(), &training[..1], (TILE, KEPT)));
        let solve = |passes: &Passes<'_, '_>| solve_hessian_with(passes, &head, right_side.view(), &options).unwrap();
        let (expected, found) = (solve(&OnHost.over(&training)), solve(&clean.over(&training)));
        assert!(expected.converged && found.converged, "{expected:?} {found:?}");
        let off = largest(&(&found.solution - &expected.solution));
        assert!(off > 0.0 && off < 1e-6 * largest(&expected.solution), "{off}");
    }

    fn step_of_bilevel<'a>(setting: &'a Clouds, passes: &'a dyn MakePasses) -> (f64, Array2<f64>) {
        let (clean, raised) = (setting.clean(), vec![setting.validation()]);
        let bilevel = BilevelObjective::new(clean, raised, setting.head.clone(), 1e-2, 1.0).unwrap();
        let (z, labels) = clouds(6, 3);
        let mut found = bilevel.within(&Cancel::default(), passes).evaluate(z.view(), &labels).unwrap();
        (found.value, found.terms.remove(0).adjoint)
    }

    /// The tolerances are those of the attack: 1e-5 for the head's gradient, 1e-3 for the linear system.
    #[test]
    fn an_attack_takes_the_host_s_step() {
        let setting = Clouds::new();
        let clean = CleanOnDevice(DeviceSamples::new(&Device::flex(), &[setting.clean()], (TILE, KEPT)));
        let (expected, found) = (step_of_bilevel(&setting, &OnHost), step_of_bilevel(&setting, &clean));
        assert!((found.0 - expected.0).abs() < 1e-5, "{found:?} {expected:?}");
        assert!(largest(&(&found.1 - &expected.1)) < 2e-3 * largest(&expected.1), "{found:?} {expected:?}");
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
