//! Sets that poisoned features may have to lie in, and the projections onto them.

use hemlock_head::Samples;
use ndarray::{Array1, Array2, ArrayView1, ArrayViewMut1, Axis, Zip};

/// Rounds of Dykstra's algorithm at most, and the change of its corrections (relative to the row's norm) at which it ends. (The row
/// itself may rest for a while before it moves on.)
const ROUNDS: usize = 1000;
const SETTLED: f64 = 1e-8;

/// A closed convex set in feature space for each label.
#[derive(Debug, Clone, PartialEq)]
pub enum Constraint {
    /// All of feature space.
    None,
    /// The L2 ball around the origin.
    Ball {
        /// Its radius.
        radius: f64,
    },
    /// A range for every coordinate.
    Box {
        /// Smallest values, `[d]`.
        low: Array1<f64>,
        /// Largest values, `[d]`.
        high: Array1<f64>,
    },
    /// An L2 ball around the centroid of the label's class.
    Sphere(Vec<Sphere>),
    /// The points whose offset from the centroid of the label's class, along a direction of that class, is small.
    Slab(Vec<Slab>),
    /// What lies in all of several sets.
    All(Vec<Constraint>),
}

/// A ball around a class's centroid.
#[derive(Debug, Clone, PartialEq)]
pub struct Sphere {
    /// The centroid, `[d]`.
    pub centre: Array1<f64>,
    /// The radius.
    pub radius: f64,
}

/// A slab around a class's centroid.
#[derive(Debug, Clone, PartialEq)]
pub struct Slab {
    /// The centroid, `[d]`.
    pub centre: Array1<f64>,
    /// Unit vector from the mean of the other centroids to this one, `[d]`.
    pub direction: Array1<f64>,
    /// Half the thickness.
    pub half_width: f64,
}

/// A class in which there is nothing to measure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("class {0} has no training sample, and so no centroid to constrain its poisons by")]
pub struct EmptyClass(pub usize);

impl Constraint {
    /// The ball whose radius is the smallest norm that at least a share `quantile` of the clean samples do not exceed.
    #[must_use]
    pub fn ball(clean: Samples, quantile: f64) -> Self {
        let norms = clean.features().rows().into_iter().map(norm).collect();
        Self::Ball { radius: at_quantile(norms, quantile) }
    }

    /// The smallest box that holds all clean samples.
    #[must_use]
    pub fn range(clean: Samples) -> Self {
        let fold = |start, pick: fn(f64, f64) -> f64| clean.features().fold_axis(Axis(0), start, |a, b| pick(*a, *b));
        Self::Box { low: fold(f64::INFINITY, f64::min), high: fold(f64::NEG_INFINITY, f64::max) }
    }

    /// The spheres around the class centroids that hold a share `quantile` of their class (Steinhardt et al., 2017).
    ///
    /// # Errors
    /// A class without samples.
    pub fn sphere(clean: Samples, quantile: f64) -> Result<Self, EmptyClass> {
        let classes = ClassRows::of(clean)?;
        let sphere = |class: usize| {
            let centre = classes.centroids.row(class).to_owned();
            let distances = classes.rows[class].iter().map(|i| norm((&clean.features().row(*i) - &centre).view()));
            Sphere { radius: at_quantile(distances.collect(), quantile), centre }
        };
        Ok(Self::Sphere((0..clean.classes()).map(sphere).collect()))
    }

    /// The slabs that hold a share `quantile` of their class, across the line from the mean of the other centroids to the class's
    /// own (Steinhardt et al., 2017, whose two classes have each other as the other).
    ///
    /// # Errors
    /// A class without samples.
    pub fn slab(clean: Samples, quantile: f64) -> Result<Self, EmptyClass> {
        let classes = ClassRows::of(clean)?;
        let sum = classes.centroids.sum_axis(Axis(0));
        let others = (clean.classes() - 1) as f64;
        let slab = |class: usize| {
            let centre = classes.centroids.row(class).to_owned();
            let mut direction = &centre - &((&sum - &centre) / others);
            // Of equal centroids no direction tells them apart: the slab is all of space.
            direction /= norm(direction.view()).max(f64::MIN_POSITIVE);
            let offset = |i: &usize| (&clean.features().row(*i) - &centre).dot(&direction).abs();
            let half_width = at_quantile(classes.rows[class].iter().map(offset).collect(), quantile);
            Slab { centre, direction, half_width }
        };
        Ok(Self::Slab((0..clean.classes()).map(slab).collect()))
    }

    /// Moves every row of `features`, `[m, d]`, to the nearest point of its label's set.
    pub fn project(&self, features: &mut Array2<f64>, labels: &[u32]) {
        for (row, label) in features.rows_mut().into_iter().zip(labels) {
            self.project_row(row, *label as usize);
        }
    }

    fn project_row(&self, mut row: ArrayViewMut1<f64>, label: usize) {
        match self {
            Self::None => {}
            Self::Ball { radius } => {
                let norm = norm(row.view());
                if norm > *radius {
                    row *= radius / norm;
                }
            }
            Self::Box { low, high } => {
                Zip::from(row).and(low).and(high).for_each(|z, low, high| *z = z.clamp(*low, *high));
            }
            Self::Sphere(spheres) => {
                let Sphere { centre, radius } = &spheres[label];
                row -= centre;
                let norm = norm(row.view());
                if norm > *radius {
                    row *= radius / norm;
                }
                row += centre;
            }
            Self::Slab(slabs) => {
                let Slab { centre, direction, half_width } = &slabs[label];
                let offset = (&row - centre).dot(direction);
                row.scaled_add(offset.clamp(-half_width, *half_width) - offset, direction);
            }
            Self::All(sets) => dykstra(sets, row, label),
        }
    }
}

/// The nearest point of an intersection (Boyle & Dykstra, 1986): alternating projections that take back, before each, what the
/// same set moved last time.
fn dykstra(sets: &[Constraint], mut row: ArrayViewMut1<f64>, label: usize) {
    let mut corrections = vec![Array1::<f64>::zeros(row.len()); sets.len()];
    for _ in 0..ROUNDS {
        let mut change = 0.0;
        for (set, correction) in sets.iter().zip(&mut corrections) {
            row += &*correction;
            let before = row.to_owned();
            set.project_row(row.view_mut(), label);
            let moved = before - &row;
            change += norm((&moved - &*correction).view());
            correction.assign(&moved);
        }
        if change <= SETTLED * (1.0 + norm(row.view())) {
            break;
        }
    }
}

/// The rows of every class, and their means.
struct ClassRows {
    rows: Vec<Vec<usize>>,
    /// `[K, d]`.
    centroids: Array2<f64>,
}

impl ClassRows {
    fn of(clean: Samples) -> Result<Self, EmptyClass> {
        let mut rows = vec![Vec::new(); clean.classes()];
        for (i, label) in clean.labels().iter().enumerate() {
            rows[*label as usize].push(i);
        }
        let mut centroids = Array2::zeros((clean.classes(), clean.features().ncols()));
        for (class, (members, mut centroid)) in rows.iter().zip(centroids.rows_mut()).enumerate() {
            if members.is_empty() {
                return Err(EmptyClass(class));
            }
            members.iter().for_each(|i| centroid += &clean.features().row(*i));
            centroid /= members.len() as f64;
        }
        Ok(Self { rows, centroids })
    }
}

fn norm(row: ArrayView1<f64>) -> f64 {
    row.dot(&row).sqrt()
}

/// The smallest value that at least a share `quantile` of the values do not exceed.
fn at_quantile(mut values: Vec<f64>, quantile: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (quantile * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;
    use proptest::prelude::*;

    fn projected(set: &Constraint, z: Array2<f64>, labels: &[u32]) -> Array2<f64> {
        let mut z = z;
        set.project(&mut z, labels);
        z
    }

    fn close(a: &Array2<f64>, b: &Array2<f64>, tolerance: f64) -> bool {
        a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance)
    }

    #[test]
    fn ball_by_hand() {
        let z = array![[3.0, 4.0], [0.0, 1.0], [0.0, 2.0], [0.0, 3.0]];
        let clean = Samples::new(z.view(), &[0, 1, 0, 1], 2).unwrap();
        assert_eq!(Constraint::ball(clean, 0.75), Constraint::Ball { radius: 3.0 });
        assert_eq!(Constraint::ball(clean, 1.0), Constraint::Ball { radius: 5.0 });
        let ball = Constraint::Ball { radius: 5.0 };
        assert_eq!(projected(&ball, array![[6.0, 8.0], [1.0, 0.0]], &[0, 1]), array![[3.0, 4.0], [1.0, 0.0]]);
    }

    #[test]
    fn range_sphere_and_slab_by_hand() {
        // Class 0 around (0, 0), class 1 around (4, 0).
        let z = array![[-1.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, -2.0], [4.0, 1.0], [4.0, -1.0]];
        let clean = Samples::new(z.view(), &[0, 0, 0, 0, 1, 1], 2).unwrap();
        let far = array![[9.0, 9.0], [9.0, 0.0]];
        assert_eq!(projected(&Constraint::range(clean), far.clone(), &[0, 1]), array![[4.0, 2.0], [4.0, 0.0]]);

        let sphere = Constraint::sphere(clean, 0.5).unwrap();
        assert!(close(
            &projected(&sphere, array![[0.0, 7.0], [9.0, 0.0]], &[0, 1]),
            &array![[0.0, 1.0], [5.0, 0.0]],
            1e-12
        ));
        let slab = Constraint::slab(clean, 1.0).unwrap();
        // Between the centroids the offsets of class 0 reach 1, and those of class 1 nothing.
        assert!(close(&projected(&slab, far, &[0, 1]), &array![[1.0, 9.0], [4.0, 0.0]], 1e-12));
    }

    #[test]
    fn a_class_without_samples_is_named() {
        let z = array![[1.0], [2.0]];
        let clean = Samples::new(z.view(), &[0, 2], 3).unwrap();
        assert_eq!(Constraint::sphere(clean, 0.9), Err(EmptyClass(1)));
        assert_eq!(Constraint::slab(clean, 0.9), Err(EmptyClass(1)));
    }

    #[test]
    fn an_intersection_is_met_at_its_nearest_point() {
        let sets =
            vec![Constraint::Ball { radius: 1.0 }, Constraint::Box { low: array![0.5, -9.0], high: array![9.0, 9.0] }];
        let found = projected(&Constraint::All(sets), array![[-2.0, 2.0]], &[0]);
        // On the line x = 0.5 and within the circle, the nearest point to (-2, 2) is the corner.
        assert!(close(&found, &array![[0.5, 0.75f64.sqrt()]], 1e-6), "{found}");
    }

    proptest! {
        /// A projection is where `<z - p, q - p> <= 0` for every point q of the set.
        #[test]
        fn projections_are_nearest(points in proptest::collection::vec(-3.0..3.0f64, 24), z in proptest::collection::vec(-9.0..9.0f64, 3)) {
            let clean = Array2::from_shape_vec((8, 3), points).unwrap();
            let labels = [0, 1, 0, 1, 0, 1, 0, 1];
            let clean = Samples::new(clean.view(), &labels, 2).unwrap();
            let sphere = Constraint::sphere(clean, 1.0).unwrap();
            let slab = Constraint::slab(clean, 1.0).unwrap();
            let all = Constraint::All(vec![sphere.clone(), slab.clone(), Constraint::range(clean)]);
            for (set, tolerance) in [(Constraint::ball(clean, 1.0), 1e-9), (Constraint::range(clean), 1e-9), (sphere, 1e-9), (slab, 1e-9), (all, 1e-2)] {
                let z = Array2::from_shape_vec((1, 3), z.clone()).unwrap();
                let p = projected(&set, z.clone(), &[1]);
                // The samples of class 1 lie in all sets.
                for q in clean.features().rows().into_iter().skip(1).step_by(2) {
                    let obtuse: f64 = (0..3).map(|i| (z[(0, i)] - p[(0, i)]) * (q[i] - p[(0, i)])).sum();
                    prop_assert!(obtuse <= tolerance, "{set:?}: {obtuse}");
                }
                prop_assert!(close(&projected(&set, p.clone(), &[1]), &p, tolerance));
            }
        }
    }
}
