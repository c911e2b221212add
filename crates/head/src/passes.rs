//! Passes over samples in the course of a search, whose first steps need not be exact.

use ndarray::{Array2, ArrayView2};

use crate::hessian::hessian_vector_sum;
use crate::loss::{LossAndGradient, Precision, pass};
use crate::{Head, HeadError, Samples};
use hemlock_optim::{Level, Limits, Minimum, minimize_in_levels};

/// Changes of a mean loss in single precision below this, relative to `1 +` the loss, are rounding noise.
const SINGLE_NOISE: f64 = 1e-7;
/// Products of this many samples, features and classes are large.
const LARGE: usize = 1 << 33;

/// A function that passes over samples at packed parameters `[K, d + 1]`.
pub type SamplePass<'p> = dyn Fn(ArrayView2<'_, f64>) -> LossAndGradient + 'p;

/// A function that multiplies the Hessian of the summed cross-entropy at a head with a direction, both packed, `[K, d +
/// 1]`.
pub type HessianProduct<'p> = dyn Fn(ArrayView2<'_, f64>, ArrayView2<'_, f64>) -> Array2<f64> + 'p;

/// Passes over samples for the first steps of a search. They are faster than exact ones.
pub struct RoughPass<'a> {
    /// The precision of the products.
    pub precision: Precision,
    /// Returns what a pass gives at packed parameters `[K, d + 1]`, which fit the samples.
    pub pass: Box<SamplePass<'a>>,
    /// Multiplies the Hessian with a direction, if that is faster than on the host in double precision.
    pub hessian: Option<Box<HessianProduct<'a>>>,
}

/// Makes passes over training sets that have the same clean samples and different poisons.
pub trait MakePasses {
    /// Passes over the clean samples and the poisons. The clean samples are the same in every call.
    fn over<'b>(&'b self, training: &'b [Samples<'b>; 2]) -> Passes<'b, 'b>;
}

/// Makes passes on the host ([`Passes::new`]).
pub struct OnHost;

impl MakePasses for OnHost {
    fn over<'b>(&'b self, training: &'b [Samples<'b>; 2]) -> Passes<'b, 'b> {
        Passes::new(training)
    }
}

/// Passes over the same samples at many heads: exact ones and, if they pay, rough ones for the first steps of a search.
pub struct Passes<'b, 'a> {
    blocks: &'b [Samples<'a>],
    /// From the roughest to the most precise. All steps are exact if there are none.
    rough: Vec<RoughPass<'b>>,
}

impl<'b, 'a> Passes<'b, 'a> {
    /// Passes on the host. With large samples (if the numbers of samples, of features and of classes have a product of
    /// at least 2³³), rough passes are in single precision.
    #[must_use]
    pub fn new(blocks: &'b [Samples<'a>]) -> Self {
        if volume(blocks) >= LARGE { Self::in_single(blocks) } else { Self::led_by(Vec::new(), blocks) }
    }

    /// Passes on the host, of which the rough ones are in single precision.
    #[must_use]
    pub fn in_single(blocks: &'b [Samples<'a>]) -> Self {
        let single = move |packed: ArrayView2<'_, f64>| pass(packed, blocks, Precision::Single);
        Self::led_by(vec![RoughPass { precision: Precision::Single, pass: Box::new(single), hessian: None }], blocks)
    }

    /// Passes whose rough ones are computed elsewhere, from the roughest to the most precise, and whose exact ones are
    /// the host's.
    #[must_use]
    pub fn led_by(rough: Vec<RoughPass<'b>>, blocks: &'b [Samples<'a>]) -> Self {
        Self { blocks, rough }
    }

    /// The samples.
    #[must_use]
    pub fn blocks(&self) -> &'b [Samples<'a>] {
        self.blocks
    }

    /// Whether rough passes are exact, too.
    #[must_use]
    pub fn are_exact(&self) -> bool {
        self.rough.is_empty()
    }

    /// The rough products with the Hessian and their precision, from the roughest to the most precise.
    pub(crate) fn rough_hessians(&self) -> impl Iterator<Item = (&HessianProduct<'b>, Precision)> {
        self.rough.iter().filter_map(|rough| Some((&**rough.hessian.as_ref()?, rough.precision)))
    }

    /// The roughest pass at a head.
    ///
    /// # Errors
    /// Returns an error if the samples do not fit the head.
    pub fn rough(&self, head: &Head) -> Result<LossAndGradient, HeadError> {
        head.check_samples(self.blocks)?;
        Ok(match self.rough.first() {
            Some(rough) => (rough.pass)(head.packed()),
            None => pass(head.packed(), self.blocks, Precision::Double),
        })
    }

    /// The roughest product of the Hessian of the summed cross-entropy at a head with a direction, packed `[K, d + 1]`.
    ///
    /// # Errors
    /// Returns an error if the samples or the direction do not fit the head.
    pub fn rough_hessian_vector(&self, head: &Head, direction: ArrayView2<'_, f64>) -> Result<Array2<f64>, HeadError> {
        head.check_samples(self.blocks)?;
        head.check_packed("the direction", &direction)?;
        match self.rough_hessians().next() {
            Some((hessian, _)) => Ok(hessian(head.packed(), direction)),
            None => hessian_vector_sum(head, self.blocks, direction),
        }
    }

    /// A pass in double precision at a head, on the host.
    ///
    /// # Errors
    /// Returns an error if the samples do not fit the head.
    pub fn exact(&self, head: &Head) -> Result<LossAndGradient, HeadError> {
        head.check_samples(self.blocks)?;
        Ok(pass(head.packed(), self.blocks, Precision::Double))
    }

    /// Minimises a function from `start`: first with rough passes, at the end with exact ones. `objective` is called
    /// with a point and a function that passes over the samples at packed parameters, which fit them, and returns the
    /// function's value and its gradient; see [`minimize_in_levels`](hemlock_optim::minimize_in_levels) for the rest.
    pub fn minimize(
        &self,
        start: Array2<f64>,
        objective: impl Fn(&Array2<f64>, &SamplePass<'_>) -> (f64, Array2<f64>),
        precondition: impl Fn(&Array2<f64>) -> Array2<f64>,
        limits: &Limits,
        keep_going: &dyn Fn(usize, f64) -> bool,
    ) -> Minimum {
        let objective = &objective;
        let exact = |packed: ArrayView2<'_, f64>| pass(packed, self.blocks, Precision::Double);
        let exact = |at: &Array2<f64>| objective(at, &exact);
        let mut functions = Vec::with_capacity(self.rough.len());
        for RoughPass { precision, pass, .. } in &self.rough {
            functions.push((move |at: &Array2<f64>| objective(at, &**pass), *precision));
        }
        let rough: Vec<Level<'_>> = functions.iter().map(|(function, precision)| level(function, *precision)).collect();
        minimize_in_levels(start, (&rough, Level::exact(&exact)), precondition, limits, keep_going)
    }
}

fn level<'a>(objective: hemlock_optim::Function<'a>, precision: Precision) -> Level<'a> {
    match precision {
        Precision::Single => Level { objective, noise: SINGLE_NOISE },
        Precision::Double => Level::exact(objective),
    }
}

/// The product of the numbers of samples, of features and of classes, summed over blocks. A pass takes four operations
/// for each.
#[must_use]
pub fn volume(blocks: &[Samples<'_>]) -> usize {
    let product = |block: &Samples<'_>| block.len().saturating_mul(block.dim()).saturating_mul(block.classes());
    blocks.iter().map(product).fold(0, usize::saturating_add)
}
