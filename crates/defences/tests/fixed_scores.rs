//! Scores with the training set fixed: those of the filter at its samples, with the gradient of finite differences.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use hemlock_defences::TrainingData;
use hemlock_defences::filters::{FILTERS, FilterOptions};
use hemlock_head::Samples;
use hemlock_head::testing::GaussianClusters;

#[test]
fn fixed_scores_are_the_filters_and_have_their_gradient() {
    let data = GaussianClusters::new(90, 5, 3, 4);
    let mut z = data.samples().to_f64().to_owned();
    // So little that the subspace of `svd` does not have it.
    z.column_mut(4).map_inplace(|z| *z *= 0.05);
    let blocks = [Samples::new(z.view(), data.samples().labels(), 3).unwrap()];
    let set = TrainingData::new(&blocks, 1e-2, 0).unwrap();
    let options = FilterOptions { tolerance: Some(1e-10), ..FilterOptions::share(0.1) };
    let mut names = Vec::new();
    for filter in FILTERS {
        let Some(fixed) = filter.fixed(&set, &options).unwrap() else { continue };
        names.push(filter.name);
        let scores = filter.apply(&set, &options).unwrap().scores;
        let largest = scores.iter().copied().fold(0.0, f64::max);
        for row in [0, 31, 62, 89] {
            let label = set.labels()[row] as usize;
            let (score, gradient) = fixed.at(z.row(row), label);
            // The filter of self-influence leaves out what hardly matters.
            let tolerance = if filter.name == "self-influence" { 0.05 } else { 1e-6 };
            assert!((score - scores[row]).abs() < tolerance * largest, "{}: {score} and {}", filter.name, scores[row]);
            let scale = gradient.iter().fold(1e-3 * largest, |most: f64, g| most.max(g.abs()));
            for column in 0..5 {
                let at = |by: f64| {
                    let mut moved = z.row(row).to_owned();
                    moved[column] += by;
                    fixed.at(moved.view(), label).0
                };
                let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!((slope - gradient[column]).abs() < 1e-5 * scale, "{}: {slope} {gradient}", filter.name);
            }
        }
    }
    assert!(
        ["sphere", "slab", "loss", "svd", "spectral", "self-influence"].iter().all(|name| names.contains(name)),
        "{names:?}"
    );
}
