//! The process: it parses the command line, handles Ctrl-C and failures, and ends with an exit code.

use crate::{args, commands, exit, printer::Printer};
use hemlock_pipeline::Graph;
use hemlock_process::kill_all;
use hemlock_stage::{Cancel, MESSAGE, short};
use std::{
    ffi::OsString,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::ExitCode,
    time::Duration,
};

/// How long interrupted work may take to reach a point where it can stop. A single step of a large network can take
/// longer. If the process is ended during one, it leaves the same files as a killed process, which the next run takes
/// up or removes.
const GRACE: Duration = Duration::from_secs(5);

/// Runs the command `hemlock` with this process's arguments and the stages of a graph. Returns the exit code.
#[must_use]
pub fn main(graph: Graph) -> ExitCode {
    ExitCode::from(command(graph, std::env::args_os(), None))
}

/// Runs the command `hemlock` with arguments, of which the first is its name, and returns the exit code. `program` is
/// the path by which further processes can be started; `None` stands for the program of this process. A process runs
/// it once: it handles signals and panics from then on.
#[must_use]
pub fn command(graph: Graph, arguments: impl IntoIterator<Item = OsString>, program: Option<&Path>) -> u8 {
    let args = match args::parse(&graph, arguments) {
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
        return exit::code(&e);
    }
    let cancel = Cancel::default();
    let handler = {
        let (cancel, printer) = (cancel.clone(), printer.clone());
        move || {
            if cancel.requested() {
                kill_all();
                std::process::exit(exit::INTERRUPTED.into());
            }
            cancel.request();
            let within = GRACE.as_secs();
            printer.note(&format!("stopping, within {within} s; press Ctrl-C again to stop at once"));
            std::thread::spawn(|| {
                std::thread::sleep(GRACE);
                kill_all();
                std::process::exit(exit::INTERRUPTED.into());
            });
        }
    };
    if let Err(e) = ctrlc::set_handler(handler) {
        tracing::warn!("Ctrl-C will not stop cleanly: {e}");
    }
    // Backends panic when they fail. The runner catches this and reports an error; the panic's own message goes to the
    // log.
    std::panic::set_hook(Box::new(|info| tracing::debug!("{info}")));
    let done = catch_unwind(AssertUnwindSafe(|| commands::execute(&args, graph, program, &printer, &cancel)))
        .unwrap_or_else(|_| {
            Err(anyhow::anyhow!("hemlock failed inside; run it again with -vv and report what it says"))
        });
    match done {
        Ok(()) => 0,
        Err(e) => {
            printer.error(&e);
            exit::code(&e)
        }
    }
}

/// Prints the parser's output (the help, the version, or an error about the command line) and returns the exit code.
fn refuse(said: &clap::Error) -> u8 {
    let text = said.render().to_string();
    if said.use_stderr() && short(&text, MESSAGE) != text {
        // The parser quotes arguments in full, so that the message may be too long.
        Printer::new(false).note(&short(&text, MESSAGE));
        return exit::USAGE;
    }
    match Printer::parsed(said) {
        Ok(()) => u8::try_from(said.exit_code()).unwrap_or(exit::USAGE),
        Err(e) => ended(e),
    }
}

/// Prints an error that occurred before a printer could be set up.
fn ended(e: anyhow::Error) -> u8 {
    Printer::new(false).error(&e);
    exit::code(&e)
}
