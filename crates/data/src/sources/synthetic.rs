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

use std::path::{Path, PathBuf};

use hemlock_streams::Purpose;
use image::RgbImage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::checksum::FieldHasher;
use crate::pool::{Groups, Pool, PoolImages, Pools, picture};
use crate::sources::{Kind, Source};
use crate::{DataError, Folders};
use object::{Shape, Texture};

/// Parameters of generated images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Synthetic {
    /// The domain, which sets the classes and the palette.
    pub domain: Domain,
    /// Seed that all images are drawn from.
    #[serde(default)]
    pub seed: u64,
    /// Number of classes, 2 to 10. They are the first ones of the domain's ten.
    #[serde(default = "default_classes")]
    #[schemars(range(min = 2, max = 10))]
    pub classes: usize,
    /// Number of images in the training pool. A smaller pool is a prefix of a larger one.
    #[serde(default = "default_train_pool")]
    #[schemars(range(max = 10_000_000))]
    pub train_pool: usize,
    /// Number of images in the test pool. A smaller pool is a prefix of a larger one.
    #[serde(default = "default_test_pool")]
    #[schemars(range(max = 10_000_000))]
    pub test_pool: usize,
    /// Strength of the nuisances, from 0 (centred, clean objects) to 1.
    #[serde(default = "default_difficulty")]
    #[schemars(range(min = 0, max = 1))]
    pub difficulty: f64,
}

/// One of the two synthetic domains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Domain {
    /// Discs, rings, squares, triangles and crosses that are plain, striped or checkered, in warm hues.
    A,
    /// Other combinations of these shapes and textures, and further ones, in cool hues.
    B,
}

fn default_classes() -> usize {
    10
}

fn default_train_pool() -> usize {
    20_000
}

fn default_test_pool() -> usize {
    4_000
}

fn default_difficulty() -> f64 {
    0.05
}

/// Largest number of generated images in a pool.
const LARGEST_POOL: usize = 10_000_000;

impl Source {
    /// Returns the synthetic domain with default values of all other parameters.
    pub fn synthetic(domain: Domain) -> Self {
        Self::Synthetic(Synthetic {
            domain,
            seed: 0,
            classes: default_classes(),
            train_pool: default_train_pool(),
            test_pool: default_test_pool(),
            difficulty: default_difficulty(),
        })
    }
}

impl Kind for Synthetic {
    fn name(&self) -> &'static str {
        match self.domain {
            Domain::A => "synthetic-a",
            Domain::B => "synthetic-b",
        }
    }

    fn check(&self) -> Result<(), DataError> {
        let (field, value, expected) = match self {
            spec if !(2..=10).contains(&spec.classes) => ("source.classes", spec.classes.to_string(), "2 to 10"),
            spec if !(0.0..=1.0).contains(&spec.difficulty) => {
                ("source.difficulty", spec.difficulty.to_string(), "0 to 1")
            }
            spec if spec.train_pool > LARGEST_POOL => {
                ("source.train_pool", spec.train_pool.to_string(), "at most 10000000")
            }
            spec if spec.test_pool > LARGEST_POOL => {
                ("source.test_pool", spec.test_pool.to_string(), "at most 10000000")
            }
            _ => return Ok(()),
        };
        Err(DataError::Parameter { field, value, expected })
    }

    fn may_validate(&self) -> bool {
        false
    }

    fn digest(&self, _data: Option<&Path>) -> Result<blake3::Hash, DataError> {
        Ok(digest(self))
    }

    fn open(&self, _folders: Folders) -> Result<Pools, DataError> {
        Ok(open(self))
    }
}

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

impl Synthetic {
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
    spec: Synthetic,
    /// The coordinate of its random streams.
    pool: u64,
}

impl GeneratedImages {
    fn new(spec: &Synthetic, part: Part) -> Self {
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

fn open(spec: &Synthetic) -> Pools {
    let pool = |part, count: usize| {
        let images = GeneratedImages::new(spec, part);
        Pool { labels: (0..count).map(|i| (i % spec.classes) as u32).collect(), groups: None, images: Box::new(images) }
    };
    Pools {
        classes: spec.table().iter().map(|class| format!("{} {}", class.texture.name(), class.shape.name())).collect(),
        size: Some(SIZE),
        train: pool(Part::Train, spec.train_pool),
        validation: None,
        test: Some(pool(Part::Test, spec.test_pool)),
        groups: Groups::default(),
        skipped: Vec::new(),
    }
}

/// The digest of the generator's version and parameters.
fn digest(spec: &Synthetic) -> blake3::Hash {
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
    use crate::{Folders, Preparation, SplitSpec, load};
    use hemlock_artifact::Dataset;

    fn spec(domain: Domain) -> Synthetic {
        Synthetic { domain, seed: 5, classes: 10, train_pool: 60, test_pool: 20, difficulty: 0.5 }
    }

    fn all(spec: Synthetic) -> Dataset {
        let source = Source::Synthetic(spec);
        load(&source, &Preparation::default(), &SplitSpec::default(), Folders::default(), &|_, _| true).unwrap()
    }

    #[test]
    fn a_pool_is_a_prefix_of_a_larger_one() {
        let small = all(spec(Domain::A));
        let large = all(Synthetic { train_pool: 130, test_pool: 50, ..spec(Domain::A) });
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
        let seeded = Synthetic { seed: 6, ..spec(Domain::A) };
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
            Synthetic { seed: 1, ..base.clone() },
            Synthetic { classes: 9, ..base.clone() },
            Synthetic { train_pool: 61, ..base.clone() },
            Synthetic { test_pool: 21, ..base.clone() },
            Synthetic { difficulty: 0.4, ..base.clone() },
        ];
        let mut digests: Vec<_> = others.iter().chain([&base]).map(digest).collect();
        assert_eq!(digest(&base), digest(&base.clone()));
        digests.sort_by_key(|digest| *digest.as_bytes());
        digests.dedup();
        assert_eq!(digests.len(), 7);
    }

    /// Test accuracy of a classifier by the nearest mean image.
    fn nearest_mean_accuracy(difficulty: f64) -> f64 {
        let loaded = all(Synthetic { train_pool: 1000, test_pool: 500, difficulty, ..spec(Domain::A) });
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
