//! The verdict on one metric, and its words.

use super::CompareOptions;
use crate::stats;
use reports::schema::{Better, ComparedMetric, ComparisonVerdict, Metric};

/// Below so many samples a side nothing is decided, whatever the interval: it cannot be known from them.
pub(super) const LEAST_SAMPLES: usize = 5;

/// Ratio with its interval.
pub(super) type Ratio = (f64, (f64, f64));

pub(super) fn judge(
    base: &Metric,
    candidate: &Metric,
    (ratio, ratio_ci): Ratio,
    p_adjusted: f64,
    options: &CompareOptions,
) -> ComparedMetric {
    let (base_median, candidate_median) = (stats::median(&base.samples), stats::median(&candidate.samples));
    let samples = base.samples.len().min(candidate.samples.len());
    let margin = options.margins.of(&base.id);
    let outside = ratio_ci.0 > 1.0 || ratio_ci.1 < 1.0;
    let verdict = if samples < LEAST_SAMPLES {
        ComparisonVerdict::CantTell
    } else if ratio_ci.0 >= 1.0 - margin && ratio_ci.1 <= 1.0 + margin {
        ComparisonVerdict::Same
    } else if outside && p_adjusted < options.alpha {
        if (ratio > 1.0) == (base.better == Better::Higher) {
            ComparisonVerdict::Better
        } else {
            ComparisonVerdict::Worse
        }
    } else {
        ComparisonVerdict::CantTell
    };
    let mut compared = ComparedMetric {
        id: base.id.clone(),
        name: base.name.clone(),
        unit: base.unit.clone(),
        better: base.better,
        base_median,
        base_ci: (base.summary.ci_low, base.summary.ci_high),
        candidate_median,
        candidate_ci: (candidate.summary.ci_low, candidate.summary.ci_high),
        ratio,
        ratio_ci,
        p_adjusted,
        effect: stats::cliffs_delta(&base.samples, &candidate.samples),
        margin,
        verdict,
        words: String::new(),
    };
    compared.words = in_words(&compared, samples, options.alpha);
    if let Some(why) = base.unfit.as_ref().or(candidate.unfit.as_ref()) {
        compared.words.push_str(&format!(" Unfit samples: {why}."));
    }
    compared
}

fn in_words(m: &ComparedMetric, samples: usize, alpha: f64) -> String {
    let percent = |ratio: f64| (ratio - 1.0) * 100.0;
    let (low, high) = (percent(m.ratio_ci.0), percent(m.ratio_ci.1));
    let interval = format!("95 % interval {low:+.1} % to {high:+.1} %");
    let margin = m.margin * 100.0;
    let change = |what: &str| {
        let more = if m.ratio > 1.0 { "higher" } else { "lower" };
        let side = if m.better == Better::Higher {
            "higher is better"
        } else {
            "lower is better"
        };
        format!(
            "{what}: {:.1} % {more} ({side}); {interval}, p = {}",
            percent(m.ratio).abs(),
            PValue(m.p_adjusted)
        )
    };
    match m.verdict {
        ComparisonVerdict::Same => format!("Same: {interval}, all of it within ±{margin:.0} %."),
        ComparisonVerdict::Better => format!("{}.", change("Better")),
        ComparisonVerdict::Worse => format!("{}.", change("Worse")),
        ComparisonVerdict::CantTell if samples < LEAST_SAMPLES => {
            let change = percent(m.ratio);
            format!(
                "Can't tell: {change:+.1} % from {samples} sample(s) a side; {LEAST_SAMPLES} are the least that decide."
            )
        }
        ComparisonVerdict::CantTell => {
            let reason = if m.p_adjusted >= alpha {
                format!("p = {} is not below {alpha}", PValue(m.p_adjusted))
            } else {
                "the interval holds 1".to_owned()
            };
            let more = more_samples(m, samples);
            format!("Can't tell: {interval} is not within ±{margin:.0} %, and {reason}; {more}.")
        }
    }
}

/// How many samples each side would need. The interval shrinks with the square root of their number.
fn more_samples(m: &ComparedMetric, samples: usize) -> String {
    const PRACTICAL: f64 = 10_000.0;
    let half_width = (m.ratio_ci.1 - m.ratio_ci.0) / 2.0;
    let distance = (m.ratio - 1.0).abs();
    // A difference shows once the half width is below the distance, sameness once it fits between distance and margin.
    let needed = distance.max(m.margin - distance);
    let factor = (half_width / needed.max(1e-6)).powi(2) * 1.2;
    let wanted = (samples as f64 * factor).ceil().max(samples as f64 + 1.0);
    if wanted > PRACTICAL || !wanted.is_finite() {
        "no practical number of samples would decide; lower the noise".to_owned()
    } else {
        format!("about {wanted:.0} samples a side would decide, {samples} were taken")
    }
}

/// Shows a p with two digits, small ones as a bound.
struct PValue(f64);

impl std::fmt::Display for PValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            p if p < 0.0001 => write!(f, "{p:.0e}"),
            p => write!(f, "{p:.4}"),
        }
    }
}
