//! A piece of repeatable work and how its time becomes a value.

use super::Halt;
use hdrhistogram::Histogram;
use reports::schema::Percentile;
use std::time::Duration;

/// How iterations and time become the value of a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    /// `iterations * factor / seconds`: bandwidth, operations per second.
    Rate(f64),
    /// `seconds / iterations * factor`: time of one iteration; 1e9 gives nanoseconds.
    Each(f64),
    /// Median of the latencies recorded in the sample, nanoseconds times the factor; 1e-3 gives microseconds.
    MedianLatency(f64),
}

impl Scale {
    /// The value of a sample.
    #[must_use]
    pub fn value(self, iterations: u64, elapsed: Duration, recorder: &Recorder) -> f64 {
        // A clock that did not move must not give an infinite rate.
        let seconds = elapsed.as_secs_f64().max(1e-9);
        match self {
            Self::Rate(factor) => iterations as f64 * factor / seconds,
            Self::Each(factor) => seconds / iterations as f64 * factor,
            Self::MedianLatency(factor) => recorder.sample.value_at_quantile(0.5) as f64 * factor,
        }
    }
}

/// Does `iterations` of its work, records single latencies where it has some, and returns the time they took, without
/// preparations such as starting threads.
pub type Kernel<'a> = Box<dyn FnMut(u64, &mut Recorder) -> Result<Duration, Halt> + 'a>;

/// Latencies of single operations in nanoseconds: of the present sample and of all samples so far.
#[derive(Debug)]
pub struct Recorder {
    sample: Histogram<u64>,
    all: Histogram<u64>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            sample: histogram(),
            all: histogram(),
        }
    }
}

impl Recorder {
    /// Takes one latency. Above an hour it counts as an hour.
    pub fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.sample.saturating_record(nanos.max(1));
    }

    /// A sample begins.
    pub fn begin_sample(&mut self) {
        self.sample.reset();
    }

    /// The sample counts.
    pub fn keep_sample(&mut self) {
        self.all
            .add(&self.sample)
            .expect("both histograms have the same bounds");
    }

    /// Drops all samples kept.
    pub fn forget(&mut self) {
        self.all.reset();
    }

    /// Percentiles over all samples kept, in microseconds; empty where nothing was recorded. Percentiles that fewer than
    /// ten recorded values lie above are left out: they would be the maximum under another name.
    #[must_use]
    pub fn percentiles_us(&self) -> Vec<Percentile> {
        let count = self.all.len();
        let supported = |percent: &f64| count as f64 * (100.0 - percent) >= 999.999;
        let mut result: Vec<Percentile> = [50.0, 90.0, 95.0, 99.0, 99.9, 99.99]
            .into_iter()
            .filter(supported)
            .map(|percent| Percentile {
                percent,
                value: self.all.value_at_percentile(percent) as f64 / 1e3,
            })
            .collect();
        if count > 0 {
            result.push(Percentile {
                percent: 100.0,
                value: self.all.max() as f64 / 1e3,
            });
        }
        result
    }
}

fn histogram() -> Histogram<u64> {
    const HOUR_NS: u64 = 3_600_000_000_000;
    Histogram::new_with_bounds(1, HOUR_NS, 3).expect("1 ns to 1 h with 3 digits are valid bounds")
}

#[cfg(test)]
mod tests {
    use super::{Recorder, Scale};
    use std::time::Duration;

    #[test]
    fn scales_turn_time_into_rate_time_and_median() {
        let mut recorder = Recorder::default();
        recorder.begin_sample();
        for us in [10, 20, 30] {
            recorder.record(Duration::from_micros(us));
        }
        let half = Duration::from_millis(500);
        assert_eq!(Scale::Rate(1e-6).value(2_000_000, half, &recorder), 4.0);
        assert_eq!(Scale::Each(1e9).value(1_000, half, &recorder), 500_000.0);
        assert!((Scale::MedianLatency(1e-3).value(1, half, &recorder) - 20.0).abs() < 0.1);
    }

    #[test]
    fn percentiles_need_ten_values_above_them() {
        let mut recorder = Recorder::default();
        recorder.begin_sample();
        for us in 1..=1000 {
            recorder.record(Duration::from_micros(us));
        }
        recorder.keep_sample();
        let found: Vec<f64> = recorder.percentiles_us().iter().map(|p| p.percent).collect();
        assert_eq!(found, [50.0, 90.0, 95.0, 99.0, 100.0]);
        assert!((recorder.percentiles_us()[1].value - 900.0).abs() < 2.0);
    }

    #[test]
    fn samples_that_are_not_kept_leave_no_trace() {
        let mut recorder = Recorder::default();
        recorder.begin_sample();
        recorder.record(Duration::from_secs(9));
        recorder.begin_sample();
        assert!(recorder.percentiles_us().is_empty());
    }
}
