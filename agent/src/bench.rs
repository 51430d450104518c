//! The benchmark subcommand.

use std::process::ExitCode;

/// Runs `esxodus-agent bench ARGS`.
pub(crate) fn main(_args: &[String]) -> ExitCode {
    eprintln!("esxodus-agent: this build carries no benchmark");
    ExitCode::from(2)
}
