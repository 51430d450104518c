//! What happens to a running machine, collected from its threads: first reason to end wins, stages are stamped once.

use std::{
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::exit::ExitReason;
use crate::devices::{EventSink, Events, MachineEvent, PanicSource};

/// How long a panicking guest may go on, so that its last lines still arrive; from its last line where the console told.
const PANIC_GRACE: Duration = Duration::from_secs(3);
/// Boot marks that are kept.
const MARKS: usize = 256;

/// When the boot stages were reached, counted from [`super::VmmConfig::started`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stages {
    /// The first `KVM_RUN`.
    pub first_run: Option<Duration>,
    /// First byte on the console.
    pub console: Option<Duration>,
    /// The configured text on the console.
    pub marker: Option<Duration>,
    /// Bytes written to port 0x80 with their times; the first 256.
    pub marks: Vec<(u8, Duration)>,
    /// The end.
    pub end: Option<Duration>,
}

#[derive(Debug, Default)]
struct State {
    reason: Option<ExitReason>,
    panic: Option<(PanicSource, Instant)>,
    stages: Stages,
}

/// Shared by all threads of a machine.
#[derive(Debug)]
pub(super) struct Outcome {
    start: Instant,
    observer: Option<EventSink>,
    state: Mutex<State>,
    changed: Condvar,
    stop: AtomicBool,
}

impl Outcome {
    /// `start` is time zero of all stamps; `observer` hears every event too, before it has its effect.
    pub(super) fn new(start: Instant, observer: Option<EventSink>) -> Self {
        Self {
            start,
            observer,
            state: Mutex::default(),
            changed: Condvar::new(),
            stop: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether vCPUs have to leave.
    pub(super) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Ends the machine. A reset, fault or deadline after a panic is still the panic's end.
    pub(super) fn end(&self, reason: ExitReason) {
        let mut confirmed = false;
        let mut state = self.lock();
        if state.reason.is_none() {
            let reason = match (&state.panic, reason) {
                (_, reason @ (ExitReason::Stopped | ExitReason::PoweredOff)) => reason,
                (Some((source, _)), _) => ExitReason::Panicked { source: *source },
                (None, reason) => reason,
            };
            confirmed = reason
                == ExitReason::Panicked {
                    source: PanicSource::Console,
                };
            state.reason = Some(reason);
            state.stages.end = Some(self.start.elapsed());
        }
        self.stop.store(true, Ordering::Release);
        drop(state);
        if confirmed && let Some(observer) = &self.observer {
            observer.event(MachineEvent::Panic(PanicSource::Console));
        }
        self.changed.notify_all();
    }

    /// The first processor enters the guest now.
    pub(super) fn first_run(&self) {
        self.event(MachineEvent::Entered);
    }

    pub(super) fn stages(&self) -> Stages {
        self.lock().stages.clone()
    }

    /// Blocks until the machine ends; `deadline` and a panic's grace time end it from here.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> ExitReason {
        let mut state = self.lock();
        loop {
            if let Some(reason) = &state.reason {
                return reason.clone();
            }
            let now = Instant::now();
            let grace = state.panic.as_ref().map(|(_, since)| *since + PANIC_GRACE);
            let limit = [deadline, grace].into_iter().flatten().min();
            if limit.is_some_and(|limit| limit <= now) {
                drop(state);
                self.end(ExitReason::Deadline);
                state = self.lock();
                continue;
            }
            state = match limit {
                Some(limit) => {
                    self.changed
                        .wait_timeout(state, limit - now)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl Events for Outcome {
    fn event(&self, event: MachineEvent) {
        // What the console shows is a panic only once the machine ends by it.
        let certain = !matches!(
            event,
            MachineEvent::Panic(PanicSource::Console) | MachineEvent::PanicDoubted
        );
        if certain && let Some(observer) = &self.observer {
            observer.event(event);
        }
        match event {
            MachineEvent::PowerOff => self.end(ExitReason::PoweredOff),
            MachineEvent::Reset(source) => self.end(ExitReason::Reset { source }),
            MachineEvent::Panic(source) => {
                let mut state = self.lock();
                // The driver's word stands, with its time; the console's counts from its last line.
                if !matches!(state.panic, Some((PanicSource::Pvpanic, _))) {
                    state.panic = Some((source, Instant::now()));
                }
                drop(state);
                self.changed.notify_all();
            }
            MachineEvent::PanicDoubted => {
                self.lock().panic.take_if(|(source, _)| *source == PanicSource::Console);
                self.changed.notify_all();
            }
            MachineEvent::Entered => {
                let elapsed = self.start.elapsed();
                self.lock().stages.first_run.get_or_insert(elapsed);
            }
            MachineEvent::ConsoleStarted => {
                let elapsed = self.start.elapsed();
                self.lock().stages.console.get_or_insert(elapsed);
            }
            MachineEvent::ConsoleMarker => {
                let elapsed = self.start.elapsed();
                self.lock().stages.marker.get_or_insert(elapsed);
            }
            MachineEvent::Mark(byte) => {
                let elapsed = self.start.elapsed();
                let mut state = self.lock();
                if state.stages.marks.len() < MARKS {
                    state.stages.marks.push((byte, elapsed));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::devices::ResetSource;

    #[test]
    fn a_reset_after_a_panic_is_reported_as_the_panic() {
        let outcome = Outcome::new(Instant::now(), None);
        outcome.event(MachineEvent::Panic(PanicSource::Console));
        outcome.event(MachineEvent::Reset(ResetSource::Acpi));
        outcome.event(MachineEvent::PowerOff);
        assert_eq!(
            outcome.wait(None),
            ExitReason::Panicked {
                source: PanicSource::Console
            }
        );
        assert!(outcome.stopping());
    }

    #[derive(Debug, Default)]
    struct Log(Mutex<Vec<MachineEvent>>);
    impl Events for Log {
        fn event(&self, event: MachineEvent) {
            self.0.lock().expect("alive").push(event);
        }
    }

    #[test]
    fn what_only_looked_like_a_panic_neither_ends_the_machine_nor_reaches_the_observer() {
        let log = Arc::new(Log::default());
        let outcome = Outcome::new(Instant::now(), Some(log.clone()));
        outcome.event(MachineEvent::Panic(PanicSource::Console));
        outcome.event(MachineEvent::PanicDoubted);
        assert!(log.0.lock().expect("alive").is_empty());
        outcome.event(MachineEvent::Reset(ResetSource::Acpi));
        assert_eq!(
            outcome.wait(None),
            ExitReason::Reset {
                source: ResetSource::Acpi
            }
        );
    }

    #[test]
    fn a_panic_on_the_console_reaches_the_observer_once_and_the_drivers_word_is_not_doubted() {
        let log = Arc::new(Log::default());
        let outcome = Outcome::new(Instant::now(), Some(log.clone()));
        outcome.event(MachineEvent::Panic(PanicSource::Console));
        outcome.event(MachineEvent::Panic(PanicSource::Console));
        outcome.end(ExitReason::Deadline);
        outcome.end(ExitReason::Deadline);
        let told = log.0.lock().expect("alive").clone();
        assert_eq!(told, [MachineEvent::Panic(PanicSource::Console)]);
        let outcome = Outcome::new(Instant::now(), None);
        outcome.event(MachineEvent::Panic(PanicSource::Pvpanic));
        outcome.event(MachineEvent::PanicDoubted);
        outcome.end(ExitReason::Deadline);
        let source = PanicSource::Pvpanic;
        assert_eq!(outcome.wait(None), ExitReason::Panicked { source });
    }

    #[test]
    fn a_passed_deadline_ends_a_silent_guest() {
        let outcome = Outcome::new(Instant::now(), None);
        assert_eq!(outcome.wait(Some(Instant::now())), ExitReason::Deadline);
    }
}
