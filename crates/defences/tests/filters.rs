//! Compares the filters with `data/filters.json`, which an independent implementation in numpy, scipy and scikit-learn
//! made: see `data/filters.py`. Also holds what must not matter: blocks, precision, threads and the order of samples.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use hemlock_defences::filters::{FILTERS, Filter, FilterOptions, Filtered, find};
use hemlock_defences::metrics::detection;
use hemlock_defences::{DefenceError, TrainingData};
use hemlock_head::Samples;
use hemlock_head::testing::GaussianClusters;
use ndarray::{Array2, Axis};
use serde_json::Value;

/// A training set of the reference.
struct Reference {
    all: Value,
    set: Value,
    features: Array2<f64>,
    labels: Vec<u32>,
}

impl Reference {
    fn load() -> Vec<Self> {
        let all: Value = serde_json::from_str(include_str!("data/filters.json")).unwrap();
        let sets = all["sets"].as_array().unwrap().clone();
        let one = |set: Value| {
            let rows: Vec<Vec<f64>> = serde_json::from_value(set["features"].clone()).unwrap();
            let features = Array2::from_shape_vec((rows.len(), rows[0].len()), rows.concat()).unwrap();
            let labels = serde_json::from_value(set["labels"].clone()).unwrap();
            Self { all: all.clone(), set, features, labels }
        };
        sets.into_iter().map(one).collect()
    }

    fn number(&self, key: &str) -> f64 {
        self.all[key].as_f64().unwrap()
    }

    fn classes(&self) -> usize {
        self.set["classes"].as_u64().unwrap() as usize
    }

    /// The set in two blocks, or in other rows.
    fn set(&self) -> TrainingData<'_> {
        let all = self.features.view();
        let (first, second) = all.split_at(Axis(0), 50);
        let of = |z, labels| Samples::new(z, labels, self.classes()).unwrap();
        let blocks = [of(first, &self.labels[..50]), of(second, &self.labels[50..])];
        TrainingData::new(&blocks, self.number("weight_decay"), self.number("seed") as u64).unwrap()
    }
}

fn scores(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap()
}

fn flags(value: &Value) -> Vec<bool> {
    value.as_str().unwrap().bytes().map(|flag| flag == b'1').collect()
}

/// The largest difference of two lists, relative to the largest number.
fn off(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(0f64, |max, value| max.max(value.abs()));
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / scale
}

/// Applies a filter whose heads are trained as exactly as those of the reference.
fn run(filter: &Filter, set: &TrainingData<'_>, options: FilterOptions) -> Filtered {
    filter.apply(set, &FilterOptions { tolerance: Some(1e-9), ..options }).unwrap()
}

/// Filters whose scores need no trained head: these agree more closely.
const EXACT: [&str; 7] = ["sphere", "slab", "svd", "knn-distance", "knn-label", "spectral", "activation-clustering"];

#[test]
fn scores_and_removals_are_those_of_another_implementation() {
    for reference in Reference::load() {
        let set = reference.set();
        let poison = flags(&reference.set["poison"]);
        for filter in FILTERS {
            let expected = &reference.set["filters"][filter.name];
            let share = run(filter, &set, FilterOptions::share(reference.number("share")));
            let error = off(&share.scores, &scores(&expected["scores"]));
            let tolerance = match filter.name {
                // It leaves out what is negligible.
                "self-influence" => 1e-2,
                name if EXACT.contains(&name) => 1e-7,
                _ => 1e-4,
            };
            assert!(error < tolerance, "{}: {error:e}", filter.name);
            assert_eq!(share.removed, flags(&expected["share"]), "{}", filter.name);
            let rule = run(filter, &set, FilterOptions::paper(reference.number("expected")));
            assert_eq!(rule.removed, flags(&expected["rule"]), "{}", filter.name);
            let auroc = detection(&share, &poison).unwrap().auroc.unwrap();
            assert!((auroc - expected["auroc"].as_f64().unwrap()).abs() < 1e-8, "{}", filter.name);
        }
    }
}

/// With two classes, the blocks of the Hessian give the self-influence of the whole Hessian, as the test above shows.
/// With three, they give nearly the same order.
#[test]
fn blocks_of_the_hessian_rank_like_the_whole_one() {
    let reference = &Reference::load()[0];
    assert_eq!(reference.classes(), 3);
    let found = run(find("self-influence").unwrap(), &reference.set(), FilterOptions::share(0.1)).scores;
    let ranks = |scores: &[f64]| {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        let mut ranks = vec![0.0; scores.len()];
        order.iter().enumerate().for_each(|(rank, row)| ranks[*row] = rank as f64);
        ranks
    };
    let (a, b) = (ranks(&found), ranks(&scores(&reference.set["self_influence"])));
    let n = a.len() as f64;
    let squares: f64 = a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum();
    let spearman = 1.0 - 6.0 * squares / (n * (n * n - 1.0));
    assert!(spearman > 0.98, "{spearman}");
}

#[test]
fn blocks_precision_and_threads_change_no_bit() {
    let data = GaussianClusters::new(700, 6, 3, 8);
    let single = data.features.mapv(|z| z as f32);
    let double = single.mapv(f64::from);
    let labels = data.samples().labels();
    let stored = [Samples::from_f32(single.view(), labels, 3).unwrap()];
    let converted = [Samples::new(double.view(), labels, 3).unwrap()];
    let on = |blocks: &[Samples<'_>], threads, filter: &Filter| {
        let set = TrainingData::new(blocks, 1e-2, 3).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(filter, &set, FilterOptions::paper(0.05)))
    };
    for filter in FILTERS {
        let one = on(&stored, 1, filter);
        assert!(one == on(&stored, 3, filter), "{}", filter.name);
        assert!(one == on(&converted, 2, filter), "{}", filter.name);
    }
}

#[test]
fn the_order_of_samples_changes_nothing_but_rounding() {
    for reference in Reference::load() {
        let set = reference.set();
        let reversed = set.select(&(0..set.len()).rev().collect::<Vec<_>>());
        let other = TrainingData::new(&[reversed.samples()], set.weight_decay(), set.seed()).unwrap();
        for filter in FILTERS {
            let (one, mut two) =
                (run(filter, &set, FilterOptions::share(0.1)), run(filter, &other, FilterOptions::share(0.1)));
            two.scores.reverse();
            two.removed.reverse();
            assert!(off(&two.scores, &one.scores) < 1e-4, "{}", filter.name);
            if filter.name != "knn-label" {
                assert_eq!(two.removed, one.removed, "{}", filter.name);
            }
        }
    }
}

#[test]
fn neighbors_are_counted() {
    let reference = &Reference::load()[0];
    let set = reference.set();
    let distances = |neighbors| {
        let options = FilterOptions { neighbors: Some(neighbors), ..FilterOptions::share(0.1) };
        find("knn-distance").unwrap().apply(&set, &options)
    };
    let (one, nine) = (distances(1).unwrap(), distances(9).unwrap());
    assert!(one.scores.iter().zip(&nine.scores).all(|(one, nine)| one < nine));
    assert!(matches!(distances(0), Err(DefenceError::Parameter { name: "neighbors", .. })));
    assert!(matches!(distances(100), Err(DefenceError::FewSamples { needed: 101, .. })));
}

/// Nothing is wrong with a class that has no samples, or with samples that are all the same.
#[test]
fn degenerate_sets_have_finite_scores_or_an_error() {
    let (mut features, labels) = (Array2::zeros((40, 3)), (0..40).map(|i| i % 2).collect::<Vec<u32>>());
    features.column_mut(0).iter_mut().zip(&labels).for_each(|(to, label)| *to = f64::from(*label));
    let blocks = [Samples::new(features.view(), &labels, 4).unwrap()];
    let set = TrainingData::new(&blocks, 1e-2, 0).unwrap();
    for filter in FILTERS {
        match filter.apply(&set, &FilterOptions::share(0.1)) {
            Ok(found) => assert!(found.scores.iter().all(|score| score.is_finite()), "{}", filter.name),
            Err(error) => {
                let expected = matches!(error, DefenceError::FewSamples { .. } | DefenceError::Parameter { .. });
                assert!(expected, "{}: {error}", filter.name);
            }
        }
    }
}
