//! `esxodus`: leave ESXi with proof. Starts, logs, returns the exit code; the work is in the libraries.
#![forbid(unsafe_code)]

mod chain;
mod cli;
mod terminal;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main(cli::Cli::parse())
}
