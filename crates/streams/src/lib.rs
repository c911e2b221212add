//! Random streams that are selected by what they are for, so that the order of draws never matters.
//!
//! Every random draw of a pipeline has a [`Purpose`], and every purpose has streams of its own. The key of a stream
//! consists of four 64-bit words: the seed, the purpose, and two coordinates. No two streams have the same key, so what
//! an attacker draws is independent of what a victim draws, whatever their seeds are.
//!
//! Draws share a purpose where they have to be equal, so that the things compared differ in nothing else:
//!
//! | purpose | is shared by |
//! | --- | --- |
//! | [`BaseImages`](Purpose::BaseImages), [`PoisonLabels`](Purpose::PoisonLabels) | attacks on features and attacks on
//! pixels with the same seed |
//! | [`ControlSamples`](Purpose::ControlSamples) | the controls of random flips and of duplicates with the same seed |
//! | [`ExtractorWeights`](Purpose::ExtractorWeights) | all pre-training methods, including the random extractor |
//! | `Victim…`, `HiddenLayer…`, `LinearOrder` | a victim's training on clean data, on poisons and on controls |
//! | [`FollowerBatches`](Purpose::FollowerBatches) | every construction of the same attack's objective |

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

macro_rules! purposes {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// What random numbers are used for. The compiler checks that the words are distinct; a word never changes its
        /// purpose.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u64)]
        pub enum Purpose {
            $($(#[$doc])* $name = $word,)*
        }

        impl Purpose {
            /// All purposes, in the order of their declaration.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

purposes! {
    /// The images of a pre-training set. Coordinates: pool, class.
    PretrainingSplit = 1,
    /// The images, or imported features, of a downstream dataset. Coordinates: pool, class.
    DownstreamSplit = 2,
    /// A generated picture. Coordinates: pool, number of the picture.
    Picture = 3,
    /// Initial weights of a pre-trained extractor, and of the networks that are trained on top of it.
    ExtractorWeights = 4,
    /// The order of the images in an extractor's training. Coordinate: epoch.
    ExtractorOrder = 5,
    /// The augmented views in an extractor's training. Coordinates: epoch, image and view.
    ExtractorViews = 6,
    /// Initial weights of the surrogate: the network that an attacker trains in place of the victim's.
    SurrogateWeights = 7,
    /// The order of the images in a surrogate's training. Coordinate: epoch.
    SurrogateOrder = 8,
    /// The augmented views in a surrogate's training. Coordinates: epoch, image and view.
    SurrogateViews = 9,
    /// Initial weights of a victim's network, or of the classifier on top of it.
    VictimWeights = 10,
    /// The order of the images in a victim's training. Coordinate: epoch.
    VictimOrder = 11,
    /// The augmented views in a victim's training. Coordinates: epoch, image and view.
    VictimViews = 12,
    /// Initial weights of a victim with a hidden layer.
    HiddenLayerWeights = 13,
    /// The order of the samples in the training of a victim with a hidden layer.
    HiddenLayerOrder = 14,
    /// The order of the samples in the training of a linear victim by stochastic gradient descent.
    LinearOrder = 15,
    /// The wrong labels that a target head is trained on.
    TargetLabels = 16,
    /// The clean samples that poisons are made of, for attacks on features and on pixels.
    BaseImages = 17,
    /// Random labels of poisons.
    PoisonLabels = 18,
    /// Random features that poisons start from.
    PoisonFeatures = 19,
    /// Batches of the inner problem's gradient descent in an attack (TGDA).
    FollowerBatches = 20,
    /// The images that get error-minimising noise.
    NoisedImages = 21,
    /// The clean samples that controls flip or duplicate.
    ControlSamples = 22,
    /// Random labels of controls.
    ControlLabels = 23,
    /// Initial weights of a decoder.
    DecoderWeights = 24,
    /// The order of the images in a decoder's training.
    DecoderOrder = 25,
    /// The held-out images on which a decoder is measured.
    DecoderHeldOut = 26,
    /// A subset of many samples, where all of them would take too long. The seed is always 0, because this choice is no
    /// part of an experiment.
    Excerpt = 27,
    /// Draws in tests and benchmarks.
    Test = 29,
    /// Random features that the control of refinement starts from.
    RefinementFeatures = 30,
    /// The poisons that are found before a head is repaired.
    FoundPoisons = 31,
    /// What an adaptive attack draws in place of the filter that it simulates.
    SimulatedFilter = 32,
    /// Noise that a defender adds to images. Coordinates: split (0 to 2; 3 for added samples), number of the image.
    DefenceNoise = 33,
}

impl Purpose {
    /// The generator of this purpose's stream for `seed`, at the coordinates 0 and 0.
    #[must_use]
    pub fn of(self, seed: u64) -> ChaCha8Rng {
        self.at(seed, [0, 0])
    }

    /// The generator of this purpose's stream for `seed`, at two coordinates. [`Purpose`] says what the coordinates
    /// are.
    #[must_use]
    pub fn at(self, seed: u64, [first, second]: [u64; 2]) -> ChaCha8Rng {
        let mut key = [0; 32];
        for (bytes, word) in key.chunks_exact_mut(8).zip([seed, self as u64, first, second]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        ChaCha8Rng::from_seed(key)
    }
}

/// Whose network is trained. It selects the streams of the training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trained {
    /// An extractor, in pre-training.
    Extractor,
    /// A surrogate: a network that an attacker trains in place of the victim's.
    Surrogate,
    /// A victim's network.
    #[default]
    Victim,
}

impl Trained {
    /// The stream of the network's initial weights.
    #[must_use]
    pub fn weights(self, seed: u64) -> ChaCha8Rng {
        let [weights, ..] = self.purposes();
        weights.of(seed)
    }

    /// The stream of the order of the training images in `epoch`, counted from 0.
    #[must_use]
    pub fn order(self, seed: u64, epoch: usize) -> ChaCha8Rng {
        let [_, order, _] = self.purposes();
        order.at(seed, [epoch as u64, 0])
    }

    /// The stream of one augmented view (`view` is 0 or 1) of image number `image` in `epoch`, counted from 0.
    #[must_use]
    pub fn view(self, seed: u64, epoch: usize, image: usize, view: usize) -> ChaCha8Rng {
        let [.., views] = self.purposes();
        views.at(seed, [epoch as u64, 2 * image as u64 + view as u64])
    }

    /// The purposes of weights, order and views, in this order.
    fn purposes(self) -> [Purpose; 3] {
        match self {
            Self::Extractor => [Purpose::ExtractorWeights, Purpose::ExtractorOrder, Purpose::ExtractorViews],
            Self::Surrogate => [Purpose::SurrogateWeights, Purpose::SurrogateOrder, Purpose::SurrogateViews],
            Self::Victim => [Purpose::VictimWeights, Purpose::VictimOrder, Purpose::VictimViews],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;
    use std::collections::{BTreeMap, BTreeSet};

    const SEEDS: [u64; 5] = [0, 1, 2, 29, u64::MAX];

    /// Seeds, purposes and coordinates take each other's values here. If the key swapped or added two of its words,
    /// some streams would coincide.
    #[test]
    fn no_two_streams_agree() {
        let mut seen = BTreeMap::new();
        for seed in SEEDS {
            for purpose in Purpose::ALL {
                for first in [0, 1, 2, 29] {
                    for second in [0, 1, 2, 29] {
                        let mut rng = purpose.at(seed, [first, second]);
                        let draws = [rng.next_u64(), rng.next_u64()];
                        let who = (seed, purpose, first, second);
                        let other = seen.insert(draws, who);
                        assert!(other.is_none(), "{who:?} and {other:?} draw alike");
                    }
                }
            }
        }
        assert_eq!(seen.len(), SEEDS.len() * Purpose::ALL.len() * 16);
        let first_words: BTreeSet<u64> = seen.keys().map(|[first, _]| *first).collect();
        assert_eq!(first_words.len(), seen.len());
    }

    #[test]
    fn a_stream_is_always_the_same() {
        assert_eq!(Purpose::BaseImages.of(3).next_u64(), Purpose::BaseImages.at(3, [0, 0]).next_u64());
        let pinned = 965_163_550_965_960_123;
        assert_eq!(Purpose::Test.of(0).next_u64(), pinned, "another value changes every result");
    }

    /// For one seed, every kind of training has weights, an order and views of its own.
    #[test]
    fn nobody_trains_as_another_does() {
        let all = [Trained::Extractor, Trained::Surrogate, Trained::Victim];
        let mut draws: Vec<u64> = all
            .iter()
            .flat_map(|who| {
                let views = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)];
                let views = views.map(|(epoch, image, view)| who.view(1, epoch, image, view));
                let others = [who.weights(1), who.weights(2), who.order(1, 0), who.order(1, 1)];
                others.into_iter().chain(views)
            })
            .map(|mut rng| rng.next_u64())
            .collect();
        draws.sort_unstable();
        draws.dedup();
        assert_eq!(draws.len(), 24);
    }
}
