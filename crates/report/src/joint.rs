//! Estimates of what is computed from results: row by row, and with what every test image adds to its error.

use crate::{
    Case,
    statistics::{Cell, Estimate, Images, Noise},
};
use hemlock_artifact::{Drawn, Measured};
use hemlock_pipeline::Row;
use std::collections::{BTreeMap, BTreeSet};

/// A case, and a quantity of its rows.
pub type Side<'a> = (&'a Case, &'a dyn Fn(&Row) -> Option<f64>);

/// By how much an accuracy is changed to see how a quantity follows it.
const STEP: f64 = 1e-4;

/// Rows by what sides are paired by, [`hemlock_pipeline::Origin::seeds`]; what several rows of a side share is counted.
fn by_seeds(case: &Case) -> BTreeMap<([Option<u64>; 3], usize), &Row> {
    let mut seen: BTreeMap<[Option<u64>; 3], usize> = BTreeMap::new();
    let key = |row: &Row| {
        let mut seeds = row.origin.seeds;
        seeds[2] = Some(row.seed);
        seeds
    };
    let number = |row| {
        let count = seen.entry(key(row)).or_default();
        *count += 1;
        ((key(row), *count), row)
    };
    case.rows.iter().map(number).collect()
}

/// What `f` makes of the quantities of some sides, combination by combination of the seeds that all sides have. `None` where a row has
/// no such quantity, or no side has a row.
pub fn joint(sides: &[Side], f: &dyn Fn(&[f64]) -> f64) -> Option<Estimate> {
    let rows: Vec<BTreeMap<_, &Row>> = sides.iter().map(|(case, _)| by_seeds(case)).collect();
    for ((case, quantity), _) in sides.iter().zip(&rows) {
        if case.rows.iter().any(|row| quantity(row).is_none()) {
            return None;
        }
    }
    let keys = rows.first()?.keys().filter(|key| rows.iter().all(|rows| rows.contains_key(key)));
    let paired: Vec<Vec<&Row>> = keys.map(|key| rows.iter().map(|rows| rows[key]).collect()).collect();
    let mut extractors: Vec<Vec<&str>> = Vec::new();
    let mut draws: Vec<Vec<&Row>> = Vec::new();
    let mut cells = Vec::new();
    for rows in &paired {
        let extractor =
            number(&mut extractors, rows.iter().map(|row| row.origin.extractor.as_str()).collect(), |a, b| a == b);
        let same = |a: &Vec<&Row>, b: &Vec<&Row>| a.iter().zip(b).all(|(a, b)| a.origin.data == b.origin.data);
        let draw = number(&mut draws, rows.clone(), same);
        let (value, noise) = measured(sides, rows, f)?;
        cells.push(Cell { extractor, draw, value, noise });
    }
    let apart = extractors.iter().any(|of| of.iter().collect::<BTreeSet<_>>().len() > 1);
    let mut estimate = Estimate::over(cells, &|a, b| overlap(&draws[a], &draws[b]))?;
    if let Ok(inference) = &mut estimate.inference {
        inference.scope.sides = apart;
    }
    Some(estimate)
}

/// The number of an item among those that were seen, to which it is added.
fn number<T>(seen: &mut Vec<T>, item: T, same: impl Fn(&T, &T) -> bool) -> usize {
    seen.iter().position(|other| same(other, &item)).unwrap_or_else(|| {
        seen.push(item);
        seen.len() - 1
    })
}

/// The value of some rows, one a side, and what test images add to its error: by the delta method, with differences in the place of
/// derivatives, which are exact for what is linear.
fn measured(sides: &[Side], rows: &[&Row], f: &dyn Fn(&[f64]) -> f64) -> Option<(f64, Noise)> {
    let values: Vec<f64> = sides.iter().zip(rows).map(|((_, quantity), row)| quantity(row)).collect::<Option<_>>()?;
    let mut noise = Noise::default();
    for (i, ((_, quantity), row)) in sides.iter().zip(rows).enumerate() {
        let Some(answered) = &row.answers else { continue };
        let at = |value: f64| {
            let mut values = values.clone();
            values[i] = value;
            f(&values)
        };
        let outer = (at(values[i] + STEP) - at(values[i] - STEP)) / (2.0 * STEP);
        let mut varied: Row = (*row).clone();
        for (name, right) in answered.right.named() {
            let mut quantity_at = |step: f64| {
                let best = varied.best.as_mut();
                [Some(&mut varied.accuracy), best]
                    .into_iter()
                    .flatten()
                    .filter_map(|of| field(of, name))
                    .for_each(|x| *x += step);
                quantity(&varied)
            };
            // Up, down, and back.
            let (Some(above), Some(below)) = (quantity_at(STEP), quantity_at(-2.0 * STEP)) else { return None };
            quantity_at(STEP);
            let images = Images { pool: row.origin.pool.clone(), drawn: answered.drawn.clone(), len: right.len() };
            noise.add(1.0, &Noise::of(images, right, outer * (above - below) / (2.0 * STEP)));
        }
    }
    Some((f(&values), noise))
}

/// A quantity by the name of its training set.
fn field<'a>(of: &'a mut Measured<f64>, name: &str) -> Option<&'a mut f64> {
    match name {
        "clean" => Some(&mut of.clean),
        "target" => of.target.as_mut(),
        "features" => of.features.as_mut(),
        "images" => of.images.as_mut(),
        "random_flips" => of.random_flips.as_mut(),
        "aligned_flips" => of.aligned_flips.as_mut(),
        "duplicates" => of.duplicates.as_mut(),
        "removed" => of.removed.as_mut(),
        _ => None,
    }
}

/// The share of training and validation images that two draws have in common; of several sides the largest, of those whose images are not
/// the same anyway. 0 where it is not known.
fn overlap(a: &[&Row], b: &[&Row]) -> f64 {
    let drawn = |row: &Row| row.answers.as_ref()?.drawn.clone();
    let sides = a.iter().zip(b).filter(|(a, b)| a.origin.data != b.origin.data);
    sides.filter_map(|(a, b)| Some(common(&*drawn(a)?, &*drawn(b)?))).fold(0.0, f64::max)
}

/// The share of the first's training and validation images that are among the second's.
fn common(a: &Drawn, b: &Drawn) -> f64 {
    // Where validation has a pool of its own, numbers of the one say nothing in the other.
    let apart = {
        let train: BTreeSet<u32> = a.train.iter().copied().collect();
        a.validation.iter().any(|i| train.contains(i))
    };
    let shared = |a: &[&[u32]], b: &[&[u32]]| {
        let there: BTreeSet<u32> = b.concat().into_iter().collect();
        a.concat().iter().filter(|i| there.contains(i)).count()
    };
    let n = (a.train.len() + a.validation.len()).max(1);
    let count = if apart {
        shared(&[&a.train], &[&b.train]) + shared(&[&a.validation], &[&b.validation])
    } else {
        shared(&[&a.train, &a.validation], &[&b.train, &b.validation])
    };
    count as f64 / n as f64
}
