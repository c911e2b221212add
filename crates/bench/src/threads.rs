//! How works on images would share more threads than the machine has.
//!
//! Tiles of images are cut for that number of threads and timed one by one on one thread. Then they are dealt out as
//! `in_tiles` does: whoever is free takes the next one. What threads take from each other (caches, memory bandwidth) is
//! not simulated.

use anyhow::{Result, anyhow};
use hemlock_fixtures::{extractor_of, pixels_of};
use hemlock_models::{ExtractError, Extractor, Needs};
use rayon::ThreadPoolBuilder;
use std::{collections::HashMap, ops::Range, time::Instant};

/// Tiles of the same size that are timed.
const TIMED: usize = 12;

/// A simulated number of threads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SharedTiles {
    /// Number of threads.
    pub threads: usize,
    /// Number of tiles.
    pub tiles: usize,
    /// How many times as fast as the first number of threads.
    pub speedup: f64,
    /// Share of the threads' time in which they wait for the last tile.
    pub idle: f64,
}

/// Simulates the extraction of features, or gradients with respect to pixels, for `images` images of `side * side`
/// pixels on each of some numbers of threads.
///
/// # Errors
/// If the architecture is unknown, or if a pool of threads cannot be made.
pub fn shared_tiles(
    arch: &str,
    [images, side]: [usize; 2],
    needs: Needs,
    threads: &[usize],
) -> Result<Vec<SharedTiles>> {
    let extractor = extractor_of(arch, side, "flex")?;
    let most = pixels_of(images.min(64), side).iter().map(|p| f32::from(*p) / 255.0).collect::<Vec<f32>>();
    let mut timed: HashMap<usize, Vec<f64>> = HashMap::new();
    let mut seconds = |images: usize| -> Result<Vec<f64>> {
        if let Some(seconds) = timed.get(&images) {
            return Ok(seconds.clone());
        }
        let pixels = &most[..images * 3 * side * side];
        let one = ThreadPoolBuilder::new().num_threads(1).build()?;
        pass(&extractor, pixels, needs)?;
        let run = || {
            let started = Instant::now();
            one.install(|| pass(&extractor, pixels, needs)).map(|()| started.elapsed().as_secs_f64())
        };
        let found = (0..TIMED).map(|_| run()).collect::<Result<Vec<_>, _>>()?;
        Ok(timed.entry(images).or_insert(found).clone())
    };
    let mut alone = None;
    let mut rows = Vec::new();
    for &threads in threads {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build()?;
        // Tiles of 64 images at most, as extraction and inversion cut them.
        let tiles = pool.install(|| extractor.in_tiles(images, 64, needs, Ok::<Range<usize>, ExtractError>))?;
        let mut times = Vec::with_capacity(tiles.len());
        for (i, tile) in tiles.iter().enumerate() {
            times.push(seconds(tile.len())?[i % TIMED]);
        }
        let end = dealt(&times, threads).ok_or_else(|| anyhow!("there are no threads"))?;
        let alone = *alone.get_or_insert(end);
        let work: f64 = times.iter().sum();
        let idle = 1.0 - work / (threads as f64 * end);
        rows.push(SharedTiles { threads, tiles: tiles.len(), speedup: alone / end, idle });
    }
    Ok(rows)
}

fn pass(extractor: &Extractor, pixels: &[f32], needs: Needs) -> Result<(), ExtractError> {
    match needs {
        Needs::Features => extractor.forward(pixels)?,
        Needs::Gradients => extractor.vjp(pixels, |_, features| features.to_vec())?,
    };
    Ok(())
}

/// When the last thread ends, if whoever is free takes the next tile.
fn dealt(times: &[f64], threads: usize) -> Option<f64> {
    let mut ends = vec![0.0f64; threads];
    for time in times {
        *ends.iter_mut().min_by(|a, b| a.total_cmp(b))? += time;
    }
    ends.into_iter().max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_free_takes_the_next_tile() {
        assert_eq!(dealt(&[3.0, 1.0, 1.0, 1.0, 2.0], 2), Some(5.0));
        assert_eq!(dealt(&[1.0; 6], 3), Some(2.0));
        assert_eq!(dealt(&[1.0], 0), None);
    }

    #[test]
    fn threads_without_a_tile_are_idle() {
        let rows = shared_tiles("resnet8-w4", [4, 32], Needs::Features, &[1, 4]).unwrap();
        assert_eq!(rows.iter().map(|row| (row.threads, row.tiles)).collect::<Vec<_>>(), [(1, 1), (4, 2)]);
        assert_eq!((rows[0].speedup, rows[0].idle), (1.0, 0.0));
        assert!((0.5..=0.75).contains(&rows[1].idle), "two of four threads have no tile: {rows:?}");
    }
}
