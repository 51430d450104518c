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
    panic: Option<Panic>,
    tail: Tail,
}

/// A panic that the console shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Panic {
    /// The kernel stamps its lines with the time.
    stamped: bool,
    /// The line of the panic or one of those below it is complete.
    complete: bool,
}

/// What the kernel prints before a line: `[    1.234567] ` and maybe its thread or CPU, `[    T1] `. The rest of the line, and
/// whether there was a stamp.
fn unstamped(line: &[u8]) -> (&[u8], bool) {
    let Some((inside, mut rest)) = bracket(line) else {
        return (line, false);
    };
    let number = inside.trim_ascii_start();
    let time = number.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.') && number.contains(&b'.');
    if !time {
        return (line, false);
    }
    if let Some((inside, behind)) = bracket(rest)
        && matches!(inside.trim_ascii_start(), [b'T' | b'C', digits @ ..] if digits.iter().all(u8::is_ascii_digit))
    {
        rest = behind;
    }
    (rest.trim_ascii_start(), true)
}

/// What is inside of a bracket at the start of a line, and what is behind it.
fn bracket(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let inside = line.strip_prefix(b"[")?;
    let end = inside.iter().position(|byte| *byte == b']')?;
    Some((&inside[..end], &inside[end + 1..]))
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
            panic: None,
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
            self.line_ends();
            self.line.clear();
            return;
        }
        if let Some(panic) = &mut self.panic
            && panic.complete
            && byte != b'\r'
        {
            // A prompt is a line that does not end: only the kernel's next line makes it a panic again.
            panic.complete = false;
            self.events.event(MachineEvent::PanicDoubted);
        }
        self.line.push(byte);
        if let Some(marker) = &self.marker
            && self.line.ends_with(marker)
        {
            self.marker = None;
            self.events.event(MachineEvent::ConsoleMarker);
        }
    }

    /// A program may print an old log, and that is no panic: the kernel's own panic stands at the start of a line, and nothing
    /// but the kernel speaks after it.
    fn line_ends(&mut self) {
        let line = self.line.trim_ascii_end();
        let (words, stamped) = unstamped(line);
        if words.starts_with(PANIC) {
            self.panic = Some(Panic {
                stamped,
                complete: true,
            });
        } else if let Some(panic) = &mut self.panic {
            if panic.complete && line.is_empty() {
                return;
            }
            if panic.stamped && !stamped {
                self.panic = None;
                return;
            }
            panic.complete = true;
        } else {
            return;
        }
        self.events.event(MachineEvent::Panic(PanicSource::Console));
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
        for byte in b"boot\r\nREADY READY\r\n[ 1.0] Kernel panic - not syncing: x\r\n" {
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

    /// The last word about a panic after this text.
    fn last_word(text: &str) -> Option<MachineEvent> {
        let log = Arc::new(Log::default());
        let mut console = Console::new(Box::new(io::sink()), log.clone(), None);
        console.write_all(text.as_bytes()).expect("never fails");
        let events = log.0.lock().expect("alive");
        events
            .iter()
            .rev()
            .find(|event| **event != MachineEvent::ConsoleStarted)
            .copied()
    }

    #[test]
    fn a_panic_is_the_kernels_line_with_nothing_but_the_kernels_lines_after_it() {
        const PANICKED: Option<MachineEvent> = Some(MachineEvent::Panic(PanicSource::Console));
        const DOUBTED: Option<MachineEvent> = Some(MachineEvent::PanicDoubted);
        let stamped = "[    3.141592] Kernel panic - not syncing: VFS\r\n";
        let trace =
            "[    3.15] CPU: 0 PID: 1 Comm: swapper/0\r\n[    3.16] ---[ end Kernel panic - not syncing: VFS ]---\r\n";
        for (text, expected) in [
            (stamped.to_owned(), PANICKED),
            (format!("{stamped}{trace}"), PANICKED),
            (
                "[    3.1][    T1] Kernel panic - not syncing: VFS\n".to_owned(),
                PANICKED,
            ),
            ("Kernel panic - not syncing: VFS\nCPU: 0 PID: 1\n".to_owned(), PANICKED),
            // A prompt, and a program's line, after an old log.
            (format!("{stamped}{trace}root@guest:~# "), DOUBTED),
            (format!("{stamped}{trace}done\n"), DOUBTED),
            (format!("{stamped}done\n{stamped}"), PANICKED),
            ("Kernel panic - not syncing: VFS\n$ ".to_owned(), DOUBTED),
            // Talk about panics.
            (
                "Nov 29 guest kernel: Kernel panic - not syncing: VFS\n".to_owned(),
                None,
            ),
            ("grep -c 'Kernel panic - not syncing' log\n".to_owned(), None),
            ("[x] Kernel panic - not syncing\n".to_owned(), None),
        ] {
            assert_eq!(last_word(&text), expected, "{text:?}");
        }
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
