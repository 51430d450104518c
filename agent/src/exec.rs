//! Runs a program with a deadline and streams its output.

use esxodus_agent::protocol::{Answer, Stream};
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How a program ended.
pub(crate) struct Ended {
    /// Exit code; absent when it was killed.
    pub(crate) code: Option<i32>,
    /// Killed by the deadline.
    pub(crate) timed_out: bool,
    /// Bytes above `max_output`.
    pub(crate) dropped: u64,
}

impl From<Ended> for Answer {
    fn from(ended: Ended) -> Self {
        Self::Exit {
            code: ended.code,
            timed_out: ended.timed_out,
            dropped: ended.dropped,
        }
    }
}

/// Runs `argv`, hands pieces of output to `sink`.
pub(crate) fn run(
    argv: &[String],
    deadline: Duration,
    max_output: u64,
    sink: &mut dyn FnMut(Stream, &[u8]) -> io::Result<()>,
) -> io::Result<Ended> {
    let (program, arguments) = argv
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no program given"))?;
    run_command(Command::new(program).args(arguments), deadline, max_output, sink)
}

/// Ends a program and all that it started and did not send away.
fn kill(child: &mut Child) -> io::Result<()> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if group.is_none_or(|group| kill_process_group(group, Signal::KILL).is_err()) {
        child.kill()?;
    }
    Ok(())
}

/// As [`run`], for a command with an environment of its own.
pub(crate) fn run_command(
    command: &mut Command,
    deadline: Duration,
    max_output: u64,
    sink: &mut dyn FnMut(Stream, &[u8]) -> io::Result<()>,
) -> io::Result<Ended> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("cannot start {program}: {error}")))?;
    let (sender, pieces) = mpsc::sync_channel::<(Stream, Vec<u8>)>(16);
    let readers = [
        (
            Stream::Out,
            child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
        ),
        (
            Stream::Err,
            child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
        ),
    ];
    for (stream, pipe) in readers {
        let (Some(mut pipe), sender) = (pipe, sender.clone()) else {
            continue;
        };
        std::thread::spawn(move || {
            let mut buffer = vec![0; 32 << 10];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                if sender.send((stream, buffer[..count].to_vec())).is_err() {
                    break;
                }
            }
        });
    }
    drop(sender);

    let until = Instant::now() + deadline;
    let (mut sent, mut dropped, mut timed_out) = (0_u64, 0_u64, false);
    let mut exited = None;
    loop {
        match pieces.recv_timeout(Duration::from_millis(50)) {
            Ok((stream, bytes)) => {
                let room = usize::try_from(max_output - sent)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                if room > 0 {
                    sink(stream, &bytes[..room])?;
                }
                sent += room as u64;
                dropped += (bytes.len() - room) as u64;
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            // A daemon left behind may hold the pipes open: the end of the program itself counts.
            Err(mpsc::RecvTimeoutError::Timeout) if exited.is_some() => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        if exited.is_none() {
            exited = child.try_wait()?;
        }
        if exited.is_none() && Instant::now() >= until {
            timed_out = true;
            kill(&mut child)?;
            exited = Some(child.wait()?);
        }
    }
    let status = match exited {
        Some(status) => status,
        None => loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() >= until {
                timed_out = true;
                kill(&mut child)?;
                break child.wait()?;
            }
            std::thread::sleep(Duration::from_millis(20));
        },
    };
    Ok(Ended {
        code: status.code(),
        timed_out,
        dropped,
    })
}

/// Output of a short command as text; `None` where it is missing or fails to start.
pub(crate) fn text(argv: &[&str], deadline: Duration) -> Option<String> {
    let argv: Vec<String> = argv.iter().map(|&part| part.to_owned()).collect();
    let mut output = Vec::new();
    run(&argv, deadline, 256 << 10, &mut |stream, bytes| {
        if stream == Stream::Out {
            output.extend_from_slice(bytes);
        }
        Ok(())
    })
    .ok()?;
    Some(String::from_utf8_lossy(&output).trim_end().to_owned())
}

/// Output that is kept for the words of a failure.
const MAX_WORDS: u64 = 1 << 20;

/// Runs a command that must succeed.
///
/// # Errors
/// As [`must`]; then the last line that it wrote.
pub(crate) fn checked(argv: &[&str], deadline: Duration) -> io::Result<()> {
    let (program, arguments) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    must(Command::new(program).args(arguments), deadline, 1)
}

/// Runs a command that must succeed, with an environment of its own.
///
/// # Errors
/// It does not start, does not end in time, or fails: then the last `lines` that it wrote.
pub(crate) fn must(command: &mut Command, deadline: Duration, lines: usize) -> io::Result<()> {
    let mut output = Vec::new();
    let ended = run_command(command, deadline, MAX_WORDS, &mut |_, bytes| {
        output.extend_from_slice(bytes);
        Ok(())
    })?;
    let program = command.get_program().to_string_lossy();
    if ended.timed_out {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("{program} did not end in time"),
        ));
    }
    if ended.code == Some(0) {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output);
    let said = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut last: Vec<&str> = said.rev().take(lines).collect();
    last.reverse();
    if last.is_empty() {
        last.push("no output");
    }
    Err(io::Error::other(format!(
        "{program} ended with {:?}: {}",
        ended.code,
        last.join(" | ")
    )))
}

#[cfg(test)]
mod tests {
    use super::run;
    use esxodus_agent::protocol::Stream;
    use std::time::Duration;

    fn shell(script: &str, deadline: Duration, most: u64) -> (super::Ended, Vec<u8>) {
        let argv = ["/bin/sh", "-c", script].map(str::to_owned);
        let mut output = Vec::new();
        let ended = run(&argv, deadline, most, &mut |stream, bytes| {
            if stream == Stream::Out {
                output.extend_from_slice(bytes);
            }
            Ok(())
        })
        .expect("sh starts");
        (ended, output)
    }

    #[test]
    fn output_and_exit_code_arrive() {
        let (ended, output) = shell("echo hello; exit 3", Duration::from_secs(20), 1000);
        assert_eq!(
            (ended.code, ended.timed_out, output.as_slice()),
            (Some(3), false, b"hello\n".as_slice())
        );
    }

    #[test]
    fn a_program_past_its_deadline_is_killed_and_says_so() {
        let (ended, _) = shell("exec sleep 60", Duration::from_millis(200), 1000);
        assert!(ended.timed_out && ended.code.is_none());
    }

    #[test]
    fn output_above_the_bound_is_dropped_and_counted() {
        let (ended, output) = shell("head -c 5000 /dev/zero", Duration::from_secs(20), 100);
        assert_eq!((output.len(), ended.dropped), (100, 4900));
    }
}
