//! Random streams that depend on what they are for, never on who draws first.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// What random numbers are for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stream {
    /// Initial weights.
    Init,
    /// Order of the images in an epoch.
    Shuffle {
        /// Counted from 0.
        epoch: usize,
    },
    /// One augmented view of one image.
    View {
        /// Counted from 0.
        epoch: usize,
        /// Index of the image in the training set.
        image: usize,
        /// 0 or 1.
        view: usize,
    },
}

/// The generator of one stream: its coordinates are its key, so no two streams meet.
pub(crate) fn stream(seed: u64, stream: Stream) -> ChaCha8Rng {
    let [purpose, epoch, image] = match stream {
        Stream::Init => [0, 0, 0],
        Stream::Shuffle { epoch } => [1, epoch, 0],
        Stream::View { epoch, image, view } => [2 + view, epoch, image],
    };
    let mut key = [0; 32];
    let words = [seed, purpose as u64, epoch as u64, image as u64];
    for (bytes, word) in key.chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn streams_differ_in_every_coordinate() {
        let view = |epoch, image, view| Stream::View { epoch, image, view };
        let mut draws: Vec<u64> = [
            (1, Stream::Init),
            (2, Stream::Init),
            (1, Stream::Shuffle { epoch: 0 }),
            (1, Stream::Shuffle { epoch: 1 }),
            (1, view(0, 0, 0)),
            (1, view(1, 0, 0)),
            (1, view(0, 1, 0)),
            (1, view(0, 0, 1)),
        ]
        .map(|(seed, s)| stream(seed, s).next_u64())
        .to_vec();
        draws.sort_unstable();
        draws.dedup();
        assert_eq!(draws.len(), 8);
    }
}
