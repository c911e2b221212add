//! The `hemlock` command: parses, calls the library, prints.

mod args;
mod commands;
mod exit;
mod printer;
mod render;

use clap::Parser;
use hemlock_stage::Cancel;
use printer::Printer;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
};

fn main() -> ExitCode {
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(said) => {
            let code = u8::try_from(said.exit_code()).unwrap_or(2);
            return match Printer::parsed(&said) {
                Ok(()) => ExitCode::from(code),
                Err(e) => {
                    Printer::new(true).error(&e);
                    ExitCode::from(exit::code(&e))
                }
            };
        }
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
