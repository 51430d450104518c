//! The serial console: every line with the time it was complete, kept in memory (bounded) and in a log file.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Lines kept in memory; the log file keeps all.
const MAX_LINES: usize = 20_000;
const MAX_LINE: usize = 4096;

/// One line of the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleLine {
    /// Since the guest was started.
    pub at: Duration,
    /// Text without control characters.
    pub text: String,
}

#[derive(Debug, Default)]
struct Seen {
    lines: Vec<ConsoleLine>,
    partial: Vec<u8>,
    last: Duration,
    bytes: u64,
}

/// The console of a running guest.
#[derive(Debug, Clone)]
pub struct Console {
    seen: Arc<Mutex<Seen>>,
    writer: Arc<Mutex<UnixStream>>,
    log: PathBuf,
}

/// Without escape sequences and control characters.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        if char == '\u{1b}' {
            // CSI: ends with a letter; anything else: one more character.
            if chars.next() == Some('[') {
                for next in chars.by_ref() {
                    if next.is_ascii_alphabetic() {
                        break;
                    }
                }
            }
        } else if !char.is_control() || char == '\t' {
            out.push(char);
        }
    }
    out
}

impl Console {
    /// Follows `stream` on a thread of its own; `started` is time zero.
    ///
    /// # Errors
    /// The log cannot be written, the stream cannot be cloned.
    pub fn follow(stream: UnixStream, log: PathBuf, started: Instant) -> std::io::Result<Self> {
        let mut file = File::create(&log)?;
        let writer = Arc::new(Mutex::new(stream.try_clone()?));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        let mut stream = stream;
        std::thread::spawn(move || {
            let mut buffer = [0_u8; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                // A full disk must not stop the guest's console.
                let _ = file.write_all(&buffer[..count]);
                let at = started.elapsed();
                let mut seen = shared.lock().unwrap_or_else(PoisonError::into_inner);
                seen.last = at;
                seen.bytes += count as u64;
                for &byte in &buffer[..count] {
                    if byte == b'\n' || seen.partial.len() >= MAX_LINE {
                        let text = plain(&seen.partial);
                        seen.partial.clear();
                        if !text.trim().is_empty() && seen.lines.len() < MAX_LINES {
                            seen.lines.push(ConsoleLine { at, text });
                        }
                    }
                    if byte != b'\n' {
                        seen.partial.push(byte);
                    }
                }
            }
        });
        Ok(Self { seen, writer, log })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whole lines from number `from` on.
    #[must_use]
    pub fn lines(&self, from: usize) -> Vec<ConsoleLine> {
        self.seen().lines.get(from..).unwrap_or_default().to_vec()
    }

    /// The line that is not ended yet, for prompts.
    #[must_use]
    pub fn partial(&self) -> ConsoleLine {
        let seen = self.seen();
        ConsoleLine {
            at: seen.last,
            text: plain(&seen.partial),
        }
    }

    /// Bytes seen so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.seen().bytes
    }

    /// The raw log file.
    #[must_use]
    pub fn log(&self) -> &std::path::Path {
        &self.log
    }

    /// Types into the console.
    ///
    /// # Errors
    /// The guest is gone.
    pub fn send(&self, bytes: &[u8]) -> std::io::Result<()> {
        self.writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn colours_and_control_characters_are_gone() {
        assert_eq!(plain(b"[\x1b[0;32m  OK  \x1b[0m] Started\r"), "[  OK  ] Started");
    }
}
