//! The command line: one file a subcommand, each parses its arguments, calls a library and prints the result.
//!
//! stdout carries the result, stderr the log and progress. Exit codes: 0 done and good, 1 the answer is no, 2 could not do
//! it, 130 stopped by Ctrl-C.

mod assess;
mod bench;
mod compare;
mod convert;
mod doctor;
mod fixup;
mod inspect;
mod inspect_deep;
mod inspect_map;
mod limits;
mod limits_probe;
mod migrate;
pub(crate) mod options;
mod prove;
mod report;
mod run;
mod verify;

use crate::terminal::{Bars, Colour};
use clap::{Parser, Subcommand};
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Program and version, as records carry it.
pub(crate) const TOOL: &str = concat!("esxodus ", env!("CARGO_PKG_VERSION"));

/// Moves VMware guests to KVM and proves, with measurements, that they arrived well.
#[derive(Debug, Parser)]
#[command(name = "esxodus", version, max_term_width = 110, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  esxodus migrate web01/web01.vmx -o out/web01     the whole chain, ends with a report
  esxodus inspect appliance.ova                    what is in it, and what would go wrong
  esxodus doctor                                   what this host can do

Exit codes: 0 done and good, 1 the answer is no, 2 could not do it, 130 stopped by Ctrl-C.";

/// Options of every command.
#[derive(Debug, clap::Args)]
struct Global {
    /// Print one JSON document on stdout instead of text.
    #[arg(long, global = true)]
    json: bool,
    /// More log lines on stderr; twice for all of them.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// No progress, only warnings and errors.
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Colour the log on stderr.
    #[arg(long, global = true, value_enum, default_value = "auto")]
    color: Colour,
}

#[derive(Debug, Subcommand)]
enum Command {
    Doctor(doctor::Args),
    Inspect(inspect::Args),
    Assess(assess::Args),
    Convert(convert::Args),
    Verify(verify::Args),
    Fixup(fixup::Args),
    Prove(prove::Args),
    Run(run::Args),
    Bench(bench::Args),
    Compare(compare::Args),
    Limits(limits::Args),
    Report(report::Args),
    Migrate(migrate::Args),
    /// Runs one machine for the engine that started this process.
    #[command(name = runner::kvm::engine::MONITOR, hide = true)]
    VmmMonitor,
}

impl Command {
    /// What is said of work that Ctrl-C ended.
    fn stopped(&self) -> &'static str {
        match self {
            Self::Convert(args) if args.is_piped() => {
                "stopped; nothing of the disk is kept, since a pipe cannot be read again: start it from the beginning"
            }
            Self::Convert(_) | Self::Migrate(_) => {
                "stopped; what was done is kept, the same command with --resume goes on from there"
            }
            Self::Fixup(_) => "stopped; the same command does the rest, what is done already is found and left",
            _ => "stopped; nothing half-written is left",
        }
    }
}

/// How a command ended when nothing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Exit code 0.
    Good,
    /// Exit code 1: verification failed, boot not proven, regression found, a blocking check fired.
    No,
}

/// What every command is handed.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    pub(crate) bars: Bars,
    /// Set by Ctrl-C and SIGTERM. A second signal ends the process at once.
    pub(crate) cancel: Arc<AtomicBool>,
}

impl Context {
    /// Prints the result: `value` as JSON, or what `text` makes.
    pub(crate) fn print<T: serde::Serialize>(&self, value: &T, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        // Standard output writes line by line: of an estate's JSON that would be half a million calls.
        let mut out = std::io::BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
        if self.json {
            serde_json::to_writer_pretty(&mut out, value)?;
            writeln!(out)?;
        } else {
            let text = text();
            out.write_all(text.as_bytes())?;
            if !text.is_empty() && !text.ends_with('\n') {
                writeln!(out)?;
            }
        }
        Ok(out.flush()?)
    }

    /// A line for people while work goes on.
    pub(crate) fn say(&self, line: &str) {
        if !self.quiet {
            self.bars.say(line);
        }
    }

    pub(crate) fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
}

/// Runs the command and turns its end into the exit code.
pub(crate) fn main(cli: Cli) -> ExitCode {
    log_to_stderr(&cli.global);
    let cancel = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The order matters: the first signal finds the flag unset and only sets it, the second ends the process.
        let armed = signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&cancel))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&cancel)));
        if let Err(error) = armed {
            eprintln!("esxodus: cannot watch for Ctrl-C: {error}");
        }
    }
    let context = Context {
        json: cli.global.json,
        quiet: cli.global.quiet,
        bars: Bars::new(cli.global.quiet || cli.global.json && cli.global.verbose == 0),
        cancel,
    };
    let stopped = cli.command.stopped();
    let result = match cli.command {
        Command::Doctor(args) => doctor::run(&context, &args),
        Command::Inspect(args) => inspect::run(&context, &args),
        Command::Assess(args) => assess::run(&context, &args),
        Command::Convert(args) => convert::run(&context, &args),
        Command::Verify(args) => verify::run(&context, &args),
        Command::Fixup(args) => fixup::run(&context, &args),
        Command::Prove(args) => prove::run(&context, &args),
        Command::Run(args) => run::run(&context, &args),
        Command::Bench(args) => bench::run(&context, &args),
        Command::Compare(args) => compare::run(&context, &args),
        Command::Limits(args) => limits::run(&context, &args),
        Command::Report(args) => report::run(&context, &args),
        Command::Migrate(args) => migrate::run(&context, &args),
        Command::VmmMonitor => match runner::kvm::engine::serve() {
            Ok(true) => Ok(Outcome::Good),
            Ok(false) => Ok(Outcome::No),
            Err(error) => Err(error.into()),
        },
    };
    match result {
        Ok(Outcome::Good) => ExitCode::SUCCESS,
        Ok(Outcome::No) => ExitCode::from(1),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let (code, text) = if context.cancelled() {
                (130, stopped.to_owned())
            } else {
                (2, format!("{error:#}"))
            };
            if context.json {
                println!("{}", serde_json::json!({ "error": text, "exit_code": code }));
            }
            eprintln!("esxodus: {text}");
            ExitCode::from(code)
        }
    }
}

/// `esxodus … | head` is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
            || cause
                .downcast_ref::<serde_json::Error>()
                .is_some_and(|json| json.io_error_kind() == Some(std::io::ErrorKind::BrokenPipe))
    })
}

fn log_to_stderr(global: &Global) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => "error",
        (_, 0) => "warn",
        (_, 1) => "info",
        _ => "debug",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("ESXODUS_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(global.verbose > 1)
        .with_ansi(global.color != Colour::Never && std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
}
