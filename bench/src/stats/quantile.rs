//! Order statistics and the summary that a record keeps of its samples.

use super::bootstrap::median_interval;
use reports::schema::Summary;

/// Quantile `q` in `[0, 1]` of `sorted` by linear interpolation (Hyndman and Fan type 7, the default of numpy and R). NaN
/// where there are no values.
#[must_use]
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let position = q.clamp(0.0, 1.0) * last as f64;
    let floor = position.floor();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and `last`, a usize"
    )]
    let index = floor as usize;
    let low = sorted[index];
    let high = sorted[(index + 1).min(last)];
    low + (high - low) * (position - floor)
}

/// Median of values in any order; NaN where there are none.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    quantile(&sorted, 0.5)
}

/// The summary of `samples` with the 95 % bootstrap interval of their median. All NaN-free for finite samples; zeros where
/// there are none.
#[must_use]
pub fn summarise(samples: &[f64]) -> Summary {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else {
        return Summary {
            n: 0,
            median: 0.0,
            mean: 0.0,
            min: 0.0,
            max: 0.0,
            q1: 0.0,
            q3: 0.0,
            ci_low: 0.0,
            ci_high: 0.0,
        };
    };
    let (ci_low, ci_high) = median_interval(samples);
    Summary {
        n: u32::try_from(samples.len()).unwrap_or(u32::MAX),
        median: quantile(&sorted, 0.5),
        mean: samples.iter().sum::<f64>() / samples.len() as f64,
        min,
        max,
        q1: quantile(&sorted, 0.25),
        q3: quantile(&sorted, 0.75),
        ci_low,
        ci_high,
    }
}

#[cfg(test)]
mod tests {
    use super::{median, quantile, summarise};

    // numpy 2: np.quantile([1, 2, 4, 8, 16, 32, 64], [0, .1, .25, .5, .75, .9, 1])
    #[test]
    fn quantiles_agree_with_numpy() {
        let values = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];
        let expected = [
            (0.0, 1.0),
            (0.1, 1.6),
            (0.25, 3.0),
            (0.5, 8.0),
            (0.75, 24.0),
            (0.9, 44.8),
            (1.0, 64.0),
        ];
        for (q, value) in expected {
            assert!((quantile(&values, q) - value).abs() < 1e-9, "{q}");
        }
    }

    #[test]
    fn median_of_even_count_is_the_middle_of_two_and_order_does_not_matter() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn summary_interval_holds_the_median_and_one_sample_has_no_width() {
        let summary = summarise(&[5.0, 1.0, 9.0, 3.0, 7.0, 2.0, 8.0]);
        assert!(summary.ci_low <= summary.median && summary.median <= summary.ci_high);
        assert_eq!((summary.min, summary.max, summary.n), (1.0, 9.0, 7));
        let one = summarise(&[5.0]);
        assert_eq!((one.ci_low, one.median, one.ci_high), (5.0, 5.0, 5.0));
        assert_eq!(summarise(&[]).n, 0);
    }
}
