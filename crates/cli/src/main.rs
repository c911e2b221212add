//! The `hemlock` command: parses, calls the library, prints.

mod args;
mod commands;
mod exit;
mod printer;
mod registry;
mod render;

use clap::Parser;
use hemlock_stage::Cancel;
use printer::Printer;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = args::Args::parse();
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
    match commands::execute(&args, &printer, &cancel) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            printer.error(&e);
            ExitCode::from(exit::code(&e))
        }
    }
}
