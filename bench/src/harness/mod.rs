//! How a figure is taken: calibrate, warm up, repeat until the interval is narrow, watch what disturbs.
//!
//! Model: a [`Kernel`] does a given number of iterations and says how long they took. The harness finds the number that
//! fills a time slice, so that no size is guessed, and every sample of a metric then does the same fixed work.
//! Time is CLOCK_MONOTONIC_RAW: not slewed by NTP.

mod clock;
mod interleave;
mod kernel;
mod noise;
mod repeat;
mod settle;

pub use clock::Clock;
pub use interleave::{Interleaved, command, interleave, take_turns};
pub use kernel::{Kernel, Recorder, Scale};
pub use noise::{NoiseBar, NoiseMeter, NoiseReading, SpinReference, Work};
pub use repeat::{Plan, Repeated, Stopped, repeat};
pub use settle::{Settled, settle};

/// Why something was not measured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    /// This metric cannot be taken here: why, and what it would need.
    #[error("{0}")]
    Skip(String),
    /// The caller's cancel flag was set.
    #[error("cancelled")]
    Cancelled,
}

impl Halt {
    /// A skip for `what` that failed with `error`.
    pub fn failed(what: &str, error: impl std::fmt::Display) -> Self {
        Self::Skip(format!("{what}: {error}"))
    }
}
