//! `esxodus-agent bench`: measures the machine it runs on. The record goes to stdout as JSON, progress to stderr.
//!
//! Plain arguments and no command-line parser: the binary is copied to foreign machines and stays small.

use ::bench::{SuiteOptions, list, run_suite};
use reports::schema::{AcceleratorClass, BenchRecord, BenchSizes, HostFacts, Place, Suite};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

const HELP: &str = "\
esxodus-agent bench: measures this machine and writes one JSON record to standard output

  --suite quick|full   about a minute (default) or a quarter of an hour
  --budget SECONDS     wall time for everything
  --folder DIR         folder on the disk to test (default: the current one)
  --disk-budget MIB    disk space to use at most (default: 1024)
  --memory-budget MIB  memory to use at most (default: 40 % of what is available)
  --threads N          threads of the all-CPU metrics (default: the CPUs that may be used)
  --only PATTERN       metrics whose id contains PATTERN, or starts with it where it ends in *; may be repeated
  --like FILE.json     take the sizes of that record (disk file, request rate, arrays), so that the two compare
  --peer HOST:PORT     measure the network against an agent that serves there
  --serve PORT         be that other agent, until interrupted
  --label TEXT         a name for tables (default: the host's name)
  --json               JSON on standard output (default; a table goes to standard error with --table)
  --table              also show a table on standard error
  --list               what would be measured, with what it means
  --help               this text

No root is needed. Files used carry no name while in use and are gone when the program ends, however it ends.
Ctrl-C, SIGTERM and SIGHUP end it within a second. Exit code: 0 measured; 2 it could not; 130 stopped by a signal.
";

/// Runs `bench` with the arguments after that word.
pub(crate) fn main(arguments: impl Iterator<Item = String>) -> ExitCode {
    match Request::parse(arguments).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("esxodus-agent bench: {message}");
            ExitCode::from(if cancelled().load(Ordering::Relaxed) { 130 } else { 2 })
        }
    }
}

/// Set by Ctrl-C, SIGTERM, and a terminal that goes away (SIGHUP); watched from the first call on. A second signal ends
/// the process at once.
fn cancelled() -> &'static AtomicBool {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    FLAG.get_or_init(|| {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // The order matters: the first signal finds the flag unset and only sets it, the second ends the process.
            let armed = signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&flag)));
            if let Err(error) = armed {
                eprintln!("esxodus-agent bench: cannot watch for signal {signal}: {error}");
            }
        }
        flag
    })
}

/// What was asked for.
enum Request {
    Help,
    List(Box<SuiteOptions>),
    Serve(u16),
    Run { options: Box<SuiteOptions>, table: bool },
}

impl Request {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = SuiteOptions::new(Suite::Quick, ".");
        let (mut listing, mut table, mut label) = (false, false, None);
        while let Some(argument) = arguments.next() {
            let (name, inline) = match argument.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (argument, None),
            };
            let mut value = || {
                inline
                    .clone()
                    .or_else(|| arguments.next())
                    .ok_or(format!("{name} needs a value"))
            };
            match name.as_str() {
                "--suite" => {
                    options.suite = match value()?.as_str() {
                        "quick" => Suite::Quick,
                        "full" => Suite::Full,
                        other => return Err(format!("--suite {other}: quick or full")),
                    }
                }
                "--budget" => options.budget_seconds = Some(number(&name, &value()?)?),
                "--folder" => options.folder = value()?.into(),
                "--disk-budget" => options.disk_budget_bytes = mebibytes(&name, &value()?)?,
                "--memory-budget" => options.memory_budget_bytes = Some(mebibytes(&name, &value()?)?),
                "--threads" => options.threads = Some(number(&name, &value()?)?),
                "--only" => options.only.get_or_insert_default().push(value()?),
                "--like" => options.like = like(&value()?)?,
                "--peer" => options.peer = Some(value()?),
                "--serve" => return Ok(Self::Serve(number(&name, &value()?)?)),
                "--label" => label = Some(value()?),
                "--json" => {}
                "--table" => table = true,
                "--list" => listing = true,
                "--help" | "-h" => return Ok(Self::Help),
                other => return Err(format!("unknown argument {other}; --help shows all")),
            }
        }
        place(&mut options, &::bench::host::facts());
        options.label = label.unwrap_or_else(host_name);
        Ok(if listing {
            Self::List(Box::new(options))
        } else {
            Self::Run {
                options: Box::new(options),
                table,
            }
        })
    }
}

/// Sizes of a record, or the sizes themselves where the host hands them over.
fn like(text: &str) -> Result<BenchSizes, String> {
    if text.starts_with('{') {
        return serde_json::from_str(text).map_err(|error| format!("--like {text}: {error}"));
    }
    let bytes = std::fs::read(text).map_err(|error| format!("--like {text}: {error}"))?;
    let record = ::bench::import(&bytes).map_err(|error| format!("--like {text}: {error}"))?;
    Ok(record.sizes)
}

fn number<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("{name} {text}: not a number in range"))
}

fn mebibytes(name: &str, text: &str) -> Result<u64, String> {
    number::<u64>(name, text)?
        .checked_mul(1 << 20)
        .ok_or(format!("{name} {text}: too large"))
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() {
        "agent".to_owned()
    } else {
        name.trim().to_owned()
    }
}

/// Where this is, as far as it can be told from inside. KVM's quality cannot: that stays unknown.
fn place(options: &mut SuiteOptions, facts: &HostFacts) {
    options.place = match (&facts.container, &facts.hypervisor) {
        (Some(kind), _) if kind.starts_with("lxc") => Place::Lxc,
        (_, Some(_)) => Place::Guest,
        _ => Place::Host,
    };
    options.accelerator = match facts.hypervisor.as_deref() {
        Some("VMwareVMware") => AcceleratorClass::Esxi,
        Some("TCGTCGTCGTCG") => AcceleratorClass::Tcg,
        None => AcceleratorClass::Metal,
        Some(_) => AcceleratorClass::Unknown,
    };
}

fn run(request: Request) -> Result<(), String> {
    match request {
        Request::Help => {
            eprint!("{HELP}");
            Ok(())
        }
        Request::List(options) => {
            for metric in list(&options) {
                println!("{:<28} {:<10} {}", metric.id, metric.unit, metric.name);
                println!("    measures: {}", metric.measures);
                println!("    pitfalls: {}", metric.pitfalls);
                println!("    compare with: {}", metric.reference);
            }
            Ok(())
        }
        Request::Serve(port) => {
            eprintln!("serving on port {port}; end with Ctrl-C");
            ::bench::workloads::serve(port, cancelled()).map_err(|error| format!("port {port}: {error}"))
        }
        Request::Run { options, table } => {
            let progress = |id: &str, at: usize, total: usize| eprintln!("[{at}/{total}] {id}");
            let record = run_suite(&options, &progress, cancelled()).map_err(|error| error.to_string())?;
            for skipped in &record.skipped {
                eprintln!("skipped {}: {}", skipped.id, skipped.reason);
            }
            if table {
                show(&record);
            }
            let json = serde_json::to_string(&record).map_err(|error| format!("cannot write the record: {error}"))?;
            println!("{json}");
            Ok(())
        }
    }
}

fn show(record: &BenchRecord) {
    for metric in &record.metrics {
        let (m, s) = (metric, &metric.summary);
        let spread = if s.median > 0.0 {
            (s.ci_high - s.ci_low) / s.median * 50.0
        } else {
            0.0
        };
        let unfit = m.unfit.as_ref().map_or(String::new(), |why| format!("  UNFIT: {why}"));
        eprintln!(
            "{:<28} {:>14.3} {:<9} ±{spread:>5.1} %  n={:<3} {}{unfit}",
            m.id, s.median, m.unit, s.n, m.stopped
        );
    }
}

#[cfg(test)]
mod tests {
    use super::Request;

    fn parse(text: &str) -> Result<Request, String> {
        Request::parse(text.split_ascii_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_reach_the_suite_with_and_without_an_equals_sign() {
        let Ok(Request::Run { options, .. }) =
            parse("--budget 20 --folder=/x --only cpu.* --only disk --disk-budget 64")
        else {
            panic!("a run was asked for");
        };
        assert_eq!(options.budget_seconds, Some(20.0));
        assert_eq!(options.folder, std::path::Path::new("/x"));
        assert_eq!(options.only, Some(vec!["cpu.*".to_owned(), "disk".to_owned()]));
        assert_eq!(options.disk_budget_bytes, 64 << 20);
    }

    #[test]
    fn sizes_of_the_other_record_come_from_its_file_or_as_they_are() {
        let Ok(Request::Run { options, .. }) = parse(r#"--like {"disk_file_bytes":268435456,"disk_rate":500}"#) else {
            panic!("a run was asked for");
        };
        assert_eq!(
            (
                options.like.disk_file_bytes,
                options.like.disk_rate,
                options.like.stream_array_bytes
            ),
            (Some(256 << 20), Some(500), None)
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("--suite slow", "quick or full"),
            ("--budget", "needs a value"),
            ("--bugdet 3", "--bugdet"),
            ("--threads x", "not a number"),
            ("--like /nonexistent.json", "/nonexistent.json"),
        ] {
            assert!(parse(text).is_err_and(|message| message.contains(part)), "{text}");
        }
    }
}
