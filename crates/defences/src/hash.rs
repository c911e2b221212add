//! Hashes of samples, by which they are dealt into parts. A sample's part depends on nothing but the sample and the
//! seed, so that adding or removing a sample moves no other one.

use ndarray::ArrayView1;

use crate::TrainingData;

/// The hash of the features of a sample; the label is not part of it. `purpose` and `seed` give independent hashes.
/// Features in f32 have the same hash as after a conversion to f64, and -0 has that of 0.
pub(crate) fn hash_of(features: ArrayView1<'_, f64>, purpose: &'static str, seed: u64) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(purpose);
    hasher.update(&seed.to_le_bytes());
    // `+ 0.0` turns -0 into 0.
    features.iter().for_each(|value| {
        hasher.update(&(value + 0.0).to_le_bytes());
    });
    hasher.finalize().into()
}

/// The hashes of all samples.
pub(crate) fn hashes(set: &TrainingData<'_>, purpose: &'static str) -> Vec<[u8; 32]> {
    let seed = set.seed();
    let parts = set.map_chunks(|_, z| z.rows().into_iter().map(|z| hash_of(z, purpose, seed)).collect::<Vec<_>>());
    parts.flatten().collect()
}

/// The part of `parts` that a hash belongs to. Parts differ in probability by less than `parts / 2^64`.
pub(crate) fn part(hash: &[u8; 32], parts: usize) -> usize {
    (word(hash, 0) % parts as u64) as usize
}

/// One of the four 64-bit words of a hash.
pub(crate) fn word(hash: &[u8; 32], index: usize) -> u64 {
    let bytes = hash.chunks_exact(8).nth(index).and_then(|bytes| bytes.try_into().ok());
    u64::from_le_bytes(bytes.expect("a hash has four words"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn equal_samples_have_equal_hashes() {
        let hash = |row: [f64; 2], seed| hash_of(array![row[0], row[1]].view(), "test", seed);
        assert_eq!(hash([0.0, 1.0], 3), hash([-0.0, 1.0], 3));
        assert_ne!(hash([0.0, 1.0], 3), hash([0.0, 1.0], 4));
        assert_ne!(hash([0.0, 1.0], 3), hash([1.0, 0.0], 3));
        assert_ne!(hash_of(array![1.0].view(), "one", 0), hash_of(array![1.0].view(), "two", 0));
    }

    #[test]
    fn parts_are_about_equal() {
        let mut counts = [0usize; 5];
        (0..5000).for_each(|i| counts[part(&hash_of(array![f64::from(i)].view(), "test", 0), 5)] += 1);
        assert!(counts.iter().all(|count| count.abs_diff(1000) < 150), "{counts:?}");
    }
}
