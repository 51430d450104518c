//! CLOCK_MONOTONIC_RAW.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// A point in time on CLOCK_MONOTONIC_RAW, which NTP does not slew. On kernels before 5.3 reading it is a system call of
/// some 100 ns instead of a read of the vDSO, so that it is read around slices and I/O operations only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Clock(Duration);

impl Clock {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::MonotonicRaw);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
        Self(Duration::new(seconds, nanos))
    }

    /// Time since `self`; zero if it lies ahead.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        Self::now().since(self)
    }

    /// Time from `earlier` to `self`; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// `duration` later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0 + duration)
    }
}

#[cfg(test)]
mod tests {
    use super::Clock;
    use std::time::Duration;

    #[test]
    fn time_does_not_run_backwards() {
        let first = Clock::now();
        let second = Clock::now();
        assert!(second >= first);
        assert_eq!(first.since(second.after(Duration::from_secs(1))), Duration::ZERO);
    }
}
