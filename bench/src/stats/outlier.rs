//! Outliers are flagged, never removed.
//!
//! Modified z-score from the median absolute deviation: Iglewicz and Hoaglin, "How to Detect and Handle Outliers", 1993,
//! which recommend flagging scores above 3.5.

use super::median;

/// Scores above this, in absolute value, are flagged.
pub const OUTLIER_BAR: f64 = 3.5;

/// Modified z-score of every sample. All zero where more than half of the samples are equal.
#[must_use]
pub fn modified_z_scores(samples: &[f64]) -> Vec<f64> {
    let centre = median(samples);
    let deviations: Vec<f64> = samples.iter().map(|value| (value - centre).abs()).collect();
    let mad = median(&deviations);
    let score = |value: &f64| {
        if mad > 0.0 {
            0.6745 * (value - centre) / mad
        } else {
            0.0
        }
    };
    samples.iter().map(score).collect()
}

/// Positions of the flagged samples.
#[must_use]
pub fn outliers(samples: &[f64]) -> Vec<usize> {
    let scores = modified_z_scores(samples);
    (0..samples.len())
        .filter(|&at| scores[at].abs() > OUTLIER_BAR)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{modified_z_scores, outliers};

    #[test]
    fn one_far_sample_is_flagged_and_near_ones_are_not() {
        assert_eq!(outliers(&[10.0, 10.1, 9.9, 10.2, 20.0, 9.8]), [4]);
        assert!(outliers(&[10.0, 10.1, 9.9, 10.2, 9.8]).is_empty());
        assert!(outliers(&[]).is_empty());
    }

    #[test]
    fn equal_samples_have_no_scores() {
        assert_eq!(modified_z_scores(&[3.0, 3.0, 3.0, 4.0]), [0.0; 4]);
    }
}
