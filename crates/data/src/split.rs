//! Disjoint splits by count, class-balanced or as the pool is.

use hemlock_streams::Purpose;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::DataError;
use hemlock_stage::few;
use schemars::JsonSchema;
use std::cmp::Ordering;
use std::collections::{BTreeSet, BinaryHeap};

/// The number of images that each split takes, and the choice of these images.
///
/// The images of every class are shuffled by a stream of their own, from `role` and `seed`. Each split then takes
/// images of every class:
///
/// | split | source with such a pool | source without |
/// | --- | --- | --- |
/// | `train` | the first images of the training pool | |
/// | `validation` | the first images of the validation pool | the next images of the training pool |
/// | `test` | the images of the test pool whose turn it is | the last images of the training pool |
///
/// A count is divided among the classes evenly, where the first classes get one more if it does not divide; or in
/// proportion to the images that the pool has of them ([`Balance`]).
///
/// The test pool is shuffled in the same way for all seeds. Each seed takes the next images of it, and continues with
/// the first ones after the last. As many successive seeds (such as 0, 1, 2) as the pool has room for thus have
/// different test images, so that their results do not share the accident of which images these are. The order of the
/// seeds does not matter.
///
/// Invariant: if `train` is a count, its images depend only on that count, the role, the seed and the pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SplitSpec {
    /// Number of training images; `None` for all that the other splits leave.
    pub train: Option<usize>,
    /// Number of training images of every class, in place of `train`.
    pub per_class: Option<usize>,
    /// How counts are divided among the classes.
    pub balance: Balance,
    /// Number of validation images; `None` for all of the validation pool, or for no image if there is no such pool.
    pub validation: Option<usize>,
    /// Number of test images; `None` for all of the test pool or, without one, for all that the other splits leave.
    pub test: Option<usize>,
    /// Seed of the choice.
    pub seed: u64,
    /// The purpose of the images. Each role draws its images independently of the other.
    pub role: DatasetRole,
    /// Names of the classes that are taken, in the order of their labels; `None` for all classes of the source.
    pub classes: Option<Vec<String>>,
}

/// How a count of images is divided among the classes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// Evenly.
    #[default]
    Even,
    /// In proportion to the images that the pool has of each class, so that a part is as unbalanced as the whole.
    Proportional,
}

impl Balance {
    /// Divides `count` images among the classes of a pool, which has `sizes` images of them.
    ///
    /// Proportional shares are those of Webster's method: image by image, to the class of the largest `size / (2 n +
    /// 1)`, where `n` is what it has. A larger count therefore gives no class less, and no class gets more than it has.
    fn shares(self, count: usize, sizes: &[usize]) -> Vec<usize> {
        if self == Self::Even {
            let share = |class| count / sizes.len() + usize::from(class < count % sizes.len());
            return (0..sizes.len()).map(share).collect();
        }
        let mut shares = vec![0; sizes.len()];
        let mut heap: BinaryHeap<Claim> =
            (0..sizes.len()).map(|class| Claim { size: sizes[class], n: 0, class }).collect();
        for _ in 0..count {
            if let Some(mut most) = heap.peek_mut() {
                shares[most.class] += 1;
                most.n += 1;
            }
        }
        shares
    }
}

/// The claim of a class to the next image.
struct Claim {
    size: usize,
    n: usize,
    class: usize,
}

impl Ord for Claim {
    fn cmp(&self, other: &Self) -> Ordering {
        let claim = |this: &Self, other: &Self| this.size as u128 * (2 * other.n as u128 + 1);
        claim(self, other).cmp(&claim(other, self)).then(other.class.cmp(&self.class))
    }
}

impl PartialOrd for Claim {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Claim {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Claim {}

/// The purpose of a dataset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DatasetRole {
    /// The images pre-train an extractor.
    Pretraining,
    /// The images train and test heads.
    #[default]
    Downstream,
}

impl DatasetRole {
    fn purpose(self) -> Purpose {
        match self {
            Self::Pretraining => Purpose::PretrainingSplit,
            Self::Downstream => Purpose::DownstreamSplit,
        }
    }
}

/// The label of an image whose class is not taken.
pub(crate) const NOT_TAKEN: u32 = u32::MAX;

/// Positions of the chosen images of each split in their pool, ascending.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// Positions in the training pool.
    pub train: Vec<u32>,
    /// Positions in the validation pool or, without one, in the training pool.
    pub validation: Vec<u32>,
    /// Positions in the test pool or, without one, in the training pool.
    pub test: Vec<u32>,
}

impl SplitSpec {
    /// Checks the parameters that can be checked without the data: `train` is not 0, and `classes` are at least two
    /// different names.
    ///
    /// # Errors
    /// [`DataError::Parameter`] for the first parameter that is wrong.
    pub fn check(&self) -> Result<(), DataError> {
        if self.train == Some(0) || self.per_class == Some(0) {
            return Err(empty_train());
        }
        if let (Some(train), Some(_)) = (self.train, self.per_class) {
            let expected = "none beside `per_class`, which is another way to say it";
            return Err(DataError::Parameter { field: "split.train", value: train.to_string(), expected });
        }
        if let Some(classes) = &self.classes {
            let distinct: BTreeSet<&String> = classes.iter().collect();
            if distinct.len() < 2 || distinct.len() < classes.len() {
                return Err(DataError::Parameter {
                    field: "split.classes",
                    value: format!("[{}]", few(classes.iter().map(|name| format!("`{name}`")))),
                    expected: "at least two names of classes, each once",
                });
            }
        }
        Ok(())
    }

    /// Chooses images by the labels of the pools. Labels are below the number of classes, or `u32::MAX` for images that
    /// are not taken. `validation_labels` and `test_labels` are `None` if these splits are taken from the training
    /// pool.
    ///
    /// # Errors
    /// - [`DataError::Shortage`] if a class has fewer images than a split asks for.
    /// - [`DataError::Parameter`] if no training image is left, or if there is neither a test pool nor a count of
    ///   training or test images.
    pub fn choose(
        &self,
        classes: &[String],
        train_labels: &[u32],
        validation_labels: Option<&[u32]>,
        test_labels: Option<&[u32]>,
    ) -> Result<Chosen, DataError> {
        if test_labels.is_none() && self.train.is_none() && self.per_class.is_none() && self.test.is_none() {
            return Err(DataError::Parameter {
                field: "split.test",
                value: "not given".to_owned(),
                expected: "a count, because the source has no test pool (or give split.train)",
            });
        }
        let shuffled = |labels: &[u32], pool| self.shuffled_classes(labels, classes.len(), self.seed, pool);
        let train_pool = shuffled(train_labels, TRAIN_POOL);
        let test_pool = test_labels.map(|labels| self.shuffled_classes(labels, classes.len(), 0, TEST_POOL));
        let validation_pool = validation_labels.map(|labels| shuffled(labels, VALIDATION_POOL));

        let sizes = |pool: &[Vec<u32>]| pool.iter().map(Vec::len).collect::<Vec<_>>();
        let train_count = self.per_class.map(|count| count * classes.len()).or(self.train);
        // The counts that follow each other in the training pool, so that their shares fit together.
        let own_validation = if validation_pool.is_some() { 0 } else { self.validation.unwrap_or(0) };
        let own_test = if test_pool.is_some() { 0 } else { self.test.unwrap_or(0) };
        let shares = self.consecutive([train_count.unwrap_or(0), own_validation, own_test], &sizes(&train_pool));
        let of = |pool: &Option<Vec<Vec<u32>>>, count: Option<usize>| {
            pool.as_ref().zip(count).map(|(pool, count)| self.balance.shares(count, &sizes(pool)))
        };
        let (validation_shares, test_shares) = (of(&validation_pool, self.validation), of(&test_pool, self.test));

        let mut chosen = Chosen::default();
        for (class, name) in classes.iter().enumerate() {
            let mut rest = Rest { images: &train_pool[class], class: name };
            let mut test = None;
            match (&test_pool, self.test) {
                (Some(pool), _) => {
                    let rest = Rest { images: &pool[class], class: name };
                    let count = test_shares.as_ref().map_or(rest.images.len(), |shares| shares[class]);
                    test = Some(rest.turn("test", count, self.seed)?);
                }
                (None, Some(_)) => test = Some(rest.last("test", shares[2][class])?.to_vec()),
                // The images that train and validation leave, which are known at the end.
                (None, None) => {}
            }
            // The share that is taken from the training pool.
            let validation = shares[1][class];
            let (field, train) = match (self.per_class, train_count) {
                (Some(count), _) => ("per_class", count),
                (None, Some(_)) => ("train", shares[0][class]),
                // If validation asks for too much, the error should name validation, not train.
                (None, None) => ("train", rest.images.len().saturating_sub(validation)),
            };
            chosen.train.extend(rest.first(field, train)?);
            chosen.validation.extend(match &validation_pool {
                None => rest.first("validation", validation)?,
                Some(pool) => {
                    let mut own = Rest { images: &pool[class], class: name };
                    let count = validation_shares.as_ref().map_or(own.images.len(), |shares| shares[class]);
                    own.first("validation", count)?
                }
            });
            chosen.test.extend(test.unwrap_or_else(|| rest.images.to_vec()));
        }
        if chosen.train.is_empty() {
            return Err(empty_train());
        }
        chosen.train.sort_unstable();
        chosen.validation.sort_unstable();
        chosen.test.sort_unstable();
        Ok(chosen)
    }

    /// Divides counts of images that are taken from the same pool, so that no class has to give more than it has as
    /// long as the pool has enough.
    fn consecutive(&self, counts: [usize; 3], sizes: &[usize]) -> [Vec<usize>; 3] {
        if self.balance == Balance::Even {
            return counts.map(|count| self.balance.shares(count, sizes));
        }
        let mut before = vec![0; sizes.len()];
        let mut total = 0;
        counts.map(|count| {
            total += count;
            let all = self.balance.shares(total, sizes);
            let own = all.iter().zip(&before).map(|(all, before)| all - before).collect();
            before = all;
            own
        })
    }

    /// Returns the positions of each class's images in a pool, shuffled independently for each class.
    fn shuffled_classes(&self, labels: &[u32], classes: usize, seed: u64, pool: u64) -> Vec<Vec<u32>> {
        let mut by_class = vec![Vec::new(); classes];
        for (index, &label) in (0u32..).zip(labels) {
            if label != NOT_TAKEN {
                by_class[label as usize].push(index);
            }
        }
        for (class, indices) in (0u64..).zip(&mut by_class) {
            indices.shuffle(&mut self.role.purpose().at(seed, [pool, class]));
        }
        by_class
    }
}

/// The pools, as coordinates of their random streams.
const TRAIN_POOL: u64 = 0;
const VALIDATION_POOL: u64 = 1;
const TEST_POOL: u64 = 2;

/// The images of one class that no split has taken yet.
struct Rest<'a> {
    images: &'a [u32],
    class: &'a str,
}

impl<'a> Rest<'a> {
    fn first(&mut self, split: &'static str, count: usize) -> Result<&'a [u32], DataError> {
        let (taken, rest) = self.images.split_at_checked(count).ok_or_else(|| self.shortage(split, count))?;
        self.images = rest;
        Ok(taken)
    }

    /// Returns the images of one seed, if every seed takes `count` images, one after the other and again from the
    /// start.
    fn turn(&self, split: &'static str, count: usize, seed: u64) -> Result<Vec<u32>, DataError> {
        let n = self.images.len();
        if count > n {
            return Err(self.shortage(split, count));
        }
        // After n turns, the images begin at the same position again.
        let first = if n == 0 { 0 } else { (seed % n as u64) as usize * count % n };
        Ok(self.images.iter().cycle().skip(first).take(count).copied().collect())
    }

    fn last(&mut self, split: &'static str, count: usize) -> Result<&'a [u32], DataError> {
        let (rest, taken) = self
            .images
            .len()
            .checked_sub(count)
            .map(|middle| self.images.split_at(middle))
            .ok_or_else(|| self.shortage(split, count))?;
        self.images = rest;
        Ok(taken)
    }

    fn shortage(&self, split: &'static str, asked: usize) -> DataError {
        DataError::Shortage { split, class: self.class.to_owned(), asked, available: self.images.len() }
    }
}

fn empty_train() -> DataError {
    DataError::Parameter { field: "split.train", value: "0".to_owned(), expected: "at least one image to train on" }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(classes: usize) -> Vec<String> {
        (0..classes).map(|class| format!("c{class}")).collect()
    }

    fn labels(classes: u32, per_class: u32) -> Vec<u32> {
        (0..classes * per_class).map(|i| i % classes).collect()
    }

    fn spec(train: Option<usize>, validation: usize, test: Option<usize>) -> SplitSpec {
        SplitSpec { train, validation: Some(validation), test, seed: 7, ..SplitSpec::default() }
    }

    fn counts(indices: &[u32], labels: &[u32], classes: usize) -> Vec<usize> {
        let mut counts = vec![0; classes];
        for &index in indices {
            counts[labels[index as usize] as usize] += 1;
        }
        counts
    }

    #[test]
    fn counts_are_balanced_and_the_first_classes_get_the_rest() {
        let (pool, test) = (labels(3, 10), labels(3, 4));
        let chosen = spec(Some(11), 4, Some(5)).choose(&names(3), &pool, None, Some(&test)).unwrap();
        assert_eq!(counts(&chosen.train, &pool, 3), [4, 4, 3]);
        assert_eq!(counts(&chosen.validation, &pool, 3), [2, 1, 1]);
        assert_eq!(counts(&chosen.test, &test, 3), [2, 2, 1]);
    }

    #[test]
    fn no_count_takes_all_that_is_left() {
        let (pool, test) = (labels(3, 10), labels(3, 4));
        let chosen = spec(None, 6, None).choose(&names(3), &pool, None, Some(&test)).unwrap();
        assert_eq!(counts(&chosen.train, &pool, 3), [8, 8, 8]);
        assert_eq!(chosen.test, (0..12).collect::<Vec<_>>());
        let all = spec(None, 0, None).choose(&names(3), &pool, None, Some(&test)).unwrap();
        assert_eq!(all.train, (0..30).collect::<Vec<_>>());
    }

    #[test]
    fn another_seed_chooses_others() {
        let pool = labels(2, 50);
        let choose = |seed| {
            let spec = SplitSpec { seed, ..spec(Some(20), 0, None) };
            spec.choose(&names(2), &pool, None, Some(&[])).unwrap()
        };
        assert_eq!(choose(1), choose(1));
        assert_ne!(choose(1), choose(2));
    }

    /// With equal seeds, the images of neither role are a prefix of the other's.
    #[test]
    fn each_role_chooses_for_itself() {
        let pool = labels(2, 50);
        for seed in 0..20 {
            let choose = |role, train, validation| {
                let spec = SplitSpec { seed, role, ..spec(Some(train), validation, Some(0)) };
                spec.choose(&names(2), &pool, None, Some(&[])).unwrap()
            };
            let extractor = choose(DatasetRole::Pretraining, 50, 0).train;
            let head = choose(DatasetRole::Downstream, 20, 20);
            let shared = [&head.train, &head.validation]
                .map(|split| split.iter().filter(|image| extractor.contains(image)).count());
            assert!(shared[0] < 20 && shared[1] < 20, "seed {seed}: {shared:?} of 20 are the extractor's");
            assert_ne!(extractor, choose(DatasetRole::Downstream, 50, 0).train);
        }
    }

    /// A pool of 10 images per class has room for two seeds with 5 images each, or for three with 3 each.
    #[test]
    fn seeds_have_test_images_of_their_own_as_far_as_there_are_others() {
        let (pool, test) = (labels(2, 20), labels(2, 10));
        let choose = |count, seed| {
            let spec = SplitSpec { seed, ..spec(Some(4), 0, Some(count)) };
            let chosen = spec.choose(&names(2), &pool, None, Some(&test)).unwrap();
            assert_eq!(counts(&chosen.test, &test, 2), [count / 2, count / 2]);
            chosen.test
        };
        let shared = |a: &[u32], b: &[u32]| a.iter().filter(|i| b.contains(i)).count();
        assert_eq!(shared(&choose(10, 0), &choose(10, 1)), 0);
        assert_eq!(choose(10, 0), choose(10, 2), "there are no others");
        for (a, b) in [(0, 1), (1, 2), (0, 2)] {
            assert_eq!(shared(&choose(6, a), &choose(6, b)), 0, "{a} and {b}");
        }
        assert!(shared(&choose(6, 0), &choose(6, 3)) > 0, "the pool ends, and begins anew");
        assert_eq!(choose(20, 0), choose(20, 7), "all there are");
        assert_eq!(choose(6, u64::MAX).len(), 6);
    }

    #[test]
    fn few_shots_are_as_many_of_every_class() {
        let pool = [vec![0; 30], vec![1; 3], vec![2; 12]].concat();
        let choose = |per_class| {
            let spec = SplitSpec { per_class: Some(per_class), ..SplitSpec::default() };
            spec.choose(&names(3), &pool, None, Some(&[0, 1, 2]))
        };
        assert_eq!(counts(&choose(3).unwrap().train, &pool, 3), [3, 3, 3]);
        let message = choose(4).unwrap_err().to_string();
        assert_eq!(message, "asks for 4 images of class `c1`, and 3 are available: lower `per_class`");
        let both = SplitSpec { per_class: Some(1), train: Some(3), ..SplitSpec::default() };
        assert!(both.check().unwrap_err().to_string().contains("none beside `per_class`"));
        assert!(SplitSpec { per_class: Some(0), ..SplitSpec::default() }.check().is_err());
    }

    /// By hand: of 60, 30 and 10 images, the proportional shares of 10, of the 10 behind them, and of the test pool.
    #[test]
    fn proportional_parts_are_as_unbalanced_as_the_whole() {
        let pool = [vec![0; 60], vec![1; 30], vec![2; 10]].concat();
        let proportional = SplitSpec { balance: Balance::Proportional, ..SplitSpec::default() };
        let spec = SplitSpec { train: Some(10), validation: Some(10), test: Some(80), ..proportional.clone() };
        let chosen = spec.choose(&names(3), &pool, None, None).unwrap();
        assert_eq!(counts(&chosen.train, &pool, 3), [6, 3, 1]);
        assert_eq!(counts(&chosen.validation, &pool, 3), [6, 3, 1]);
        assert_eq!(counts(&chosen.test, &pool, 3), [48, 24, 8]);
        let test = SplitSpec { test: Some(5), ..proportional };
        let chosen = test.choose(&names(3), &pool, None, Some(&pool)).unwrap();
        assert_eq!((chosen.train.len(), counts(&chosen.test, &pool, 3)), (100, vec![3, 2, 0]));
    }

    #[test]
    fn a_shortage_names_split_class_and_counts() {
        let mut pool = labels(2, 5);
        pool.push(0);
        let message = |spec: SplitSpec, test: Option<&[u32]>| {
            let error = spec.choose(&names(2), &pool, None, test).unwrap_err();
            error.to_string()
        };
        assert_eq!(
            message(spec(Some(12), 0, None), Some(&[0, 1])),
            "asks for 6 images of class `c1`, and 5 are available: lower `train`"
        );
        assert_eq!(
            message(spec(Some(8), 4, None), Some(&[0, 1])),
            "asks for 2 images of class `c1`, and 1 are available: lower `validation`"
        );
        assert_eq!(
            message(spec(None, 14, None), Some(&[0, 1])),
            "asks for 7 images of class `c0`, and 6 are available: lower `validation`"
        );
        assert!(message(spec(None, 0, Some(4)), Some(&[0, 1])).ends_with("lower `test`"));
        assert!(message(spec(None, 0, Some(12)), None).ends_with("lower `test`"));
        assert!(message(spec(None, 0, None), None).starts_with("split.test is not given"));
    }

    #[test]
    fn a_validation_pool_leaves_the_training_pool_alone() {
        let (pool, validation, test) = (labels(2, 10), labels(2, 6), labels(2, 3));
        let choose = |count| {
            let spec = SplitSpec { validation: count, ..SplitSpec::default() };
            spec.choose(&names(2), &pool, Some(&validation), Some(&test))
        };
        let all = choose(None).unwrap();
        assert_eq!(all.train, (0..20).collect::<Vec<_>>());
        assert_eq!(all.validation, (0..12).collect::<Vec<_>>());
        let some = choose(Some(5)).unwrap();
        assert_eq!(counts(&some.validation, &validation, 2), [3, 2]);
        assert_eq!((some.train, some.test), (all.train, all.test));
        assert!(choose(Some(0)).unwrap().validation.is_empty());
        let message = choose(Some(14)).unwrap_err().to_string();
        assert_eq!(message, "asks for 7 images of class `c0`, and 6 are available: lower `validation`");
    }

    #[test]
    fn classes_are_at_least_two_names_each_once() {
        let check = |classes: &[&str]| {
            let classes = Some(classes.iter().map(|name| (*name).to_owned()).collect());
            SplitSpec { classes, ..SplitSpec::default() }.check().map_err(|e| e.to_string())
        };
        assert_eq!(check(&["a", "b"]), Ok(()));
        let twice = check(&["a", "b", "a"]).unwrap_err();
        assert_eq!(twice, "split.classes is [`a`, `b`, `a`], expected at least two names of classes, each once");
        assert!(check(&["a"]).is_err() && check(&[]).is_err());
    }

    /// Images of classes that are not taken are in no split, and do not affect the choice of the others.
    #[test]
    fn images_of_other_classes_are_passed_over() {
        let own = labels(2, 10);
        let mut with_others = own.clone();
        with_others.extend([NOT_TAKEN; 7]);
        let choose =
            |pool: &[u32]| spec(Some(8), 4, None).choose(&names(2), pool, None, Some(&[0, 1, NOT_TAKEN])).unwrap();
        assert_eq!(choose(&own), choose(&with_others));
    }

    #[test]
    fn an_empty_train_is_refused() {
        let pool = labels(2, 5);
        assert!(spec(Some(0), 0, None).check().is_err());
        let error = spec(None, 10, None).choose(&names(2), &pool, None, Some(&[])).unwrap_err();
        assert!(error.to_string().starts_with("split.train is 0"));
    }

    proptest! {
        /// Parts that have enough images together never ask a class for more than it has.
        #[test]
        fn proportional_shares_fit(
            sizes in proptest::collection::vec(0usize..40, 1..6),
            cuts in (0.0..1.0f64, 0.0..1.0f64),
        ) {
            let total: usize = sizes.iter().sum();
            let (first, second) = (cuts.0.min(cuts.1) * total as f64, cuts.0.max(cuts.1) * total as f64);
            let (first, second) = (first as usize, second as usize);
            let spec = SplitSpec { balance: Balance::Proportional, ..SplitSpec::default() };
            let parts = spec.consecutive([first, second - first, total - second], &sizes);
            for (class, size) in sizes.iter().enumerate() {
                prop_assert_eq!(parts.iter().map(|part| part[class]).sum::<usize>(), *size);
                let exact = first as f64 * *size as f64 / total.max(1) as f64;
                prop_assert!((parts[0][class] as f64 - exact).abs() <= 2.0, "{:?} of {:?}", parts[0], sizes);
            }
        }

        #[test]
        fn splits_are_disjoint_and_train_ignores_the_others(
            train in 1usize..15,
            validation in 0usize..9,
            other_validation in 0usize..9,
            test in 0usize..9,
            seed: u64,
            own_test_pool: bool,
        ) {
            let (pool, test_pool) = (labels(3, 12), labels(3, 3));
            let choose = |validation, test| {
                SplitSpec { train: Some(train), validation: Some(validation), test, seed, ..SplitSpec::default() }
                    .choose(&names(3), &pool, None, own_test_pool.then_some(test_pool.as_slice()))
                    .unwrap()
            };
            let chosen = choose(validation, Some(test));
            prop_assert_eq!(chosen.train.len(), train);
            prop_assert_eq!(chosen.validation.len(), validation);
            prop_assert_eq!(chosen.test.len(), test);
            let of_train_pool = if own_test_pool { &[][..] } else { &chosen.test };
            let mut all = [&chosen.train, &chosen.validation, of_train_pool].concat();
            all.sort_unstable();
            all.dedup();
            prop_assert_eq!(all.len(), train + validation + of_train_pool.len());
            prop_assert_eq!(&choose(other_validation, Some(0)).train, &chosen.train);
            prop_assert_eq!(&choose(other_validation, Some(test)).test, &chosen.test);
            let rest = choose(validation, None);
            prop_assert_eq!(&rest.train, &chosen.train);
            let test_len = if own_test_pool { 9 } else { 36 - train - validation };
            prop_assert_eq!(rest.test.len(), test_len);
        }
    }
}
