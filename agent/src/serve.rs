//! Answers the host's requests, one after the other.

use crate::{appliance::Appliance, channel, exec, guest_files, state};
use esxodus_agent::frame::{self, Decoder};
use esxodus_agent::protocol::{Answer, Envelope, MAX_PIECE, Request, Role, Stream, VERSION};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since the kernel started.
pub(crate) fn uptime() -> f64 {
    fs::read_to_string("/proc/uptime")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or(0.0)
}

/// The service in a booted guest.
pub(crate) fn guest() -> ExitCode {
    let line = match channel::open(Duration::from_secs(10)) {
        Ok(line) => line,
        Err(error) => {
            eprintln!("esxodus-agent: no line to the host: neither the virtio port nor ttyS1 opens: {error}");
            return ExitCode::from(2);
        }
    };
    match serve(&line, Role::Guest, &mut None) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("esxodus-agent: the line to the host broke: {error}");
            ExitCode::from(2)
        }
    }
}

struct Sender {
    line: Arc<Mutex<File>>,
    id: u64,
}

impl Sender {
    fn send(&self, body: Answer, blob: &[u8]) -> io::Result<()> {
        let head = serde_json::to_vec(&Envelope { id: self.id, body }).map_err(io::Error::other)?;
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        frame::write(&mut *line, &head, blob)
    }
}

fn hello(role: Role) -> Answer {
    Answer::Hello {
        version: VERSION,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        role,
        uptime: uptime(),
    }
}

/// Serves until the line breaks.
pub(crate) fn serve(line: &File, role: Role, appliance: &mut Option<Appliance>) -> io::Result<()> {
    let mut reader = line.try_clone()?;
    let shared = Arc::new(Mutex::new(line.try_clone()?));
    let heard = Arc::new(AtomicBool::new(false));
    let (greeting, quiet) = (Arc::clone(&shared), Arc::clone(&heard));
    std::thread::spawn(move || {
        let sender = Sender { line: greeting, id: 0 };
        while !quiet.load(Ordering::Acquire) && sender.send(hello(role), &[]).is_ok() {
            std::thread::sleep(Duration::from_millis(500));
        }
    });
    let mut decoder = Decoder::default();
    loop {
        let frame = match frame::read(&mut reader, &mut decoder) {
            Ok(frame) => frame,
            // A virtio port reads as empty while nobody is connected at the host's end.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
            Err(error) => return Err(error),
        };
        let Ok(envelope) = serde_json::from_slice::<Envelope<Request>>(&frame.head) else {
            continue;
        };
        heard.store(true, Ordering::Release);
        let sender = Sender {
            line: Arc::clone(&shared),
            id: envelope.id,
        };
        let power_off = envelope.body == Request::PowerOff;
        let answered = answer(envelope.body, &frame.blob, role, appliance, &sender);
        let (body, blob) = answered.unwrap_or_else(|error| {
            (
                Answer::Failed {
                    message: error.to_string(),
                },
                Vec::new(),
            )
        });
        sender.send(body, &blob)?;
        if power_off {
            end(role);
        }
    }
}

fn answer(
    request: Request,
    blob: &[u8],
    role: Role,
    appliance: &mut Option<Appliance>,
    sender: &Sender,
) -> io::Result<(Answer, Vec<u8>)> {
    let mut stream = |stream: Stream, bytes: &[u8]| sender.send(Answer::Output { stream }, bytes);
    let only_in = |what: &str| io::Error::new(io::ErrorKind::Unsupported, format!("only the {what} can do this"));
    Ok(match request {
        Request::Hello { version } if version != VERSION => {
            let message =
                format!("the agent speaks protocol {VERSION}, the host {version}: use an agent of the same build");
            (Answer::Failed { message }, Vec::new())
        }
        Request::Hello { .. } => (hello(role), Vec::new()),
        Request::Ping => (Answer::Pong, blob.to_vec()),
        Request::RunStep {
            argv,
            deadline_ms,
            max_output,
        } => {
            let ended = exec::run(&argv, Duration::from_millis(deadline_ms), max_output, &mut stream)?;
            (ended.into(), Vec::new())
        }
        Request::ReadFile { path, offset, length } => {
            let file = File::open(&path).map_err(|error| named(&path, &error))?;
            let total = file.metadata()?.len();
            let mut piece = vec![0; usize::try_from(length.min(MAX_PIECE)).map_err(io::Error::other)?];
            // Files of /proc and pipes know no length: read what comes.
            let count = if offset == 0 {
                (&file).read(&mut piece)?
            } else {
                file.read_at(&mut piece, offset)?
            };
            piece.truncate(count);
            (Answer::Piece { total }, piece)
        }
        Request::WriteFile { path, offset, mode } => {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(offset == 0)
                .mode(mode)
                .open(&path);
            let file = file.map_err(|error| named(&path, &error))?;
            file.write_all_at(blob, offset)?;
            (Answer::Done, Vec::new())
        }
        Request::GuestFile { path, offset, length } => {
            let root = appliance.as_mut().ok_or_else(|| only_in("appliance"))?.root_path()?;
            let (total, piece) = guest_files::read(&root, &path, offset, length)?;
            (Answer::Piece { total }, piece)
        }
        Request::GuestNames { path, limit } => {
            let root = appliance.as_mut().ok_or_else(|| only_in("appliance"))?.root_path()?;
            let value = guest_files::names(&root, &path, limit)?.into();
            (Answer::Facts { value }, Vec::new())
        }
        Request::Inspect | Request::Inject | Request::Fixup { .. } | Request::Undo { .. } | Request::Unlock => {
            let Some(appliance) = appliance else {
                return Err(only_in("appliance"));
            };
            let value = match request {
                Request::Inspect => appliance.inspect(),
                Request::Inject => appliance.inject()?,
                Request::Fixup { wish } => appliance.fixup(&wish)?,
                Request::Undo {
                    changes,
                    device,
                    dry_run,
                } => appliance.undo(&changes, device.as_deref(), dry_run)?,
                _ => appliance.unlock(blob)?,
            };
            (Answer::Facts { value }, Vec::new())
        }
        Request::State => (Answer::Facts { value: state::gather() }, Vec::new()),
        Request::Bench {
            suite,
            budget_seconds,
            deadline_ms,
            only,
            folder,
            like,
        } => {
            let mut argv = ["--suite", &suite, "--folder", folder.as_deref().unwrap_or("/var/tmp")]
                .map(str::to_owned)
                .to_vec();
            if budget_seconds > 0 {
                argv.extend(["--budget".to_owned(), budget_seconds.to_string()]);
            }
            for pattern in only {
                argv.extend(["--only".to_owned(), pattern]);
            }
            if !like.is_empty() {
                argv.extend(["--like".to_owned(), serde_json::to_string(&like)?]);
            }
            (bench(&argv, deadline_ms, sender)?, Vec::new())
        }
        Request::GetTime => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
            let unix_ns = u64::try_from(now.as_nanos()).map_err(io::Error::other)?;
            (
                Answer::Time {
                    unix_ns,
                    uptime: uptime(),
                },
                Vec::new(),
            )
        }
        Request::PowerOff => {
            if let Some(appliance) = appliance {
                appliance.unmount();
            }
            rustix::fs::sync();
            (Answer::Done, Vec::new())
        }
    })
}

fn named(path: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{path}: {error}"))
}

/// The suite runs as a process of its own: a crash in a workload must not take the line down.
fn bench(arguments: &[String], deadline_ms: u64, sender: &Sender) -> io::Result<Answer> {
    let program = std::env::current_exe()?.to_string_lossy().into_owned();
    let mut argv = vec![program, "bench".to_owned(), "--json".to_owned()];
    argv.extend_from_slice(arguments);
    let mut words = String::new();
    let mut record = Vec::new();
    let ended = exec::run(
        &argv,
        Duration::from_millis(deadline_ms),
        16 << 20,
        &mut |stream, bytes| match stream {
            Stream::Out => {
                record.extend_from_slice(bytes);
                Ok(())
            }
            Stream::Err => {
                words = String::from_utf8_lossy(bytes).into_owned();
                sender.send(Answer::Output { stream }, bytes)
            }
        },
    )?;
    if ended.timed_out {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("the benchmark was not done after {deadline_ms} ms"),
        ));
    }
    if ended.code != Some(0) {
        let last = words.trim().lines().next_back().unwrap_or_default();
        return Err(io::Error::other(format!(
            "the benchmark ended with {:?}: {last}",
            ended.code
        )));
    }
    let value = serde_json::from_slice(&record)
        .map_err(|error| io::Error::other(format!("the benchmark's record: {error}")))?;
    Ok(Answer::Facts { value })
}

fn end(role: Role) {
    // The answer is in the UART's or the port's queue; give it a moment to leave.
    std::thread::sleep(Duration::from_millis(50));
    if role == Role::Appliance {
        let _ = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
    } else if exec::text(&["systemctl", "poweroff", "--no-block"], Duration::from_secs(10)).is_none() {
        let _ = exec::text(&["poweroff"], Duration::from_secs(10));
    }
    let _ = io::stderr().flush();
}
