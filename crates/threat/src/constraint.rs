//! Sets that poisoned features may have to lie in, projections onto them, and their support functions.

mod convex;
mod differences;
mod kinds;
mod knn;

pub use kinds::{ConstraintKind, ConstraintKinds};

use convex::{Convex, dykstra};
use knn::KnnSet;

use ndarray::{Array1, Array2, ArrayView1, ArrayViewMut1, Axis};
use rayon::prelude::*;

use hemlock_head::Samples;

/// Tolerance of [`Constraint::holds`]: a point counts as inside if its distance to each set is at most this, times
/// `1 +` its norm.
const INSIDE: f64 = 1e-6;
/// Number of bisections of a line whose one end lies inside.
const HALVINGS: u32 = 40;
/// Number of rows that one thread projects, and of labels that it bounds, at a time.
const ROWS: usize = 32;

/// Something that moves poisoned features into a set.
pub trait Project: Sync {
    /// Moves every row of `features`, `[m, d]`, into the set of its label, or near it.
    fn project(&self, features: &mut Array2<f64>, labels: &[u32]);
}

impl Project for Constraint {
    fn project(&self, features: &mut Array2<f64>, labels: &[u32]) {
        Constraint::project(self, features, labels);
    }
}

/// The constraint on poisoned features: a closed set in feature space for each label.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Constraint {
    /// Convex sets, all of which must contain the features. Without any, the whole space is allowed.
    convex: Vec<Convex>,
    /// If there are several convex sets, a point in their intersection for each label; otherwise empty.
    interior_points: Vec<Array1<f64>>,
    /// The sets of `knn` for each label, if `knn` is one of the kinds.
    knn: Option<Vec<KnnSet>>,
}

/// Reasons why the clean samples do not define a constraint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// A class has no samples.
    #[error("class {0} has no training sample, and so no centroid to constrain its poisons by")]
    EmptyClass(usize),
    /// A class has too few samples for `knn`.
    #[error("class {class} has {found} training samples; `knn` with {neighbors} neighbors needs at least {}", neighbors + 1)]
    FewNeighbors {
        /// The class.
        class: usize,
        /// The number of its samples.
        found: usize,
        /// The number of neighbours, k.
        neighbors: usize,
    },
    /// The sets of a class have no point in common.
    #[error("no point of class {0} meets all constraints: raise `quantile`, or leave out a constraint")]
    Empty(usize),
}

impl Constraint {
    /// The intersection of `kinds`, measured on the clean samples. `neighbors` is the k of `knn`.
    ///
    /// A fraction `quantile` of the clean samples lies within each set: of all samples for `ball`, of the samples of
    /// the class for `sphere` and `slab`. All samples lie within `box`. Sphere and slab follow Steinhardt et al.
    /// (2017). With more than two classes, the slab is bounded along the line from the mean of the other centroids to
    /// the class's own.
    ///
    /// For `knn`, the fraction is that of the class's samples with k *others* within the radius. More of them lie
    /// within the set, because a sample of the set counts like any point near it: itself and k - 1 others are enough.
    ///
    /// # Errors
    /// Returns an error if a class has no samples although some set needs centroids, if a class has at most `neighbors`
    /// samples and `knn` is one of the kinds, or if the sets of a class have no point in common.
    pub fn new(
        kinds: &ConstraintKinds,
        clean: Samples<'_>,
        quantile: f64,
        neighbors: usize,
    ) -> Result<Self, ConstraintError> {
        let mut constraint = Self::default();
        for kind in kinds.kinds() {
            constraint.convex.extend(match kind {
                ConstraintKind::Ball => Some(Convex::ball(clean, quantile)),
                ConstraintKind::Box => Some(Convex::range(clean)),
                ConstraintKind::Sphere => Some(Convex::sphere(&ClassRows::of(clean)?, quantile)),
                ConstraintKind::Slab => Some(Convex::slab(&ClassRows::of(clean)?, quantile)),
                ConstraintKind::Knn => None,
            });
        }
        constraint.find_interior_points(clean)?;
        if kinds.kinds().contains(&ConstraintKind::Knn) {
            let classes = ClassRows::of(clean)?;
            let knn = (0..clean.classes()).map(|class| KnnSet::new(&classes, class, quantile, neighbors, &constraint));
            constraint.knn = Some(knn.collect::<Result<_, _>>()?);
        }
        Ok(constraint)
    }

    /// If there are several convex sets, finds a point in their intersection for each label.
    fn find_interior_points(&mut self, clean: Samples<'_>) -> Result<(), ConstraintError> {
        if self.convex.len() < 2 {
            return Ok(());
        }
        let centroids = ClassRows::of(clean)?.centroids;
        for (class, centroid) in centroids.rows().into_iter().enumerate() {
            let mut z = centroid.to_owned();
            self.project_row(z.view_mut(), class);
            if !self.holds(z.view(), class) {
                return Err(ConstraintError::Empty(class));
            }
            self.interior_points.push(z);
        }
        Ok(())
    }

    /// The constraint itself if it is bounded. Otherwise its intersection with the ball around the origin whose radius
    /// is the largest norm of a clean sample.
    ///
    /// # Errors
    /// Returns an error if the intersection is needed and a class has no samples, or no point in common with the ball.
    pub fn bounded(&self, clean: Samples<'_>) -> Result<Self, ConstraintError> {
        let mut bounded = self.clone();
        let ends = |set: &Convex| !matches!(set, Convex::Slab(_));
        if self.knn.is_none() && !self.convex.iter().any(ends) {
            bounded.convex.push(Convex::ball(clean, 1.0));
            bounded.find_interior_points(clean)?;
        }
        Ok(bounded)
    }

    /// The ball of radius `radius` around the origin, for all labels.
    #[must_use]
    pub fn ball(radius: f64) -> Self {
        Self { convex: vec![Convex::Ball(radius)], ..Self::default() }
    }

    /// Whether the constraint is the whole space.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.convex.is_empty() && self.knn.is_none()
    }

    /// Moves every row of `features`, `[m, d]`, to the nearest point of its label's set. With `knn`, which is not
    /// convex, the row moves to some near point of the set.
    pub fn project(&self, features: &mut Array2<f64>, labels: &[u32]) {
        if self.is_none() {
            return;
        }
        features.axis_chunks_iter_mut(Axis(0), ROWS).into_par_iter().zip(labels.par_chunks(ROWS)).for_each(
            |(mut rows, labels)| {
                for (row, label) in rows.rows_mut().into_iter().zip(labels) {
                    self.project_row(row, *label as usize);
                }
            },
        );
    }

    /// An upper bound of `<direction, z>` over a label's set. It is infinite if the set has no known bound in this
    /// direction.
    #[must_use]
    pub fn support(&self, direction: ArrayView1<'_, f64>, label: usize) -> f64 {
        self.extreme(direction, label).0
    }

    /// [`Constraint::support`], and a point that attains it; zero if the bound is infinite. The bound is that of the
    /// one set that reaches least in this direction, so the point may lie outside of the others.
    #[must_use]
    pub fn extreme(&self, direction: ArrayView1<'_, f64>, label: usize) -> (f64, Array1<f64>) {
        let convex = self.convex.iter().map(|set| set.extreme(direction, label));
        let knn = self.knn.iter().map(|knn| knn[label].extreme(direction));
        let unbounded = if norm(direction) == 0.0 { 0.0 } else { f64::INFINITY };
        let none = (unbounded, Array1::zeros(direction.len()));
        convex.chain(knn).fold(none, |least, next| if next.0 < least.0 { next } else { least })
    }

    /// An upper bound of `|z|` over a label's set: that of the one set that reaches least. It is infinite if the set
    /// has no known bound.
    #[must_use]
    pub fn largest_norm(&self, label: usize) -> f64 {
        let convex = self.convex.iter().map(|set| set.largest_norm(label));
        convex.chain(self.knn.iter().map(|knn| knn[label].largest_norm())).fold(f64::INFINITY, f64::min)
    }

    /// Whether a point lies in a label's set, with a tolerance for rounding.
    #[must_use]
    pub fn holds(&self, z: ArrayView1<'_, f64>, label: usize) -> bool {
        let slack = INSIDE * (1.0 + norm(z));
        self.convex_holds(z, label) && self.knn.iter().all(|knn| knn[label].holds(z, knn[label].radius + slack))
    }

    fn convex_holds(&self, z: ArrayView1<'_, f64>, label: usize) -> bool {
        let slack = INSIDE * (1.0 + norm(z));
        let off = |set: &Convex| {
            let mut moved = z.to_owned();
            set.project_row(moved.view_mut(), label);
            norm((&moved - &z).view())
        };
        self.convex.iter().all(|set| off(set) <= slack)
    }

    /// Moves `row` towards `interior_point`, by bisection, until it is inside of all convex sets. This is needed where
    /// Dykstra's algorithm stops too early, because the sets hardly overlap.
    fn bisect_inside(&self, mut row: ArrayViewMut1<'_, f64>, interior_point: &Array1<f64>, label: usize) {
        if self.convex_holds(row.view(), label) {
            return;
        }
        let away = &row - interior_point;
        let (mut inside, mut outside) = (0.0, 1.0);
        for _ in 0..HALVINGS {
            let middle = 0.5 * (inside + outside);
            if self.convex_holds((interior_point + &(&away * middle)).view(), label) {
                inside = middle;
            } else {
                outside = middle;
            }
        }
        row.assign(&(interior_point + &(away * inside)));
    }

    fn project_row(&self, mut row: ArrayViewMut1<'_, f64>, label: usize) {
        match &self.convex[..] {
            [] => {}
            [one] => one.project_row(row.view_mut(), label),
            sets => {
                dykstra(sets, row.view_mut(), label);
                if let Some(interior_point) = self.interior_points.get(label) {
                    self.bisect_inside(row.view_mut(), interior_point, label);
                }
            }
        }
        if let Some(knn) = &self.knn {
            knn[label].restore(row);
        }
    }
}

/// The rows of every class, and the centroids of the classes.
struct ClassRows<'a> {
    clean: Samples<'a>,
    rows: Vec<Vec<usize>>,
    /// The centroids, `[K, d]`.
    centroids: Array2<f64>,
}

impl<'a> ClassRows<'a> {
    fn of(clean: Samples<'a>) -> Result<Self, ConstraintError> {
        let mut rows = vec![Vec::new(); clean.classes()];
        for (i, label) in clean.labels().iter().enumerate() {
            rows[*label as usize].push(i);
        }
        if let Some(class) = rows.iter().position(Vec::is_empty) {
            return Err(ConstraintError::EmptyClass(class));
        }
        let mut centroids = Array2::zeros((clean.classes(), clean.dim()));
        for (members, mut centroid) in rows.iter().zip(centroids.rows_mut()) {
            centroid.assign(&(clean.select(members).sum_axis(Axis(0)) / members.len() as f64));
        }
        Ok(Self { clean, rows, centroids })
    }

    /// The samples of a class, `[n, d]`.
    fn select(&self, class: usize) -> Array2<f64> {
        self.clean.select(&self.rows[class])
    }
}

/// The centroid of every class, `[K, d]`.
///
/// # Errors
/// Returns an error if a class has no samples.
pub fn class_means(clean: Samples<'_>) -> Result<Array2<f64>, ConstraintError> {
    Ok(ClassRows::of(clean)?.centroids)
}

/// The unit vector in a direction; zero for a direction of zero.
fn unit(direction: ArrayView1<'_, f64>) -> Array1<f64> {
    &direction / norm(direction).max(f64::MIN_POSITIVE)
}

fn norm(row: ArrayView1<'_, f64>) -> f64 {
    row.dot(&row).sqrt()
}

/// The smallest of the values that at least a fraction `quantile` of them does not exceed.
fn at_quantile(mut values: Vec<f64>, quantile: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    // Rounding may raise a product that is a whole number, and `ceil` would then give the next one.
    let rank = (quantile * values.len() as f64 - 1e-9).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{array, s};
    use proptest::prelude::*;

    fn build(kinds: &str, clean: Samples<'_>, quantile: f64) -> Constraint {
        Constraint::new(&kinds.parse().unwrap(), clean, quantile, 2).unwrap()
    }

    fn projected(set: &Constraint, z: Array2<f64>, labels: &[u32]) -> Array2<f64> {
        let mut z = z;
        set.project(&mut z, labels);
        z
    }

    fn close(a: &Array2<f64>, b: &Array2<f64>, tolerance: f64) -> bool {
        a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance)
    }

    /// All pairs of classes at once are bounded as each of them is.
    #[test]
    fn differences_are_bounded_as_single_directions_are() {
        let data = hemlock_head::testing::GaussianClusters::new(2000, 3, 40, 3);
        let mut packed = hemlock_head::testing::random(40, 4, 1);
        let twin = packed.row(0).to_owned();
        packed.row_mut(1).assign(&twin);
        for kinds in ["none", "ball", "box", "sphere", "slab", "knn", "ball+sphere+box"] {
            let set = build(kinds, data.samples(), 0.9);
            // Class 7 differs from class 6 along the slab's direction, in which alone a slab has an end.
            if let Some(Convex::Slab(_)) = set.convex.first() {
                let across = class_means(data.samples()).unwrap();
                let others = (&across.sum_axis(Axis(0)) - &across.row(6)) / 39.0;
                let row = &packed.slice(s![6, ..3]) + &(&across.row(6) - &others);
                packed.slice_mut(s![7, ..3]).assign(&row);
            }
            let weights = packed.slice(s![.., ..3]);
            let labels: Vec<usize> = (0..40).collect();
            let all = set.map_differences(packed.view(), &labels, |label, bounds| (label, bounds.to_vec()));
            assert!(all.iter().map(|(label, _)| *label).eq(0..40));
            for (label, bounds) in all {
                for (k, bound) in bounds.iter().enumerate() {
                    let one = set.support((&weights.row(k) - &weights.row(label)).view(), label);
                    let close = (bound - one).abs() <= 1e-5 * (1.0 + one.abs()) || *bound == one;
                    assert!(close && *bound >= one - 1e-12, "{kinds} {k} {label}: {bound} {one}");
                    assert!(kinds != "slab" || one.is_infinite() || k == label || label < 2 || (k, label) == (7, 6));
                }
            }
        }
    }

    #[test]
    fn names_are_read_and_written() {
        for name in ["none", "ball", "sphere+slab", "knn+box"] {
            assert_eq!(name.parse::<ConstraintKinds>().unwrap().to_string(), name);
        }
        assert_eq!("ball + ball".parse::<ConstraintKinds>().unwrap().to_string(), "ball");
        assert!("ball+cube".parse::<ConstraintKinds>().unwrap_err().contains("expected none, ball, box"));
    }

    #[test]
    fn ball_by_hand() {
        let z = array![[3.0, 4.0], [0.0, 1.0], [0.0, 2.0], [0.0, 3.0]];
        let clean = Samples::new(z.view(), &[0, 1, 0, 1], 2).unwrap();
        assert_eq!(build("ball", clean, 0.75), Constraint::ball(3.0));
        assert_eq!(build("ball", clean, 1.0), Constraint::ball(5.0));
        let ball = Constraint::ball(5.0);
        assert_eq!(projected(&ball, array![[6.0, 8.0], [1.0, 0.0]], &[0, 1]), array![[3.0, 4.0], [1.0, 0.0]]);
        assert_eq!(ball.support(array![0.0, 2.0].view(), 0), 10.0);
        let everything = build("none", clean, 0.5);
        assert_eq!(projected(&everything, array![[6.0, 8.0]], &[0]), array![[6.0, 8.0]]);
        assert_eq!(everything.support(array![0.0, 2.0].view(), 0), f64::INFINITY);
        assert!(everything.is_none() && !ball.is_none());
    }

    #[test]
    fn largest_norms_by_hand() {
        let z = array![[-1.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, -2.0], [4.0, 1.0], [4.0, -1.0], [4.0, 0.0]];
        let clean = Samples::new(z.view(), &[0, 0, 0, 0, 1, 1, 1], 2).unwrap();
        let of = |kinds, label| build(kinds, clean, 1.0).largest_norm(label);
        assert_eq!([of("ball", 0), of("ball", 1)], [17f64.sqrt(), 17f64.sqrt()]);
        // The corner (4, 2).
        assert_eq!(of("box", 1), 20f64.sqrt());
        // The centroids are (0, 0) and (4, 0), the radii 2 and 1.
        assert_eq!([of("sphere", 0), of("sphere", 1)], [2.0, 5.0]);
        assert_eq!([of("slab", 0), of("none", 0), of("slab+sphere", 0)], [f64::INFINITY, f64::INFINITY, 2.0]);
        // The second nearest other sample is at most 2 away in class 1: the set ends at most 2 from a sample.
        assert_eq!(of("knn", 1), 17f64.sqrt() + 2.0);
        let mut far = array![[30.0, 40.0], [-30.0, 20.0]];
        for kinds in ["ball", "box", "sphere", "knn", "sphere+slab"] {
            let set = build(kinds, clean, 0.8);
            set.project(&mut far, &[0, 1]);
            for (label, z) in far.rows().into_iter().enumerate() {
                assert!(norm(z) <= set.largest_norm(label) + 1e-9, "{kinds}");
            }
            far.assign(&array![[30.0, 40.0], [-30.0, 20.0]]);
        }
    }

    #[test]
    fn box_sphere_and_slab_by_hand() {
        // Class 0 is around (0, 0), class 1 around (4, 0).
        let z = array![[-1.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, -2.0], [4.0, 1.0], [4.0, -1.0]];
        let clean = Samples::new(z.view(), &[0, 0, 0, 0, 1, 1], 2).unwrap();
        let far = array![[9.0, 9.0], [9.0, 0.0]];
        assert_eq!(projected(&build("box", clean, 0.5), far.clone(), &[0, 1]), array![[4.0, 2.0], [4.0, 0.0]]);

        let sphere = build("sphere", clean, 0.5);
        assert!(close(
            &projected(&sphere, array![[0.0, 7.0], [9.0, 0.0]], &[0, 1]),
            &array![[0.0, 1.0], [5.0, 0.0]],
            1e-12
        ));
        assert_eq!(sphere.support(array![1.0, 0.0].view(), 1), 5.0);
        let slab = build("slab", clean, 1.0);
        // Along the line between the centroids, the largest offset is 1 in class 0 and 0 in class 1.
        assert!(close(&projected(&slab, far, &[0, 1]), &array![[1.0, 9.0], [4.0, 0.0]], 1e-12));
        assert_eq!(slab.support(array![2.0, 0.0].view(), 0), 2.0);
        assert_eq!(slab.support(array![2.0, 0.1].view(), 0), f64::INFINITY);
    }

    #[test]
    fn what_has_no_end_gets_one_at_the_farthest_clean_sample() {
        let z = array![[-1.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, -2.0], [4.0, 3.0], [4.0, -1.0], [4.0, 0.0]];
        let clean = Samples::new(z.view(), &[0, 0, 0, 0, 1, 1, 1], 2).unwrap();
        let bounded = |kinds| build(kinds, clean, 1.0).bounded(clean).unwrap();
        assert_eq!(bounded("none"), Constraint::ball(5.0));
        assert_eq!(bounded("slab"), build("slab+ball", clean, 1.0));
        for kinds in ["ball", "box", "sphere", "knn", "slab+box"] {
            assert_eq!(bounded(kinds), build(kinds, clean, 1.0));
        }
    }

    #[test]
    fn near_its_class_by_hand() {
        // On a line, the distances to the second neighbour are 2, 1, 1, 2 and 6. Their quantile 0.8 is 2.
        let z = array![[0.0], [1.0], [2.0], [3.0], [9.0], [0.0], [0.0], [0.0]];
        let clean = Samples::new(z.view(), &[0, 0, 0, 0, 0, 1, 1, 1], 2).unwrap();
        let knn = build("knn", clean, 0.8);
        // Points with two samples within 2 are inside: up to 4, because of the samples at 2 and 3.
        let found = projected(&knn, array![[3.9], [4.1], [-1.1], [6.0]], &[0, 0, 0, 0]);
        assert!(close(&found, &array![[3.9], [4.0], [-1.0], [4.0]], 1e-12), "{found}");
        assert!(knn.support(array![1.0].view(), 0) >= 4.0);
        // The quantile 0.4 is 1: of the samples at 1 and 2. Those at 0 and 3 lie within 1 of themselves and of one
        // other.
        let narrow = build("knn", clean, 0.4);
        assert_eq!([0, 1, 2, 3, 4].map(|i| narrow.holds(z.row(i), 0)), [true, true, true, true, false]);
        let both = build("knn+ball", clean, 0.8);
        let found = projected(&both, array![[6.0]], &[0]);
        assert!(both.holds(found.row(0), 0) && found[(0, 0)] <= 3.0, "{found}");
    }

    #[test]
    fn what_is_empty_is_named() {
        let z = array![[1.0], [2.0]];
        let clean = Samples::new(z.view(), &[0, 2], 3).unwrap();
        for kinds in ["sphere", "slab", "knn"] {
            let refused = Constraint::new(&kinds.parse().unwrap(), clean, 0.9, 2);
            assert_eq!(refused, Err(ConstraintError::EmptyClass(1)));
        }
        let clean = Samples::new(z.view(), &[0, 1], 2).unwrap();
        let refused = Constraint::new(&"knn".parse().unwrap(), clean, 0.9, 2);
        assert_eq!(refused, Err(ConstraintError::FewNeighbors { class: 0, found: 1, neighbors: 2 }));
        // The ball contains half of all samples, and the class farther out lies outside of it.
        let z = array![[1.0], [1.1], [9.0], [9.1]];
        let clean = Samples::new(z.view(), &[0, 0, 1, 1], 2).unwrap();
        let refused = Constraint::new(&"ball+sphere".parse().unwrap(), clean, 0.5, 2);
        assert_eq!(refused, Err(ConstraintError::Empty(1)));
    }

    #[test]
    fn an_intersection_is_met_at_its_nearest_point() {
        let convex = vec![Convex::Ball(1.0), Convex::Box { low: array![0.5, -9.0], high: array![9.0, 9.0] }];
        let sets = Constraint { convex, ..Constraint::default() };
        let found = projected(&sets, array![[-2.0, 2.0]], &[0]);
        // The nearest point to (-2, 2) on x = 0.5 and within the circle is the corner.
        assert!(close(&found, &array![[0.5, 0.75f64.sqrt()]], 1e-6), "{found}");
    }

    /// Checks that `p` is a projection of `z`: `<z - p, q - p> <= 0` for every point `q` of the set. `points` are eight
    /// samples in three dimensions, and every other one is of class 1.
    fn check_projections(points: Vec<f64>, z: Vec<f64>) -> Result<(), TestCaseError> {
        let clean = Array2::from_shape_vec((8, 3), points).unwrap();
        let labels = [0, 1, 0, 1, 0, 1, 0, 1];
        let clean = Samples::new(clean.view(), &labels, 2).unwrap();
        let z = Array2::from_shape_vec((1, 3), z).unwrap();
        for kinds in ["ball", "box", "sphere", "slab", "sphere+slab+box", "knn", "knn+box"] {
            let set = build(kinds, clean, 1.0);
            let tolerance = if kinds.contains('+') { 3e-3 } else { 1e-9 };
            let p = projected(&set, z.clone(), &[1]);
            prop_assert!(set.holds(p.row(0), 1), "{kinds}");
            prop_assert!(p.row(0).dot(&z.row(0)) <= set.support(z.row(0), 1) + tolerance, "{kinds}");
            prop_assert!(close(&projected(&set, p.clone(), &[1]), &p, 10.0 * tolerance), "{kinds}");
            if kinds.contains("knn") {
                continue;
            }
            // The samples of class 1 lie in all sets.
            for q in clean.to_f64().rows().into_iter().skip(1).step_by(2) {
                let obtuse: f64 = (0..3).map(|i| (z[(0, i)] - p[(0, i)]) * (q[i] - p[(0, i)])).sum();
                let scale = norm((&z - &p).row(0)) * norm((&q - &p.row(0)).view());
                prop_assert!(obtuse <= tolerance * (1.0 + scale), "{kinds}: {obtuse} of {scale}");
            }
        }
        Ok(())
    }

    /// Three sets meet at such angles that alternating projections take thousands of rounds.
    #[test]
    fn sets_that_hardly_overlap_are_met_at_the_nearest_point() {
        let points = [
            [0.0, 0.0, -2.523_823_914_213_547_7],
            [2.627_895_404_384_785_3, 0.0, -0.823_871_647_041_152],
            [-2.368_355_858_564_701, 2.192_262_865_331_107_6, -1.513_633_854_995_815_7],
            [0.0, 0.852_067_947_712_999_9, -2.174_750_057_816_343],
            [0.0, -0.545_453_306_283_147_7, 1.976_544_340_155_963_7],
            [-2.877_973_535_700_636, -1.013_336_243_101_352_6, -2.363_410_485_437_548],
            [-1.995_748_687_808_805_3, -0.345_161_511_906_957, 1.008_748_763_086_063_4],
            [-2.779_335_617_704_813_6, -0.845_189_866_430_483_3, -2.853_893_853_063_713_7],
        ];
        let z = vec![4.549_719_923_894_327, 2.714_311_065_585_484, 7.475_106_460_497_301];
        check_projections(points.concat(), z).unwrap();
    }

    proptest! {
        #[test]
        fn projections_are_nearest_and_supports_are_bounds(
            points in proptest::collection::vec(-3.0..3.0f64, 24), z in proptest::collection::vec(-9.0..9.0f64, 3),
        ) {
            check_projections(points, z)?;
        }
    }
}
