//! Feature matching of many images at once, as tensors on the network's device. Each pass downloads a few numbers per
//! image.

use super::{BestSoFar, Matching, MatchingProblem, Optimizer, not_finite};
use crate::{
    minimize::{BatchedAdam, BatchedBounds, BatchedLbfgs, Minimizers, choose, keep},
    tensors::{OnDevice, rows, up},
};
use burn::tensor::Tensor;
use hemlock_models::travel::down;
use hemlock_stage::StageError;

/// One start of one poison.
pub(super) struct ImageStart {
    pub(super) row: usize,
    /// Number of the start.
    pub(super) number: usize,
    /// Pixels in `[0, 1]`.
    pub(super) pixels: Vec<f32>,
}

/// The starts in progress, one row each. Finished ones stay until they are half of the rows.
pub(super) struct Together<'a, 'p> {
    matching: &'a Matching,
    problem: &'a MatchingProblem<'p>,
    frozen: OnDevice<'p>,
    minimizers: Box<dyn Minimizers>,
    /// The base images, `[n, 3 h w]`.
    base: Tensor<2>,
    /// The features to match, `[n, d]`.
    zeta: Tensor<2>,
    /// The pixels with the least loss so far, `[n, 3 h w]`; in finished rows they no longer change.
    best: Tensor<2>,
    /// The least loss so far, `[n, 1]`.
    least: Option<Tensor<2>>,
    /// 1 for rows that are not finished, `[n, 1]`.
    active: Tensor<2>,
    running: Vec<BestSoFar>,
    goes_on: Vec<bool>,
}

impl<'a, 'p> Together<'a, 'p> {
    pub(super) fn new(matching: &'a Matching, problem: &'a MatchingProblem<'p>, starts: &[ImageStart]) -> Self {
        let (frozen, limits) = (OnDevice::new(problem.frozen), problem.limits);
        let size = starts.first().map_or(0, |start| start.pixels.len());
        let all = |columns, of: &dyn Fn(&ImageStart) -> Vec<f32>| {
            up(starts.iter().flat_map(of).collect(), columns, frozen.device())
        };
        let base = all(size, &|start| limits.base_pixels(start.row));
        let (from, bounds) = (all(size, &|start| start.pixels.clone()), BatchedBounds::new(base.clone(), limits.range));
        let step = matching.step as f32;
        let minimizers: Box<dyn Minimizers> = match matching.optimizer {
            Optimizer::Lbfgs => Box::new(BatchedLbfgs::new(from, bounds, step)),
            Optimizer::Adam => Box::new(BatchedAdam::new(from, bounds, step, matching.steps)),
        };
        let found = |start: &ImageStart| BestSoFar {
            row: start.row,
            start: start.number,
            best: Vec::new(),
            losses: Vec::new(),
        };
        Self {
            best: minimizers.point(),
            least: None,
            active: all(1, &|_| vec![1.0]),
            zeta: all(problem.zeta.ncols(), &|start| problem.zeta.row(start.row).to_vec()),
            running: starts.iter().map(found).collect(),
            goes_on: vec![true; starts.len()],
            matching,
            problem,
            frozen,
            minimizers,
            base,
        }
    }

    /// Whether all starts are finished.
    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Takes one pass of all rows through the network. Returns how many image passes were done, plus those that
    /// finished rows no longer need.
    ///
    /// # Errors
    /// If the features of an image are not finite.
    pub(super) fn pass(&mut self) -> Result<u64, StageError> {
        let (matching, beta) = (self.matching, self.problem.limits.beta);
        let x = self.minimizers.point();
        let (distance, mut gradient) = self.frozen.pass(x.clone())?.gradient(self.zeta.clone());
        let mut loss = distance.clone();
        if beta > 0.0 {
            let off = x.clone() - self.base.clone();
            loss = loss + off.clone().square().sum_dim(1) * beta as f32;
            gradient = gradient + off * (2.0 * beta as f32);
        }
        let active = self.active.clone().greater_elem(0.5);
        let least = self.least.take().unwrap_or_else(|| loss.clone().add_scalar(f32::INFINITY));
        let better = loss.clone().lower(least.clone()).bool_and(active);
        self.best = choose(&better, x, self.best.clone());
        self.least = Some(choose(&better, loss.clone(), least));
        let going = self.minimizers.tell(loss.clone(), gradient);

        let numbers = down(Tensor::cat(vec![distance, loss, going], 1));
        let mut passed = 0;
        let rows = self.running.iter_mut().zip(&mut self.goes_on).zip(numbers.as_chunks::<3>().0);
        for ((found, goes_on), [distance, loss, going]) in rows.filter(|((_, goes_on), _)| **goes_on) {
            if !distance.is_finite() {
                return Err(not_finite(found.row));
            }
            let exact = beta == 0.0 && *distance <= self.problem.exact;
            *goes_on = found.hear(matching, (*loss).into()) && *going == 1.0 && !exact;
            passed += if *goes_on { 1 } else { 1 + u64::from(matching.steps) - found.losses.len() as u64 };
        }
        Ok(passed)
    }

    /// Removes and returns the finished rows, once they are half of all: moving the others costs about a pass.
    pub(super) fn leave(&mut self) -> Vec<BestSoFar> {
        let device = self.frozen.device();
        let done = self.goes_on.iter().filter(|on| !**on).count();
        if done == 0 {
            return Vec::new();
        }
        if 2 * done < self.running.len() {
            let active = self.goes_on.iter().map(|on| f32::from(u8::from(*on)));
            self.active = up(active.collect(), 1, device);
            return Vec::new();
        }
        let (stay, leave): (Vec<usize>, Vec<usize>) = (0..self.running.len()).partition(|row| self.goes_on[*row]);
        let images = down(self.best.clone().select(0, rows(&leave, device)));
        let size = images.len() / leave.len().max(1);
        let mut going = std::mem::replace(&mut self.goes_on, vec![true; stay.len()]).into_iter();
        let done = self.running.extract_if(.., |_| going.next() == Some(false));
        let done = done.zip(images.chunks(size.max(1))).map(|(found, best)| BestSoFar { best: best.to_vec(), ..found });
        let done = done.collect();
        if !stay.is_empty() {
            let stay = rows(&stay, device);
            self.minimizers.keep(&stay);
            self.active = self.active.clone().select(0, stay.clone()).ones_like();
            let rest = [&mut self.base, &mut self.zeta, &mut self.best];
            rest.into_iter().chain(&mut self.least).for_each(|of| keep(of, &stay));
        }
        done
    }
}
