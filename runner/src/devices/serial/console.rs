//! Watches the console's output for the first byte, a panic and a configured marker, and keeps its end.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};

use super::Output;
use crate::devices::{EventSink, MachineEvent, PanicSource};

/// What Linux prints when it panics (`kernel/panic.c`).
const PANIC: &[u8] = b"Kernel panic - not syncing";
/// How much of the output is kept, in bytes.
const TAIL: usize = 64 << 10;
/// Longest line that is searched; a longer one is cut.
const LINE: usize = 4096;

/// The kept end of the output.
#[derive(Debug, Clone, Default)]
pub struct Tail(Arc<Mutex<VecDeque<u8>>>);

impl Tail {
    /// The last 64 KiB as text.
    pub fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (front, back) = bytes.as_slices();
        String::from_utf8_lossy(&[front, back].concat()).into_owned()
    }
}

/// The writer behind ttyS0.
pub struct Console {
    out: Output,
    events: EventSink,
    marker: Option<Vec<u8>>,
    line: Vec<u8>,
    started: bool,
    panicked: bool,
    tail: Tail,
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console")
            .field("marker", &self.marker)
            .finish_non_exhaustive()
    }
}

impl Console {
    /// Passes everything to `out`; tells `events` when `marker` appears for the first time.
    pub fn new(out: Output, events: EventSink, marker: Option<String>) -> Self {
        Self {
            out,
            events,
            marker: marker.map(String::into_bytes),
            line: Vec::new(),
            started: false,
            panicked: false,
            tail: Tail::default(),
        }
    }

    /// The kept end of the output, shared.
    pub fn tail(&self) -> Tail {
        self.tail.clone()
    }

    fn byte(&mut self, byte: u8) {
        if !self.started {
            self.started = true;
            self.events.event(MachineEvent::ConsoleStarted);
        }
        if byte == b'\n' || self.line.len() >= LINE {
            self.line.clear();
            return;
        }
        self.line.push(byte);
        if let Some(marker) = &self.marker
            && self.line.ends_with(marker)
        {
            self.marker = None;
            self.events.event(MachineEvent::ConsoleMarker);
        }
        if !self.panicked && self.line.ends_with(PANIC) {
            self.panicked = true;
            self.events.event(MachineEvent::Panic(PanicSource::Console));
        }
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        {
            let mut tail = self.tail.0.lock().unwrap_or_else(PoisonError::into_inner);
            tail.extend(bytes);
            let excess = tail.len().saturating_sub(TAIL);
            tail.drain(..excess);
        }
        for &byte in bytes {
            self.byte(byte);
        }
        // A closed output must not stop the guest: the tail still has the text.
        let _ = self.out.write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.out.flush();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::Events;

    #[derive(Debug, Default)]
    struct Log(Mutex<Vec<MachineEvent>>);
    impl Events for Log {
        fn event(&self, event: MachineEvent) {
            self.0.lock().expect("alive").push(event);
        }
    }

    #[test]
    fn panic_and_marker_are_seen_once_and_byte_by_byte() {
        let log = Arc::new(Log::default());
        let mut console = Console::new(Box::new(io::sink()), log.clone(), Some("READY".into()));
        for byte in b"boot\r\nREADY READY\r\n[ 1.0] Kernel panic - not syncing: x\nKernel panic - not syncing" {
            console.write_all(&[*byte]).expect("never fails");
        }
        assert_eq!(
            *log.0.lock().expect("alive"),
            [
                MachineEvent::ConsoleStarted,
                MachineEvent::ConsoleMarker,
                MachineEvent::Panic(PanicSource::Console)
            ]
        );
        assert!(console.tail().text().starts_with("boot"));
    }

    #[test]
    fn the_tail_is_bounded() {
        let log = Arc::new(Log::default());
        let mut console = Console::new(Box::new(io::sink()), log, None);
        console.write_all(&vec![b'a'; TAIL]).expect("never fails");
        console.write_all(b"end").expect("never fails");
        let text = console.tail().text();
        assert_eq!(text.len(), TAIL);
        assert!(text.ends_with("aend"));
    }
}
