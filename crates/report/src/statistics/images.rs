//! The part of a value's error that comes from test images.

use hemlock_artifact::Drawn;
use std::{collections::HashMap, sync::Arc};

/// The test images of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestImages {
    /// The source that the images were drawn from.
    pub pool: String,
    /// The indices of the images in the source.
    pub drawn: Arc<Drawn>,
}

impl TestImages {
    fn same(&self, other: &Self) -> bool {
        let (a, b) = (&self.drawn, &other.drawn);
        self.pool == other.pool && (Arc::ptr_eq(a, b) || a.test == b.test)
    }
}

/// The deviation of a value from its value over all images, as a sum over test images. The sum of the squares of these
/// numbers estimates the part of the value's variance that comes from test images. The sum of their products with the
/// numbers of another value estimates the covariance.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImageDeviations(Vec<(TestImages, Vec<f64>)>);

impl ImageDeviations {
    /// The deviations of a value whose derivative with respect to the share of right answers is `derivative`. Empty if
    /// the derivative is 0, or if there are fewer than two images.
    #[must_use]
    pub fn of(images: TestImages, right: &[bool], derivative: f64) -> Self {
        let n = right.len() as f64;
        if derivative == 0.0 || right.len() < 2 {
            return Self::default();
        }
        let share = right.iter().filter(|right| **right).count() as f64 / n;
        // The variance of a mean is s² / n, where the unbiased s² has n - 1 in its denominator.
        let scale = derivative / (n * (n - 1.0)).sqrt();
        Self(vec![(images, right.iter().map(|right| scale * (f64::from(u8::from(*right)) - share)).collect())])
    }

    /// Adds `scale` times other deviations: the deviations of a sum of values are the sums of theirs.
    pub fn add(&mut self, scale: f64, other: &Self) {
        for (images, each) in &other.0 {
            match self.0.iter_mut().find(|(mine, _)| mine.same(images)) {
                Some((_, mine)) => mine.iter_mut().zip(each).for_each(|(mine, x)| *mine += scale * x),
                None => self.0.push((images.clone(), each.iter().map(|x| scale * x).collect())),
            }
        }
    }

    /// Whether there are no test images, or none are known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of test images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|(_, each)| each.len()).sum()
    }

    /// Whether both have the same sets of test images.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        let within = |a: &Self, b: &Self| a.0.iter().all(|(x, _)| b.0.iter().any(|(y, _)| x.same(y)));
        within(self, other) && within(other, self)
    }

    /// Whether both have some test image in common.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        self.shared(other, |_, _| 1.0) > 0.0
    }

    /// The covariance of two values that comes from the test images that they share.
    #[must_use]
    pub fn covariance(&self, other: &Self) -> f64 {
        self.shared(other, |a, b| a * b)
    }

    fn shared(&self, other: &Self, of: impl Fn(f64, f64) -> f64) -> f64 {
        let mut sum = 0.0;
        for (images, a) in &self.0 {
            for (others, b) in other.0.iter().filter(|(others, _)| others.pool == images.pool) {
                if images.same(others) {
                    sum += a.iter().zip(b).map(|(a, b)| of(*a, *b)).sum::<f64>();
                    continue;
                }
                let there: HashMap<u32, f64> = others.drawn.test.iter().copied().zip(b.iter().copied()).collect();
                let both = images.drawn.test.iter().zip(a).filter_map(|(i, a)| Some(of(*a, *there.get(i)?)));
                sum += both.sum::<f64>();
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(pool: &str, test: &[u32]) -> TestImages {
        TestImages { pool: pool.to_owned(), drawn: Arc::new(Drawn { test: test.to_vec(), ..Drawn::default() }) }
    }

    #[test]
    fn a_share_has_the_variance_of_a_share() {
        let right = [true, false, true, true];
        let deviations = ImageDeviations::of(images("a", &[3, 5, 6, 9]), &right, 2.0);
        // p (1 - p) / (n - 1), times the square of the derivative.
        assert!((deviations.covariance(&deviations) - 4.0 * 0.75 * 0.25 / 3.0).abs() < 1e-15);
        let mut sum = deviations.clone();
        sum.add(-1.0, &deviations);
        assert_eq!(sum.covariance(&sum), 0.0);
    }

    #[test]
    fn only_images_that_are_the_same_count() {
        let right = [true, false, true, true];
        let deviations = |pool: &str, test: &[u32]| ImageDeviations::of(images(pool, test), &right, 1.0);
        let a = deviations("a", &[3, 5, 6, 9]);
        assert!(a.same(&deviations("a", &[3, 5, 6, 9])) && !a.same(&deviations("b", &[3, 5, 6, 9])));
        let part = deviations("a", &[1, 2, 3, 5]);
        // Images 3 and 5 are shared: `a` has one right and one wrong, the other has both right.
        let expected = (0.25 * 0.25 - 0.75 * 0.25) / 12.0;
        assert!((a.covariance(&part) - expected).abs() < 1e-15);
        assert!(a.meets(&part) && !a.same(&part));
        for none in [deviations("a", &[11, 12, 13, 14]), deviations("b", &[3, 5, 6, 9])] {
            assert!(!a.meets(&none) && a.covariance(&none) == 0.0);
        }
    }
}
