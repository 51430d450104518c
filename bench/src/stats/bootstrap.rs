//! Percentile bootstrap of medians and of ratios of medians (Efron and Tibshirani, chapter 13).
//!
//! The percentile interval and not BCa: BCa's acceleration comes from the jackknife, which is inconsistent for the median.
//! 10,000 resamples, fixed seed.

use super::{Prng, quantile};

/// Number of resamples.
pub const RESAMPLES: usize = 10_000;

const SEED: u64 = 0x65_736f_6475_7321;

/// 95 % interval of the median of `samples`. Both ends are NaN where there are none.
#[must_use]
pub fn median_interval(samples: &[f64]) -> (f64, f64) {
    median_interval_of(samples, RESAMPLES)
}

/// The same from 500 resamples, for a decision while measuring.
#[must_use]
pub(crate) fn median_interval_quick(samples: &[f64]) -> (f64, f64) {
    median_interval_of(samples, 500)
}

fn median_interval_of(samples: &[f64], resamples: usize) -> (f64, f64) {
    let mut resampler = Resampler::new(samples);
    let mut prng = Prng::new(SEED);
    interval((0..resamples).map(|_| resampler.median(&mut prng)).collect())
}

/// 95 % interval of `median(candidate) / median(base)`, the two resampled independently.
#[must_use]
pub fn ratio_interval(base: &[f64], candidate: &[f64]) -> (f64, f64) {
    let (mut below, mut above) = (Resampler::new(base), Resampler::new(candidate));
    let mut prng = Prng::new(SEED);
    interval(
        (0..RESAMPLES)
            .map(|_| above.median(&mut prng) / below.median(&mut prng))
            .collect(),
    )
}

/// 95 % interval of the median of the paired ratios `candidate[i] / base[i]`; extra values of the longer slice are unused.
#[must_use]
pub fn ratio_interval_paired(base: &[f64], candidate: &[f64]) -> (f64, f64) {
    let ratios: Vec<f64> = base.iter().zip(candidate).map(|(b, c)| c / b).collect();
    median_interval(&ratios)
}

fn interval(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_unstable_by(f64::total_cmp);
    (quantile(&values, 0.025), quantile(&values, 0.975))
}

/// Draws medians of resamples from sorted values: a resample is a multiset of ranks, so that counting ranks replaces sorting.
struct Resampler {
    sorted: Vec<f64>,
    counts: Vec<u32>,
}

impl Resampler {
    fn new(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let counts = vec![0; sorted.len()];
        Self { sorted, counts }
    }

    fn median(&mut self, prng: &mut Prng) -> f64 {
        let n = self.sorted.len();
        if n == 0 {
            return f64::NAN;
        }
        self.counts.fill(0);
        for _ in 0..n {
            self.counts[prng.index(n)] += 1;
        }
        let (low_rank, high_rank) = ((n - 1) / 2, n / 2);
        let (mut seen, mut low) = (0_usize, None);
        for (value, count) in self.sorted.iter().zip(&self.counts) {
            seen += *count as usize;
            if low.is_none() && seen > low_rank {
                low = Some(*value);
            }
            if seen > high_rank {
                return f64::midpoint(low.unwrap_or(*value), *value);
            }
        }
        f64::NAN
    }
}

#[cfg(test)]
mod tests {
    use super::{median_interval, ratio_interval, ratio_interval_paired};
    use crate::stats::Prng;

    #[test]
    fn interval_of_the_median_covers_the_truth_in_about_95_of_100() {
        let mut prng = Prng::new(11);
        let covered = (0..200)
            .filter(|_| {
                let samples: Vec<f64> = (0..20).map(|_| 100.0 + prng.normal()).collect();
                let (low, high) = median_interval(&samples);
                low <= 100.0 && 100.0 <= high
            })
            .count();
        assert!((180..=200).contains(&covered), "{covered} of 200");
    }

    #[test]
    fn ratio_interval_lies_around_the_planted_ratio() {
        let mut prng = Prng::new(5);
        let base: Vec<f64> = (0..15).map(|_| 100.0 + prng.normal()).collect();
        let candidate: Vec<f64> = base.iter().map(|v| v * 0.9).collect();
        let (low, high) = ratio_interval(&base, &candidate);
        assert!(low < 0.9 && 0.9 < high && high < 0.95 && low > 0.85, "{low} {high}");
        let (low, high) = ratio_interval_paired(&base, &candidate);
        assert!((low - 0.9).abs() < 1e-9 && (high - 0.9).abs() < 1e-9);
    }

    #[test]
    fn same_samples_give_the_same_interval_twice() {
        let samples = [1.0, 5.0, 2.0, 8.0, 3.0];
        assert_eq!(median_interval(&samples), median_interval(&samples));
        assert!(median_interval(&[]).0.is_nan());
    }
}
