//! Work in tiles, such that results do not depend on the number of threads.
//!
//! burn-flex spreads every operation over the current rayon pool, which pays poorly for the small operations of a
//! ResNet. Whole tiles that run side by side, each in a pool of one thread, are about 40 % faster. The bytes are the
//! same for every number of threads, because tiles are fixed, or change no result.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use burn::tensor::Device;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::device::runs_on_rayon;

/// Calls `work` for consecutive ranges of length `tile` that cover `0..n` (the last one may be shorter), and returns
/// the results in order. As many ranges are processed at a time as the current rayon pool has threads; inside of
/// `work`, rayon sees a pool of one thread.
///
/// # Errors
/// The error of the first tile that fails. Tiles that have not begun by then are skipped.
///
/// # Panics
/// If `work` panics.
pub fn par_tiles<T, E>(n: usize, tile: usize, work: impl Fn(Range<usize>) -> Result<T, E> + Sync) -> Result<Vec<T>, E>
where
    T: Send,
    E: Send,
{
    let tile = tile.max(1);
    let tiles = n.div_ceil(tile);
    let range = |i: usize| i * tile..((i + 1) * tile).min(n);
    let workers = rayon::current_num_threads().min(tiles);
    if workers <= 1 {
        return (0..tiles).map(|i| work(range(i))).collect();
    }

    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let worker = || {
        let mut done = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= tiles {
                break;
            }
            let result = work(range(i));
            if result.is_err() {
                failed.store(true, Ordering::Relaxed);
            }
            done.push((i, result));
        }
        done
    };
    let mut results: Vec<_> = thread::scope(|scope| {
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(|| on_one_thread(worker))).collect();
        handles.into_iter().flat_map(join).collect()
    });
    // A tile begins only after all earlier ones have begun, so the sorted results have no gap before an error.
    results.sort_unstable_by_key(|&(i, _)| i);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Images of one batch on a GPU: enough to fill it, and few enough for the forward cache of a ResNet-18 to fit.
pub const GPU_BATCH: usize = 512;

/// Calls `work` for ranges that cover `0..n`, of a size that suits the device, and returns the results in order: by
/// [`par_tiles`] on the processor, and in batches of [`GPU_BATCH`], one after the other, on a GPU.
///
/// # Errors
/// The error of the first range that fails.
pub fn on_device<T, E>(
    device: &Device,
    n: usize,
    tile: usize,
    work: impl Fn(Range<usize>) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E>
where
    T: Send,
    E: Send,
{
    if runs_on_rayon(device) {
        return par_tiles(n, tile, work);
    }
    (0..n).step_by(GPU_BATCH).map(|start| work(start..(start + GPU_BATCH).min(n))).collect()
}

/// Two thread pools, each with half of the current rayon pool's threads, or no pools if that has one thread.
pub struct PoolPair(Option<[ThreadPool; 2]>);

impl PoolPair {
    /// Starts the threads.
    #[must_use]
    pub fn halves() -> Self {
        let threads = rayon::current_num_threads();
        let pool = |threads| ThreadPoolBuilder::new().num_threads(threads).build().ok();
        let pair = || pool(threads.div_ceil(2)).zip(pool(threads / 2)).map(|(a, b)| [a, b]);
        Self(if threads > 1 { pair() } else { None })
    }

    /// No pools: [`PoolPair::run`] then runs one closure after the other.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// Runs `a` and `b`: side by side, each in its pool, or one after the other if there are no pools.
    pub fn run<A: Send, B: Send>(&self, a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
        match &self.0 {
            Some([first, second]) => rayon::join(|| first.install(a), || second.install(b)),
            None => (a(), b()),
        }
    }
}

/// Runs `work` in a rayon pool of one thread.
fn on_one_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    match ThreadPoolBuilder::new().num_threads(1).build() {
        Ok(pool) => pool.install(work),
        // Without a pool of its own, the thread uses the global one: slower, with the same result.
        Err(_) => work(),
    }
}

/// Joins a thread and propagates its panic.
fn join<T>(handle: thread::ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
        ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
    }

    #[test]
    fn tiles_come_in_order_for_every_thread_count() {
        let expected = vec![0..4, 4..8, 8..10];
        for threads in [1, 2, 5] {
            let tiles = on_threads(threads, || par_tiles(10, 4, Ok::<_, ()>)).unwrap();
            assert_eq!(tiles, expected);
        }
        assert!(par_tiles(0, 4, Ok::<_, ()>).unwrap().is_empty());
    }

    #[test]
    fn work_sees_one_thread() {
        let threads = on_threads(3, || par_tiles(6, 1, |_| Ok::<_, ()>(rayon::current_num_threads())));
        assert_eq!(threads.unwrap(), [1; 6]);
    }

    #[test]
    fn a_pair_has_half_of_the_threads_each() {
        for (threads, halves) in [(1, (1, 1)), (2, (1, 1)), (5, (3, 2))] {
            let pair =
                on_threads(threads, || PoolPair::halves().run(rayon::current_num_threads, rayon::current_num_threads));
            assert_eq!(pair, halves);
        }
    }

    #[test]
    fn the_first_error_is_returned() {
        for threads in [1, 3] {
            let result =
                on_threads(threads, || par_tiles(100, 1, |r| if r.start >= 7 { Err(r.start) } else { Ok(()) }));
            assert_eq!(result, Err(7));
        }
    }
}
