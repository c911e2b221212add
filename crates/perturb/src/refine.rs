//! Refinement: steps of all images together on an attack's own objective, after feature matching or, for attacks on
//! pixels, from the base images.
//!
//! Feature matching leaves an error on every image, and these errors add up in the head, regardless of what they do to
//! the attack. Refinement continues from there with the attack itself. At every step, the objective is evaluated at the
//! features of the images, and every image moves towards features one step further down the objective, projected onto
//! the constraint.

use crate::{
    limits::PixelLimits,
    minimize::{BatchedAdam, BatchedBounds, Minimizers},
    pass::{FrozenExtractor, Pass},
    tensors::{OnDevice, up},
};
use burn::tensor::Tensor;
use hemlock_artifact::CurvePoint;
use hemlock_attack::Objective;
use hemlock_models::{Passed, tiles::GPU_BATCH, travel::down};
use hemlock_optim::boxed::{Minimizer, ProjectedAdam};
use hemlock_stage::{Context, StageError};
use hemlock_threat::Project;
use ndarray::{Array2, Array4, ArrayView3, Axis, Dim};
use rayon::prelude::*;

/// The parameters of refinement.
pub struct Refinement<'a> {
    /// Name of the progress bar.
    pub name: &'static str,
    /// Number of steps, each a forward and a backward pass of all images.
    pub steps: u32,
    /// Length of Adam's first step, for pixels in `[0, 1]`.
    pub step: f64,
    /// Labels of the poisons.
    pub labels: &'a [u32],
    /// The set that their features are to lie in.
    pub constraint: &'a dyn Project,
}

impl Refinement<'_> {
    /// Moves the images `pixels`, `[m, 3, height, width]` in `[0, 1]`, within their limits. Returns them, and the
    /// objective's displayed value at some steps.
    ///
    /// # Errors
    /// If the objective cannot be evaluated, for example because features are not finite, or if the run was
    /// interrupted.
    pub fn run(
        &self,
        frozen: &FrozenExtractor,
        limits: &PixelLimits,
        objective: &mut dyn Objective,
        pixels: Array4<f32>,
        ctx: &Context,
    ) -> Result<(Array4<f32>, Vec<CurvePoint>), StageError> {
        let shape = pixels.raw_dim();
        let mut images: Box<dyn Moving> = if frozen.extractor.on_host() {
            Box::new(OnHost::new(self, frozen, limits, &pixels))
        } else {
            Box::new(OnGpu::new(self, frozen, limits, &pixels))
        };
        let bar = ctx.progress.start(self.name, self.steps.into(), "steps");
        let every = self.steps.div_ceil(50).max(1);
        let (mut curve, mut started) = (Vec::new(), None);
        for step in 0..=self.steps {
            ctx.check()?;
            let z = images.features(ctx)?;
            let local = objective.evaluate(z.view(), self.labels)?;
            let shown = objective.display_value(local.value);
            let first = *started.get_or_insert(local.value);
            if step.is_multiple_of(every) || step == self.steps {
                curve.push(CurvePoint { step, objective: shown });
            }
            bar.at(step.into());
            bar.say(format!("{shown:.4}"));
            if step == self.steps {
                if local.value > first && limits.beta == 0.0 {
                    tracing::warn!(
                        "{} ended where the attack is worse off than before; it takes more than {step} steps",
                        self.name
                    );
                }
                break;
            }
            images.step(&self.ahead(&z, local.gradient(z.view(), self.labels)?))?;
        }
        let pixels = Array4::from_shape_vec(shape, images.pixels());
        Ok((pixels.map_err(|e| StageError::internal(format!("refined images have another size: {e}")))?, curve))
    }

    /// The features one step down the objective, projected onto the constraint. The step is as long, in the root mean
    /// square over images, as the features are.
    fn ahead(&self, z: &Array2<f64>, mut gradient: Array2<f64>) -> Vec<f32> {
        let largest = |a: &Array2<f64>| a.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        let length = |a: &Array2<f64>| a.iter().map(|x| x * x).sum::<f64>().sqrt();
        // The square of a tiny gradient would underflow to zero.
        gradient /= largest(&gradient).max(f64::MIN_POSITIVE);
        gradient *= length(z) / length(&gradient).max(1.0);
        let mut ahead = z - gradient;
        self.constraint.project(&mut ahead, self.labels);
        ahead.iter().map(|x| *x as f32).collect()
    }
}

/// Images that Adam moves.
trait Moving {
    /// The features of the images, `[m, d]`, in the head's feature space.
    fn features(&mut self, ctx: &Context) -> Result<Array2<f64>, StageError>;
    /// Takes one step of every image towards the features `ahead`, `[m, d]`, from where [`Moving::features`] was last
    /// called.
    fn step(&mut self, ahead: &[f32]) -> Result<(), StageError>;
    /// The pixels of the images, `[m, 3, height, width]`.
    fn pixels(&self) -> Vec<f32>;
}

/// Images on the processor, each with an optimiser of its own.
struct OnHost<'a, 'f, 'l> {
    frozen: &'a FrozenExtractor<'f>,
    limits: &'a PixelLimits<'l>,
    images: Vec<ProjectedAdam>,
    shape: Dim<[usize; 4]>,
    pass: Option<Pass>,
}

impl<'a, 'f, 'l> OnHost<'a, 'f, 'l> {
    fn new(
        how: &Refinement,
        frozen: &'a FrozenExtractor<'f>,
        limits: &'a PixelLimits<'l>,
        pixels: &Array4<f32>,
    ) -> Self {
        let begin = |(row, image): (usize, ArrayView3<f32>)| {
            ProjectedAdam::new(image.iter().copied().collect(), limits.bounds(row), how.step as f32, how.steps)
        };
        let images = pixels.outer_iter().enumerate().map(begin).collect();
        Self { frozen, limits, images, shape: pixels.raw_dim(), pass: None }
    }
}

impl Moving for OnHost<'_, '_, '_> {
    fn features(&mut self, ctx: &Context) -> Result<Array2<f64>, StageError> {
        let pixels = Array4::from_shape_vec(self.shape, self.pixels())
            .map_err(|e| StageError::internal(format!("refined images have another size: {e}")))?;
        let pass = self.frozen.pass(pixels.view(), ctx)?;
        let z = pass.features.mapv(f64::from);
        self.pass = Some(pass);
        Ok(z)
    }

    fn step(&mut self, ahead: &[f32]) -> Result<(), StageError> {
        let pass = self.pass.take().ok_or_else(|| StageError::internal("images have not passed the extractor"))?;
        let mut gradient = self.frozen.gradient_back(pass, &self.pixels(), ahead)?;
        let (limits, size) = (self.limits, gradient.len() / self.images.len().max(1));
        let images = self.images.par_iter_mut().zip(gradient.par_chunks_mut(size.max(1))).enumerate();
        images.for_each(|(row, (image, gradient))| {
            limits.penalise(row, image.point(), gradient);
            image.tell(0.0, gradient);
        });
        Ok(())
    }

    fn pixels(&self) -> Vec<f32> {
        self.images.iter().flat_map(ProjectedAdam::point).copied().collect()
    }
}

/// Images as tensors on the network's device, in batches. A step downloads features and uploads features.
struct OnGpu<'a> {
    frozen: OnDevice<'a>,
    beta: f32,
    /// For each batch: number of the first image, the images, and their base images.
    batches: Vec<(usize, BatchedAdam, Tensor<2>)>,
    /// The forward pass of the batch, if there is only one: the caches of several may not fit into memory.
    passed: Option<Passed>,
    dim: usize,
}

impl<'a> OnGpu<'a> {
    fn new(how: &Refinement, frozen: &FrozenExtractor<'a>, limits: &PixelLimits, pixels: &Array4<f32>) -> Self {
        let (frozen, dim) = (OnDevice::new(frozen), frozen.extractor.feature_dim());
        let m = pixels.len_of(Axis(0));
        let size = pixels.len() / m.max(1);
        let batches = (0..m).step_by(GPU_BATCH).map(|first| {
            let images = first..(first + GPU_BATCH).min(m);
            let on_device = |values| up(values, size, frozen.device());
            let base = on_device(images.clone().flat_map(|row| limits.base_pixels(row)).collect());
            let start = on_device(pixels.slice_axis(Axis(0), images.into()).iter().copied().collect());
            let bounds = BatchedBounds::new(base.clone(), limits.range);
            (first, BatchedAdam::new(start, bounds, how.step as f32, how.steps), base)
        });
        Self { batches: batches.collect(), passed: None, beta: limits.beta as f32, frozen, dim }
    }
}

impl Moving for OnGpu<'_> {
    fn features(&mut self, ctx: &Context) -> Result<Array2<f64>, StageError> {
        let mut features = Vec::new();
        for (_, images, _) in &self.batches {
            ctx.check()?;
            let pass = self.frozen.pass(images.point())?;
            features.extend(down(pass.features()).into_iter().map(f64::from));
            self.passed = (self.batches.len() == 1).then(|| pass.keep());
        }
        let m = features.len() / self.dim.max(1);
        Array2::from_shape_vec((m, self.dim), features)
            .map_err(|e| StageError::internal(format!("features have another shape than their extractor says: {e}")))
    }

    fn step(&mut self, ahead: &[f32]) -> Result<(), StageError> {
        let mut passed = self.passed.take();
        for (first, images, base) in &mut self.batches {
            let x = images.point();
            let zeta = &ahead[*first * self.dim..][..x.dims()[0] * self.dim];
            let zeta = up(zeta.to_vec(), self.dim, self.frozen.device());
            let pass = match passed.take() {
                Some(passed) => self.frozen.kept(passed),
                None => self.frozen.pass(x.clone())?,
            };
            let (_, gradient) = pass.gradient(zeta);
            let penalty = (x - base.clone()) * (2.0 * self.beta);
            let loss = penalty.clone().sum_dim(1).zeros_like();
            images.tell(loss, if self.beta > 0.0 { gradient + penalty } else { gradient });
        }
        Ok(())
    }

    fn pixels(&self) -> Vec<f32> {
        self.batches.iter().flat_map(|(_, images, _)| down(images.point())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;
    use hemlock_artifact::Normalization;
    use hemlock_attack::{BilevelObjective, CancelingObjective};
    use hemlock_fixtures::{context, network, on_threads, patterns};
    use hemlock_head::{FitOptions, Head, Samples, fit};
    use hemlock_models::Extractor;
    use hemlock_threat::Constraint;

    const DECAY: f64 = 1e-2;

    /// Clean features of 60 images, their head, and a target head.
    struct Setting {
        extractor: Extractor,
        features: Array2<f64>,
        labels: Vec<u32>,
        head: Head,
        target: Head,
    }

    /// Refined images, the objective before and after, and the largest norm of their features.
    #[derive(Debug, PartialEq)]
    struct Refined {
        pixels: Array4<f32>,
        objective: [f64; 2],
        longest: f64,
    }

    impl Refined {
        /// The squared L2 norm and the Linf norm of the change from the base images.
        fn moved(&self) -> (f32, f32) {
            let base = patterns(self.pixels.dim().0, 8, 0).mapv(|p| f32::from(p) / 255.0);
            let change = &self.pixels - &base;
            (change.iter().map(|d| d * d).sum(), change.iter().fold(0.0, |most, d| most.max(d.abs())))
        }
    }

    impl Setting {
        fn new() -> Self {
            let extractor = network("resnet8-w4", 8);
            let features = extractor.features(patterns(60, 8, 3).view(), &|_| true).unwrap().mapv(f64::from);
            let labels: Vec<u32> = (0..60).map(|i| u32::from(i % 3 == 0)).collect();
            let clean = Samples::new(features.view(), &labels, 2).unwrap();
            let head = fit(&[clean], &FitOptions::new(DECAY), &|_, _| true).unwrap().head;
            let target = Head::from_packed(&head.packed() * 0.5).unwrap();
            Self { extractor, features, labels, head, target }
        }
        fn clean(&self) -> Samples<'_> {
            Samples::new(self.features.view(), &self.labels, 2).unwrap()
        }
        fn canceling(&self) -> CancelingObjective<'_> {
            CancelingObjective::new(&self.target, self.clean(), DECAY).unwrap()
        }
        /// Refines `m` base images.
        fn refine(
            &self,
            m: usize,
            steps: u32,
            (beta, linf): (f64, Option<f32>),
            constraint: &Constraint,
            objective: &mut dyn Objective,
        ) -> Refined {
            let identity = Normalization::identity(self.features.ncols());
            let frozen = FrozenExtractor::new(&self.extractor, &identity);
            let base = patterns(m, 8, 0);
            let limits = PixelLimits {
                base: base.view(),
                beta,
                range: linf.map_or(limits::PixelRange::Unit, limits::PixelRange::Near),
            };
            let labels: Vec<u32> = (0..m as u32).map(|i| i % 2).collect();
            let refinement = Refinement { name: "refinement", steps, step: 0.02, labels: &labels, constraint };
            let pixels = base.mapv(|p| f32::from(p) / 255.0);
            context(0, |ctx| {
                let (pixels, curve) = refinement.run(&frozen, &limits, objective, pixels, ctx).unwrap();
                let z = frozen.features(pixels.view(), ctx).unwrap();
                let longest = z.rows().into_iter().map(|z| f64::from(z.dot(&z)).sqrt()).fold(0.0, f64::max);
                let objective = [curve.first().unwrap().objective, curve.last().unwrap().objective];
                Refined { pixels, objective, longest }
            })
        }
    }

    #[test]
    fn it_lowers_the_attack_s_own_objective_within_every_bound() {
        let setting = Setting::new();
        let run = |limits, constraint: Constraint| setting.refine(6, 60, limits, &constraint, &mut setting.canceling());
        let unconstrained = run((0.0, None), Constraint::default());
        let [first, last] = unconstrained.objective;
        assert!(last < 0.9 * first, "{first} to {last}");
        assert!(unconstrained.pixels.iter().all(|p| (0.0..=1.0).contains(p)));

        let radius = 0.8 * unconstrained.longest;
        let held = run((0.0, None), Constraint::ball(radius));
        assert!(held.longest < 1.05 * radius, "{} over {radius}", held.longest);
        assert!(held.objective[1] > last && held.objective[1] < first, "{:?}", held.objective);

        let near = run((0.0, Some(4.0 / 255.0)), Constraint::default());
        let moved = near.moved().1;
        assert!(moved <= 4.0 / 255.0 + 1e-6 && moved > 1.0 / 255.0, "{moved}");
        assert!(near.objective[1] < first && near.objective[1] > last, "{:?}", near.objective);

        let penalised = run((10.0, None), Constraint::default());
        assert!(
            penalised.moved().0 < 0.5 * unconstrained.moved().0,
            "{:?} {:?}",
            penalised.moved(),
            unconstrained.moved()
        );
    }

    #[test]
    fn it_raises_the_error_of_the_retrained_head() {
        let setting = Setting::new();
        let mut bilevel =
            BilevelObjective::new(setting.clean(), vec![setting.clean()], setting.head.clone(), DECAY, 0.5).unwrap();
        let [first, last] = setting.refine(12, 40, (0.0, None), &Constraint::default(), &mut bilevel).objective;
        assert!(last > first + 0.01, "{first} to {last}");
    }

    /// On the processor and as tensors, all images take the same steps.
    #[test]
    fn images_move_alike_wherever_they_are() {
        let setting = Setting::new();
        let base = patterns(5, 8, 0);
        let identity = Normalization::identity(setting.features.ncols());
        let frozen = FrozenExtractor::new(&setting.extractor, &identity);
        let limits = PixelLimits { base: base.view(), beta: 0.5, range: limits::PixelRange::Near(0.05) };
        let (name, constraint) = ("refinement", &Constraint::default());
        let how = Refinement { name, steps: 4, step: 0.02, labels: &[0, 1, 0, 1, 0], constraint };
        let pixels = base.mapv(|p| f32::from(p) / 255.0);
        let moved = |mut moving: Box<dyn Moving + '_>| {
            context(0, |ctx| {
                for _ in 0..4 {
                    let z = moving.features(ctx).unwrap();
                    let ahead: Vec<f32> = z.iter().map(|z| 0.5 * *z as f32).collect();
                    moving.step(&ahead).unwrap();
                }
            });
            moving.pixels().iter().zip(&pixels).map(|(x, base)| x - base).collect::<Vec<f32>>()
        };
        let host = moved(Box::new(OnHost::new(&how, &frozen, &limits, &pixels)));
        let device = moved(Box::new(OnGpu::new(&how, &frozen, &limits, &pixels)));
        let square = |of: &mut dyn Iterator<Item = f32>| of.map(|d| d * d).sum::<f32>();
        let apart = square(&mut host.iter().zip(&device).map(|(a, b)| a - b)) / square(&mut host.iter().copied());
        // The first step of Adam depends on the gradient's sign alone, which rounding may flip near 0.
        assert!(apart.sqrt() < 0.02, "{}", apart.sqrt());
    }

    /// More images than one tile.
    #[test]
    fn threads_change_nothing() {
        let setting = Setting::new();
        let run = |threads| {
            on_threads(threads, || setting.refine(40, 3, (0.1, None), &Constraint::default(), &mut setting.canceling()))
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn where_nothing_descends_features_stay() {
        let (name, constraint) = ("refinement", &Constraint::default());
        let refinement = Refinement { name, steps: 1, step: 0.02, labels: &[0, 1], constraint };
        let z = ndarray::array![[1.0, 2.0], [3.0, 4.0]];
        assert_eq!(refinement.ahead(&z, Array2::zeros((2, 2))), [1.0, 2.0, 3.0, 4.0]);
        let ahead = refinement.ahead(&z, ndarray::array![[1e-300, 0.0], [0.0, 0.0]]);
        assert!((ahead[0] - (1.0 - 30f32.sqrt())).abs() < 1e-6 && ahead[1..] == [2.0, 3.0, 4.0], "{ahead:?}");
    }
}
