//! Random streams that depend on what they are for, never on who draws first.
//!
//! Every random draw of a pipeline has a [`Purpose`], and every purpose has streams of its own: a stream's key is made
//! of the seed, the purpose and two coordinates, word for word, so that no two streams have the same key. What an
//! attacker draws is thus independent of what a victim draws, whatever their seeds are.
//!
//! Where two draws are to be the same, so that what is compared differs in nothing else, they have one purpose:
//!
//! | purpose | drawn alike by |
//! | --- | --- |
//! | [`BaseImages`](Purpose::BaseImages), [`PoisonLabels`](Purpose::PoisonLabels) | attacks on features and attacks on pixels of a seed |
//! | [`ControlSamples`](Purpose::ControlSamples) | random flips and duplicates of a seed |
//! | [`ExtractorWeights`](Purpose::ExtractorWeights) | all methods of pre-training, the random extractor included |
//! | `Victim…`, `HiddenLayer…`, `LinearOrder` | a victim on clean data, on poisons and on controls |
//! | [`FollowerBatches`](Purpose::FollowerBatches) | an attack's objective, wherever it is made anew |

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

macro_rules! purposes {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// What random numbers are for. Words are distinct, as the compiler sees to, and stand for a purpose for ever.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u64)]
        pub enum Purpose {
            $($(#[$doc])* $name = $word,)*
        }

        impl Purpose {
            /// All purposes.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

purposes! {
    /// The images of a pre-training set; by pool and class.
    PretrainingSplit = 1,
    /// The images, or imported features, of a downstream dataset; by pool and class.
    DownstreamSplit = 2,
    /// A generated picture; by pool and number.
    Picture = 3,
    /// Initial weights of a pre-trained extractor, and of what is trained on top of it.
    ExtractorWeights = 4,
    /// Order of its images; by epoch.
    ExtractorOrder = 5,
    /// Views of its images; by epoch, and by image and view.
    ExtractorViews = 6,
    /// Initial weights of the network that an attacker trains in a victim's place.
    SurrogateWeights = 7,
    /// Order of its images; by epoch.
    SurrogateOrder = 8,
    /// Views of its images; by epoch, and by image and view.
    SurrogateViews = 9,
    /// Initial weights of a victim's network, or of the classifier on it.
    VictimWeights = 10,
    /// Order of its images; by epoch.
    VictimOrder = 11,
    /// Views of its images; by epoch, and by image and view.
    VictimViews = 12,
    /// Initial weights of a victim with a hidden layer.
    HiddenLayerWeights = 13,
    /// Order of its samples.
    HiddenLayerOrder = 14,
    /// Order of the samples of a linear victim that is trained by stochastic gradient descent.
    LinearOrder = 15,
    /// Wrong labels that a target head is trained on.
    TargetLabels = 16,
    /// The clean samples that poisons are made of, on features and on pixels.
    BaseImages = 17,
    /// Random labels of poisons.
    PoisonLabels = 18,
    /// Random features that poisons start from.
    PoisonFeatures = 19,
    /// Batches of a follower who descends while an attack goes on.
    FollowerBatches = 20,
    /// The images that get error-minimising noise.
    NoisedImages = 21,
    /// The clean samples of controls.
    ControlSamples = 22,
    /// Random labels of controls.
    ControlLabels = 23,
    /// Initial weights of a decoder.
    DecoderWeights = 24,
    /// Order of its images.
    DecoderOrder = 25,
    /// The images that it is measured on.
    DecoderHeldOut = 26,
    /// Some of many samples, where all would take too long. Of the seed 0: it is no part of an experiment.
    Excerpt = 27,
    /// Weights that are replaced before anybody sees them. Of the seed 0.
    Placeholder = 28,
    /// Tests and benchmarks.
    Test = 29,
    /// Random features that refined images begin at, as a control.
    RefinementFeatures = 30,
}

impl Purpose {
    /// The generator of the stream of that seed.
    #[must_use]
    pub fn of(self, seed: u64) -> ChaCha8Rng {
        self.at(seed, [0, 0])
    }

    /// The generator of the stream of that seed at two coordinates, which the purpose names.
    #[must_use]
    pub fn at(self, seed: u64, [first, second]: [u64; 2]) -> ChaCha8Rng {
        let mut key = [0; 32];
        for (bytes, word) in key.chunks_exact_mut(8).zip([seed, self as u64, first, second]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        ChaCha8Rng::from_seed(key)
    }
}

/// Whose network is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trained {
    /// An extractor, in pre-training.
    Extractor,
    /// A network that an attacker trains in a victim's place.
    Surrogate,
    /// A victim.
    #[default]
    Victim,
}

impl Trained {
    /// The stream of its initial weights.
    #[must_use]
    pub fn weights(self, seed: u64) -> ChaCha8Rng {
        let [weights, ..] = self.purposes();
        weights.of(seed)
    }

    /// The stream of the order of its images in an epoch, counted from 0.
    #[must_use]
    pub fn order(self, seed: u64, epoch: usize) -> ChaCha8Rng {
        let [_, order, _] = self.purposes();
        order.at(seed, [epoch as u64, 0])
    }

    /// The stream of one augmented view, 0 or 1, of the image of that number in an epoch, counted from 0.
    #[must_use]
    pub fn view(self, seed: u64, epoch: usize, image: usize, view: usize) -> ChaCha8Rng {
        let [.., views] = self.purposes();
        views.at(seed, [epoch as u64, 2 * image as u64 + view as u64])
    }

    /// Weights, order and views.
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

    /// Seeds, purposes and coordinates that are each other's values: were two words swapped or added, streams would
    /// meet.
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

    /// Of one seed, whoever trains has weights, an order and views of its own.
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
