//! The statistics beside scipy's and numpy's values for the same samples. `scripts/stats-reference.py` made the values.

use esxodus_bench::stats::{
    cliffs_delta, mann_whitney_u, median_interval, modified_z_scores, quantile, summarise, wilcoxon_signed_rank,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Reference {
    unpaired: Vec<Unpaired>,
    paired: Vec<Paired>,
    summaries: Vec<Summary>,
}

#[derive(Deserialize)]
struct Unpaired {
    a: Vec<f64>,
    b: Vec<f64>,
    method: String,
    u: f64,
    p: f64,
    cliffs_delta: f64,
}

#[derive(Deserialize)]
struct Paired {
    differences: Vec<f64>,
    method: String,
    t: f64,
    p: f64,
}

#[derive(Deserialize)]
struct Summary {
    values: Vec<f64>,
    quantiles: [f64; 5],
    mean: f64,
    z: Vec<f64>,
    /// Where the ends of the median's interval must lie.
    low: Option<(f64, f64)>,
    high: Option<(f64, f64)>,
}

fn reference() -> Reference {
    serde_json::from_str(include_str!("scipy.json")).expect("what the script wrote")
}

#[track_caller]
fn near(found: f64, expected: f64, what: &str) {
    let allowed = 1e-9 * expected.abs().max(1e-6);
    assert!(
        (found - expected).abs() <= allowed,
        "{what}: {found}, scipy has {expected}"
    );
}

#[test]
fn mann_whitney_and_cliffs_delta_agree_with_scipy_for_every_size_with_and_without_ties() {
    let cases = reference().unpaired;
    assert!(cases.iter().any(|case| case.method == "exact") && cases.iter().any(|case| case.method == "asymptotic"));
    for (at, case) in cases.iter().enumerate() {
        let (u, p) = mann_whitney_u(&case.a, &case.b);
        near(u, case.u, &format!("U of case {at} ({})", case.method));
        near(p, case.p, &format!("p of case {at} ({})", case.method));
        near(
            cliffs_delta(&case.a, &case.b),
            case.cliffs_delta,
            &format!("delta of case {at}"),
        );
    }
}

#[test]
fn wilcoxon_agrees_with_scipy_for_every_size_with_and_without_ties() {
    let cases = reference().paired;
    assert!(cases.iter().any(|case| case.method == "exact") && cases.iter().any(|case| case.method == "approx"));
    for (at, case) in cases.iter().enumerate() {
        let (t, p) = wilcoxon_signed_rank(&case.differences, &vec![0.0; case.differences.len()]);
        near(t, case.t, &format!("T of case {at} ({})", case.method));
        near(p, case.p, &format!("p of case {at} ({})", case.method));
    }
}

#[test]
fn quantiles_means_and_outlier_scores_agree_with_numpy_and_scipy() {
    for case in reference().summaries {
        let mut sorted = case.values.clone();
        sorted.sort_by(f64::total_cmp);
        for (q, expected) in [0.025, 0.25, 0.5, 0.75, 0.99].into_iter().zip(case.quantiles) {
            near(
                quantile(&sorted, q),
                expected,
                &format!("quantile {q} of {}", sorted.len()),
            );
        }
        near(summarise(&case.values).mean, case.mean, "mean");
        for (found, expected) in modified_z_scores(&case.values).into_iter().zip(case.z) {
            near(found, expected, "modified z-score");
        }
    }
}

#[test]
fn bootstrap_intervals_of_the_median_agree_with_scipys_up_to_resampling() {
    let mut seen = 0;
    for case in reference().summaries {
        let (Some(low), Some(high)) = (case.low, case.high) else {
            continue;
        };
        seen += 1;
        let found = median_interval(&case.values);
        let within = |end: f64, (from, to): (f64, f64)| (from - 1e-9..=to + 1e-9).contains(&end);
        assert!(
            within(found.0, low) && within(found.1, high),
            "{found:?}, scipy has {low:?} to {high:?} for {} samples",
            case.values.len()
        );
    }
    assert!(seen >= 3);
}
