//! The host's side of the agent protocol: one question at a time, a deadline on each.

use crate::{Result, RunnerError};
use agent::frame::{self, Decoder};
use agent::protocol::{Answer, Envelope, Request, Role, Stream, VERSION};
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(100);

/// A line to an agent that has said hello.
#[derive(Debug)]
pub struct AgentClient {
    line: UnixStream,
    decoder: Decoder,
    next_id: u64,
    /// What it is there for.
    pub role: Role,
    /// Seconds the guest's kernel was up when it said hello.
    pub uptime: f64,
    /// Its program version.
    pub program: String,
}

/// Lines on which an agent may speak.
#[derive(Debug)]
pub struct Listener {
    lines: Vec<(UnixStream, Decoder)>,
}

impl Listener {
    /// Listens on `lines`.
    #[must_use]
    pub fn new(lines: Vec<UnixStream>) -> Self {
        Self {
            lines: lines.into_iter().map(|line| (line, Decoder::default())).collect(),
        }
    }

    /// Looks whether an agent has said hello; returns at once.
    ///
    /// # Errors
    /// An agent of another protocol version.
    pub fn poll(&mut self) -> Result<Option<AgentClient>> {
        for index in 0..self.lines.len() {
            let (line, decoder) = &mut self.lines[index];
            let broken = |error: std::io::Error| RunnerError::Agent(format!("the line broke: {error}"));
            line.set_nonblocking(true).map_err(broken)?;
            let mut buffer = [0_u8; 4096];
            while let Ok(count @ 1..) = line.read(&mut buffer) {
                decoder.push(&buffer[..count]);
            }
            line.set_nonblocking(false).map_err(broken)?;
            while let Some(found) = decoder.next_frame() {
                let Ok(Envelope {
                    body:
                        Answer::Hello {
                            version,
                            program,
                            role,
                            uptime,
                        },
                    ..
                }) = serde_json::from_slice(&found.head)
                else {
                    continue;
                };
                if version != VERSION {
                    return Err(RunnerError::Agent(format!(
                        "it speaks protocol {version}, this program {VERSION}: build agent and program from the same sources"
                    )));
                }
                let (line, decoder) = self.lines.swap_remove(index);
                line.set_read_timeout(Some(TICK)).map_err(broken)?;
                line.set_write_timeout(Some(Duration::from_secs(30))).map_err(broken)?;
                let mut client = AgentClient {
                    line,
                    decoder,
                    next_id: 1,
                    role,
                    uptime,
                    program,
                };
                let never = AtomicBool::new(false);
                client.ask(
                    Request::Hello { version: VERSION },
                    &[],
                    Duration::from_secs(30),
                    &never,
                    &mut |_, _| {},
                )?;
                return Ok(Some(client));
            }
        }
        Ok(None)
    }
}

impl AgentClient {
    /// Asks and waits for the answer. `output` gets what a running program writes.
    ///
    /// # Errors
    /// The agent could not do it (its words), the deadline passed, the line broke, the user stopped it.
    pub fn ask(
        &mut self,
        request: Request,
        blob: &[u8],
        deadline: Duration,
        cancel: &AtomicBool,
        output: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<(Answer, Vec<u8>)> {
        let what = format!("{request:?}");
        let id = self.next_id;
        self.next_id += 1;
        let broken = |error: std::io::Error| RunnerError::Agent(format!("the line broke: {error}"));
        let head = serde_json::to_vec(&Envelope { id, body: request })
            .map_err(|error| RunnerError::Agent(error.to_string()))?;
        frame::write(&mut self.line, &head, blob).map_err(broken)?;
        let until = Instant::now() + deadline;
        let mut buffer = vec![0_u8; 64 << 10];
        loop {
            while let Some(found) = self.decoder.next_frame() {
                let Ok(envelope) = serde_json::from_slice::<Envelope<Answer>>(&found.head) else {
                    continue;
                };
                if envelope.id != id {
                    continue;
                }
                match envelope.body {
                    Answer::Output { stream } => output(stream, &found.blob),
                    Answer::Failed { message } => return Err(RunnerError::Agent(message)),
                    answer => return Ok((answer, found.blob)),
                }
            }
            if cancel.load(Ordering::Relaxed) {
                return Err(RunnerError::Cancelled);
            }
            if Instant::now() >= until {
                return Err(RunnerError::Deadline {
                    what: format!("the agent's answer to {what}"),
                    after: deadline,
                });
            }
            match self.line.read(&mut buffer) {
                Ok(0) => return Err(RunnerError::Agent("the guest closed the line".into())),
                Ok(count) => self.decoder.push(&buffer[..count]),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(broken(error)),
            }
        }
    }

    /// Asks for facts.
    ///
    /// # Errors
    /// As [`AgentClient::ask`], and an answer that is none.
    pub fn facts(&mut self, request: Request, deadline: Duration, cancel: &AtomicBool) -> Result<serde_json::Value> {
        match self.ask(request, &[], deadline, cancel, &mut |_, _| {})? {
            (Answer::Facts { value }, _) => Ok(value),
            (other, _) => Err(RunnerError::Agent(format!(
                "facts were asked for, it answered {other:?}"
            ))),
        }
    }
}
