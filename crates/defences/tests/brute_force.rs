//! Every certificate against all attacks of up to two units on tiny problems: two features on a grid of 25 points, at
//! most 12 samples. A certified radius must never be violated. How much of the true radius is certified is asserted
//! too, so that a bound that becomes looser is seen.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use hemlock_defences::TrainingData;
use hemlock_defences::certificates::{Certificates, Ensemble, RidgeHead, StrongConvexity, certify_prototypes};
use hemlock_defences::robust::TrimmedPrototypes;
use hemlock_head::Samples;
use hemlock_threat::Constraint;
use ndarray::{Array2, ArrayView2, Axis, array};
use rayon::prelude::*;

/// The largest number of units of an attack.
const UNITS: usize = 2;

/// A tiny training set.
#[derive(Clone)]
struct Tiny {
    rows: Vec<([f64; 2], u32)>,
    classes: usize,
}

impl Tiny {
    /// Two classes of six samples each on the grid, which overlap.
    fn two_classes() -> Self {
        let of = |points: [[f64; 2]; 6], label| points.map(|point| (point, label));
        let zeros = of([[-2.0, -1.0], [-2.0, 1.0], [-1.0, 0.0], [-1.0, 2.0], [-1.0, -2.0], [0.0, -1.0]], 0);
        let ones = of([[2.0, 1.0], [2.0, -1.0], [1.0, 0.0], [1.0, -2.0], [1.0, 2.0], [0.0, 2.0]], 1);
        Self { rows: [zeros, ones].concat(), classes: 2 }
    }

    /// The same points in three classes.
    fn three_classes() -> Self {
        let mut tiny = Self { classes: 3, ..Self::two_classes() };
        tiny.rows.iter_mut().filter(|(point, _)| point[1] > 0.5).for_each(|(_, label)| *label = 2);
        tiny
    }

    fn with_set<T>(&self, weight_decay: f64, use_it: impl FnOnce(&TrainingData<'_>) -> T) -> T {
        let mut z = Array2::zeros((self.rows.len(), 2));
        z.rows_mut().into_iter().zip(&self.rows).for_each(|(mut to, (from, _))| to.assign(&ndarray::aview1(from)));
        let labels: Vec<u32> = self.rows.iter().map(|(_, label)| *label).collect();
        let samples = Samples::new(z.view(), &labels, self.classes).unwrap();
        use_it(&TrainingData::new(&[samples], weight_decay, 1).unwrap())
    }
}

/// The 25 points that samples and poisons lie on.
fn grid() -> Vec<[f64; 2]> {
    (-2..=2).flat_map(|x| (-2..=2).map(move |y| [f64::from(x), f64::from(y)])).collect()
}

/// Points off the grid, at which no two classes are equally likely by symmetry.
fn test_points() -> Array2<f64> {
    array![
        [-1.93, 0.41],
        [-1.17, -1.39],
        [-0.73, 0.87],
        [-0.31, -0.53],
        [-0.11, 0.29],
        [0.19, -0.37],
        [0.43, 1.21],
        [0.77, -0.61],
        [1.31, 0.83],
        [1.87, -1.57]
    ]
}

/// A change of one unit.
#[derive(Clone, Copy)]
enum Edit {
    Add([f64; 2], u32),
    Remove(usize),
    Relabel(usize, u32),
}

fn edits(tiny: &Tiny, only_additions: bool) -> Vec<Edit> {
    let labels = || 0..tiny.classes as u32;
    let mut edits: Vec<Edit> =
        grid().into_iter().flat_map(|point| labels().map(move |label| Edit::Add(point, label))).collect();
    if !only_additions {
        edits.extend((0..tiny.rows.len()).map(Edit::Remove));
        let others = |row: usize| labels().filter(move |label| *label != tiny.rows[row].1);
        edits.extend((0..tiny.rows.len()).flat_map(|row| others(row).map(move |label| Edit::Relabel(row, label))));
    }
    edits
}

fn edited(tiny: &Tiny, edits: &[Edit]) -> Tiny {
    let mut rows: Vec<Option<([f64; 2], u32)>> = tiny.rows.iter().copied().map(Some).collect();
    for edit in edits {
        match *edit {
            Edit::Add(point, label) => rows.push(Some((point, label))),
            Edit::Remove(row) => rows[row] = None,
            Edit::Relabel(row, label) => rows[row] = rows[row].map(|(point, _)| (point, label)),
        }
    }
    Tiny { rows: rows.into_iter().flatten().collect(), classes: tiny.classes }
}

/// All attacks of one and of two units.
fn attacks(edits: &[Edit]) -> Vec<Vec<Edit>> {
    let pairs = (0..edits.len()).flat_map(|a| (a..edits.len()).map(move |b| vec![edits[a], edits[b]]));
    edits.iter().map(|edit| vec![*edit]).chain(pairs).collect()
}

/// The true radii, up to [`UNITS`]: the most units that no attack changes the prediction with.
fn true_radii(clean: &[u32], attacks: &[Vec<Edit>], predict: impl Fn(&[Edit]) -> Vec<u32> + Sync) -> Vec<usize> {
    let broken: Vec<(usize, Vec<bool>)> = attacks
        .par_iter()
        .map(|attack| (attack.len(), predict(attack).iter().zip(clean).map(|(a, b)| a != b).collect()))
        .collect();
    let radius = |point: usize| broken.iter().filter(|(_, broken)| broken[point]).map(|(units, _)| units - 1).min();
    (0..clean.len()).map(|point| radius(point).unwrap_or(UNITS)).collect()
}

/// Asserts that no radius is too large, and that the sums over test points of the certified and of the true radii, each
/// up to [`UNITS`], are as expected.
#[track_caller]
fn assert_sound(certificates: &Certificates, true_radii: &[usize], expected: (usize, usize)) {
    let certified: Vec<usize> = certificates.radii.iter().map(|radius| *radius.min(&UNITS)).collect();
    let sound = certified.iter().zip(true_radii).all(|(certified, truth)| certified <= truth);
    assert!(sound, "certified {certified:?}, but the true radii are {true_radii:?}");
    assert_eq!((certified.iter().sum::<usize>(), true_radii.iter().sum::<usize>()), expected, "certified, true");
}

fn ensembles(tiny: &Tiny, heads: usize, spread: usize, expected: [(usize, usize); 2]) {
    let test = test_points();
    type Certify = fn(&Ensemble, ArrayView2<'_, f64>) -> Certificates;
    let plurality: Certify = |ensemble, test| ensemble.plurality(test).unwrap();
    let run_off: Certify = |ensemble, test| ensemble.run_off(test).unwrap();
    let train = |tiny: &Tiny| tiny.with_set(0.05, |set| Ensemble::train(set, heads, spread).unwrap());
    let attacks = attacks(&edits(tiny, false));
    let clean = train(tiny);
    let poisoned: Vec<Ensemble> = attacks.par_iter().map(|attack| train(&edited(tiny, attack))).collect();
    for (certify, expected) in [plurality, run_off].into_iter().zip(expected) {
        let certificates = certify(&clean, test.view());
        let predictions = |attack: &[Edit]| {
            let index = attacks.iter().position(|other| std::ptr::eq(other.as_slice(), attack)).unwrap();
            certify(&poisoned[index], test.view()).predictions
        };
        assert_sound(&certificates, &true_radii(&certificates.predictions, &attacks, predictions), expected);
    }
}

#[test]
fn deep_partition_aggregation() {
    ensembles(&Tiny::two_classes(), 5, 1, [(5, 5), (5, 5)]);
    ensembles(&Tiny::three_classes(), 5, 1, [(4, 4), (4, 4)]);
}

#[test]
fn finite_aggregation() {
    ensembles(&Tiny::two_classes(), 9, 2, [(5, 5), (5, 5)]);
}

#[test]
fn strong_convexity() {
    let tiny = Tiny::two_classes();
    let test = test_points();
    let constraint = Constraint::ball(8f64.sqrt());
    let attacks = attacks(&edits(&tiny, true));
    for (weight_decay, expected) in [(3.0, (4, 13)), (0.5, (1, 12))] {
        let train = |tiny: &Tiny| tiny.with_set(weight_decay, |set| StrongConvexity::train(set, &constraint).unwrap());
        let clean = train(&tiny);
        let certificates = clean.certify(test.view()).unwrap();
        let predict = |attack: &[Edit]| {
            let poisoned = train(&edited(&tiny, attack));
            let moved = &poisoned.head().packed() - &clean.head().packed();
            assert!(moved.mapv(|value| value * value).sum().sqrt() <= clean.largest_change(attack.len()));
            poisoned.certify(test.view()).unwrap().predictions
        };
        assert_sound(&certificates, &true_radii(&certificates.predictions, &attacks, predict), expected);
    }
}

/// Poisons in many copies, at every point of the grid and with every label, beside many samples: self-concordance
/// certifies more than strong convexity does, and none of these attacks breaks it.
#[test]
fn self_concordance() {
    let once = Tiny::two_classes();
    let many = Tiny { rows: once.rows.iter().cycle().take(1200).copied().collect(), classes: 2 };
    let (constraint, test) = (Constraint::ball(8f64.sqrt()), test_points());
    let train = |tiny: &Tiny| tiny.with_set(0.02, |set| StrongConvexity::train(set, &constraint).unwrap());
    let clean = train(&many);
    let certificates = clean.certify(test.view()).unwrap();
    let rows: Vec<_> = grid().into_iter().flat_map(|point| [(point, 0), (point, 1)]).collect();
    for poisons in [1, 4, 16] {
        let certified: Vec<usize> = (0..10).filter(|point| certificates.radii[*point] >= poisons).collect();
        let weakest = rows.par_iter().map(|poison| {
            let added = std::iter::repeat_n(*poison, poisons);
            let found = train(&Tiny { rows: many.rows.iter().copied().chain(added).collect(), classes: 2 });
            let predictions = found.certify(test.view()).unwrap().predictions;
            assert!(
                certified.iter().all(|point| predictions[*point] == certificates.predictions[*point]),
                "{poison:?}"
            );
        });
        weakest.for_each(drop);
    }
    // What strong convexity alone gives for the two numbers: `m / (n + m) < 2λM / (2|u|B + λ|u||w| + λM)`.
    let logits = hemlock_head::logits(clean.head(), test.view()).unwrap();
    let alone = logits.rows().into_iter().zip(test.rows()).map(|(logits, z)| {
        let (margin, length) = ((logits[0] - logits[1]).abs(), (2.0 * (1.0 + z.dot(&z))).sqrt());
        let share =
            2.0 * 0.02 * margin / (2.0 * length * 18f64.sqrt() + 0.02 * (length * clean.head().norm() + margin));
        ((1200.0 * share / (1.0 - share)).ceil() - 1.0) as usize
    });
    let (alone, together) = (alone.sum::<usize>(), certificates.radii.iter().sum::<usize>());
    assert!(2 * together > 3 * alone, "{together} instead of {alone}");
}

/// All sets of labels: the certificate is exact, up to ties, for any number of changed labels.
#[test]
fn ridge_regression_with_changed_labels() {
    let two = Tiny { rows: Tiny::two_classes().rows[1..11].to_vec(), classes: 2 };
    let three = Tiny { rows: Tiny::three_classes().rows[2..10].to_vec(), classes: 3 };
    for tiny in [two, three] {
        let (count, classes, test) = (tiny.rows.len(), tiny.classes, test_points());
        let predict =
            |tiny: &Tiny| tiny.with_set(0.1, |set| RidgeHead::train(set).unwrap().certify(test.view()).unwrap());
        let certificates = predict(&tiny);
        let mut exact = vec![count; test.nrows()];
        for code in 0..classes.pow(count as u32) {
            let mut changed = tiny.clone();
            for (row, (_, label)) in changed.rows.iter_mut().enumerate() {
                *label = (code / classes.pow(row as u32) % classes) as u32;
            }
            let units = changed.rows.iter().zip(&tiny.rows).filter(|(a, b)| a.1 != b.1).count();
            let predictions = predict(&changed).predictions;
            for (exact, (now, before)) in exact.iter_mut().zip(predictions.iter().zip(&certificates.predictions)) {
                if now != before {
                    *exact = (*exact).min(units - 1);
                }
            }
        }
        assert_eq!(certificates.radii, exact);
    }
}

/// All replacements of up to two samples by points of the grid, with their labels.
#[test]
fn trimmed_prototypes() {
    let (tiny, test) = (Tiny::two_classes(), test_points());
    let points = grid();
    let with = |tiny: &Tiny, replaced: &[(usize, [f64; 2])]| {
        let mut tiny = tiny.clone();
        replaced.iter().for_each(|(row, point)| tiny.rows[*row].0 = *point);
        tiny.with_set(0.0, |set| TrimmedPrototypes::new(set, 2).unwrap())
    };
    let prototypes = with(&tiny, &[]);
    let certificates = certify_prototypes(&prototypes, test.view()).unwrap();
    assert_eq!(certificates.predictions, prototypes.predict(test.view()).unwrap());
    let singles: Vec<_> = (0..12).flat_map(|row| points.iter().map(move |point| (row, *point))).collect();
    let pairs = singles.iter().flat_map(|a| singles.iter().filter(|b| b.0 > a.0).map(move |b| vec![*a, *b]));
    let replacements: Vec<Vec<_>> = singles.iter().map(|one| vec![*one]).chain(pairs).collect();
    let broken: Vec<(usize, Vec<u32>)> = replacements
        .par_iter()
        .map(|replaced| (replaced.len(), with(&tiny, replaced).predict(test.view()).unwrap()))
        .collect();
    let radius = |point: usize| {
        let breaking = broken.iter().filter(|(_, now)| now[point] != certificates.predictions[point]);
        breaking.map(|(units, _)| units - 1).min().unwrap_or(UNITS)
    };
    let exact: Vec<usize> = (0..test.len_of(Axis(0))).map(radius).collect();
    assert_sound(&certificates, &exact, (12, 12));
}
