//! The `hemlock` command: parses, calls the library, prints.

mod args;
mod commands;
mod exit;
mod printer;
mod render;

use clap::Parser;
use hemlock_stage::{Cancel, MESSAGE, short};
use printer::Printer;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
};

fn main() -> ExitCode {
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(e) => return refuse(&e),
    };
    let printer = Printer::new(args.quiet);
    printer.install_log(args.verbose);
    let cancel = Cancel::default();
    let handler = {
        let (cancel, printer) = (cancel.clone(), printer.clone());
        move || {
            if cancel.requested() {
                std::process::exit(exit::INTERRUPTED.into());
            }
            cancel.request();
            printer.note("stopping at the next safe point; press Ctrl-C again to stop at once");
        }
    };
    if let Err(e) = ctrlc::set_handler(handler) {
        tracing::warn!("Ctrl-C will not stop cleanly: {e}");
    }
    // Backends panic where they fail. The runner catches that and reports an error; the panic's own words go to the log.
    std::panic::set_hook(Box::new(|info| tracing::debug!("{info}")));
    let done = catch_unwind(AssertUnwindSafe(|| commands::execute(&args, &printer, &cancel))).unwrap_or_else(|_| {
        Err(anyhow::anyhow!("hemlock failed inside; run it again with -vv and report what it says"))
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            printer.error(&e);
            ExitCode::from(exit::code(&e))
        }
    }
}

/// Says what is wrong with the command line, or what was asked of it: help, or the version.
fn refuse(e: &clap::Error) -> ExitCode {
    let text = e.render().to_string();
    if short(&text, MESSAGE) == text || !e.use_stderr() {
        e.exit();
    }
    // What was given is quoted whole.
    Printer::new(false).note(&short(&text, MESSAGE));
    ExitCode::from(exit::USAGE)
}
