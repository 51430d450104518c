//! Calibration, warm-up, repetition.

use super::{Clock, Halt, Kernel, Recorder, Scale};
use crate::stats;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long and how often.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Time for everything: calibration, warm-up, samples.
    pub share: Duration,
    /// At least this many samples where the share allows.
    pub min_samples: usize,
    /// At most this many.
    pub max_samples: usize,
    /// Longest wanted time of one sample.
    pub max_slice: Duration,
    /// Width of the median's 95 % interval, as a fraction of the median, at which repeating ends.
    pub narrow: f64,
}

impl Plan {
    /// The quick suite's plan: at least 10 samples. Ten are what Holm's correction over some 40 metrics leaves decidable:
    /// the least exact p of 10 against 10 is 1.1e-5, of 5 against 5 only 0.008.
    #[must_use]
    pub fn quick(share: Duration) -> Self {
        Self {
            share,
            min_samples: 10,
            max_samples: 60,
            max_slice: Duration::from_millis(200),
            narrow: 0.02,
        }
    }

    /// The full suite's plan: at least 20 samples of up to half a second.
    #[must_use]
    pub fn full(share: Duration) -> Self {
        Self {
            share,
            min_samples: 20,
            max_samples: 200,
            max_slice: Duration::from_millis(500),
            narrow: 0.02,
        }
    }

    /// Time of one sample: the share holds calibration and warm-up (worth about three) beside the least number.
    fn slice(&self) -> Duration {
        let parts = u32::try_from(self.min_samples + 3).unwrap_or(u32::MAX);
        (self.share / parts).clamp(Duration::from_micros(500), self.max_slice)
    }
}

/// Why repeating ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// The interval is narrow enough.
    Interval,
    /// The share of the budget is used up.
    Budget,
    /// The greatest number of samples is reached.
    Count,
}

impl Stopped {
    /// As the record spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Interval => "interval",
            Self::Budget => "budget",
            Self::Count => "count",
        }
    }
}

/// What came out.
#[derive(Debug)]
pub struct Repeated {
    /// Values in the order taken.
    pub samples: Vec<f64>,
    /// Why it ended.
    pub stopped: Stopped,
    /// Iterations of the kernel in each sample.
    pub iterations: u64,
    /// Latencies recorded in the samples.
    pub recorder: Recorder,
}

/// Calibrates `kernel`, warms it up, and samples it according to `plan`.
///
/// # Errors
/// What the kernel says, or [`Halt::Cancelled`] once `cancel` is set.
pub fn repeat(kernel: &mut Kernel<'_>, scale: Scale, plan: &Plan, cancel: &AtomicBool) -> Result<Repeated, Halt> {
    let start = Clock::now();
    let mut recorder = Recorder::default();
    let slice = plan.slice();
    let iterations = calibrate(kernel, slice, &mut recorder, cancel)?;
    // Warm-up at full size: first-touch faults and frequency ramps belong to no sample.
    sample(kernel, scale, iterations, &mut recorder, cancel)?;
    let mut samples = Vec::new();
    let stopped = loop {
        samples.push(sample(kernel, scale, iterations, &mut recorder, cancel)?);
        recorder.keep_sample();
        let used = start.elapsed();
        if samples.len() >= plan.min_samples && width(&samples) <= plan.narrow {
            break Stopped::Interval;
        }
        if samples.len() >= plan.max_samples {
            break Stopped::Count;
        }
        // Too few samples are worth more than punctuality, but not more than half the share again.
        let enough = samples.len() >= plan.min_samples || (samples.len() >= 3 && used >= plan.share * 3 / 2);
        if used >= plan.share && (enough || used >= plan.share * 3) {
            break Stopped::Budget;
        }
    };
    Ok(Repeated {
        samples,
        stopped,
        iterations,
        recorder,
    })
}

fn sample(
    kernel: &mut Kernel<'_>,
    scale: Scale,
    iterations: u64,
    recorder: &mut Recorder,
    cancel: &AtomicBool,
) -> Result<f64, Halt> {
    if cancel.load(Ordering::Relaxed) {
        return Err(Halt::Cancelled);
    }
    recorder.begin_sample();
    let elapsed = kernel(iterations, recorder)?;
    Ok(scale.value(iterations, elapsed, recorder))
}

/// Iterations that take about `slice`: doubles (or grows faster while far away) until a quarter of it is reached, then scales.
fn calibrate(
    kernel: &mut Kernel<'_>,
    slice: Duration,
    recorder: &mut Recorder,
    cancel: &AtomicBool,
) -> Result<u64, Halt> {
    let mut iterations = 1_u64;
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(Halt::Cancelled);
        }
        recorder.begin_sample();
        let mut elapsed = kernel(iterations, recorder)?;
        // One interruption must not pass for a slow kernel, or every sample would be far too small: the best of three.
        for _ in 0..2 {
            if elapsed >= slice / 4 {
                elapsed = elapsed.min(kernel(iterations, recorder)?);
            }
        }
        if elapsed >= slice / 4 || iterations >= 1 << 50 {
            let wanted = iterations as f64 * slice.as_secs_f64() / elapsed.as_secs_f64().max(1e-9);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "`as` saturates, and it is positive"
            )]
            return Ok((wanted.round() as u64).clamp(1, 1 << 50));
        }
        iterations *= if elapsed < slice / 64 { 8 } else { 2 };
    }
}

/// Width of the 95 % interval of the median as a fraction of the median; infinite where the median is 0.
fn width(samples: &[f64]) -> f64 {
    let (low, high) = stats::median_interval_quick(samples);
    let median = stats::median(samples);
    if median > 0.0 {
        (high - low) / median
    } else {
        f64::INFINITY
    }
}

#[cfg(test)]
mod tests {
    use super::{Halt, Kernel, Plan, Scale, Stopped, repeat};
    use crate::stats::Prng;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    static GO: AtomicBool = AtomicBool::new(false);

    fn plan() -> Plan {
        Plan {
            share: Duration::from_secs(3600),
            ..Plan::quick(Duration::from_secs(13))
        }
    }

    /// A kernel on a clock of its own: 1 us an iteration, with `noise` as the relative deviation of each call.
    fn simulated(noise: f64) -> Kernel<'static> {
        let mut prng = Prng::new(9);
        Box::new(move |iterations, _| {
            Ok(Duration::from_secs_f64(
                iterations as f64 * 1e-6 * (1.0 + noise * prng.normal()),
            ))
        })
    }

    #[test]
    fn steady_work_ends_as_soon_as_the_least_number_is_taken() {
        let found = repeat(&mut simulated(0.001), Scale::Each(1e6), &plan(), &GO).expect("it runs");
        assert_eq!((found.stopped, found.samples.len()), (Stopped::Interval, 10));
        assert!((found.samples[0] - 1.0).abs() < 0.01);
        // 200 ms slice at 1 us.
        assert!((150_000..250_000).contains(&found.iterations), "{}", found.iterations);
    }

    #[test]
    fn noisy_work_is_repeated_up_to_the_greatest_number() {
        let found = repeat(&mut simulated(0.3), Scale::Each(1e6), &plan(), &GO).expect("it runs");
        assert_eq!((found.stopped, found.samples.len()), (Stopped::Count, 60));
    }

    #[test]
    fn an_empty_share_ends_by_budget_with_few_samples() {
        let none = Plan {
            share: Duration::ZERO,
            ..plan()
        };
        let found = repeat(&mut simulated(0.3), Scale::Rate(1.0), &none, &GO).expect("it runs");
        assert_eq!(found.stopped, Stopped::Budget);
        assert!(found.samples.len() <= 3);
    }

    #[test]
    fn an_interruption_during_calibration_does_not_shrink_the_samples() {
        let mut calls = 0;
        let mut kernel: Kernel<'_> = Box::new(move |iterations, _| {
            calls += 1;
            let stall = if calls == 2 { 0.1 } else { 0.0 };
            Ok(Duration::from_secs_f64(iterations as f64 * 1e-6 + stall))
        });
        let found = repeat(&mut kernel, Scale::Each(1e6), &plan(), &GO).expect("it runs");
        assert!((150_000..250_000).contains(&found.iterations), "{}", found.iterations);
    }

    #[test]
    fn cancel_flag_ends_it() {
        let stop = AtomicBool::new(true);
        let found = repeat(&mut simulated(0.3), Scale::Rate(1.0), &plan(), &stop);
        assert_eq!(found.map(|_| ()), Err(Halt::Cancelled));
    }
}
