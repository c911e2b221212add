//! The process: parses the command line, handles Ctrl-C and failures, and ends with an exit code.

use crate::{args, commands, exit, printer::Printer};
use hemlock_pipeline::Graph;
use hemlock_stage::{Cancel, MESSAGE, short};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::Duration,
};

/// How long work that was interrupted may take to a point where it stops by itself. A step of a large network takes
/// longer; ended within one, a process leaves what a killed one does, which the next run takes up or removes.
const GRACE: Duration = Duration::from_secs(5);

/// Runs the command `hemlock` on this process's arguments, with the stages of a graph; the exit code says how it ended.
#[must_use]
pub fn main(graph: Graph) -> ExitCode {
    let args = match args::parse(&graph) {
        Ok(args) => args,
        Err((_, Some(hint))) => return ended(exit::Usage(hint).into()),
        Err((said, None)) => return refuse(&said),
    };
    let printer = Printer::new(args.quiet);
    printer.install_log(args.verbose);
    if let Some(Err(e)) = args.directory.as_ref().map(std::env::set_current_dir) {
        let dir = args.directory.unwrap_or_default();
        let e = exit::Usage(format!("-C {}: cannot be started in: {e}; expected a folder", dir.display())).into();
        printer.error(&e);
        return ExitCode::from(exit::code(&e));
    }
    let cancel = Cancel::default();
    let handler = {
        let (cancel, printer) = (cancel.clone(), printer.clone());
        move || {
            if cancel.requested() {
                std::process::exit(exit::INTERRUPTED.into());
            }
            cancel.request();
            let within = GRACE.as_secs();
            printer.note(&format!("stopping, within {within} s; press Ctrl-C again to stop at once"));
            std::thread::spawn(|| {
                std::thread::sleep(GRACE);
                std::process::exit(exit::INTERRUPTED.into());
            });
        }
    };
    if let Err(e) = ctrlc::set_handler(handler) {
        tracing::warn!("Ctrl-C will not stop cleanly: {e}");
    }
    // Backends panic where they fail. The runner catches that and reports an error; the panic's own words go to the
    // log.
    std::panic::set_hook(Box::new(|info| tracing::debug!("{info}")));
    let done =
        catch_unwind(AssertUnwindSafe(|| commands::execute(&args, graph, &printer, &cancel))).unwrap_or_else(|_| {
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

/// What the parser has to say: help or the version, or what is wrong with the command line.
fn refuse(said: &clap::Error) -> ExitCode {
    let text = said.render().to_string();
    if said.use_stderr() && short(&text, MESSAGE) != text {
        // What was given is quoted whole.
        Printer::new(false).note(&short(&text, MESSAGE));
        return ExitCode::from(exit::USAGE);
    }
    match Printer::parsed(said) {
        Ok(()) => ExitCode::from(u8::try_from(said.exit_code()).unwrap_or(exit::USAGE)),
        Err(e) => ended(e),
    }
}

/// An error before there is a printer with settings of its own.
fn ended(e: anyhow::Error) -> ExitCode {
    Printer::new(false).error(&e);
    ExitCode::from(exit::code(&e))
}
