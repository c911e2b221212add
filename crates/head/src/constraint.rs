//! Sets that poisoned features may have to lie in, the projections onto them, and how far they reach.

use std::fmt;
use std::str::FromStr;

use ndarray::{Array1, Array2, ArrayView1, ArrayViewMut1, Axis, Zip};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::Samples;

/// Rounds of Dykstra's algorithm at most, and the change of its corrections (relative to the row's norm) at which it ends. (The row
/// itself may rest for a while before it moves on.)
const ROUNDS: usize = 1000;
const SETTLED: f64 = 1e-8;
/// A point counts as inside when it is no farther from a set than this share of its norm.
const INSIDE: f64 = 1e-6;
/// Halvings of a line of which one end lies inside.
const HALVINGS: u32 = 40;
/// Rows that one thread projects at a time.
const ROWS: usize = 32;
/// Clean samples that a point is drawn towards by trial.
const CANDIDATES: usize = 8;

/// A kind of set that poisoned features may have to lie in, measured on the clean samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConstraintKind {
    /// The L2 ball around the origin whose radius is a quantile of the clean norms.
    Ball,
    /// The range of the clean features, coordinate by coordinate.
    Box,
    /// A ball around the centroid of the label's class, whose radius is a quantile of that class's distances.
    Sphere,
    /// A slab around the centroid of the label's class, across the direction that tells the class from the others; its width is
    /// a quantile of that class's offsets.
    Slab,
    /// The points whose distance to their k-th nearest sample of the label's class is at most a quantile of that distance in the
    /// class.
    Knn,
}

/// The intersection of some kinds of sets, written `ball` or `sphere+slab`; all of space, if there are none, written `none`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ConstraintKinds(Vec<ConstraintKind>);

const NAMES: [(&str, ConstraintKind); 5] = [
    ("ball", ConstraintKind::Ball),
    ("box", ConstraintKind::Box),
    ("sphere", ConstraintKind::Sphere),
    ("slab", ConstraintKind::Slab),
    ("knn", ConstraintKind::Knn),
];

impl ConstraintKinds {
    /// The kinds, each once.
    #[must_use]
    pub fn kinds(&self) -> &[ConstraintKind] {
        &self.0
    }

    /// Whether a quantile decides what they let through; a box lets all clean samples through.
    #[must_use]
    pub fn has_quantile(&self) -> bool {
        self.0.iter().any(|kind| *kind != ConstraintKind::Box)
    }
}

impl FromStr for ConstraintKinds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::default());
        }
        let mut kinds = Vec::new();
        for name in text.split('+') {
            let known = NAMES.iter().find(|(known, _)| *known == name.trim());
            let (_, kind) = known.ok_or_else(|| {
                let names = NAMES.map(|(name, _)| name).join(", ");
                format!("unknown constraint `{text}`: expected none, {names}, or several such as `sphere+slab`")
            })?;
            if !kinds.contains(kind) {
                kinds.push(*kind);
            }
        }
        Ok(Self(kinds))
    }
}

impl TryFrom<String> for ConstraintKinds {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ConstraintKinds> for String {
    fn from(kinds: ConstraintKinds) -> Self {
        kinds.to_string()
    }
}

impl fmt::Display for ConstraintKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |kind: &ConstraintKind| NAMES.iter().find(|(_, k)| k == kind).map_or("", |(name, _)| *name);
        if self.0.is_empty() { f.pad("none") } else { f.pad(&self.0.iter().map(name).collect::<Vec<_>>().join("+")) }
    }
}

/// Where poisoned features may lie: a closed set in feature space for each label.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Constraint {
    /// What they lie in all of; nothing: all of space.
    convex: Vec<Convex>,
    /// Where there are several, a point of all of them for each label.
    anchors: Vec<Array1<f64>>,
    /// And near which samples of each class.
    near: Option<Vec<Near>>,
}

/// A closed convex set for each label.
#[derive(Debug, Clone, PartialEq)]
enum Convex {
    /// A ball around the origin.
    Ball(f64),
    /// A range for every coordinate.
    Box { low: Array1<f64>, high: Array1<f64> },
    /// A ball around the centroid of the label's class.
    Sphere(Vec<Sphere>),
    /// The points whose offset from the centroid of the label's class, along a direction of that class, is small.
    Slab(Vec<Slab>),
}

#[derive(Debug, Clone, PartialEq)]
struct Sphere {
    centre: Array1<f64>,
    radius: f64,
}

#[derive(Debug, Clone, PartialEq)]
struct Slab {
    centre: Array1<f64>,
    /// Unit vector from the mean of the other centroids to this one.
    direction: Array1<f64>,
    half_width: f64,
}

/// The points that have some samples of a class within a radius: a union of intersections of balls, not convex.
#[derive(Debug, Clone, PartialEq)]
struct Near {
    /// Samples of the class, `[n, d]`.
    samples: Array2<f64>,
    radius: f64,
    neighbors: usize,
    /// Samples that lie in the set (and in all convex ones), each with the nearest samples, itself first.
    inside: Vec<Vec<usize>>,
}

/// A set that cannot be made of the clean samples.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// A class in which there is nothing to measure.
    #[error("class {0} has no training sample, and so no centroid to constrain its poisons by")]
    EmptyClass(usize),
    /// A class with too few samples for a neighbourhood.
    #[error("class {class} has {found} training samples; `knn` with {neighbors} neighbors needs at least {}", neighbors + 1)]
    FewNeighbors {
        /// The class.
        class: usize,
        /// Its samples.
        found: usize,
        /// The neighbours asked for.
        neighbors: usize,
    },
    /// Sets that have no point in common.
    #[error("no point of class {0} meets all constraints: raise `quantile`, or leave out a constraint")]
    Empty(usize),
}

impl Constraint {
    /// The intersection of `kinds`, each of which lets through a share `quantile` of the clean samples (of a class; `box` lets
    /// through all). `neighbors` is the k of `knn`. Sphere and slab are those of Steinhardt et al. (2017); where there are more than
    /// two classes, the slab lies across the line from the mean of the other centroids to the class's own.
    ///
    /// # Errors
    /// A class without samples, or with too few, and sets without a common point.
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
        if constraint.convex.len() > 1 {
            let centroids = ClassRows::of(clean)?.centroids;
            for (class, centroid) in centroids.rows().into_iter().enumerate() {
                let mut z = centroid.to_owned();
                constraint.project_row(z.view_mut(), class);
                if !constraint.holds(z.view(), class) {
                    return Err(ConstraintError::Empty(class));
                }
                constraint.anchors.push(z);
            }
        }
        if kinds.kinds().contains(&ConstraintKind::Knn) {
            let classes = ClassRows::of(clean)?;
            let near = (0..clean.classes()).map(|class| Near::new(&classes, class, quantile, neighbors, &constraint));
            constraint.near = Some(near.collect::<Result<_, _>>()?);
        }
        Ok(constraint)
    }

    /// A ball of that radius around the origin.
    #[must_use]
    pub fn ball(radius: f64) -> Self {
        Self { convex: vec![Convex::Ball(radius)], ..Self::default() }
    }

    /// Whether it is all of space.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.convex.is_empty() && self.near.is_none()
    }

    /// Moves every row of `features`, `[m, d]`, to the nearest point of its label's set; with `knn`, which is not convex, to a near
    /// point of it.
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

    /// An upper bound of `<direction, z>` over a label's set; infinite where there is none.
    #[must_use]
    pub fn support(&self, direction: ArrayView1<'_, f64>, label: usize) -> f64 {
        let convex = self.convex.iter().map(|set| set.support(direction, label));
        let near = self.near.iter().map(|near| near[label].support(direction));
        let unbounded = if norm(direction) == 0.0 { 0.0 } else { f64::INFINITY };
        convex.chain(near).fold(unbounded, f64::min)
    }

    /// Whether a point lies in a label's set, but for rounding.
    #[must_use]
    pub fn holds(&self, z: ArrayView1<'_, f64>, label: usize) -> bool {
        let slack = INSIDE * (1.0 + norm(z));
        self.convex_holds(z, label) && self.near.iter().all(|near| near[label].holds(z, near[label].radius + slack))
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

    /// Where alternating projections end too early, at sets that hardly overlap: the rest of the way on the line to a point inside.
    fn draw_inside(&self, mut row: ArrayViewMut1<'_, f64>, anchor: &Array1<f64>, label: usize) {
        if self.convex_holds(row.view(), label) {
            return;
        }
        let away = &row - anchor;
        let (mut inside, mut outside) = (0.0, 1.0);
        for _ in 0..HALVINGS {
            let middle = 0.5 * (inside + outside);
            if self.convex_holds((anchor + &(&away * middle)).view(), label) {
                inside = middle;
            } else {
                outside = middle;
            }
        }
        row.assign(&(anchor + &(away * inside)));
    }

    fn project_row(&self, mut row: ArrayViewMut1<'_, f64>, label: usize) {
        match &self.convex[..] {
            [] => {}
            [one] => one.project_row(row.view_mut(), label),
            sets => {
                dykstra(sets, row.view_mut(), label);
                if let Some(anchor) = self.anchors.get(label) {
                    self.draw_inside(row.view_mut(), anchor, label);
                }
            }
        }
        if let Some(near) = &self.near {
            near[label].restore(row);
        }
    }
}

impl Convex {
    fn ball(clean: Samples<'_>, quantile: f64) -> Self {
        let norms = clean.chunks().flat_map(|c| c.to_f64().rows().into_iter().map(norm).collect::<Vec<_>>());
        Self::Ball(at_quantile(norms.collect(), quantile))
    }

    fn range(clean: Samples<'_>) -> Self {
        let mut low = Array1::from_elem(clean.dim(), f64::INFINITY);
        let mut high = Array1::from_elem(clean.dim(), f64::NEG_INFINITY);
        for chunk in clean.chunks() {
            for z in chunk.to_f64().rows() {
                Zip::from(&mut low).and(&mut high).and(z).for_each(|low, high, z| {
                    *low = low.min(*z);
                    *high = high.max(*z);
                });
            }
        }
        Self::Box { low, high }
    }

    fn sphere(classes: &ClassRows<'_>, quantile: f64) -> Self {
        let sphere = |class: usize| {
            let centre = classes.centroids.row(class).to_owned();
            let distances = classes.select(class).rows().into_iter().map(|z| norm((&z - &centre).view())).collect();
            Sphere { radius: at_quantile(distances, quantile), centre }
        };
        Self::Sphere((0..classes.rows.len()).map(sphere).collect())
    }

    fn slab(classes: &ClassRows<'_>, quantile: f64) -> Self {
        let sum = classes.centroids.sum_axis(Axis(0));
        let others = (classes.rows.len() - 1) as f64;
        let slab = |class: usize| {
            let centre = classes.centroids.row(class).to_owned();
            let mut direction = &centre - &((&sum - &centre) / others);
            // Of equal centroids no direction tells them apart: the slab is all of space.
            direction /= norm(direction.view()).max(f64::MIN_POSITIVE);
            let offsets =
                classes.select(class).rows().into_iter().map(|z| (&z - &centre).dot(&direction).abs()).collect();
            Slab { half_width: at_quantile(offsets, quantile), centre, direction }
        };
        Self::Slab((0..classes.rows.len()).map(slab).collect())
    }

    fn project_row(&self, mut row: ArrayViewMut1<'_, f64>, label: usize) {
        let shrink = |row: &mut ArrayViewMut1<'_, f64>, radius: f64| {
            let norm = norm(row.view());
            if norm > radius {
                *row *= radius / norm;
            }
        };
        match self {
            Self::Ball(radius) => shrink(&mut row, *radius),
            Self::Box { low, high } => {
                Zip::from(row).and(low).and(high).for_each(|z, low, high| *z = z.clamp(*low, *high));
            }
            Self::Sphere(spheres) => {
                let Sphere { centre, radius } = &spheres[label];
                row -= centre;
                shrink(&mut row, *radius);
                row += centre;
            }
            Self::Slab(slabs) => {
                let Slab { centre, direction, half_width } = &slabs[label];
                let offset = (&row - centre).dot(direction);
                row.scaled_add(offset.clamp(-half_width, *half_width) - offset, direction);
            }
        }
    }

    /// The largest `<direction, z>` over a label's set; infinite for a slab, but across it.
    fn support(&self, direction: ArrayView1<'_, f64>, label: usize) -> f64 {
        let length = norm(direction);
        match self {
            Self::Ball(radius) => radius * length,
            Self::Box { low, high } => {
                Zip::from(direction).and(low).and(high).fold(0.0, |sum, a, low, high| sum + (a * low).max(a * high))
            }
            Self::Sphere(spheres) => direction.dot(&spheres[label].centre) + spheres[label].radius * length,
            Self::Slab(slabs) => {
                let Slab { centre, direction: across, half_width } = &slabs[label];
                let along = direction.dot(across);
                let rest = &direction - &(across * along);
                if norm(rest.view()) > 1e-12 * length {
                    return f64::INFINITY;
                }
                direction.dot(centre) + half_width * along.abs()
            }
        }
    }
}

impl Near {
    fn new(
        classes: &ClassRows<'_>,
        class: usize,
        quantile: f64,
        neighbors: usize,
        convex: &Constraint,
    ) -> Result<Self, ConstraintError> {
        let samples = classes.select(class);
        let found = samples.nrows();
        if found <= neighbors {
            return Err(ConstraintError::FewNeighbors { class, found, neighbors });
        }
        // Every sample's nearest ones, itself first, and the distance to the last of them.
        let nearest: Vec<(Vec<usize>, f64)> = (0..found)
            .into_par_iter()
            .map(|i| {
                let mut others = distances(&samples, samples.row(i));
                others[i].0 = -1.0;
                others.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
                (others[..neighbors].iter().map(|(_, j)| *j).collect(), others[neighbors].0)
            })
            .collect();
        let radius = at_quantile(nearest.iter().map(|(_, distance)| *distance).collect(), quantile);
        let inside = nearest
            .into_iter()
            .enumerate()
            .filter(|(i, (_, distance))| *distance <= radius && convex.holds(samples.row(*i), class));
        let inside: Vec<_> = inside.map(|(_, (near, _))| near).collect();
        if inside.is_empty() {
            return Err(ConstraintError::Empty(class));
        }
        Ok(Self { samples, radius, neighbors, inside })
    }

    fn holds(&self, z: ArrayView1<'_, f64>, radius: f64) -> bool {
        distances(&self.samples, z).iter().filter(|(distance, _)| *distance <= radius).count() >= self.neighbors
    }

    /// Draws a point that lies outside towards a sample that lies inside, no farther than that sample's neighbours demand: the
    /// nearest such point over a few of the nearest samples. A convex set that holds both ends holds it, too.
    fn restore(&self, mut z: ArrayViewMut1<'_, f64>) {
        if self.holds(z.view(), self.radius) {
            return;
        }
        let mut anchors: Vec<(f64, &Vec<usize>)> =
            (self.inside.iter()).map(|near| (norm((&self.samples.row(near[0]) - &z).view()), near)).collect();
        anchors.sort_by(|a, b| a.0.total_cmp(&b.0));
        anchors.truncate(CANDIDATES);
        let mut best: Option<(f64, Array1<f64>)> = None;
        for (length, near) in anchors {
            let anchor = self.samples.row(near[0]);
            let away = &z - &anchor;
            // The share of the way at which a neighbour is just `radius` off: the root of a quadratic.
            let farthest = |neighbor: &usize| {
                let offset = &anchor - &self.samples.row(*neighbor);
                let (a, half_b) = (away.dot(&away), away.dot(&offset));
                let c = offset.dot(&offset) - self.radius * self.radius;
                ((half_b * half_b - a * c).max(0.0).sqrt() - half_b) / a
            };
            let share = near.iter().map(farthest).fold(1.0, f64::min).max(0.0);
            let left = length * (1.0 - share);
            if best.as_ref().is_none_or(|(least, _)| left < *least) {
                best = Some((left, &anchor + &(away * share)));
            }
        }
        if let Some((_, point)) = best {
            z.assign(&point);
        }
    }

    /// A point within `radius` of k samples is at most so far along a direction as the k-th farthest of them, and the radius.
    fn support(&self, direction: ArrayView1<'_, f64>) -> f64 {
        let mut along = self.samples.dot(&direction).to_vec();
        along.sort_by(|a, b| b.total_cmp(a));
        along.get(self.neighbors - 1).copied().unwrap_or(f64::NEG_INFINITY) + self.radius * norm(direction)
    }
}

/// The distance to every sample, and its row.
fn distances(samples: &Array2<f64>, z: ArrayView1<'_, f64>) -> Vec<(f64, usize)> {
    let square = |x: ArrayView1<'_, f64>| x.iter().zip(z).map(|(x, z)| (x - z) * (x - z)).sum::<f64>();
    samples.rows().into_iter().enumerate().map(|(i, x)| (square(x).sqrt(), i)).collect()
}

/// The nearest point of an intersection (Boyle & Dykstra, 1986): alternating projections that take back, before each, what the
/// same set moved last time.
fn dykstra(sets: &[Convex], mut row: ArrayViewMut1<'_, f64>, label: usize) {
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
struct ClassRows<'a> {
    clean: Samples<'a>,
    rows: Vec<Vec<usize>>,
    /// `[K, d]`.
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

    /// The samples of a class.
    fn select(&self, class: usize) -> Array2<f64> {
        self.clean.select(&self.rows[class])
    }
}

/// The mean of the samples of every class, `[K, d]`.
///
/// # Errors
/// A class without samples.
pub fn class_means(clean: Samples<'_>) -> Result<Array2<f64>, ConstraintError> {
    Ok(ClassRows::of(clean)?.centroids)
}

fn norm(row: ArrayView1<'_, f64>) -> f64 {
    row.dot(&row).sqrt()
}

/// The smallest value that at least a share `quantile` of the values do not exceed.
fn at_quantile(mut values: Vec<f64>, quantile: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    // Rounding may lift a whole number a little.
    let rank = (quantile * values.len() as f64 - 1e-9).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;
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
    fn box_sphere_and_slab_by_hand() {
        // Class 0 around (0, 0), class 1 around (4, 0).
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
        // Between the centroids the offsets of class 0 reach 1, and those of class 1 nothing.
        assert!(close(&projected(&slab, far, &[0, 1]), &array![[1.0, 9.0], [4.0, 0.0]], 1e-12));
        assert_eq!(slab.support(array![2.0, 0.0].view(), 0), 2.0);
        assert_eq!(slab.support(array![2.0, 0.1].view(), 0), f64::INFINITY);
    }

    #[test]
    fn near_its_class_by_hand() {
        // On a line: with 2 neighbours, distances 2, 1, 1, 2, 6; their quantile 0.8 is 2.
        let z = array![[0.0], [1.0], [2.0], [3.0], [9.0], [0.0], [0.0], [0.0]];
        let clean = Samples::new(z.view(), &[0, 0, 0, 0, 0, 1, 1, 1], 2).unwrap();
        let near = build("knn", clean, 0.8);
        // Inside is what has two samples within 2: up to 4, where 2 and 3 are.
        let found = projected(&near, array![[3.9], [4.1], [-1.1], [6.0]], &[0, 0, 0, 0]);
        assert!(close(&found, &array![[3.9], [4.0], [-1.0], [4.0]], 1e-12), "{found}");
        assert!(near.support(array![1.0].view(), 0) >= 4.0);
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
        // The ball holds half of all samples, and the class that is farther out lies outside of it.
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
        // On the line x = 0.5 and within the circle, the nearest point to (-2, 2) is the corner.
        assert!(close(&found, &array![[0.5, 0.75f64.sqrt()]], 1e-6), "{found}");
    }

    proptest! {
        /// A projection is where `<z - p, q - p> <= 0` for every point q of the set.
        #[test]
        fn projections_are_nearest_and_supports_are_bounds(
            points in proptest::collection::vec(-3.0..3.0f64, 24), z in proptest::collection::vec(-9.0..9.0f64, 3),
        ) {
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
        }
    }
}
