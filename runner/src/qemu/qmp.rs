//! QEMU's machine protocol: commands with a deadline, events on the side.

use crate::{Result, RunnerError};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// An event as QEMU sends it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct QmpEvent {
    pub(crate) at: Instant,
    pub(crate) name: String,
    pub(crate) data: Value,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Qmp {
    writer: UnixStream,
    answers: mpsc::Receiver<Value>,
    events: mpsc::Receiver<QmpEvent>,
    version: String,
}

fn failed(message: impl Into<String>) -> RunnerError {
    RunnerError::Engine {
        engine: "QMP".into(),
        message: message.into(),
    }
}

impl Qmp {
    /// Greets and negotiates.
    pub(crate) fn new(stream: UnixStream) -> Result<Self> {
        let writer = stream.try_clone().map_err(|error| failed(error.to_string()))?;
        let (answer, answers) = mpsc::channel();
        let (event, events) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines() {
                let Ok(line) = line else { break };
                let Ok(value) = serde_json::from_str::<Value>(&line) else {
                    continue;
                };
                if let Some(name) = value["event"].as_str() {
                    let found = QmpEvent {
                        at: Instant::now(),
                        name: name.to_owned(),
                        data: value["data"].clone(),
                    };
                    if event.send(found).is_err() {
                        break;
                    }
                } else if answer.send(value).is_err() {
                    break;
                }
            }
        });
        let mut qmp = Self {
            writer,
            answers,
            events,
            version: String::new(),
        };
        let greeting = qmp.receive("its greeting", Duration::from_secs(20))?;
        let version = &greeting["QMP"]["version"]["qemu"];
        qmp.version = format!("{}.{}.{}", version["major"], version["minor"], version["micro"]);
        qmp.execute("qmp_capabilities", &json!({}), Duration::from_secs(20))?;
        Ok(qmp)
    }

    fn receive(&self, what: &str, deadline: Duration) -> Result<Value> {
        self.answers.recv_timeout(deadline).map_err(|error| match error {
            mpsc::RecvTimeoutError::Timeout => RunnerError::Deadline {
                what: format!("QMP: {what}"),
                after: deadline,
            },
            mpsc::RecvTimeoutError::Disconnected => failed(format!("QEMU closed the connection, waiting for {what}")),
        })
    }

    /// Executes a command.
    pub(crate) fn execute(&mut self, command: &str, arguments: &Value, deadline: Duration) -> Result<Value> {
        // An answer that came too late for its own deadline must not be taken for this one's.
        while self.answers.try_recv().is_ok() {}
        let line = format!("{}\n", json!({"execute": command, "arguments": arguments}));
        self.writer
            .write_all(line.as_bytes())
            .map_err(|error| failed(format!("{command}: {error}")))?;
        let answer = self.receive(command, deadline)?;
        match answer.get("error") {
            Some(error) => Err(failed(format!(
                "{command}: {}",
                error["desc"].as_str().unwrap_or("refused")
            ))),
            None => Ok(answer["return"].clone()),
        }
    }

    /// Events since the last call.
    pub(crate) fn events(&self) -> Vec<QmpEvent> {
        self.events.try_iter().collect()
    }

    /// QEMU's version.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }
}
