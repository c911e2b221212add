//! The binary `hemlock`.

use std::process::ExitCode;

fn main() -> ExitCode {
    hemlock::main(hemlock::graph())
}
