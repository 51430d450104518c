//! Waits for a quiet machine before measuring: a guest that was just booted still starts services, a host that was just used
//! still writes back.

use super::{Clock, NoiseBar, NoiseMeter, Work};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// One look at the counters: long enough for `/proc/stat`'s ticks of 10 ms to tell a twentieth of one CPU.
const LOOK: Duration = Duration::from_millis(300);

/// How the waiting ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settled {
    /// Time waited.
    pub waited: Duration,
    /// CPU time of others in the last look, as a fraction of the time of all CPUs.
    pub foreign: f64,
    /// Was it quiet in the end?
    pub quiet: bool,
}

impl Settled {
    /// For the record.
    #[must_use]
    pub fn words(&self) -> String {
        let (seconds, foreign) = (self.waited.as_secs_f64(), self.foreign * 100.0);
        if self.quiet {
            format!("waited {seconds:.1} s before measuring; others used {foreign:.0} % of the CPU time in the end")
        } else {
            format!("waited {seconds:.1} s before measuring in vain: others still used {foreign:.0} % of the CPU time")
        }
    }
}

/// Looks until two looks in a row are below half of the bar, or `most` is used up. `None` where `most` leaves no room for two
/// looks, or `cancel` was set.
#[must_use]
pub fn settle(bar: &NoiseBar, most: Duration, cancel: &AtomicBool) -> Option<Settled> {
    let look = || {
        let meter = NoiseMeter::start(Work::User);
        std::thread::sleep(LOOK);
        meter.read().foreign_share()
    };
    until_quiet(bar, most, cancel, &mut { look })
}

fn until_quiet(bar: &NoiseBar, most: Duration, cancel: &AtomicBool, look: &mut dyn FnMut() -> f64) -> Option<Settled> {
    let start = Clock::now();
    let (mut quiet_before, mut looks) = (false, 0_u32);
    if most < LOOK * 2 {
        return None;
    }
    loop {
        if cancel.load(Ordering::Relaxed) {
            return None;
        }
        let foreign = look();
        looks += 1;
        let quiet = foreign <= bar.foreign / 2.0;
        let waited = start.elapsed().max(LOOK * looks);
        if quiet && quiet_before || waited + LOOK > most {
            return Some(Settled { waited, foreign, quiet });
        }
        quiet_before = quiet;
    }
}

#[cfg(test)]
mod tests {
    use super::{LOOK, Settled, until_quiet};
    use crate::harness::NoiseBar;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    fn waiting(shares: &[f64], most: Duration) -> (Option<Settled>, usize) {
        let (mut left, mut looks) = (shares.iter(), 0);
        let found = until_quiet(&NoiseBar::default(), most, &AtomicBool::new(false), &mut || {
            looks += 1;
            left.next().copied().unwrap_or(0.9)
        });
        (found, looks)
    }

    #[test]
    fn it_waits_until_two_looks_in_a_row_are_quiet() {
        let (found, looks) = waiting(&[0.8, 0.02, 0.3, 0.01, 0.03], Duration::from_secs(60));
        assert_eq!(looks, 5);
        assert!(
            found.is_some_and(|found| found.quiet && found.words().contains("3 %")),
            "{found:?}"
        );
    }

    #[test]
    fn a_machine_that_never_gets_quiet_is_measured_all_the_same_and_the_record_says_so() {
        let (found, looks) = waiting(&[], LOOK * 7);
        assert_eq!(looks, 7);
        assert!(found.is_some_and(|found| !found.quiet && found.words().contains("in vain")));
    }

    #[test]
    fn a_budget_too_small_for_it_is_left_to_the_measurements() {
        assert_eq!(waiting(&[0.0], LOOK), (None, 0));
    }
}
