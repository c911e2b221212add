//! The figure of features: where poisoned features lie among clean ones.

use super::{Figure, titled};
use crate::{
    ConfigGroup, ReportError,
    chart::{Chart, ChartAxis, MarkKind, Point, Series},
    config_group::quantity,
    result_set::ResultSet,
    words,
};
use hemlock_artifact::{Features, PoisonFeatures, Poisons};
use hemlock_head::subsample;
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};

/// The largest numbers of points that are drawn of a set, and of samples that principal components are computed from.
const DRAWN: usize = 500;
const SAMPLES: usize = 4000;
/// Number of steps of the power method.
const STEPS: usize = 100;

/// Draws features along the two principal components of the clean training features.
pub fn figure(result_set: &ResultSet) -> Result<Figure, ReportError> {
    let mut figure = Figure::new(
        "map",
        "Features in two dimensions",
        "The charts show clean training features and poisoned features along the first two principal components of the \
         clean ones. Poisons whose images have outlying features (an unusual norm, or far from all clean samples) have \
         a marker of their own. At most 500 points of each kind are drawn, for the first seed. Attacks on pixels have \
         no poisoned features.",
    );
    for experiment in result_set.experiments() {
        for config in chosen(&experiment.configs) {
            draw(result_set, &mut figure, &experiment.name, config)?;
        }
    }
    Ok(figure.or("no attack on features has a result."))
}

/// The configurations whose features cost most: one with a constraint on features, and one without. If several
/// inversions have the same features, matching without a limit is preferred, because its fits say which poisons are
/// outliers.
fn chosen<'c>(configs: &[&'c ConfigGroup]) -> Vec<&'c ConfigGroup> {
    let drop = |c: &ConfigGroup| c.mean(quantity::drop_on_features).map_or(f64::NEG_INFINITY, |e| e.mean);
    let rank = |c: &ConfigGroup| (c.on_features() && c.making() != Some("decoder"), c.unlimited());
    let best = |unconstrained: bool| {
        let of = configs.iter().copied().filter(|c| drop(c).is_finite());
        let of = of.filter(|c| c.of_feature_attack("constraint").is_some_and(|set| (set == "none") == unconstrained));
        of.max_by(|a, b| drop(a).total_cmp(&drop(b)).then(rank(a).cmp(&rank(b))))
    };
    best(false).into_iter().chain(best(true)).collect()
}

fn draw(
    result_set: &ResultSet,
    figure: &mut Figure,
    experiment: &str,
    config: &ConfigGroup,
) -> Result<(), ReportError> {
    let row = &config.rows[0];
    let features = result_set.read::<Features>(row, "features")?;
    let (Some(features), Some(asked)) = (features, result_set.read::<PoisonFeatures>(row, "poison_features")?) else {
        return Ok(());
    };
    let poisons = result_set.read::<Poisons>(row, "poisons")?;
    let clean = features.train.features.view();
    let map = PrincipalComponents::new(clean);
    let outlier = |i: usize| poisons.as_ref().and_then(|p| p.fits.get(i)).is_some_and(|f| f.is_outlier());
    let place = |z: ArrayView1<f32>| {
        let (x, y) = map.place(z);
        Point { x, y, spread: 0.0 }
    };
    let (mut usual, mut odd) = (Vec::new(), Vec::new());
    for i in subsample(asked.features.nrows(), DRAWN) {
        if outlier(i) { &mut odd } else { &mut usual }.push(place(asked.features.row(i)));
    }
    let description = format!(
        "{} clean samples, {} poisons, {} of them outliers. The two directions hold {} % of the clean variance.",
        subsample(clean.nrows(), DRAWN).len(),
        usual.len() + odd.len(),
        odd.len(),
        words::number(100.0 * map.share, 0)
    );
    let clean = subsample(clean.nrows(), DRAWN).into_iter().map(|i| place(clean.row(i))).collect();
    let named = |name: &str, points: Vec<Point>, drawn, style| Series { name: name.to_owned(), points, drawn, style };
    let mut series = vec![
        named("clean", clean, MarkKind::Cloud, 5),
        named("poisoned", usual, MarkKind::Cloud, 1),
        named("poisoned, outliers", odd, MarkKind::Cloud, 6),
    ];
    series.retain(|s| !s.points.is_empty());
    let axis = |n: &str| ChartAxis::linear(format!("{n} principal component"));
    let chart = Chart {
        title: titled(result_set, experiment, &config.label),
        x: axis("First"),
        y: axis("Second"),
        series,
        references: Vec::new(),
    };
    figure.chart(&chart, &description)
}

/// The two leading principal components of some samples.
struct PrincipalComponents {
    mean: Array1<f32>,
    components: [Array1<f32>; 2],
    /// The share of the total variance along the components.
    share: f64,
}

impl PrincipalComponents {
    /// Computes the components of samples `[n, d]`.
    fn new(samples: ArrayView2<f32>) -> Self {
        let some = samples.select(Axis(0), &subsample(samples.nrows(), SAMPLES));
        let mean = some.mean_axis(Axis(0)).unwrap_or_else(|| Array1::zeros(samples.ncols()));
        let centred = some - &mean;
        let mut covariance: Array2<f32> = centred.t().dot(&centred);
        let all = covariance.diag().sum();
        let mut share = 0.0;
        let components = [0, 1].map(|_| {
            let (component, along) = leading(&covariance);
            let outer = Array2::from_shape_fn(covariance.dim(), |(i, j)| along * component[i] * component[j]);
            covariance -= &outer;
            share += along;
            component
        });
        Self { mean, components, share: f64::from(share / all.max(f32::MIN_POSITIVE)) }
    }

    fn place(&self, z: ArrayView1<f32>) -> (f64, f64) {
        let centred = &z - &self.mean;
        let [x, y] = [0, 1].map(|i| f64::from(self.components[i].dot(&centred)));
        (x, y)
    }
}

/// The leading eigenvector of a symmetric positive semi-definite matrix and its eigenvalue, by the power method. The
/// largest coordinate of the eigenvector is positive.
fn leading(matrix: &Array2<f32>) -> (Array1<f32>, f32) {
    // The start is hardly ever orthogonal to an eigenvector.
    let mut v = Array1::from_shape_fn(matrix.nrows(), |i| 1.0 + (i % 7) as f32 / 7.0);
    let mut along = 0.0;
    for _ in 0..STEPS {
        let next = matrix.dot(&v);
        along = next.dot(&next).sqrt();
        if along <= f32::MIN_POSITIVE {
            return (Array1::zeros(matrix.nrows()), 0.0);
        }
        v = next / along;
    }
    let largest = v.iter().fold(0f32, |l, x| if x.abs() > l.abs() { *x } else { l });
    (v * largest.signum(), along)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn components_of_a_flat_cloud_by_hand() {
        // Samples around (5, 1, 2): far along (1, 1, 0), less far along (0, 0, 1), and nowhere else.
        let samples = array![[8.0, 4.0, 2.0], [2.0, -2.0, 2.0], [5.0, 1.0, 3.0], [5.0, 1.0, 1.0]];
        let map = PrincipalComponents::new(samples.view());
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-4, "{a} is not {b}");
        let (x, y) = map.place(samples.row(0));
        close(x, 18f64.sqrt());
        close(y, 0.0);
        let (x, y) = map.place(samples.row(3));
        close(x, 0.0);
        close(y, -1.0);
        close(map.share, 1.0);
    }
}
