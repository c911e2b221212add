//! The minimisers of [`boxed`] for many images at once, as tensors on the network's device. They follow the same rules
//! for every image, with masks instead of branches. Nothing here waits for the device.
//!
//! Images are rows `[n, 3 h w]`, and values per image are columns `[n, 1]`.

use crate::limits::PixelRange;
use burn::tensor::{Bool, Int, Tensor};
use hemlock_optim::{boxed, half_cosine};

/// A batch of images, each with a minimiser of its own.
pub(crate) trait Minimizers {
    /// The points at which the minimisers need loss and gradient, `[n, 3 h w]`.
    fn point(&self) -> Tensor<2>;
    /// Takes the losses `[n, 1]` and the gradients at these points. Returns 1 for images that continue and 0 for the
    /// others.
    fn tell(&mut self, loss: Tensor<2>, gradient: Tensor<2>) -> Tensor<2>;
    /// Keeps the images in these rows, and drops the others.
    fn keep(&mut self, rows: &Tensor<1, Int>);
}

/// Lower and upper bounds of the pixels; `None` if there are none.
#[derive(Clone)]
pub(crate) struct BatchedBounds(Option<[Tensor<2>; 2]>);

impl BatchedBounds {
    /// The bounds of `range` around base images `[n, 3 h w]`.
    pub(crate) fn new(base: Tensor<2>, range: PixelRange) -> Self {
        Self(match range {
            PixelRange::Unit => Some([base.zeros_like(), base.ones_like()]),
            PixelRange::Near(radius) => {
                let within = |by: f32| base.clone().add_scalar(by).clamp(0.0, 1.0);
                Some([within(-radius), within(radius)])
            }
            PixelRange::Unclipped => None,
        })
    }

    fn project(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.0 {
            Some([low, high]) => x.max_pair(low.clone()).min_pair(high.clone()),
            None => x,
        }
    }

    /// 0 for coordinates where `x` is at a bound and descent along `gradient` leaves the box, 1 for the others.
    fn free(&self, x: &Tensor<2>, gradient: &Tensor<2>) -> Tensor<2> {
        let Some([low, high]) = &self.0 else { return x.ones_like() };
        let below = x.clone().lower_equal(low.clone()).bool_and(gradient.clone().greater_elem(0.0));
        let above = x.clone().greater_equal(high.clone()).bool_and(gradient.clone().lower_elem(0.0));
        below.bool_or(above).bool_not().float()
    }

    fn keep(&mut self, rows: &Tensor<1, Int>) {
        self.0.iter_mut().flatten().for_each(|bound| keep(bound, rows));
    }
}

pub(crate) fn keep(of: &mut Tensor<2>, rows: &Tensor<1, Int>) {
    *of = of.clone().select(0, rows.clone());
}

/// The inner product of each row of `a` with the same row of `b`, `[n, 1]`.
fn dots(a: &Tensor<2>, b: &Tensor<2>) -> Tensor<2> {
    (a.clone() * b.clone()).sum_dim(1)
}

/// Rows of `first` for images in the mask, and rows of `second` for the others.
pub(crate) fn choose(mask: &Tensor<2, Bool>, first: Tensor<2>, second: Tensor<2>) -> Tensor<2> {
    let shape = second.dims();
    second.mask_where(mask.clone().expand(shape), first)
}

/// Sets the rows of images outside of the mask to 0.
fn only(mask: &Tensor<2, Bool>, of: Tensor<2>) -> Tensor<2> {
    of.mask_fill(mask.clone().bool_not(), 0.0)
}

/// The batched form of [`boxed::ProjectedAdam`].
pub(crate) struct BatchedAdam {
    bounds: BatchedBounds,
    x: Tensor<2>,
    first: Tensor<2>,
    second: Tensor<2>,
    step: f32,
    passes: u32,
    done: u32,
}

impl BatchedAdam {
    pub(crate) fn new(start: Tensor<2>, bounds: BatchedBounds, step: f32, passes: u32) -> Self {
        let x = bounds.project(start);
        Self { first: x.zeros_like(), second: x.zeros_like(), x, bounds, step, passes, done: 0 }
    }
}

impl Minimizers for BatchedAdam {
    fn point(&self) -> Tensor<2> {
        self.x.clone()
    }

    fn tell(&mut self, loss: Tensor<2>, gradient: Tensor<2>) -> Tensor<2> {
        let (a, b) = boxed::ProjectedAdam::DECAY;
        let rate = self.step * half_cosine(self.done.into(), self.passes.into()) as f32;
        self.done += 1;
        let (bias1, bias2) = (1.0 - a.powi(self.done as i32), 1.0 - b.powi(self.done as i32));
        self.first = self.first.clone() * a + gradient.clone() * (1.0 - a);
        self.second = self.second.clone() * b + gradient.square() * (1.0 - b);
        let change =
            self.first.clone() / bias1 * rate / ((self.second.clone() / bias2).sqrt() + boxed::ProjectedAdam::EPSILON);
        self.x = self.bounds.project(self.x.clone() - change);
        if self.done < self.passes { loss.ones_like() } else { loss.zeros_like() }
    }

    fn keep(&mut self, rows: &Tensor<1, Int>) {
        self.bounds.keep(rows);
        [&mut self.x, &mut self.first, &mut self.second].into_iter().for_each(|of| keep(of, rows));
    }
}

/// A correction pair of L-BFGS: the change of the points, and the change of the gradients.
struct Pair {
    s: Tensor<2>,
    y: Tensor<2>,
    /// `<s, s>`, per image.
    square: Tensor<2>,
    /// 1 for images that have this pair.
    there: Tensor<2>,
}

impl Pair {
    /// This pair for images in the mask, and the other pair for the others.
    fn or(&self, mask: &Tensor<2, Bool>, other: &Self) -> Self {
        let of = |mine: &Tensor<2>, other: &Tensor<2>| choose(mask, mine.clone(), other.clone());
        Self {
            s: of(&self.s, &other.s),
            y: of(&self.y, &other.y),
            square: of(&self.square, &other.square),
            there: of(&self.there, &other.there),
        }
    }
}

/// The search directions from accepted points.
struct Aim {
    direction: Tensor<2>,
    length: Tensor<2>,
    /// Images whose direction uses curvature; `None` if there are no pairs.
    curved: Option<Tensor<2, Bool>>,
    /// Images without a descent direction.
    stops: Tensor<2, Bool>,
}

/// The batched form of [`boxed::ProjectedLbfgs`].
pub(crate) struct BatchedLbfgs {
    bounds: BatchedBounds,
    first_step: f32,
    trial: Tensor<2>,
    accepted: Option<Accepted>,
    /// The correction pairs, newest first.
    pairs: Vec<Pair>,
}

struct Accepted {
    x: Tensor<2>,
    loss: Tensor<2>,
    gradient: Tensor<2>,
    direction: Tensor<2>,
    length: Tensor<2>,
    shortenings: Tensor<2>,
}

impl BatchedLbfgs {
    pub(crate) fn new(start: Tensor<2>, bounds: BatchedBounds, first_step: f32) -> Self {
        let trial = bounds.project(start);
        Self { bounds, first_step, trial, accepted: None, pairs: Vec::new() }
    }

    /// Stores the last step of the images whose trial points were accepted.
    fn remember(&mut self, accepts: &Tensor<2, Bool>, s: Tensor<2>, y: Tensor<2>) {
        let square = dots(&s, &s);
        let mut newer = Pair { there: square.ones_like(), square, s, y };
        for pair in &mut self.pairs {
            let moved = newer.or(accepts, pair);
            newer = std::mem::replace(pair, moved);
        }
        if self.pairs.len() < boxed::MEMORY {
            newer.there = only(accepts, newer.there);
            self.pairs.push(newer);
        }
    }

    fn forget(&mut self, of: &Tensor<2, Bool>) {
        for pair in &mut self.pairs {
            pair.there = pair.there.clone().mask_fill(of.clone(), 0.0);
        }
    }

    fn aim(&self, x: &Tensor<2>, gradient: &Tensor<2>) -> Aim {
        let free = self.bounds.free(x, gradient);
        let steepest = gradient.clone().neg() * free.clone();
        let largest = steepest.clone().abs().max_dim(1);
        let stops = largest.clone().equal_elem(0.0);
        let first_step = largest.clone().mask_fill(stops.clone(), 1.0).recip() * self.first_step;
        let Some((newton, found)) = self.two_loop(&free, &steepest) else {
            return Aim { direction: steepest, length: first_step, curved: None, stops };
        };
        let slope = dots(&newton, gradient);
        let bound = (dots(&newton, &newton) * dots(&steepest, &steepest)).sqrt() * -boxed::COSINE;
        let curved = found.bool_and(slope.clone().is_finite()).bool_and(slope.lower(bound));
        Aim {
            direction: choose(&curved, newton, steepest),
            length: choose(&curved, largest.ones_like(), first_step),
            curved: Some(curved),
            stops,
        }
    }

    /// The two-loop recursion on the free coordinates. Returns the direction, and the images that have a usable pair.
    fn two_loop(&self, free: &Tensor<2>, steepest: &Tensor<2>) -> Option<(Tensor<2>, Tensor<2, Bool>)> {
        let (mut q, mut found, mut scale) = (steepest.clone(), None::<Tensor<2, Bool>>, None::<Tensor<2>>);
        let mut used = Vec::with_capacity(self.pairs.len());
        for pair in &self.pairs {
            let y = pair.y.clone() * free.clone();
            let (curvature, square) = (dots(&pair.s, &y), dots(&y, &y));
            // Only pairs along which the gradient grows belong to a positive definite matrix.
            let grows = curvature.clone().greater((square.clone() * pair.square.clone()).sqrt() * boxed::COSINE);
            let usable = grows.bool_and(pair.there.clone().greater_elem(0.5));
            let [curvature, square] = [curvature, square].map(|of| choose(&usable, of.clone(), of.ones_like()));
            let a = only(&usable, dots(&pair.s, &q) / curvature.clone());
            q = q - a.clone() * y.clone();
            let newest = curvature.clone() / square;
            (found, scale) = match (found, scale) {
                (Some(found), Some(scale)) => {
                    let scale = choose(&found, scale, newest);
                    (Some(found.bool_or(usable.clone())), Some(scale))
                }
                _ => (Some(usable.clone()), Some(newest)),
            };
            used.push((&pair.s, y, a, curvature, usable));
        }
        q = q * scale?;
        for (s, y, a, curvature, usable) in used.into_iter().rev() {
            // As q is in the free coordinates, y may be restricted to them.
            let b = only(&usable, dots(&y, &q) / curvature);
            q = q + (a - b) * (s.clone() * free.clone());
        }
        Some((q, found?))
    }

    /// Sets the next trial points. Returns 1 for images that have a descent direction and 0 for the others.
    fn go(&mut self, accepted: Accepted, stuck: Tensor<2, Bool>) -> Tensor<2> {
        self.trial = self.bounds.project(accepted.x.clone() + accepted.length.clone() * accepted.direction.clone());
        self.accepted = Some(accepted);
        stuck.bool_not().float()
    }
}

impl Minimizers for BatchedLbfgs {
    fn point(&self) -> Tensor<2> {
        self.trial.clone()
    }

    fn tell(&mut self, loss: Tensor<2>, gradient: Tensor<2>) -> Tensor<2> {
        let trial = self.trial.clone();
        let Some(before) = self.accepted.take() else {
            let Aim { direction, length, stops, .. } = self.aim(&trial, &gradient);
            let shortenings = loss.zeros_like();
            return self.go(Accepted { x: trial, loss, gradient, direction, length, shortenings }, stops);
        };
        let moved = trial.clone() - before.x.clone();
        let promised = dots(&before.gradient, &moved);
        let enough = loss.clone().lower_equal(before.loss.clone() + promised.clone() * boxed::ARMIJO);
        let accepts = promised.clone().lower_elem(0.0).bool_and(enough);
        let shortenings = before.shortenings + 1.0;
        let gave_up = shortenings.clone().greater_elem(boxed::SHORTENINGS).bool_and(accepts.clone().bool_not());
        // The minimum of the parabola through both losses that has the slope at the accepted point.
        let above = loss.clone() - before.loss.clone() - promised.clone();
        let shortened = before.length * (promised.neg() / (above * 2.0)).clamp(0.1, 0.5);

        let remembered = self.pairs.iter().fold(loss.zeros_like(), |sum, pair| sum + pair.there.clone());
        let lost = gave_up.clone().bool_and(remembered.lower_elem(0.5));
        self.forget(&gave_up);
        self.remember(&accepts, moved, gradient.clone() - before.gradient.clone());
        let x = choose(&accepts, trial, before.x);
        let gradient = choose(&accepts, gradient, before.gradient);
        let aims = accepts.clone().bool_or(gave_up);
        let Aim { direction, length, curved, stops } = self.aim(&x, &gradient);
        if let Some(curved) = curved {
            self.forget(&aims.clone().bool_and(curved.bool_not()));
        }
        let stuck = lost.bool_or(aims.clone().bool_and(stops));
        let accepted = Accepted {
            loss: choose(&accepts, loss, before.loss),
            direction: choose(&aims, direction, before.direction),
            length: choose(&aims, length, shortened),
            shortenings: only(&aims.bool_not(), shortenings),
            x,
            gradient,
        };
        self.go(accepted, stuck)
    }

    fn keep(&mut self, rows: &Tensor<1, Int>) {
        self.bounds.keep(rows);
        keep(&mut self.trial, rows);
        for Pair { s, y, square, there } in &mut self.pairs {
            [s, y, square, there].into_iter().for_each(|of| keep(of, rows));
        }
        if let Some(Accepted { x, loss, gradient, direction, length, shortenings }) = &mut self.accepted {
            [x, loss, gradient, direction, length, shortenings].into_iter().for_each(|of| keep(of, rows));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};
    use hemlock_models::{Backend, device};
    use hemlock_optim::boxed::Minimizer;

    const N: usize = 6;
    const D: usize = 40;

    fn tensor(values: Vec<f32>, device: &Device) -> Tensor<2> {
        let rows = values.len() / D.min(values.len() / N);
        let columns = values.len() / rows;
        Tensor::from_data(TensorData::new(values, [rows, columns]), device)
    }

    fn host(tensor: Tensor<2>) -> Vec<f32> {
        tensor.into_data().iter::<f32>().collect()
    }

    /// Loss and gradient of an image: a quadratic plus a wave, so that some steps have to be shortened.
    fn problem(image: usize, x: &[f32]) -> (f64, Vec<f32>) {
        let (mut loss, mut gradient) = (0.0, Vec::with_capacity(x.len()));
        for (i, x) in x.iter().enumerate() {
            let (c, t) = (1.0 + ((i * 53 + image * 17) % 97) as f32, ((i * 37 + image) % 100) as f32 / 40.0 - 0.75);
            let wave = 30.0 * (image % 3) as f32;
            loss += f64::from(0.5 * c * (x - t).powi(2) + wave / 20.0 * (20.0 * x).sin());
            gradient.push(c * (x - t) + wave * (20.0 * x).cos());
        }
        (loss, gradient)
    }

    /// Both take the same steps, pass by pass, for every image, whatever the other images do.
    #[test]
    fn minimisers_are_those_of_one_image() {
        let device = device::open(Backend::default()).unwrap();
        let base: Vec<f32> = (0..N * D).map(|i| ((i * 29) % 100) as f32 / 100.0).collect();
        for (adam, range) in [
            (true, PixelRange::Unit),
            (false, PixelRange::Unit),
            (false, PixelRange::Near(0.2)),
            (false, PixelRange::Unclipped),
        ] {
            let bounds = BatchedBounds::new(tensor(base.clone(), &device), range);
            let start = tensor(base.clone(), &device);
            let mut batch: Box<dyn Minimizers> = if adam {
                Box::new(BatchedAdam::new(start, bounds, 0.02, 30))
            } else {
                Box::new(BatchedLbfgs::new(start, bounds, 0.02))
            };
            let alone = |image: &[f32]| -> Box<dyn Minimizer> {
                let bounds = range.around(image);
                if adam {
                    Box::new(boxed::ProjectedAdam::new(image.to_vec(), bounds, 0.02, 30))
                } else {
                    Box::new(boxed::ProjectedLbfgs::new(image.to_vec(), bounds, 0.02))
                }
            };
            let mut images: Vec<usize> = (0..N).collect();
            let mut each: Vec<Box<dyn Minimizer>> = base.chunks(D).map(alone).collect();
            // After more passes, rounding errors have grown too large.
            for pass in 0..20 {
                let points = host(batch.point());
                let (mut losses, mut gradients, mut goes_on) = (Vec::new(), Vec::new(), Vec::new());
                for (row, image) in images.iter().enumerate() {
                    let point = &points[row * D..][..D];
                    let far = point.iter().zip(each[*image].point()).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
                    assert!(far < 2e-3, "image {image}, pass {pass}, {range:?}: {far}");
                    let (loss, gradient) = problem(*image, each[*image].point());
                    goes_on.push(each[*image].tell(loss, &gradient));
                    losses.push(loss as f32);
                    gradients.extend(gradient);
                }
                let n = images.len();
                let losses = Tensor::from_data(TensorData::new(losses, [n, 1]), &device);
                let going = host(batch.tell(losses, Tensor::from_data(TensorData::new(gradients, [n, D]), &device)));
                assert_eq!(going.iter().map(|g| *g == 1.0).collect::<Vec<_>>(), goes_on, "pass {pass}, {range:?}");
                if pass == 11 {
                    images.remove(2);
                    let rows: Vec<i32> = [0, 1, 3, 4, 5].to_vec();
                    batch.keep(&Tensor::from_data(TensorData::new(rows, [5]), &device));
                }
            }
        }
    }
}
