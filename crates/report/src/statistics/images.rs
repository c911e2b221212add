//! What test images add to the error of a value.

use hemlock_artifact::Drawn;
use std::{collections::HashMap, sync::Arc};

/// Test images, and where they come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// The source that they were drawn from.
    pub pool: String,
    /// Where they stand there.
    pub drawn: Arc<Drawn>,
}

impl Images {
    fn same(&self, other: &Self) -> bool {
        let (a, b) = (&self.drawn, &other.drawn);
        self.pool == other.pool && (Arc::ptr_eq(a, b) || a.test == b.test)
    }
}

/// What every test image adds to the deviation of a value from what it would be over all images: numbers whose squares
/// add up to the variance of the value that is due to the images, and whose products with those of another value to
/// their covariance.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Noise(Vec<(Images, Vec<f64>)>);

impl Noise {
    /// Of a value that depends on a share of right answers by this derivative.
    #[must_use]
    pub fn of(images: Images, right: &[bool], derivative: f64) -> Self {
        let n = right.len() as f64;
        if derivative == 0.0 || right.len() < 2 {
            return Self::default();
        }
        let share = right.iter().filter(|right| **right).count() as f64 / n;
        // An unbiased variance of the mean is s² / n, with n - 1 in the denominator of s².
        let scale = derivative / (n * (n - 1.0)).sqrt();
        Self(vec![(images, right.iter().map(|right| scale * (f64::from(u8::from(*right)) - share)).collect())])
    }

    /// Adds so many times another one: that of a sum of values.
    pub fn add(&mut self, scale: f64, other: &Self) {
        for (images, each) in &other.0 {
            match self.0.iter_mut().find(|(mine, _)| mine.same(images)) {
                Some((_, mine)) => mine.iter_mut().zip(each).for_each(|(mine, x)| *mine += scale * x),
                None => self.0.push((images.clone(), each.iter().map(|x| scale * x).collect())),
            }
        }
    }

    /// Whether no test image is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.first().map_or(0, |(_, each)| each.len())
    }

    /// Whether all images of both are the same.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        let within = |a: &Self, b: &Self| a.0.iter().all(|(x, _)| b.0.iter().any(|(y, _)| x.same(y)));
        within(self, other) && within(other, self)
    }

    /// Whether some images of both are the same.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        self.shared(other, |_, _| 1.0) > 0.0
    }

    /// The covariance of two values that is due to the test images that they share.
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

    fn images(pool: &str, test: &[u32]) -> Images {
        Images { pool: pool.to_owned(), drawn: Arc::new(Drawn { test: test.to_vec(), ..Drawn::default() }) }
    }

    #[test]
    fn a_share_has_the_variance_of_a_share() {
        let right = [true, false, true, true];
        let noise = Noise::of(images("a", &[3, 5, 6, 9]), &right, 2.0);
        // p (1 - p) / (n - 1), times the derivative's square.
        assert!((noise.covariance(&noise) - 4.0 * 0.75 * 0.25 / 3.0).abs() < 1e-15);
        let mut sum = noise.clone();
        sum.add(-1.0, &noise);
        assert_eq!(sum.covariance(&sum), 0.0);
    }

    #[test]
    fn only_images_that_are_the_same_count() {
        let right = [true, false, true, true];
        let noise = |pool: &str, test: &[u32]| Noise::of(images(pool, test), &right, 1.0);
        let a = noise("a", &[3, 5, 6, 9]);
        assert!(a.same(&noise("a", &[3, 5, 6, 9])) && !a.same(&noise("b", &[3, 5, 6, 9])));
        let part = noise("a", &[1, 2, 3, 5]);
        // Numbers 3 and 5: right and wrong there, both right here.
        let expected = (0.25 * 0.25 - 0.75 * 0.25) / 12.0;
        assert!((a.covariance(&part) - expected).abs() < 1e-15);
        assert!(a.meets(&part) && !a.same(&part));
        for none in [noise("a", &[11, 12, 13, 14]), noise("b", &[3, 5, 6, 9])] {
            assert!(!a.meets(&none) && a.covariance(&none) == 0.0);
        }
    }
}
