//! Means of quantities over the rows of one or several configurations, with the error that test images add to each
//! value.

use crate::{
    ConfigGroup,
    config_group::pretraining_images,
    statistics::{Estimate, ImageDeviations, Lack, Observation, TestImages},
};
use hemlock_artifact::Drawn;
use hemlock_pipeline::{REPLICATED, ResultRow};
use std::collections::{BTreeMap, BTreeSet};

/// A configuration, and a function that reads a quantity from a row.
pub type ConfigQuantity<'a> = (&'a ConfigGroup, &'a dyn Fn(&ResultRow) -> Option<f64>);

/// The step of the central differences of a quantity with respect to an accuracy.
const STEP: f64 = 1e-4;

/// Which of the seeds in [`hemlock_pipeline::Origin::seeds`] have to be equal in a pair of rows. A seed counts
///
/// - if it varies within a side, or
/// - if all rows have it and the sides have different values.
///
/// So if one side has one extractor and the other side has several, its rows are paired with those of the same
/// extractor.
fn paired_by(sides: &[ConfigQuantity]) -> Vec<bool> {
    let seeds =
        |config: &'_ ConfigGroup, i: usize| config.rows.iter().map(|row| row.origin.seeds[i]).collect::<BTreeSet<_>>();
    let paired = |i: usize| {
        let all: Vec<BTreeSet<Option<u64>>> = sides.iter().map(|(config, _)| seeds(config, i)).collect();
        let known = all.iter().flatten().all(Option::is_some);
        all.iter().any(|seeds| seeds.len() > 1) || known && all.iter().any(|seeds| *seeds != all[0])
    };
    (0..REPLICATED.len()).map(paired).collect()
}

/// Rows by the seeds that have to be equal (`kept`) and the seed of the run. Rows of a side that share all of these are
/// numbered from 1.
fn by_seeds<'c>(config: &'c ConfigGroup, kept: &[bool]) -> BTreeMap<(Vec<Option<u64>>, usize), &'c ResultRow> {
    let mut seen: BTreeMap<Vec<Option<u64>>, usize> = BTreeMap::new();
    let numbered = config.rows.iter().map(|row| {
        let seeds = row.origin.seeds.iter().zip(kept).map(|(seed, kept)| seed.filter(|_| *kept));
        let key: Vec<Option<u64>> = seeds.chain([Some(row.seed)]).collect();
        let count = seen.entry(key.clone()).or_default();
        *count += 1;
        ((key, *count), row)
    });
    numbered.collect()
}

/// The mean of `f` over all combinations of seeds that every side has. `f` is called with the quantities of the sides,
/// in their order. If the sides have no combination in common, `f` of the sides' means, without an error. `None` if a
/// row does not have its quantity.
pub fn joint(sides: &[ConfigQuantity], f: &dyn Fn(&[f64]) -> f64) -> Option<Estimate> {
    let kept = paired_by(sides);
    let rows: Vec<BTreeMap<_, &ResultRow>> = sides.iter().map(|(config, _)| by_seeds(config, &kept)).collect();
    for ((config, quantity), _) in sides.iter().zip(&rows) {
        if config.rows.iter().any(|row| quantity(row).is_none()) {
            return None;
        }
    }
    let keys = rows.first()?.keys().filter(|key| rows.iter().all(|rows| rows.contains_key(key)));
    let paired: Vec<Vec<&ResultRow>> = keys.map(|key| rows.iter().map(|rows| rows[key]).collect()).collect();
    let mut extractors: Vec<Vec<&str>> = Vec::new();
    let mut draws: Vec<Vec<&ResultRow>> = Vec::new();
    let mut observations = Vec::new();
    for rows in &paired {
        let extractor =
            number(&mut extractors, rows.iter().map(|row| row.origin.extractor.as_str()).collect(), |a, b| a == b);
        let same =
            |a: &Vec<&ResultRow>, b: &Vec<&ResultRow>| a.iter().zip(b).all(|(a, b)| a.origin.data == b.origin.data);
        let draw = number(&mut draws, rows.clone(), same);
        let (value, deviations) = measured(sides, rows, f)?;
        observations.push(Observation { extractor, draw, value, deviations });
    }
    if observations.is_empty() {
        let means = sides.iter().map(|(config, quantity)| {
            let values: Option<Vec<f64>> = config.rows.iter().map(quantity).collect();
            values.map(|values| values.iter().sum::<f64>() / values.len() as f64)
        });
        let mean = f(&means.collect::<Option<Vec<f64>>>()?);
        return Some(Estimate { mean, std: 0.0, n: 0, inference: Err(Lack::NoPairs) });
    }
    let apart = extractors.iter().any(|of| of.iter().collect::<BTreeSet<_>>().len() > 1);
    let mut estimate = Estimate::over(observations, &|a, b| overlap(&draws[a], &draws[b]))?;
    if let Ok(inference) = &mut estimate.inference {
        inference.scope.sides = apart;
        inference.scope.same_pretraining = same_pretraining(&paired);
        let alone = rows.iter().map(|rows| rows.len() - paired.len()).sum::<usize>();
        inference.scope.left_out += alone;
    }
    Some(estimate)
}

/// Whether all extractors of these rows were pre-trained on the same images. False if one was not pre-trained by a
/// stage, so that its images are not known.
fn same_pretraining(pairs: &[Vec<&ResultRow>]) -> bool {
    let images: Option<BTreeSet<String>> = pairs.iter().flatten().map(|row| pretraining_images(row)).collect();
    images.is_some_and(|images| images.len() == 1)
}

/// The index of an item in `seen`, to which it is appended if no item there is the `same`.
fn number<T>(seen: &mut Vec<T>, item: T, same: impl Fn(&T, &T) -> bool) -> usize {
    seen.iter().position(|other| same(other, &item)).unwrap_or_else(|| {
        seen.push(item);
        seen.len() - 1
    })
}

/// `f` of the quantities of some rows, one per side, and the deviation that every test image adds to it, by the delta
/// method. Derivatives are central differences, which are exact for what is linear.
fn measured(
    sides: &[ConfigQuantity],
    rows: &[&ResultRow],
    f: &dyn Fn(&[f64]) -> f64,
) -> Option<(f64, ImageDeviations)> {
    let values: Vec<f64> = sides.iter().zip(rows).map(|((_, quantity), row)| quantity(row)).collect::<Option<_>>()?;
    let mut deviations = ImageDeviations::default();
    for (i, ((_, quantity), row)) in sides.iter().zip(rows).enumerate() {
        let Some(answered) = &row.answers else { continue };
        let at = |value: f64| {
            let mut values = values.clone();
            values[i] = value;
            f(&values)
        };
        let outer = (at(values[i] + STEP) - at(values[i] - STEP)) / (2.0 * STEP);
        let mut varied: ResultRow = (*row).clone();
        for (name, right) in answered.right.named() {
            let mut quantity_at = |step: f64| {
                let best = varied.best.as_mut();
                [Some(&mut varied.accuracy), best]
                    .into_iter()
                    .flatten()
                    .filter_map(|of| of.get_mut(name))
                    .for_each(|x| *x += step);
                quantity(&varied)
            };
            // One step up, one step down from the value, and back to the value.
            let (Some(above), Some(below)) = (quantity_at(STEP), quantity_at(-2.0 * STEP)) else { return None };
            quantity_at(STEP);
            let images = TestImages { pool: row.origin.pool.clone(), drawn: answered.drawn.clone() };
            deviations.add(1.0, &ImageDeviations::of(images, right, outer * (above - below) / (2.0 * STEP)));
        }
    }
    Some((f(&values), deviations))
}

/// The share of training images that two draws have in common. Validation images count as well if an attack or a
/// control looks at them. If there are several sides, it is the largest share, without sides whose data are equal. It
/// is 1 if the draws are not known, so that nothing is said about other training data.
fn overlap(a: &[&ResultRow], b: &[&ResultRow]) -> f64 {
    let drawn = |row: &ResultRow| Some(row.answers.as_ref()?.drawn.clone());
    let sides = a.iter().zip(b).filter(|(a, b)| a.origin.data != b.origin.data);
    let validation = a.iter().chain(b).any(|row| row.sees.validation() || row.controls_see.validation());
    let share = |(a, b): (&&ResultRow, &&ResultRow)| Some(common(&*drawn(a)?, &*drawn(b)?, validation));
    sides.map(|side| share(side).unwrap_or(1.0)).fold(0.0, f64::max)
}

/// The share of `a`'s training images (and validation images, if they count) that are among those of `b`.
fn common(a: &Drawn, b: &Drawn, validation: bool) -> f64 {
    let members = |splits: &[&[u32]]| {
        let most = splits.iter().flat_map(|split| split.iter()).max().map_or(0, |most| *most as usize + 1);
        let mut members = vec![false; most];
        splits.iter().flat_map(|split| split.iter()).for_each(|i| members[*i as usize] = true);
        members
    };
    let among =
        |split: &[u32], members: &[bool]| split.iter().filter(|i| members.get(**i as usize) == Some(&true)).count();
    if !validation {
        return among(&a.train, &members(&[&b.train])) as f64 / a.train.len().max(1) as f64;
    }
    let n = (a.train.len() + a.validation.len()).max(1);
    // If validation images come from a pool of their own, their numbers mean other images than the same numbers in the
    // training pool.
    let count = if among(&a.validation, &members(&[&a.train])) > 0 {
        among(&a.train, &members(&[&b.train])) + among(&a.validation, &members(&[&b.validation]))
    } else {
        let members = members(&[&b.train, &b.validation]);
        among(&a.train, &members) + among(&a.validation, &members)
    };
    count as f64 / n as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config_group::quantity, findings::testing::made_up, statistics::ImageSharing};
    use hemlock_artifact::Measured;
    use hemlock_pipeline::{Answered, Origin};
    use serde_json::json;
    use std::sync::Arc;

    const IMAGES: usize = 100;

    /// Answers to all test images, of which a `share` is right, beginning with image `from`.
    fn right(share: f64, from: usize) -> Vec<bool> {
        (0..IMAGES).map(|i| (i + IMAGES - from) % IMAGES < (share * IMAGES as f64).round() as usize).collect()
    }

    /// A configuration with one row per (extractor, draw of training data, accuracy under attack). Every draw has its
    /// own test images, or all have the same.
    fn config(rows: &[(u64, u64, f64)], own_images: bool) -> ConfigGroup {
        let params = |extractor: u64| json!({ "method": "simclr", "seed": extractor });
        let mut made: Vec<ResultRow> = Vec::new();
        for (i, (extractor, draw, accuracy)) in rows.iter().enumerate() {
            let mut row = made_up("bilevel + feature-matching").images([*accuracy; 3]).rows()[0].clone();
            row.seed = *draw;
            row.key = format!("row {i}");
            row.params.insert("pretrain", params(*extractor));
            row.origin = Origin {
                extractor: extractor.to_string(),
                data: draw.to_string(),
                pool: "pool".to_owned(),
                seeds: [None, None, Some(*extractor), None, None],
            };
            let test = (0..IMAGES as u32).map(|i| i + if own_images { 1000 * *draw as u32 } else { 0 }).collect();
            // Neighbouring draws have half of their images in common.
            let train = (0..20).map(|i| i + 10 * *draw as u32).collect();
            let answers = Measured::new(right(0.8, 0)).with("images", right(*accuracy, 0));
            let drawn = Arc::new(Drawn { test, train, validation: Vec::new() });
            row.answers = Some(Arc::new(Answered { right: answers, drawn }));
            made.push(row);
        }
        ConfigGroup::all(&made).remove(0)
    }

    #[test]
    fn extractors_and_draws_are_found_and_counted() {
        let observations = [(0, 0, 0.5), (0, 1, 0.52), (1, 0, 0.6), (1, 1, 0.58), (2, 0, 0.5), (2, 1, 0.55)];
        let e = config(&observations, false).mean(quantity::drop).unwrap();
        assert_eq!(e.n, 6, "one config");
        let scope = e.inference.unwrap().scope;
        assert_eq!((scope.extractors, scope.draws, scope.images), (3, 2, ImageSharing::Same(IMAGES)));
        assert_eq!((scope.overlap, scope.nested, scope.left_out), (0.5, false, 0));
        let missing = config(&observations[..5], false).mean(quantity::drop).unwrap();
        let scope = missing.inference.unwrap().scope;
        assert_eq!(
            (scope.extractors, scope.draws, scope.left_out),
            (2, 2, 1),
            "the third extractor has one draw alone"
        );
        let diagonal = config(&[(0, 0, 0.5), (1, 1, 0.55), (2, 2, 0.52)], true).mean(quantity::drop).unwrap();
        let scope = diagonal.inference.unwrap().scope;
        assert_eq!((scope.extractors, scope.draws, scope.nested, scope.images), (3, 3, true, ImageSharing::Apart));
        let scattered = config(&[(0, 0, 0.5), (1, 1, 0.55), (2, 0, 0.52), (2, 1, 0.6), (0, 2, 0.7)], false);
        assert_eq!(scattered.mean(quantity::drop).unwrap().inference.err(), Some(Lack::Incomplete));
    }

    /// On other data, draws have nothing in common, but extractors are the same.
    #[test]
    fn extractors_that_both_sides_have_are_compared_with_themselves() {
        let side = |less: f64, shift: u64| {
            let wiggle = |e: u64, d: u64| 0.01 * ((e * 7 + d * 3) % 4) as f64;
            let cells = (0..3).flat_map(|e| (0..2).map(move |d| (e, d)));
            let rows: Vec<_> = cells.map(|(e, d)| (e, d, 0.4 + 0.1 * e as f64 + wiggle(e, d + shift) - less)).collect();
            config(&rows, true)
        };
        let variance = |e: Estimate| e.inference.unwrap().variance;
        let (a, b) = (side(0.0, 0), side(0.05, 1));
        let paired = a.minus_other_data(quantity::images, &b).unwrap();
        assert!((paired.mean - 0.05).abs() < 0.02, "{}", paired.mean);
        let apart = a.mean(quantity::images).unwrap().minus(&b.mean(quantity::images).unwrap());
        assert!(variance(paired) < 0.2 * variance(apart));
        // One extractor is no sample of extractors, and draws of two data sets are two samples.
        let [a, b] = [0.6, 0.5].map(|x| config(&[(0, 0, x), (0, 1, x + 0.04), (0, 2, x + 0.02)], true));
        let alone = a.minus_other_data(quantity::images, &b).unwrap();
        let apart = a.mean(quantity::images).unwrap().minus(&b.mean(quantity::images).unwrap());
        assert_eq!(variance(alone), variance(apart));
        assert!(!alone.inference.unwrap().scope.sides, "both have the same extractor");
    }

    /// One draw gives no error, and neither do draws that all give the same.
    #[test]
    fn what_is_missing_is_said() {
        let lack = |rows: &[(u64, u64, f64)]| config(rows, false).mean(quantity::drop).unwrap().inference.err();
        assert_eq!(lack(&[(0, 0, 0.5)]), Some(Lack::One));
        assert_eq!(lack(&[(0, 0, 0.5), (0, 1, 0.5), (0, 2, 0.5)]), Some(Lack::NoSpread));
        let run =
            |seed: u64| ResultRow { seed, key: seed.to_string(), ..config(&[(0, 0, 0.5)], false).rows[0].clone() };
        let equal = ConfigGroup::all(&[run(0), run(1)]).remove(0).mean(quantity::drop).unwrap();
        assert_eq!(equal.inference.err(), Some(Lack::Equal), "of one draw");
        let (a, b) = (config(&[(0, 0, 0.5), (0, 1, 0.6)], false), config(&[(0, 2, 0.5), (0, 3, 0.6)], false));
        let apart = a.minus(quantity::images, &b, quantity::images).unwrap();
        assert_eq!((apart.inference.err(), apart.n), (Some(Lack::NoPairs), 0));
    }

    /// One side was run with every extractor, the other with the first one alone, or with other training data.
    #[test]
    fn sides_meet_where_both_were_run() {
        let all = config(&[(0, 0, 0.5), (0, 1, 0.52), (1, 0, 0.6), (1, 1, 0.58)], false);
        let first = config(&[(0, 0, 0.45), (0, 1, 0.5)], false);
        let e = all.minus(quantity::images, &first, quantity::images).unwrap();
        let scope = e.inference.unwrap().scope;
        assert!((e.mean - 0.035).abs() < 1e-12, "{}", e.mean);
        assert_eq!((e.n, scope.extractors, scope.draws, scope.left_out), (2, 1, 2, 2));
        let second = config(&[(1, 0, 0.45), (1, 1, 0.5)], false);
        let apart = second.minus(quantity::images, &first, quantity::images).unwrap();
        assert_eq!(apart.inference.err(), Some(Lack::NoPairs));
    }

    /// The drop is the share of images that only the clean victim gets right, and has the error of such a share.
    #[test]
    fn test_images_count_once_however_many_draws_share_them() {
        let draws = [(0, 0, 0.60), (0, 1, 0.61), (0, 2, 0.59)];
        let of = |own| config(&draws, own).mean(quantity::drop).unwrap().inference.unwrap();
        let (same, own) = (of(false), of(true));
        // The drop is 0.2, so its variance is that of a share of 0.2.
        let share = 0.2 * 0.8 / (IMAGES as f64 - 1.0);
        assert!((same.components.images / share - 1.0).abs() < 0.05, "{} is not {share}", same.components.images);
        assert_eq!(own.components.images, 0.0);
        assert!(own.variance < same.variance);
        let before = Estimate::of(&[0.20, 0.19, 0.21]).unwrap().inference.unwrap().variance;
        assert!(same.variance > 10.0 * before, "{before}");
    }

    /// If attacks fool a victim about the same images, the error of their difference is small.
    #[test]
    fn sides_are_compared_image_by_image() {
        let a = config(&[(0, 0, 0.60), (0, 1, 0.62)], false);
        let b = config(&[(0, 0, 0.58), (0, 1, 0.59)], false);
        let paired = a.minus(quantity::images, &b, quantity::images).unwrap();
        let alone = a.mean(quantity::images).unwrap().minus(&b.mean(quantity::images).unwrap());
        assert!((paired.mean - alone.mean).abs() < 1e-12);
        let images = |e: &Estimate| e.inference.unwrap().components.images;
        assert!(images(&paired) < images(&alone) / 5.0);
    }

    #[test]
    fn derivatives_of_ratios_are_right() {
        let c = config(&[(0, 0, 0.60), (0, 1, 0.62)], false);
        let share = |r: &ResultRow| Some(r.accuracy.images()? / r.accuracy.clean);
        let images = c.mean(share).unwrap().inference.unwrap().components.images;
        // By hand: the influence of an image on the ratio of the accuracies, by the quotient rule.
        let z = |clean: bool, hit: bool, p: f64| {
            (f64::from(u8::from(hit)) - p) / 0.8 - p / 0.64 * (f64::from(u8::from(clean)) - 0.8)
        };
        let at = |i: usize, p: f64| z(right(0.8, 0)[i], right(p, 0)[i], p);
        let sum: f64 = (0..IMAGES).map(|i| at(i, 0.60) * at(i, 0.62)).sum();
        let by_hand = sum / (IMAGES * (IMAGES - 1)) as f64;
        assert!((images / by_hand - 1.0).abs() < 1e-6, "{images} is not {by_hand}");
    }
}
