//! Calibration, warm-up, repetition.

use super::{Clock, Halt, Kernel, Recorder, Scale};
use crate::stats;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often a calibration that was held up is put right; work that truly gets faster by this much each time is taken as it is.
const MOST_CORRECTIONS: u32 = 3;
const MOST_ITERATIONS: u64 = 1 << 50;

/// How long and how often.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Time for everything: calibration, warm-up, samples.
    pub share: Duration,
    /// The end, however few samples there are; what is left of the whole budget bounds it.
    pub limit: Duration,
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
            limit: share * 3,
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
            limit: share * 3,
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
    let mut iterations = calibrate(kernel, slice, &mut recorder, cancel)?;
    let mut samples = Vec::new();
    let (mut warm, mut corrections) = (false, 0);
    let stopped = loop {
        let (value, took) = sample(kernel, scale, iterations, &mut recorder, cancel)?;
        // Far shorter than planned: the calibration was held up all through. Nothing of that size reaches the record.
        if took < slice / 3 && corrections < MOST_CORRECTIONS {
            corrections += 1;
            iterations = scaled(iterations, slice, took);
            samples.clear();
            recorder.forget();
            warm = false;
            continue;
        }
        // Warm-up at full size: first-touch faults and frequency ramps belong to no sample.
        if !warm {
            warm = true;
            continue;
        }
        samples.push(value);
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
        if used >= plan.limit || used >= plan.share && enough {
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
) -> Result<(f64, Duration), Halt> {
    if cancel.load(Ordering::Relaxed) {
        return Err(Halt::Cancelled);
    }
    recorder.begin_sample();
    let elapsed = kernel(iterations, recorder)?;
    Ok((scale.value(iterations, elapsed, recorder), elapsed))
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
        if elapsed >= slice / 4 || iterations >= MOST_ITERATIONS {
            return Ok(scaled(iterations, slice, elapsed));
        }
        iterations *= if elapsed < slice / 64 { 8 } else { 2 };
    }
}

/// The number of iterations that takes `slice`, when `iterations` took `elapsed`.
fn scaled(iterations: u64, slice: Duration, elapsed: Duration) -> u64 {
    let wanted = iterations as f64 * slice.as_secs_f64() / elapsed.as_secs_f64().max(1e-9);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "`as` saturates, and it is positive"
    )]
    let wanted = wanted.round() as u64;
    wanted.clamp(1, MOST_ITERATIONS)
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
    fn samples_that_a_calibration_held_up_all_through_made_too_small_do_not_reach_the_record() {
        let mut calls = 0;
        // Ten times slower until well into the samples, then as it should be.
        let mut kernel: Kernel<'_> = Box::new(move |iterations, recorder| {
            calls += 1;
            let slow = if calls < 15 { 10.0 } else { 1.0 };
            recorder.record(Duration::from_nanos(if calls < 15 { 10 } else { 1 }));
            Ok(Duration::from_secs_f64(iterations as f64 * 1e-6 * slow))
        });
        let found = repeat(&mut kernel, Scale::Each(1e6), &plan(), &GO).expect("it runs");
        assert!((150_000..250_000).contains(&found.iterations), "{}", found.iterations);
        assert!(
            found.samples.iter().all(|us| (us - 1.0).abs() < 1e-6),
            "{:?}",
            found.samples
        );
        assert!(found.recorder.percentiles_us().iter().all(|p| p.value < 0.002));
    }

    #[test]
    fn work_that_keeps_getting_faster_ends_all_the_same() {
        let mut seconds = 1.0;
        let mut kernel: Kernel<'_> = Box::new(move |_, _| {
            seconds *= 0.8;
            Ok(Duration::from_secs_f64(seconds))
        });
        assert!(repeat(&mut kernel, Scale::Each(1.0), &plan(), &GO).is_ok());
    }

    #[test]
    fn the_limit_ends_it_after_one_sample_however_large_the_share() {
        let tight = Plan {
            limit: Duration::ZERO,
            ..plan()
        };
        let found = repeat(&mut simulated(0.3), Scale::Rate(1.0), &tight, &GO).expect("it runs");
        assert_eq!((found.stopped, found.samples.len()), (Stopped::Budget, 1));
    }

    #[test]
    fn cancel_flag_ends_it() {
        let stop = AtomicBool::new(true);
        let found = repeat(&mut simulated(0.3), Scale::Rate(1.0), &plan(), &stop);
        assert_eq!(found.map(|_| ()), Err(Halt::Cancelled));
    }
}
