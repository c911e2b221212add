//! Generated 32x32 colour images: two related domains of ten classes, for runs without any files.
//!
//! An image shows one object in front of a background. The object's shape and texture are its class. Domain a combines
//! discs, rings, squares, triangles and crosses with plain, striped and checkered textures. Domain b has other
//! combinations of these shapes and textures, and adds stars, bars, crescents and dots. The domains share no class, but
//! features that are learnt on one are useful on the other.
//!
//! Everything that does not determine the class is drawn at random, and `difficulty` scales it:
//!
//! - position, scale and rotation of the object;
//! - hue around the mean of its class (domain a begins at red, domain b at cyan), with any saturation and value;
//! - a background of a gradient and waves;
//! - small clutter, and patches that hide parts;
//! - a smaller object of another class behind the main one, which makes classes overlap;
//! - brightness, contrast and noise.
//!
//! | draw | difficulty 0 | difficulty 1 |
//! | --- | --- | --- |
//! | centre | 16 | 16 ± 8 pixels |
//! | radius | 10 | 5 to 10 pixels |
//! | rotation | 0 | any |
//! | hue, standard deviation | 0.05 | 0.35 of the circle |
//! | clutter | none | up to 12 objects of 1 to 3 pixels |
//! | object of another class | never | 60 % of images |
//! | hiding patches | none | up to 3 of 2 to 6 pixels |
//! | noise, standard deviation | 0.01 | 0.13 of full scale |
//!
//! Image `i` of a pool has class `i mod classes` and a random stream of its own. A pool is therefore a prefix of every
//! larger one.

mod object;
mod scene;

use std::path::PathBuf;

use hemlock_streams::Purpose;
use image::RgbImage;

use crate::checksum::FieldHasher;
use crate::pool::{Pool, PoolImages, Pools, picture};
use crate::source::{Domain, SyntheticSpec};
use object::{Shape, Texture};

/// Version of the generator, which is part of the digest of synthetic data.
pub const VERSION: u32 = 2;

/// Height and width of every image in pixels.
pub const SIZE: usize = 32;

/// The appearance of a class's object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Class {
    texture: Texture,
    shape: Shape,
}

const fn class(texture: Texture, shape: Shape) -> Class {
    Class { texture, shape }
}

const CLASSES_A: [Class; 10] = [
    class(Texture::Plain, Shape::Disc),
    class(Texture::Striped, Shape::Square),
    class(Texture::Plain, Shape::Cross),
    class(Texture::Checkered, Shape::Disc),
    class(Texture::Plain, Shape::Triangle),
    class(Texture::Plain, Shape::Ring),
    class(Texture::Striped, Shape::Disc),
    class(Texture::Plain, Shape::Square),
    class(Texture::Checkered, Shape::Triangle),
    class(Texture::Striped, Shape::Cross),
];

const CLASSES_B: [Class; 10] = [
    class(Texture::Dotted, Shape::Disc),
    class(Texture::Plain, Shape::Star),
    class(Texture::Checkered, Shape::Square),
    class(Texture::Striped, Shape::Triangle),
    class(Texture::Plain, Shape::Bar),
    class(Texture::Striped, Shape::Ring),
    class(Texture::Dotted, Shape::Triangle),
    class(Texture::Plain, Shape::Crescent),
    class(Texture::Checkered, Shape::Cross),
    class(Texture::Dotted, Shape::Square),
];

impl SyntheticSpec {
    fn domain_name(&self) -> &'static str {
        match self.domain {
            Domain::A => "a",
            Domain::B => "b",
        }
    }

    /// The classes in the order of their labels.
    fn table(&self) -> &'static [Class] {
        let table = match self.domain {
            Domain::A => &CLASSES_A,
            Domain::B => &CLASSES_B,
        };
        &table[..self.classes]
    }
}

/// The pool of a domain.
#[derive(Clone, Copy)]
enum Part {
    Train,
    Test,
}

/// A pool's images, which are drawn when they are asked for.
struct GeneratedImages {
    spec: SyntheticSpec,
    /// The coordinate of its random streams.
    pool: u64,
}

impl GeneratedImages {
    fn new(spec: &SyntheticSpec, part: Part) -> Self {
        let pool = match (spec.domain, part) {
            (Domain::A, Part::Train) => 0,
            (Domain::A, Part::Test) => 1,
            (Domain::B, Part::Train) => 2,
            (Domain::B, Part::Test) => 3,
        };
        Self { spec: spec.clone(), pool }
    }

    fn label(&self, index: u32) -> usize {
        index as usize % self.spec.classes
    }
}

impl PoolImages for GeneratedImages {
    fn picture(&self, index: u32) -> Result<RgbImage, String> {
        let mut planes = vec![0; 3 * SIZE * SIZE];
        self.copy(index, &mut planes);
        Ok(picture(&planes, SIZE))
    }

    fn copy(&self, index: u32, chw: &mut [u8]) -> bool {
        let mut rng = Purpose::Picture.at(self.spec.seed, [self.pool, u64::from(index)]);
        scene::draw(&self.spec, self.label(index), &mut rng, chw);
        true
    }

    fn place(&self, index: u32) -> PathBuf {
        format!("picture {index}").into()
    }
}

pub(crate) fn open(spec: &SyntheticSpec) -> Pools {
    let pool = |part, count: usize| {
        let images = GeneratedImages::new(spec, part);
        Pool { labels: (0..count).map(|i| (i % spec.classes) as u32).collect(), images: Box::new(images) }
    };
    Pools {
        classes: spec.table().iter().map(|class| format!("{} {}", class.texture.name(), class.shape.name())).collect(),
        size: Some(SIZE),
        train: pool(Part::Train, spec.train_pool),
        validation: None,
        test: Some(pool(Part::Test, spec.test_pool)),
        skipped: Vec::new(),
    }
}

/// The digest of the generator's version and parameters.
pub(crate) fn digest(spec: &SyntheticSpec) -> blake3::Hash {
    let mut hasher = FieldHasher::new("hemlock-data synthetic v1");
    hasher
        .field(&VERSION.to_le_bytes())
        .field(spec.domain_name().as_bytes())
        .field(&spec.seed.to_le_bytes())
        .field(spec.classes.to_string().as_bytes())
        .field(spec.train_pool.to_string().as_bytes())
        .field(spec.test_pool.to_string().as_bytes())
        .field(&spec.difficulty.to_le_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use ndarray::{Axis, Slice};

    use super::*;
    use crate::{Source, SplitSpec, load};
    use hemlock_artifact::Dataset;

    fn spec(domain: Domain) -> SyntheticSpec {
        SyntheticSpec { domain, seed: 5, classes: 10, train_pool: 60, test_pool: 20, difficulty: 0.5 }
    }

    fn all(spec: SyntheticSpec) -> Dataset {
        let source = Source::Synthetic(spec);
        load(&source, &crate::Preparation::default(), &SplitSpec::default(), None, &|_, _| true).unwrap()
    }

    #[test]
    fn a_pool_is_a_prefix_of_a_larger_one() {
        let small = all(spec(Domain::A));
        let large = all(SyntheticSpec { train_pool: 130, test_pool: 50, ..spec(Domain::A) });
        for (small, large) in [(&small.train, &large.train), (&small.test, &large.test)] {
            let n = small.labels.len();
            assert_eq!(small.labels, large.labels[..n]);
            assert_eq!(small.pixels.view(), large.pixels.view().slice_axis(Axis(0), Slice::from(..n)));
        }
    }

    #[test]
    fn images_differ_by_index_seed_domain_and_part() {
        let one = all(spec(Domain::A));
        let first = |loaded: &Dataset| loaded.train.pixels.view().index_axis(Axis(0), 0).to_owned();
        assert_ne!(first(&one), one.train.pixels.view().index_axis(Axis(0), 10));
        assert_ne!(first(&one), one.test.pixels.view().index_axis(Axis(0), 0));
        assert_ne!(first(&one), first(&all(spec(Domain::B))));
        let seeded = SyntheticSpec { seed: 6, ..spec(Domain::A) };
        assert_ne!(first(&one), first(&all(seeded)));
    }

    #[test]
    fn no_class_is_in_both_domains() {
        assert!(CLASSES_A.iter().all(|class| !CLASSES_B.contains(class)));
        let mut names = [all(spec(Domain::A)).classes, all(spec(Domain::B)).classes].concat();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 20);
    }

    #[test]
    fn every_parameter_is_in_the_digest() {
        let base = spec(Domain::A);
        let others = [
            spec(Domain::B),
            SyntheticSpec { seed: 1, ..base.clone() },
            SyntheticSpec { classes: 9, ..base.clone() },
            SyntheticSpec { train_pool: 61, ..base.clone() },
            SyntheticSpec { test_pool: 21, ..base.clone() },
            SyntheticSpec { difficulty: 0.4, ..base.clone() },
        ];
        let mut digests: Vec<_> = others.iter().chain([&base]).map(digest).collect();
        assert_eq!(digest(&base), digest(&base.clone()));
        digests.sort_by_key(|digest| *digest.as_bytes());
        digests.dedup();
        assert_eq!(digests.len(), 7);
    }

    /// Test accuracy of a classifier by the nearest mean image.
    fn nearest_mean_accuracy(difficulty: f64) -> f64 {
        let loaded = all(SyntheticSpec { train_pool: 1000, test_pool: 500, difficulty, ..spec(Domain::A) });
        let pixels = loaded.train.pixels.view().mapv(f64::from);
        let means: Vec<_> = (0..10)
            .map(|class| {
                let of_class: Vec<usize> = (class..1000).step_by(10).collect();
                let images = pixels.select(Axis(0), &of_class);
                images.sum_axis(Axis(0)) / of_class.len() as f64
            })
            .collect();
        let right = loaded
            .test
            .pixels
            .view()
            .outer_iter()
            .zip(&loaded.test.labels)
            .filter(|(image, label)| {
                let image = image.mapv(f64::from);
                let distance = |class: usize| (&image - &means[class]).mapv(|d| d * d).sum();
                let nearest = (0..10).min_by(|&a, &b| f64::total_cmp(&distance(a), &distance(b)));
                nearest == Some(**label as usize)
            })
            .count();
        right as f64 / 500.0
    }

    #[test]
    fn classes_show_and_difficulty_hides_them_from_plain_pixels() {
        let (easy, usual) = (nearest_mean_accuracy(0.0), nearest_mean_accuracy(0.5));
        assert!(easy > 0.4, "{easy}");
        assert!((0.12..0.4).contains(&usual), "{usual}");
    }

    /// The bytes are pinned, so that a generator that changes cannot keep its version. Other math libraries may round a
    /// few bytes differently, by one.
    #[test]
    fn the_version_stands_for_these_images() {
        let mut chw = [0; 3 * SIZE * SIZE];
        let mut sum = |domain, index| {
            let images = GeneratedImages::new(&spec(domain), Part::Train);
            assert!(images.copy(index, &mut chw));
            chw.iter().map(|&byte| i64::from(byte)).sum::<i64>()
        };
        let sums = [sum(Domain::A, 3), sum(Domain::B, 7)];
        assert_eq!(VERSION, 2);
        for (sum, pinned) in sums.into_iter().zip([324_558, 232_472]) {
            assert!((sum - pinned).abs() < 4, "{sums:?}");
        }
    }
}
