//! `hemlock-bench`: runs works for other programs than Criterion, and collects Criterion's results.

#![allow(clippy::print_stdout)]

use anyhow::{Context, Result, anyhow};
use clap::{Args, Parser};
use hemlock_bench::{Machine, Results, SharedTiles, Work, gpu_works, in_task_pool, shared_tiles, works};
use hemlock_models::Needs;
use std::{
    fs,
    io::{Write, stdin, stdout},
    num::NonZeroUsize,
    path::PathBuf,
    time::Instant,
};

/// Works that are timed.
#[derive(Parser)]
enum Command {
    /// Print the names of all works, and what one run of each does
    List,
    /// Prepare a work; then, for every line that is read, run it once and print how many seconds that took
    Serve {
        #[command(flatten)]
        named: Named,
    },
    /// Write what a peer needs to do the same work
    Data {
        #[command(flatten)]
        named: Named,
        /// The folder for it
        dir: PathBuf,
    },
    /// Simulate an extraction, or gradients with respect to pixels, on more threads than this machine has
    Threads {
        /// The architecture
        arch: String,
        /// The number of images
        #[arg(long, default_value = "50000")]
        images: NonZeroUsize,
        /// Their side in pixels
        #[arg(long, default_value = "32")]
        side: NonZeroUsize,
        /// Gradients with respect to pixels instead of features
        #[arg(long)]
        gradients: bool,
    },
    /// Describe this machine and measure its limits, as JSON
    Machine,
    /// Gather what Criterion measured: JSON to a file, and a table to read
    Collect {
        /// Criterion's folder
        criterion: PathBuf,
        /// The file
        json: PathBuf,
    },
}

/// A work.
#[derive(Args)]
struct Named {
    /// The work
    work: String,
    /// The device, for works whose names begin with `gpu-`
    #[arg(long, default_value = "flex")]
    device: String,
    /// The number of images, for these works; by default as many as keep a GPU busy
    #[arg(long)]
    images: Option<usize>,
}

impl Named {
    fn find(&self) -> Result<Box<dyn Work>> {
        let mut all = works().into_iter().chain(gpu_works(&self.device, self.images));
        let found = all.find(|(known, _)| *known == self.work);
        Ok(found.ok_or_else(|| anyhow!("there is no work '{}'; `hemlock-bench list` prints all", self.work))?.1)
    }
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::List => {
            for (name, work) in works().into_iter().chain(gpu_works("flex", None)) {
                println!("{name:30}{}", work.what());
            }
        }
        Command::Serve { named } => serve(&*named.find()?)?,
        Command::Data { named, dir } => named.find()?.given()?.write(&dir)?,
        Command::Threads { arch, images, side, gradients } => {
            let needs = if gradients { Needs::Gradients } else { Needs::Features };
            let rows = shared_tiles(&arch, [images.get(), side.get()], needs, &[1, 2, 4, 8, 16, 32, 64])?;
            println!("| threads | tiles | times as fast | idle |\n| --- | --- | --- | --- |");
            for SharedTiles { threads, tiles, speedup, idle } in rows {
                println!("| {threads} | {tiles} | {speedup:.1} | {:.1} % |", 100.0 * idle);
            }
        }
        Command::Machine => println!("{}", serde_json::to_string_pretty(&Machine::measure()?)?),
        Command::Collect { criterion, json } => {
            let results = Results::collect(&criterion)?;
            let text = serde_json::to_string_pretty(&results)? + "\n";
            fs::write(&json, text).with_context(|| format!("cannot write {}", json.display()))?;
            print!("{results}");
        }
    }
    Ok(())
}

fn serve(work: &dyn Work) -> Result<()> {
    let mut run = work.prepare()?;
    for line in stdin().lines() {
        line?;
        let started = Instant::now();
        in_task_pool(&mut run)?;
        println!("{}", started.elapsed().as_secs_f64());
        stdout().flush()?;
    }
    Ok(())
}
