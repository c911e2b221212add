//! All works that are short enough for Criterion.

use criterion::Criterion;
use hemlock_bench::{Run, in_task_pool, works};
use std::time::Duration;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(4))
        .configure_from_args();
    for (name, work) in works().into_iter().filter(|(_, work)| !work.long()) {
        // Setting up is slow, so it is done once, and only for works that Criterion's filter selects.
        let mut prepared: Option<Run> = None;
        criterion.bench_function(name, |bencher| {
            let run = prepared.get_or_insert_with(|| work.prepare().unwrap_or_else(|e| panic!("{name}: {e:#}")));
            bencher.iter(|| in_task_pool(run).unwrap_or_else(|e| panic!("{name}: {e:#}")));
        });
    }
    criterion.final_summary();
}
