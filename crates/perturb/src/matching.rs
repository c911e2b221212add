//! Feature matching: searches pixels whose features are close to given ones.

mod finished;
mod together;

use crate::{
    limits::PixelLimits,
    pass::{FrozenExtractor, TILE},
};
use finished::Finished;
use hemlock_artifact::CurvePoint;
use hemlock_models::Needs;
use hemlock_optim::boxed::{Minimizer, ProjectedAdam, ProjectedLbfgs};
use hemlock_stage::{Context, ErrorKind, Part, StageError};
use ndarray::{Array4, ArrayView2};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};
use together::{ImageStart, Together};

/// Number of passes over which an image must improve.
const PATIENCE: usize = 10;

/// The optimiser of the pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Optimizer {
    /// Projected L-BFGS; every image has its own step length and history.
    #[default]
    Lbfgs,
    /// Adam with projection onto the limits and a cosine schedule.
    Adam,
}

/// The problem of feature matching: for every poison, minimise `|f(x) - zeta|^2 + beta |x - x_b|^2` within the limits.
pub struct MatchingProblem<'a> {
    /// The extractor.
    pub frozen: &'a FrozenExtractor<'a>,
    /// The base images `x_b`, the limits of the pixels, and `beta`.
    pub limits: PixelLimits<'a>,
    /// The features to match, `[m, d]`.
    pub zeta: ArrayView2<'a, f32>,
    /// Squared feature distance at which an image counts as matched; it is used only if `beta` is 0.
    pub exact: f32,
}

/// The parameters of feature matching.
#[derive(Debug, Clone, Copy)]
pub struct Matching {
    /// The optimiser of the pixels.
    pub optimizer: Optimizer,
    /// Most forward and backward passes through the extractor, per image and start.
    pub steps: u32,
    /// Step length, for pixels in `[0, 1]`: of Adam's first step, and of L-BFGS's steps without curvature information.
    pub step: f64,
    /// An image is finished when ten passes lower its loss by less than this share.
    pub tolerance: f64,
}

/// The result of feature matching.
pub struct Matched {
    /// The images, `[m, 3, height, width]`. They are in `[0, 1]`, unless the limits allow any pixels.
    pub pixels: Array4<f32>,
    /// Passes that every poison took, summed over its starts.
    pub passes: Vec<u32>,
    /// The least loss so far, averaged over the poisons, at some passes.
    pub curve: Vec<CurvePoint>,
}

impl Matched {
    /// The result for images that are used as they are, without matching.
    #[must_use]
    pub fn none(pixels: Array4<f32>) -> Self {
        Self { passes: vec![0; pixels.dim().0], pixels, curve: Vec::new() }
    }
}

/// The starts of feature matching.
pub struct StartImages<'a> {
    /// Number of starts per poison.
    pub count: usize,
    /// Returns the pixels in `[0, 1]` of a start, given the poison and the start's number.
    pub pixels: &'a (dyn Fn(usize, usize) -> Vec<f32> + Sync),
}

/// Starts that are matched at the same time.
struct TileOfImages<'a> {
    starts: Vec<ImageStart>,
    /// Called with the number of image passes that were done or are no longer needed.
    moved: &'a dyn Fn(u64),
    /// Called with images that are finished.
    keep: &'a dyn Fn(&[BestSoFar]) -> Result<(), StageError>,
}

/// The optimisation of one poison from one start.
struct ActiveImage {
    minimizer: Box<dyn Minimizer>,
    found: BestSoFar,
}

/// The best image of one poison from one start.
#[derive(Debug, Clone)]
struct BestSoFar {
    row: usize,
    /// Number of the start.
    start: usize,
    /// The pixels with the least loss.
    best: Vec<f32>,
    /// The least loss so far, after every pass.
    losses: Vec<f64>,
}

impl BestSoFar {
    fn least(&self) -> f64 {
        self.losses.last().copied().unwrap_or(f64::INFINITY)
    }

    /// Records a loss. Returns whether to continue: if passes are left, and the last ones lowered the loss enough.
    fn hear(&mut self, matching: &Matching, loss: f64) -> bool {
        self.losses.push(self.least().min(loss));
        let passes = self.losses.len();
        let earlier = passes.checked_sub(1 + PATIENCE).map(|i| self.losses[i]);
        let stalled = earlier.is_some_and(|earlier| self.least() > earlier * (1.0 - matching.tolerance));
        passes < matching.steps as usize && !stalled
    }
}

impl ActiveImage {
    /// Records the loss and the gradient of a pass. Returns whether to continue.
    fn hear(&mut self, matching: &Matching, loss: f64, gradient: &[f32]) -> bool {
        if loss < self.found.least() {
            self.found.best.copy_from_slice(self.minimizer.point());
        }
        let goes_on = self.found.hear(matching, loss);
        self.minimizer.tell(loss, gradient) && goes_on
    }
}

impl MatchingProblem<'_> {
    /// Adds the penalty to loss and gradient, and passes both to the optimiser of an image. Returns whether to
    /// continue.
    fn tell(&self, run: &mut ActiveImage, matching: &Matching, distance: f32, gradient: &mut [f32]) -> bool {
        let mut loss = f64::from(distance);
        loss += self.limits.penalise(run.found.row, run.minimizer.point(), gradient);
        run.hear(matching, loss, gradient) && (self.limits.beta > 0.0 || distance > self.exact)
    }
}

impl Matching {
    /// Minimises `|f(x) - zeta|^2 + beta |x - x_b|^2` over the pixels x, with f in the head's feature space, from all
    /// starts, and keeps the best result for each poison. Images that an earlier run of the task finished, or one of
    /// its parts, are not matched again.
    ///
    /// # Errors
    /// If the run was interrupted, if the features of an image are not finite, or if finished images cannot be kept.
    pub fn run(&self, problem: &MatchingProblem, starts: &StartImages, ctx: &Context) -> Result<Matched, StageError> {
        let mut found = self.search(problem, starts, 0..problem.zeta.nrows(), &Finished::new(ctx), ctx)?;
        found.sort_by(|a, b| a.row.cmp(&b.row).then(a.least().total_cmp(&b.least())).then(a.start.cmp(&b.start)));
        collect(problem, &found)
    }

    /// Matches the poisons of one part of a task, and keeps them for its run.
    ///
    /// # Errors
    /// As [`Matching::run`].
    pub fn part(
        &self,
        problem: &MatchingProblem,
        starts: &StartImages,
        part: Part,
        ctx: &Context,
    ) -> Result<(), StageError> {
        let finished = Finished::new(ctx);
        self.search(problem, starts, part.of(problem.zeta.nrows()), &finished, ctx)?;
        finished.flush()
    }

    /// Matches the poisons of some rows from all starts. What earlier runs finished is taken from them. What this one
    /// finishes goes to `finished`.
    fn search(
        &self,
        problem: &MatchingProblem,
        starts: &StartImages,
        rows: Range<usize>,
        finished: &Finished,
        ctx: &Context,
    ) -> Result<Vec<BestSoFar>, StageError> {
        let all = rows.flat_map(|row| (0..starts.count).map(move |number| (row, number)));
        let mut earlier = finished::earlier(ctx, problem.limits.base.len() / problem.limits.base.dim().0.max(1))?;
        let (known, left): (Vec<_>, Vec<_>) = all.partition(|start| earlier.contains_key(start));
        let mut found: Vec<BestSoFar> = known.iter().filter_map(|start| earlier.remove(start)).collect();
        drop(earlier);
        let steps = u64::from(self.steps);
        let total = steps * (known.len() + left.len()) as u64;
        let bar = ctx.progress.start("feature matching", total, "image passes");
        let done = AtomicU64::new(steps * known.len() as u64);
        let moved = |passed: u64| bar.at(done.fetch_add(passed, Ordering::Relaxed) + passed);
        moved(0);
        let on_host = problem.frozen.extractor.on_host();
        let tiles = problem.frozen.extractor.in_tiles(left.len(), TILE, Needs::Gradients, |items| {
            let begin = |(row, number): &(usize, usize)| ImageStart {
                row: *row,
                number: *number,
                pixels: (starts.pixels)(*row, *number),
            };
            let tile: Vec<ImageStart> = left[items].iter().map(begin).collect();
            let keep = |images: &[BestSoFar]| finished.add(images);
            let tile = TileOfImages { starts: tile, moved: &moved, keep: &keep };
            if on_host { self.alone(problem, tile, ctx) } else { self.together(problem, tile, ctx) }
        });
        if tiles.is_err() {
            finished.flush()?;
        }
        found.extend(tiles?.into_iter().flatten());
        Ok(found)
    }

    /// Matches some starts, each with an optimiser of its own.
    fn alone(
        &self,
        problem: &MatchingProblem,
        tile: TileOfImages,
        ctx: &Context,
    ) -> Result<Vec<BestSoFar>, StageError> {
        let mut running: Vec<ActiveImage> =
            tile.starts.into_iter().map(|s| self.begin(problem, s.row, s.number, s.pixels)).collect();
        let mut found = Vec::with_capacity(running.len());
        while !running.is_empty() {
            ctx.check()?;
            let (mut passed, before) = (running.len() as u64, found.len());
            let mut goes_on = self.pass(problem, &mut running)?.into_iter();
            for run in running.extract_if(.., |_| !goes_on.next().expect("every image that is under way was told")) {
                passed += u64::from(self.steps) - run.found.losses.len() as u64;
                found.push(run.found);
            }
            (tile.keep)(&found[before..])?;
            (tile.moved)(passed);
        }
        Ok(found)
    }

    /// Matches some starts as tensors on the network's device.
    fn together(
        &self,
        problem: &MatchingProblem,
        tile: TileOfImages,
        ctx: &Context,
    ) -> Result<Vec<BestSoFar>, StageError> {
        let mut together = Together::new(self, problem, &tile.starts);
        let mut found = Vec::with_capacity(tile.starts.len());
        while !together.is_empty() {
            ctx.check()?;
            (tile.moved)(together.pass()?);
            let left = together.leave();
            (tile.keep)(&left)?;
            found.extend(left);
        }
        Ok(found)
    }

    /// Begins the optimisation of a poison from the pixels `from`.
    fn begin(&self, problem: &MatchingProblem, row: usize, start: usize, from: Vec<f32>) -> ActiveImage {
        let bounds = problem.limits.bounds(row);
        let minimizer: Box<dyn Minimizer> = match self.optimizer {
            Optimizer::Lbfgs => Box::new(ProjectedLbfgs::new(from, bounds, self.step as f32)),
            Optimizer::Adam => Box::new(ProjectedAdam::new(from, bounds, self.step as f32, self.steps)),
        };
        let best = minimizer.point().to_vec();
        ActiveImage { minimizer, found: BestSoFar { row, start, best, losses: Vec::new() } }
    }

    /// One pass of the images in progress. Returns, for each, whether it continues.
    fn pass(&self, problem: &MatchingProblem, running: &mut [ActiveImage]) -> Result<Vec<bool>, StageError> {
        let rows: Vec<usize> = running.iter().map(|r| r.found.row).collect();
        let pixels: Vec<f32> = running.iter().flat_map(|r| r.minimizer.point()).copied().collect();
        let (_, channels, height, width) = problem.limits.base.dim();
        let zeta: Vec<f32> = rows.iter().flat_map(|row| problem.zeta.row(*row)).copied().collect();
        let (distances, mut gradients) = problem.frozen.gradient(&pixels, &zeta)?;
        if let Some(i) = distances.iter().position(|d| !d.is_finite()) {
            return Err(not_finite(rows[i]));
        }
        let told = running.par_iter_mut().zip(distances).zip(gradients.par_chunks_mut(channels * height * width));
        Ok(told.map(|((run, distance), gradient)| problem.tell(run, self, distance, gradient)).collect())
    }
}

fn not_finite(poison: usize) -> StageError {
    let message = format!("the features of poison {poison} are not finite in feature matching");
    StageError::new(ErrorKind::Numeric, message)
}

/// Collects the best result of every poison from all results, which are sorted by poison and loss.
fn collect(problem: &MatchingProblem, found: &[BestSoFar]) -> Result<Matched, StageError> {
    let by_poison: Vec<&[BestSoFar]> = found.chunk_by(|a, b| a.row == b.row).collect();
    let pixels = by_poison.iter().flat_map(|starts| &starts[0].best).copied().collect();
    let pixels = Array4::from_shape_vec(problem.limits.base.dim(), pixels)
        .map_err(|e| StageError::internal(format!("matched images have another size than their bases: {e}")))?;
    let passes = by_poison.iter().map(|starts| starts.iter().map(|f| f.losses.len() as u32).sum()).collect();
    let longest = found.iter().map(|f| f.losses.len()).max().unwrap_or(0);
    let least = |starts: &[BestSoFar], pass: usize| {
        let at = |f: &BestSoFar| f.losses.get(pass).copied().unwrap_or(f.least());
        starts.iter().map(at).fold(f64::INFINITY, f64::min)
    };
    let every = longest.div_ceil(50).max(1);
    let points = (0..longest).filter(|pass| pass % every == 0 || pass + 1 == longest);
    let curve = points.map(|pass| {
        let sum: f64 = by_poison.iter().map(|starts| least(starts, pass)).sum();
        CurvePoint { step: pass as u32, objective: sum / by_poison.len() as f64 }
    });
    Ok(Matched { pixels, passes, curve: curve.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;
    use hemlock_artifact::Normalization;
    use hemlock_fixtures::{context, network, on_threads, patterns};
    use hemlock_models::{Extractor, travel::travelled};
    use ndarray::{Array2, Axis, Slice};
    use std::time::Instant;

    /// Base images, and the features of other images, which are to be matched.
    struct Case {
        extractor: Extractor,
        base: Array4<u8>,
        zeta: Array2<f32>,
    }

    impl Case {
        fn new(arch: &str, n: usize, side: usize) -> Self {
            let extractor = network(arch, side);
            let zeta = extractor.features(patterns(n, side, 5).view(), &|_| true).unwrap();
            Self { base: patterns(n, side, 0), zeta, extractor }
        }
        fn run(&self, n: usize, beta: f64, linf: Option<f32>, matching: Matching, starts: usize) -> Matched {
            let identity = Normalization::identity(self.zeta.ncols());
            let frozen = FrozenExtractor::new(&self.extractor, &identity);
            let some = Slice::from(..n);
            let (base, zeta) = (self.base.slice_axis(Axis(0), some), self.zeta.slice_axis(Axis(0), some));
            let problem = MatchingProblem {
                frozen: &frozen,
                limits: PixelLimits {
                    base,
                    beta,
                    range: linf.map_or(limits::PixelRange::Unit, limits::PixelRange::Near),
                },
                zeta,
                exact: 0.0,
            };
            let start = |row: usize, start: usize| {
                if start == 0 { problem.limits.base_pixels(row) } else { vec![0.5; base.len() / n] }
            };
            let starts = StartImages { count: starts, pixels: &start };
            context(0, |ctx| matching.run(&problem, &starts, ctx)).unwrap()
        }
    }

    const LBFGS: Matching = Matching { optimizer: Optimizer::Lbfgs, steps: 25, step: 0.02, tolerance: 0.01 };

    #[test]
    fn an_image_does_not_depend_on_its_batch_nor_on_threads() {
        let case = Case::new("resnet8-w4", 40, 8);
        let all = on_threads(3, || case.run(40, 0.0, None, LBFGS, 1));
        let few = on_threads(1, || case.run(7, 0.0, None, LBFGS, 1));
        assert_eq!(all.pixels.slice_axis(Axis(0), Slice::from(..7)), few.pixels);
        assert_eq!(all.passes[..7], few.passes);
        let again = on_threads(1, || case.run(40, 0.0, None, LBFGS, 1));
        assert_eq!((all.pixels, all.passes, all.curve), (again.pixels, again.passes, again.curve));
    }

    #[test]
    fn both_optimisers_come_closer_and_keep_within_the_ball() {
        let case = Case::new("resnet8-w4", 6, 8);
        let adam = Matching { optimizer: Optimizer::Adam, ..LBFGS };
        for linf in [None, Some(4.0 / 255.0)] {
            let ends = [adam, LBFGS].map(|matching| {
                let matched = case.run(6, 0.0, linf, matching, 1);
                for (x, b) in
                    crate::pass::rounded(&matched.pixels).iter().zip(case.base.slice_axis(Axis(0), Slice::from(..6)))
                {
                    assert!(linf.is_none() || x.abs_diff(*b) <= 4);
                }
                let (first, last) = (matched.curve.first().unwrap(), matched.curve.last().unwrap());
                assert!(last.objective < 0.9 * first.objective, "{linf:?} {:?}", matched.curve);
                last.objective
            });
            assert!(ends[1] < if linf.is_none() { 0.8 } else { 1.1 } * ends[0], "{linf:?} {ends:?}");
        }
    }

    /// As tensors, all images take the same steps as alone, whenever each of them ends.
    #[test]
    fn images_together_are_those_alone() {
        let case = Case::new("resnet8-w4", 8, 8);
        let affine = Normalization::Affine { shift: vec![0.1; case.zeta.ncols()], scale: vec![3.0; case.zeta.ncols()] };
        for normalization in [affine, Normalization::L2] {
            let frozen = FrozenExtractor::new(&case.extractor, &normalization);
            let mut zeta = case.zeta.clone();
            normalization.apply(zeta.view_mut());
            for (beta, optimizer, tolerance) in
                [(0.0, Optimizer::Lbfgs, 0.05), (0.1, Optimizer::Lbfgs, 0.0), (0.0, Optimizer::Adam, 0.05)]
            {
                let matching = Matching { optimizer, tolerance, steps: 14, ..LBFGS };
                let limits = PixelLimits { base: case.base.view(), beta, range: limits::PixelRange::Near(0.1) };
                let problem = MatchingProblem { frozen: &frozen, limits, zeta: zeta.view(), exact: 0.0 };
                let pixels = |row: usize, _: usize| limits.base_pixels(row);
                let starts = StartImages { count: 1, pixels: &pixels };
                let alone = context(0, |ctx| matching.run(&problem, &starts, ctx)).unwrap();
                let start = |row| ImageStart { row, number: 0, pixels: limits.base_pixels(row) };
                let starts: Vec<ImageStart> = (0..8).map(start).collect();
                let tile = TileOfImages { starts, moved: &|_| {}, keep: &|_| Ok(()) };
                let (found, travelled) = travelled(|| context(0, |ctx| matching.together(&problem, tile, ctx)));
                let mut together = found.unwrap();
                // A pass downloads a few numbers per image, and, when images are finished, their pixels.
                let passes = together.iter().map(|found| found.losses.len()).max().unwrap_or(0);
                let left = 3;
                assert!((passes + 1..=passes + left).contains(&travelled.down), "{travelled:?} of {passes} passes");
                // Every pass uploads the means and standard deviations of the channels.
                assert!(travelled.up <= 2 * passes + 3 + 2 + left, "{travelled:?} of {passes} passes");
                together.sort_by_key(|found| found.row);
                let together = collect(&problem, &together).unwrap();
                let moved = |matched: &Matched| &matched.pixels - &case.base.mapv(|p| f32::from(p) / 255.0);
                let (a, b) = (moved(&alone), moved(&together));
                let apart = (&a - &b).mapv(|d| d * d).sum() / a.mapv(|d| d * d).sum();
                assert!(apart.sqrt() < 0.02, "{optimizer:?}, beta {beta}, {normalization:?}: {}", apart.sqrt());
                let passes = alone.passes.iter().zip(&together.passes).filter(|(a, b)| a != b).count();
                assert!(passes <= 1, "{:?} {:?}", alone.passes, together.passes);
            }
        }
    }

    #[test]
    fn restarts_keep_the_best_and_a_penalty_keeps_near() {
        let case = Case::new("resnet8-w4", 6, 8);
        let end = |starts| case.run(6, 0.0, None, LBFGS, starts).curve.last().unwrap().objective;
        assert!(end(2) <= end(1));
        let moved = |beta| {
            let matched = case.run(6, beta, None, LBFGS, 1);
            let base = case.base.slice_axis(Axis(0), Slice::from(..6)).mapv(|p| f32::from(p) / 255.0);
            (&matched.pixels - &base).mapv(|d| d * d).sum()
        };
        assert!(moved(10.0) < 0.5 * moved(0.0), "{} {}", moved(10.0), moved(0.0));
    }

    #[test]
    fn images_stop_by_themselves() {
        let case = Case::new("resnet8-w4", 4, 8);
        let eager = case.run(4, 0.0, None, Matching { steps: 300, tolerance: 0.9, ..LBFGS }, 1);
        assert!(eager.passes.iter().all(|p| (11..100).contains(p)), "{:?}", eager.passes);
        let identity = Normalization::identity(case.zeta.ncols());
        let frozen = FrozenExtractor::new(&case.extractor, &identity);
        let problem = MatchingProblem {
            frozen: &frozen,
            limits: PixelLimits { base: case.base.view(), beta: 0.0, range: limits::PixelRange::Unit },
            zeta: case.zeta.view(),
            exact: f32::INFINITY,
        };
        let pixels = |row: usize, _: usize| problem.limits.base_pixels(row);
        let starts = StartImages { count: 1, pixels: &pixels };
        let matched = context(0, |ctx| LBFGS.run(&problem, &starts, ctx)).unwrap();
        assert_eq!(matched.passes, [1; 4], "matched from the first");
    }

    /// A timing, run by hand: what the optimiser adds to the passes through a ResNet-20 must stay below a tenth of
    /// them.
    #[test]
    #[ignore = "a timing"]
    #[allow(clippy::print_stderr)]
    fn matching_costs_little_more_than_its_passes() {
        let case = Case::new("resnet20", 128, 32);
        let identity = Normalization::identity(case.zeta.ncols());
        let frozen = FrozenExtractor::new(&case.extractor, &identity);
        let pixels: Vec<f32> = crate::unit(case.base.index_axis(Axis(0), 0)).repeat(TILE);
        let zeta: Vec<f32> = case.zeta.row(0).to_vec().repeat(TILE);
        let matching = Matching { tolerance: 0.0, steps: 10, ..LBFGS };
        let (mut bare, mut whole) = (0.0, 0.0);
        // Measured in turns, so that other work on the machine slows both down equally.
        for _ in 0..5 {
            let started = Instant::now();
            case.extractor
                .in_tiles(128, TILE, Needs::Features, |_| {
                    for _ in 0..10 {
                        frozen.gradient(&pixels, &zeta)?;
                    }
                    Ok::<_, StageError>(())
                })
                .unwrap();
            bare += started.elapsed().as_secs_f64();
            let started = Instant::now();
            let matched = case.run(128, 0.0, None, matching, 1);
            whole += started.elapsed().as_secs_f64();
            assert_eq!(matched.passes, [10; 128]);
        }
        eprintln!("{whole:.2} s for {bare:.2} s of passes: a ratio of {:.3}", whole / bare);
        assert!(whole < 1.1 * bare);
    }
}
