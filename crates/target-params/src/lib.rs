//! Stage: the target head, which an attack wants victims to learn.
//!
//! Trains the clean head to its minimum, and then makes a worse head from it:
//!
//! - by GradPC (gradient-based parameter corruption), which is normalised ascent of the training loss inside a ball
//!   around the clean head, or
//! - by training on wrong labels.
//!
//! For every target, the stage computes lower bounds of the poison fraction that the target needs. It can choose the
//! strongest target that a given poison fraction can reach according to the bounds.

mod gradpc;
mod labels;

pub use gradpc::{Ascent, Norm, ascend};
pub use labels::{Wrong, wrong_labels};

use hemlock_artifact::{Features, PathPoint, SteppedBack, TargetParams};
use hemlock_head::{
    Fit, FitOptions, Head, HeadError, LossAndGradient, Passes, Samples, accuracy, add_weight_decay, calibrate, fit,
    fit_with, loss_and_gradient,
};
use hemlock_head_device::passes;
use hemlock_optim::norm;
use hemlock_stage::{About, Context, ErrorKind, ParamError, StageError, StageRole, inputs};
use hemlock_threat::{Constraint, ConstraintKind, ConstraintKinds, PoisonFractionBounds, Sees, poison_fraction_bounds};
use ndarray::Array2;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Number of bisections in the search for the strongest target that is reachable, or that calibration can rescale.
const HALVINGS: u32 = 10;

/// The clean head, and the target head that an attack wants victims to learn. A field that the chosen method does not
/// use is ignored, and does not change the key.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// How the target head is made.
    pub method: TargetMethod,
    /// With GradPC: the radius of the ball around the clean head, or `reachable`.
    pub radius: Strength,
    /// Norm of the ball and of the steps.
    pub norm: Norm,
    /// Unit of the radius.
    pub radius_unit: RadiusUnit,
    /// Number of steps of the ascent.
    #[schemars(range(min = 1))]
    pub steps: u32,
    /// Length of a step, as a fraction of the radius.
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1))]
    pub step: f64,
    /// Largest number of parameters that are corrupted: those with the largest corruption. If absent, all may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub coordinates: Option<u32>,
    /// With GradPC: the splits whose loss is ascended.
    pub sees: Sees,
    /// With `flipped-labels` and `shifted-labels`: the fraction of wrong labels, or `reachable`.
    pub share: Strength,
    /// How the target is calibrated at the end.
    pub calibration: Calibration,
    /// If calibration fails because the target is too strong: whether to take the strongest target for which it
    /// succeeds, instead of an error.
    pub step_back: bool,
    /// With `reachable`: the poison fraction, which is the number of poisons divided by the number of clean training
    /// samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1))]
    pub poison_fraction: Option<f64>,
    /// The constraint of the poison fraction bounds, as in `[poison-features]`.
    pub constraint: ConstraintKinds,
    /// The fraction of the clean features that lies within each set of the constraint.
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1))]
    pub quantile: f64,
    /// The k of the constraint `knn`.
    #[schemars(range(min = 1))]
    pub neighbors: u32,
    /// Weight decay of the head, for attackers and victims. Biases are not decayed. For `n` samples, the `C` of
    /// scikit-learn is `1 / (n weight_decay)`, and `2 / (n weight_decay)` if there are two classes.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub weight_decay: f64,
    /// Gradient norm of the mean objective at which training counts as converged.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub tolerance: f64,
}

/// How a target head is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TargetMethod {
    /// The clean head is moved along the gradient of its loss.
    #[default]
    Gradpc,
    /// A head is trained on data where a fraction of the samples has a random wrong label.
    FlippedLabels,
    /// A head is trained on data where a fraction of the samples has the label of the next class.
    ShiftedLabels,
}

/// How strong a target is: its radius, or its fraction of wrong labels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Value", into = "Value")]
#[schemars(extend("anyOf" = [{ "type": "number", "exclusiveMinimum": 0 }, { "const": "reachable" }]))]
pub enum Strength {
    /// The given strength.
    Fixed(f64),
    /// The largest strength that the poison fraction can reach, according to the support bound.
    Reachable,
}

impl TryFrom<Value> for Strength {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        match (value.as_f64(), value.as_str()) {
            (Some(strength), _) => Ok(Self::Fixed(strength)),
            (_, Some("reachable")) => Ok(Self::Reachable),
            _ => Err(format!("is {value}; expected a number, or \"reachable\"")),
        }
    }
}

impl From<Strength> for Value {
    fn from(strength: Strength) -> Self {
        match strength {
            Strength::Fixed(strength) => strength.into(),
            Strength::Reachable => "reachable".into(),
        }
    }
}

/// The unit of a radius.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RadiusUnit {
    /// The norm of the clean head, including the bias, in the norm of the ball.
    CleanNorm,
    /// The units of the parameters.
    Absolute,
}

/// How a target is calibrated at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Calibration {
    /// It is not calibrated, as in the paper.
    None,
    /// The scale and the biases minimise the training objective again. Fewer poisons are then needed to reach the
    /// target.
    ScaleAndBias,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            method: TargetMethod::Gradpc,
            radius: Strength::Fixed(0.5),
            norm: Norm::L2,
            radius_unit: RadiusUnit::CleanNorm,
            steps: 30,
            step: 0.1,
            coordinates: None,
            sees: Sees::Train,
            share: Strength::Fixed(0.5),
            calibration: Calibration::None,
            step_back: true,
            poison_fraction: None,
            constraint: ConstraintKinds::default(),
            quantile: 0.95,
            neighbors: 5,
            weight_decay: 1e-4,
            tolerance: 1e-6,
        }
    }
}

impl Params {
    /// The name and the value of the field that determines the strength of the target.
    fn strength(&self) -> (&'static str, Strength) {
        match self.method {
            TargetMethod::Gradpc => ("radius", self.radius),
            TargetMethod::FlippedLabels | TargetMethod::ShiftedLabels => ("share", self.share),
        }
    }
}

impl hemlock_stage::Params for Params {
    fn check(&self) -> Result<(), ParamError> {
        if let Some(poison_fraction) = self.poison_fraction {
            ParamError::share("poison_fraction", poison_fraction)?;
        }
        match self.strength() {
            ("radius", Strength::Fixed(radius)) => ParamError::positive("radius", radius)?,
            (field, Strength::Fixed(share)) => ParamError::share(field, share)?,
            (field, Strength::Reachable) if self.poison_fraction.is_none() => {
                let message = format!("is missing; expected the budget for which `{field}` is reachable");
                return Err(ParamError::new("poison_fraction", message));
            }
            (_, Strength::Reachable) => {}
        }
        ParamError::at_least_one("steps", self.steps)?;
        ParamError::share("step", self.step)?;
        if let Some(coordinates) = self.coordinates {
            ParamError::at_least_one("coordinates", coordinates)?;
        }
        ParamError::share("quantile", self.quantile)?;
        ParamError::at_least_one("neighbors", self.neighbors)?;
        ParamError::positive("weight_decay", self.weight_decay)?;
        ParamError::positive("tolerance", self.tolerance)
    }
}

inputs! {
    /// The inputs of the stage.
    pub struct Inputs {
        /// Features of the downstream dataset.
        features: Features = "features",
    }
}

/// The stage `target-params`.
pub struct Stage;

impl hemlock_stage::Stage for Stage {
    const NAME: &'static str = "target-params";
    const ABOUT: About =
        About::new(StageRole::Preparation, "train the clean head, and corrupt it into the target head");
    const VERSION: u32 = 11;
    const SEEDED: bool = false;
    const USES_DEVICE: bool = false;
    const LISTS: &'static [&'static str] = &["sees"];
    type Params = Params;
    type Inputs = Inputs;
    type Output = TargetParams;

    /// GradPC draws no random numbers; wrong labels are drawn.
    fn seeded(params: &Params) -> bool {
        params.method != TargetMethod::Gradpc
    }

    fn key_params(params: &Params) -> Result<Value, serde_json::Error> {
        let mut value = serde_json::to_value(params)?;
        let gradpc = params.method == TargetMethod::Gradpc;
        let reachable = matches!(params.strength().1, Strength::Reachable);
        if let Some(fields) = value.as_object_mut() {
            fields.retain(|field, _| match field.as_str() {
                "radius" | "norm" | "radius_unit" | "steps" | "step" | "coordinates" | "sees" => gradpc,
                "share" => !gradpc,
                "poison_fraction" => reachable,
                // If stepping back is allowed, it is not part of the key, because it only replaces an error.
                "step_back" => !params.step_back && params.calibration != Calibration::None && !reachable,
                "quantile" => params.constraint.has_quantile(),
                "neighbors" => params.constraint.kinds().contains(&ConstraintKind::Knn),
                _ => true,
            });
        }
        Ok(value)
    }

    fn run(params: &Params, Inputs { features }: Inputs, ctx: &Context) -> Result<TargetParams, StageError> {
        let classes = features.classes.len();
        let train = features.train.samples(classes)?;
        let test = features.test.samples(classes)?;
        if test.is_empty() {
            let message = "gives no test split to measure on; expected `test` above 0";
            return Err(ParamError::new("dataset.downstream", message).into());
        }
        let sees = if params.method == TargetMethod::Gradpc { params.sees } else { Sees::Train };
        let raised = sees.samples(train, features.validation.samples(classes)?)?;
        let constraint = Constraint::new(&params.constraint, train, params.quantile, params.neighbors as usize)
            .map_err(|e| ParamError::new("constraint", e.to_string()))?;
        let trained_on = [train];
        let passes = passes(&trained_on, ctx)?;
        let (clean, clean_gradient_norm) = train_clean(params, &passes, ctx)?;
        let search =
            Search { params, clean: &clean, train, passes: &passes, test, raised, constraint: &constraint, ctx };
        let ((target, path), stepped_back) = match params.strength() {
            (field, Strength::Fixed(strength)) => search.as_asked(field, strength)?,
            (field, Strength::Reachable) => (search.strongest_reachable(field)?, None),
        };
        Ok(TargetParams {
            target,
            method: name(params.method).to_owned(),
            constraint: params.constraint.to_string(),
            weight_decay: params.weight_decay,
            clean_gradient_norm,
            path,
            stepped_back,
            clean,
        })
    }
}

/// A target head and the path that leads to it.
type HeadWithPath = (Head, Vec<PathPoint>);

fn name(method: TargetMethod) -> &'static str {
    match method {
        TargetMethod::Gradpc => "gradpc",
        TargetMethod::FlippedLabels => "flipped-labels",
        TargetMethod::ShiftedLabels => "shifted-labels",
    }
}

/// Rounds `x`, which is above 0, down to two significant digits.
fn rounded_down(x: f64) -> f64 {
    let digits = (1 - x.log10().floor() as i32).clamp(-300, 300);
    let scale = 10f64.powi(digits.abs());
    if digits < 0 { (x / scale).floor() * scale } else { (x * scale).floor() / scale }
}

/// Trains the clean head. Returns it with its gradient norm.
fn train_clean(params: &Params, train: &Passes, ctx: &Context) -> Result<(Head, f64), StageError> {
    let bar = ctx.progress.start("clean head", 0, "steps");
    let options = FitOptions { gradient_tolerance: params.tolerance, ..FitOptions::new(params.weight_decay) };
    let clean = fit_with(train, &options, &|step, gradient| {
        bar.at(step as u64);
        bar.say(format!("gradient norm {gradient:.1e}"));
        !ctx.cancel.requested()
    })?;
    ctx.check()?;
    if !clean.converged {
        let message = format!(
            "the clean head stopped at a gradient norm of {:.1e}; expected at most {:.1e} (tolerance): raise `weight_decay` or `tolerance`",
            clean.gradient_norm, params.tolerance
        );
        return Err(StageError::new(ErrorKind::Numeric, message));
    }
    Ok((clean.head, clean.gradient_norm))
}

/// Called with the number of steps and the head there. May return the gradient of the summed loss of the training
/// samples, `[K, d + 1]`.
type Visit<'a> = dyn FnMut(u32, &Head) -> Result<Option<Array2<f64>>, StageError> + 'a;

/// The inputs of the search for a target.
struct Search<'s, 'a> {
    params: &'s Params,
    clean: &'s Head,
    train: Samples<'a>,
    /// Passes over the training samples.
    passes: &'s Passes<'s, 'a>,
    test: Samples<'a>,
    /// The samples whose loss GradPC ascends.
    raised: Vec<Samples<'a>>,
    constraint: &'s Constraint,
    ctx: &'s Context<'s>,
}

/// A target after calibration.
struct Calibrated {
    head: Head,
    /// The gradient norm at which calibration stopped before its tolerance; `None` if it reached it.
    stopped_at: Option<f64>,
}

impl Search<'_, '_> {
    /// The target of the given strength and the path to it; `None` if calibration fails because no positive scale fits.
    fn target(&self, strength: f64) -> Result<Option<HeadWithPath>, StageError> {
        let mut path = Vec::new();
        let made = self.make(strength, &mut |step, head| {
            let pass = self.passes.rough(head)?;
            path.push(self.point(step, head, &pass)?);
            Ok(Some(pass.gradient))
        })?;
        let Some(Calibrated { head: target, stopped_at }) = self.calibrated(made.clone())? else { return Ok(None) };
        if let Some(gradient_norm) = stopped_at {
            tracing::warn!(gradient_norm, "the calibration of the target stopped before its tolerance");
        }
        if target != made {
            path.push(self.point(path.len() as u32, &target, &self.passes.exact(&target)?)?);
        } else if !self.passes.are_exact() {
            let last = path.last_mut().expect("a path ends at its target");
            *last = self.point(last.step, &target, &self.passes.exact(&target)?)?;
        }
        Ok(Some((target, path)))
    }

    /// The target of the strength that was asked for. If calibration fails for it, the strongest target for which it
    /// succeeds, together with a record of the change.
    fn as_asked(&self, field: &'static str, asked: f64) -> Result<(HeadWithPath, Option<SteppedBack>), StageError> {
        if let Some(made) = self.target(asked)? {
            return Ok((made, None));
        }
        let leaves = |strength: f64| -> Result<bool, StageError> {
            Ok(self.calibrated(self.make(strength, &mut |_, _| Ok(None))?)?.is_some())
        };
        let refused = |message: String| StageError::from(ParamError::new("calibration", message));
        let Some(most) = self.strongest(asked, leaves)? else {
            return Err(refused(format!(
                "leaves nothing of any target up to `{field}` {asked}, as the reverse of each fits better; expected \"none\""
            )));
        };
        // The strength should be a number that is short enough for a spec.
        let short = rounded_down(most);
        let used = if short > 0.0 && leaves(short)? { short } else { most };
        if !self.params.step_back {
            return Err(refused(format!(
                "leaves nothing of a target of `{field}` {asked}, as its reverse fits better; expected a `{field}` of at most {used}, or \
                 `step_back = true`, which takes that"
            )));
        }
        tracing::warn!(
            "`{field}` is {used} instead of {asked}: calibration leaves nothing of a stronger target, because its reverse fits better"
        );
        let made = self.target(used)?.ok_or_else(|| refused(format!("leaves nothing of `{field}` {used}")))?;
        Ok((made, Some(SteppedBack { field: field.to_owned(), asked, used })))
    }

    /// The largest strength below `most` for which `holds` returns true, by bisection. `holds` has to be true for all
    /// strengths below that. Returns `None` if it is false for the smallest strength that is tried.
    fn strongest(
        &self,
        most: f64,
        mut holds: impl FnMut(f64) -> Result<bool, StageError>,
    ) -> Result<Option<f64>, StageError> {
        let bar = self.ctx.progress.start("strongest target", u64::from(HALVINGS), "targets");
        let (mut low, mut high) = (0.0, most);
        for halving in 0..HALVINGS {
            bar.at(u64::from(halving));
            let middle = 0.5 * (low + high);
            if holds(middle)? {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok((low > 0.0).then_some(low))
    }

    /// The strongest target whose support bound is at most the poison fraction, and the path to it. Bisection finds it,
    /// because bounds grow with the strength.
    fn strongest_reachable(&self, field: &'static str) -> Result<HeadWithPath, StageError> {
        let budget = self.params.poison_fraction.expect("a reachable target was checked to have a budget");
        let bound = |strength: f64| -> Result<f64, StageError> {
            let made = self.make(strength, &mut |_, _| Ok(None))?;
            // Targets that cannot be calibrated do not count as reachable.
            let Some(target) = self.calibrated(made)? else { return Ok(f64::INFINITY) };
            let (_, gradient) = loss_and_gradient(&target.head, self.passes.blocks(), self.params.weight_decay)?;
            Ok(self.bounds(&target.head, &gradient)?.support)
        };
        // The upper end is the norm of the clean head, or all labels wrong. Stronger targets are not useful.
        let absolute = self.params.method == TargetMethod::Gradpc && self.params.radius_unit == RadiusUnit::Absolute;
        let most = if absolute { self.clean_norm() } else { 1.0 };
        let (mut weakest, mut lowest) = (most, f64::INFINITY);
        let mut reachable = |strength: f64| -> Result<bool, StageError> {
            let needed = bound(strength)?;
            if needed > budget {
                (weakest, lowest) = (strength, needed);
            }
            Ok(needed <= budget)
        };
        let strength = if reachable(most)? { Some(most) } else { self.strongest(most, &mut reachable)? };
        let made = strength.map(|strength| self.target(strength)).transpose()?.flatten();
        made.ok_or_else(|| {
            let message = format!(
                "is too small a budget for any target under the constraint '{}': {field} {weakest:.2e} takes at least {lowest:.2e}; expected that at least",
                self.params.constraint
            );
            ParamError::new("poison_fraction", message).into()
        })
    }

    fn clean_norm(&self) -> f64 {
        self.params.norm.of(&self.clean.packed().to_owned())
    }

    /// A target of the given strength before calibration. `visit` is called with the number of steps and the heads of
    /// the path, from the clean head to the target.
    fn make(&self, strength: f64, visit: &mut Visit<'_>) -> Result<Head, StageError> {
        let params = self.params;
        let wrong = match params.method {
            TargetMethod::Gradpc => {
                let unit = if params.radius_unit == RadiusUnit::CleanNorm { self.clean_norm() } else { 1.0 };
                let radius = strength * unit;
                let bar = self.ctx.progress.start("target head", params.steps.into(), "steps");
                let ascent = Ascent {
                    norm: params.norm,
                    radius,
                    step: params.step * radius,
                    steps: params.steps,
                    coordinates: params.coordinates.map(|n| n as usize),
                };
                // If only training samples are seen, a visit knows the gradient already.
                let (of_training, raised) = (params.sees == Sees::Train, &self.raised);
                let raised = if of_training { None } else { Some(passes(raised, self.ctx)?) };
                let target = ascend(self.clean, &ascent, |step, head| -> Result<_, StageError> {
                    let known = visit(step, head)?;
                    bar.at(step.into());
                    self.ctx.check()?;
                    match known.filter(|_| of_training) {
                        Some(gradient) => Ok(gradient),
                        None => Ok(raised.as_ref().unwrap_or(self.passes).rough(head)?.gradient),
                    }
                })?;
                visit(params.steps, &target)?;
                return Ok(target);
            }
            TargetMethod::FlippedLabels => Wrong::Random,
            TargetMethod::ShiftedLabels => Wrong::Next,
        };
        visit(0, self.clean)?;
        let (classes, labels) = (
            self.train.classes(),
            wrong_labels(self.train.labels(), self.train.classes(), wrong, strength, self.ctx.seed),
        );
        let z = self.train.to_f64();
        let options = FitOptions {
            gradient_tolerance: params.tolerance,
            start: Some(self.clean.clone()),
            ..FitOptions::new(params.weight_decay)
        };
        let target = fit(&[Samples::new(z.view(), &labels, classes)?], &options, &|_, _| !self.ctx.cancel.requested())?;
        self.ctx.check()?;
        if !target.converged {
            let message = format!("a head on wrong labels stopped at a gradient norm of {:.1e}", target.gradient_norm);
            return Err(StageError::new(ErrorKind::Numeric, message));
        }
        visit(1, &target.head)?;
        Ok(target.head)
    }

    /// The target after calibration, if there is any; `None` if no positive scale fits.
    fn calibrated(&self, target: Head) -> Result<Option<Calibrated>, HeadError> {
        if self.params.calibration == Calibration::None {
            return Ok(Some(Calibrated { head: target, stopped_at: None }));
        }
        match calibrate(&target, self.passes, self.params.weight_decay) {
            Err(HeadError::NoScale { .. }) => Ok(None),
            Err(e) => Err(e),
            Ok(Fit { head, converged, gradient_norm, .. }) => {
                Ok(Some(Calibrated { head, stopped_at: (!converged).then_some(gradient_norm) }))
            }
        }
    }

    /// Bounds of the poison fraction at a head, where the clean objective has this gradient.
    fn bounds(&self, head: &Head, gradient: &Array2<f64>) -> Result<PoisonFractionBounds, HeadError> {
        poison_fraction_bounds(head, self.train.reborrow(), self.constraint, (gradient, self.params.weight_decay))
    }

    /// A point of the path, from a pass over the training samples there.
    fn point(&self, step: u32, head: &Head, pass: &LossAndGradient) -> Result<PathPoint, StageError> {
        let count = self.train.len() as f64;
        let mut gradient = &pass.gradient / count;
        let gradient_norm = norm(&gradient);
        add_weight_decay(head.packed(), self.params.weight_decay, &mut gradient);
        Ok(PathPoint {
            step,
            radius: norm(&(&head.packed() - &self.clean.packed())),
            loss: pass.loss / count,
            gradient_norm,
            poison_fraction_bound: self.bounds(head, &gradient)?.into(),
            train_accuracy: pass.correct as f64 / count,
            test_accuracy: accuracy(head, self.test.reborrow())?,
        })
    }
}

#[cfg(test)]
mod tests;
