//! Simulations of how often a true null is rejected, and of how often a confidence interval covers, with 10,000 cases
//! per setting. They are compared with the table in docs/findings.md, which has 100,000.
//!
//! Two attacks with the same distribution are compared, so that the true difference is 0. The victim of attack `a`, on
//! extractor `e` and training data `d`, is right about image `i` if
//!
//! ```text
//! shared(i) + E(a, e) + D(a, d) + A(a, e, d) + I(a, i) + EI(a, e, i) + DI(a, d, i) + rest(a, e, d, i) > -1/2
//! ```
//!
//! All effects are normal and drawn anew in each case. `D` is a sum over training images, each with its own effect.
//! Every draw takes some images of a pool, so the effects of two draws are correlated by the images that they share.

use super::{Estimate, ImageDeviations, Observation, TestImages};
use hemlock_artifact::Drawn;
use hemlock_streams::Purpose;
use rand::{RngExt, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

/// Number of simulated cases per setting.
const CASES: u64 = 10_000;
/// Number of test images.
const IMAGES: usize = 200;
/// Number of training images in the pool.
const POOL: usize = 50;

/// A setting: numbers of levels, and standard deviations of effects.
#[derive(Debug, Clone, Copy)]
struct Design {
    extractors: usize,
    draws: usize,
    /// Number of training images in a draw.
    train: usize,
    /// Whether every draw has test images of its own.
    own_images: bool,
    extractor: f64,
    draw: f64,
    attack: f64,
    image: f64,
    extractor_image: f64,
    draw_image: f64,
    rest: f64,
}

/// One extractor, five draws of two fifths of the pool, and the same test images for all.
const USUAL: Design = Design {
    extractors: 1,
    draws: 5,
    train: 20,
    own_images: false,
    extractor: 0.0,
    draw: 0.12,
    attack: 0.0,
    image: 0.7,
    extractor_image: 0.0,
    draw_image: 0.3,
    rest: 0.3,
};

/// Five extractors, each with the same three draws.
const CROSSED: Design =
    Design { extractors: 5, draws: 3, extractor: 0.15, attack: 0.03, extractor_image: 0.4, ..USUAL };

/// Standard normal numbers, by the method of Box and Muller (1958).
struct Normals(ChaCha8Rng, Option<f64>);

impl Normals {
    fn next(&mut self) -> f64 {
        if let Some(x) = self.1.take() {
            return x;
        }
        let radius = (-2.0 * (1.0 - self.0.random::<f64>()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.0.random::<f64>()).sin_cos();
        self.1 = Some(radius * sin);
        radius * cos
    }

    fn some(&mut self, n: usize, deviation: f64) -> Vec<f64> {
        (0..n).map(|_| if deviation == 0.0 { 0.0 } else { deviation * self.next() }).collect()
    }
}

/// The observations of one simulated case, and the shares of images that two draws have in common, `[draws, draws]`.
fn simulated(s: &Design, case: u64) -> (Vec<Observation>, Vec<Vec<f64>>) {
    let mut random = Normals(Purpose::Test.of(case), None);
    let train: Vec<Vec<usize>> = (0..s.draws)
        .map(|_| {
            let mut all: Vec<usize> = (0..POOL).collect();
            all.shuffle(&mut random.0);
            all.truncate(s.train);
            all
        })
        .collect();
    let common = |a: &Vec<usize>, b: &Vec<usize>| a.iter().filter(|i| b.contains(i)).count() as f64 / s.train as f64;
    let overlap: Vec<Vec<f64>> = train.iter().map(|a| train.iter().map(|b| common(a, b)).collect()).collect();
    let (sets, columns) = if s.own_images { (s.draws, s.draws * IMAGES) } else { (1, IMAGES) };
    let images: Vec<TestImages> = (0..sets)
        .map(|set| {
            let test = (0..IMAGES).map(|i| (set * IMAGES + i) as u32).collect();
            TestImages { pool: "pool".to_owned(), drawn: Arc::new(Drawn { test, ..Drawn::default() }) }
        })
        .collect();
    let shared = random.some(columns, 1.0);
    let n = s.extractors * s.draws;
    let mut right: [Vec<Vec<bool>>; 2] = Default::default();
    for right in &mut right {
        let (e, a) = (random.some(s.extractors, s.extractor), random.some(n, s.attack));
        let effects = random.some(POOL, s.draw / (s.train as f64).sqrt());
        let d: Vec<f64> = train.iter().map(|images| images.iter().map(|i| effects[*i]).sum()).collect();
        let image = random.some(columns, s.image);
        let by_extractor = random.some(s.extractors * columns, s.extractor_image);
        let by_draw = random.some(s.draws * IMAGES, s.draw_image);
        let rest = random.some(n * IMAGES, s.rest);
        for cell in 0..n {
            let (x, t) = (cell / s.draws, cell % s.draws);
            let answer = |i: usize| {
                let column = if s.own_images { t * IMAGES + i } else { i };
                let view = by_extractor[x * columns + column] + by_draw[t * IMAGES + i] + rest[cell * IMAGES + i];
                shared[column] + image[column] + e[x] + d[t] + a[cell] + view > -0.5
            };
            right.push((0..IMAGES).map(answer).collect());
        }
    }
    let cell = |cell: usize| {
        let t = cell % s.draws;
        let images = &images[if s.own_images { t } else { 0 }];
        let mut deviations = ImageDeviations::of(images.clone(), &right[0][cell], 1.0);
        deviations.add(1.0, &ImageDeviations::of(images.clone(), &right[1][cell], -1.0));
        let share = |right: &[bool]| right.iter().filter(|r| **r).count() as f64 / IMAGES as f64;
        Observation {
            extractor: cell / s.draws,
            draw: t,
            value: share(&right[0][cell]) - share(&right[1][cell]),
            deviations,
        }
    };
    ((0..n).map(cell).collect(), overlap)
}

/// Shares of cases in which a one-sided test rejects at 5 % and in which the 95 % interval covers: `[rejected,
/// covered]`, first for [`Estimate::over`], then for Student's t over the same values as if they were independent.
fn calibrated(setting: &Design) -> [[f64; 2]; 2] {
    let mut counts = [[0u64; 2]; 2];
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let of = |thread: u64| {
        let mut counts = [[0u64; 2]; 2];
        for case in (thread..CASES).step_by(threads as usize) {
            let (observations, overlap) = simulated(setting, case);
            let values: Vec<f64> = observations.iter().map(|cell| cell.value).collect();
            let estimates = [Estimate::over(observations, &|a, b| overlap[a][b]), Estimate::of(&values)];
            for (counts, estimate) in counts.iter_mut().zip(estimates) {
                let estimate = estimate.unwrap();
                // Values that happen to be equal reject nothing, and their interval is infinite.
                let (p, half) = (estimate.p_above().unwrap_or(1.0), estimate.half_width().unwrap_or(f64::INFINITY));
                counts[0] += u64::from(p <= 0.05);
                counts[1] += u64::from(estimate.mean.abs() <= half);
            }
        }
        counts
    };
    std::thread::scope(|scope| {
        let of = &of;
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || of(thread))).collect();
        for thread in running {
            for (sum, part) in counts.as_flattened_mut().iter_mut().zip(thread.join().unwrap().as_flattened()) {
                *sum += part;
            }
        }
    });
    counts.map(|counts| counts.map(|n| n as f64 / CASES as f64))
}

/// As [`calibrated`], of a setting that is a row of the table in docs/findings.md. Asserts that the row has these
/// numbers, within 3.5 standard errors of the cases that were simulated here.
fn as_printed(row: &str, setting: &Design) -> [[f64; 2]; 2] {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/findings.md");
    let page = std::fs::read_to_string(page).unwrap();
    let cells = page.lines().find_map(|line| line.strip_prefix("| ")?.strip_prefix(row)?.strip_prefix(" | "));
    let numbers = cells.unwrap_or_else(|| panic!("docs/findings.md has no row {row:?}")).split(['|', '/']);
    let printed: Vec<f64> = numbers.filter_map(|number| number.trim().parse().ok()).collect();
    let found = calibrated(setting);
    assert_eq!(printed.len(), found.as_flattened().len(), "{row}");
    for (printed, found) in printed.iter().zip(found.as_flattened()) {
        let error = (found * (1.0 - found) / CASES as f64).sqrt();
        assert!((printed / 100.0 - found).abs() < 3.5 * error + 5e-4, "{row}: {printed} % is printed, {found} found");
    }
    found
}

/// Asserts that 5 % are rejected and 95 % are covered, both within 1 % and two standard errors of a share of the cases
/// (0.44 %).
fn holds([size, coverage]: [f64; 2]) {
    assert!((size - 0.05).abs() < 0.0144, "a true null is rejected in {size} of the cases");
    assert!((coverage - 0.95).abs() < 0.0144, "the interval covers in {coverage} of the cases");
}

/// Student's t over seeds ignores what seeds share.
#[test]
fn one_extractor_and_overlapping_training_data() {
    let row = "one extractor, 5 draws of 40 % of the images, the same test images";
    let [ours, [size, coverage]] = as_printed(row, &USUAL);
    holds(ours);
    assert!(size > 0.15 && coverage < 0.75, "of independent seeds: {size}, {coverage}");
}

#[test]
fn three_draws() {
    holds(as_printed("the same, 3 draws", &Design { draws: 3, ..USUAL })[0]);
    holds(calibrated(&Design { draws: 3, draw: 0.24, ..USUAL })[0]);
}

#[test]
fn draws_with_little_in_common() {
    holds(as_printed("the same, 5 draws of 10 % of the images", &Design { train: 5, ..USUAL })[0]);
}

#[test]
fn extractors_on_the_same_training_data() {
    let setting = Design { draws: 1, draw: 0.0, draw_image: 0.0, ..CROSSED };
    holds(as_printed("5 extractors, the same training data and test images", &setting)[0]);
}

#[test]
fn five_extractors_and_three_draws() {
    let [ours, [size, coverage]] = as_printed("5 extractors, 3 draws of 40 %, the same test images", &CROSSED);
    holds(ours);
    assert!(size > 0.2 && coverage < 0.6, "of independent seeds: {size}, {coverage}");
}

#[test]
fn five_extractors_and_five_draws() {
    let setting = Design { draws: 5, ..CROSSED };
    holds(as_printed("5 extractors, 5 draws of 40 %, the same test images", &setting)[0]);
}

/// In other settings the test is conservative: fewer than 5 % are rejected, and more than 95 % are covered.
#[test]
fn otherwise_it_is_conservative() {
    let settings = [
        ("5 extractors, 3 draws of 40 %; attacks vary twice as much as extractors", Design { attack: 0.3, ..CROSSED }),
        ("one extractor, 5 draws of 40 %, training images do not matter", Design { draw: 0.0, ..USUAL }),
        ("one extractor, 5 draws of 40 %, each with test images of its own", Design { own_images: true, ..USUAL }),
        ("one extractor, 5 draws of 70 %", Design { train: 35, ..USUAL }),
    ];
    for (row, setting) in settings {
        let [[size, coverage], _] = as_printed(row, &setting);
        assert!((0.01..0.05).contains(&size) && (0.95..0.99).contains(&coverage), "{size}, {coverage}: {setting:?}");
    }
}

/// Two draws are too few: the interval is too short.
#[test]
fn two_draws_are_too_few() {
    let [[size, coverage], _] = as_printed("one extractor, 2 draws of 40 %", &Design { draws: 2, ..USUAL });
    assert!(size < 0.08 && (0.89..0.94).contains(&coverage), "{size}, {coverage}");
}
