//! `hemlock-bench`: the works for whom Criterion is not enough, and what is stored of it.

#![allow(clippy::print_stdout)]

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use hemlock_bench::{Machine, Results, Work, on_threads, works};
use std::{
    fs,
    io::{Write, stdin, stdout},
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
        /// The work
        work: String,
    },
    /// Write what a peer needs to do the same work
    Data {
        /// The work
        work: String,
        /// The folder for it
        dir: PathBuf,
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

fn main() -> Result<()> {
    match Command::parse() {
        Command::List => {
            for (name, work) in works() {
                println!("{name:20}{}", work.what());
            }
        }
        Command::Serve { work } => serve(&*named(&work)?)?,
        Command::Data { work, dir } => named(&work)?.given()?.write(&dir)?,
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

fn named(name: &str) -> Result<Box<dyn Work>> {
    let found = works().into_iter().find(|(known, _)| *known == name);
    Ok(found.ok_or_else(|| anyhow!("there is no work '{name}'; `hemlock-bench list` prints all"))?.1)
}

fn serve(work: &dyn Work) -> Result<()> {
    let mut run = work.prepare()?;
    for line in stdin().lines() {
        line?;
        let started = Instant::now();
        on_threads(&mut run)?;
        println!("{}", started.elapsed().as_secs_f64());
        stdout().flush()?;
    }
    Ok(())
}
