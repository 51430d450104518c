//! Rank tests: Mann-Whitney U, Wilcoxon signed-rank, Holm's correction, Cliff's delta.
//!
//! Same conventions as scipy 1.x (`mannwhitneyu`, `wilcoxon`), so that anybody can recompute a verdict.

/// Above this many samples on both sides the normal approximation is used; the exact table would only be slower.
const EXACT_MANN_WHITNEY: usize = 30;

/// Above this many pairs the normal approximation is used.
const EXACT_WILCOXON: usize = 50;

/// Two-sided p of Mann-Whitney's U for two independent samples, and U of `a`. Exact where there are no ties and not many
/// samples; else normal with tie and continuity correction. p is 1 where a side is empty.
#[must_use]
pub fn mann_whitney_u(a: &[f64], b: &[f64]) -> (f64, f64) {
    let (m, n) = (a.len(), b.len());
    if m == 0 || n == 0 {
        return (0.0, 1.0);
    }
    let all: Vec<f64> = a.iter().chain(b).copied().collect();
    let (ranks, tie_term) = ranks(&all);
    let rank_sum: f64 = ranks[..m].iter().sum();
    let (mf, nf) = (m as f64, n as f64);
    let u = rank_sum - mf * (mf + 1.0) / 2.0;
    let larger = u.max(mf * nf - u);
    if tie_term == 0.0 && m.max(n) <= EXACT_MANN_WHITNEY {
        return (u, (2.0 * exact_u_tail(larger, m, n)).min(1.0));
    }
    let total = mf + nf;
    let variance = mf * nf / 12.0 * ((total + 1.0) - tie_term / (total * (total - 1.0)));
    if variance <= 0.0 {
        return (u, 1.0);
    }
    let z = (larger - mf * nf / 2.0 - 0.5) / variance.sqrt();
    (u, (2.0 * normal_tail(z)).min(1.0))
}

/// Two-sided p of Wilcoxon's signed-rank test of paired samples, and the smaller rank sum. Pairs without difference are
/// dropped (Wilcoxon's own treatment). Exact where there are no ties, no zeros and at most 50 pairs; else normal with tie
/// correction. p is 1 where no pair differs.
#[must_use]
pub fn wilcoxon_signed_rank(a: &[f64], b: &[f64]) -> (f64, f64) {
    let pairs = a.len().min(b.len());
    let differences: Vec<f64> = a.iter().zip(b).map(|(x, y)| x - y).filter(|d| *d != 0.0).collect();
    let n = differences.len();
    if n == 0 {
        return (0.0, 1.0);
    }
    let magnitudes: Vec<f64> = differences.iter().map(|d| d.abs()).collect();
    let (ranks, tie_term) = ranks(&magnitudes);
    let sum = |positive: bool| -> f64 {
        let signed = differences.iter().zip(&ranks).filter(|(d, _)| (**d > 0.0) == positive);
        signed.map(|(_, rank)| *rank).sum()
    };
    let statistic = sum(true).min(sum(false));
    let nf = n as f64;
    if tie_term == 0.0 && n == pairs && n <= EXACT_WILCOXON {
        return (statistic, (2.0 * exact_signed_rank_tail(statistic, n)).min(1.0));
    }
    let variance = nf * (nf + 1.0) * (2.0 * nf + 1.0) / 24.0 - tie_term / 48.0;
    if variance <= 0.0 {
        return (statistic, 1.0);
    }
    let z = (nf * (nf + 1.0) / 4.0 - statistic) / variance.sqrt();
    (statistic, (2.0 * normal_tail(z)).min(1.0))
}

/// Holm's step-down adjustment, in the order given: compare each with alpha directly.
#[must_use]
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&x, &y| p_values[x].total_cmp(&p_values[y]));
    let mut adjusted = vec![1.0; p_values.len()];
    let mut running: f64 = 0.0;
    for (step, &at) in order.iter().enumerate() {
        running = running.max(p_values[at] * (p_values.len() - step) as f64).min(1.0);
        adjusted[at] = running;
    }
    adjusted
}

/// Cliff's delta: P(candidate > base) - P(candidate < base), from -1 to 1; 0 where a side is empty.
#[must_use]
pub fn cliffs_delta(base: &[f64], candidate: &[f64]) -> f64 {
    if base.is_empty() || candidate.is_empty() {
        return 0.0;
    }
    let (u, _) = mann_whitney_u(candidate, base);
    2.0 * u / (base.len() as f64 * candidate.len() as f64) - 1.0
}

/// Mid-ranks from 1, and the sum of t^3 - t over groups of t equal values.
fn ranks(values: &[f64]) -> (Vec<f64>, f64) {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&x, &y| values[x].total_cmp(&values[y]));
    let mut result = vec![0.0; values.len()];
    let (mut start, mut tie_term) = (0, 0.0);
    while start < order.len() {
        let same = |&&at: &&usize| values[at] == values[order[start]];
        let group = order[start..].iter().take_while(same).count().max(1);
        let rank = start as f64 + (group as f64 + 1.0) / 2.0;
        for &at in &order[start..start + group] {
            result[at] = rank;
        }
        let size = group as f64;
        tie_term += size * size * size - size;
        start += group;
    }
    (result, tie_term)
}

/// P(U >= u) under the null, by counting arrangements (Mann and Whitney 1947): the numbers of subsets of size m of 1..=m+n
/// with each sum.
fn exact_u_tail(u: f64, m: usize, n: usize) -> f64 {
    let most = m * n;
    // ways[k][s]: k elements chosen so far whose U contributions add up to s.
    let mut ways = vec![vec![0.0_f64; most + 1]; m + 1];
    ways[0][0] = 1.0;
    for rank in 1..=m + n {
        for k in (1..=m.min(rank)).rev() {
            // An element of this rank chosen as the k-th adds rank - k to U.
            let add = rank - k;
            if add > n {
                continue;
            }
            for s in add..=most {
                let more = ways[k - 1][s - add];
                ways[k][s] += more;
            }
        }
    }
    let total: f64 = ways[m].iter().sum();
    let tail: f64 = (0..=most).filter(|&s| s as f64 >= u - 1e-9).map(|s| ways[m][s]).sum();
    tail / total
}

/// P(T <= t) under the null: subsets of 1..=n with a sum of at most t, out of 2^n.
fn exact_signed_rank_tail(t: f64, n: usize) -> f64 {
    let most = n * (n + 1) / 2;
    let mut ways = vec![0.0_f64; most + 1];
    ways[0] = 1.0;
    for rank in 1..=n {
        for s in (rank..=most).rev() {
            ways[s] += ways[s - rank];
        }
    }
    let total: f64 = ways.iter().sum();
    let tail: f64 = (0..=most).filter(|&s| s as f64 <= t + 1e-9).map(|s| ways[s]).sum();
    tail / total
}

/// P(Z > z) of the standard normal.
fn normal_tail(z: f64) -> f64 {
    0.5 * libm::erfc(z / std::f64::consts::SQRT_2)
}

#[cfg(test)]
mod tests {
    use super::{cliffs_delta, holm, mann_whitney_u, wilcoxon_signed_rank};

    // All expected values: scipy 1.17.1, `scipy.stats.mannwhitneyu(a, b)`, `scipy.stats.wilcoxon(x, y)` with their defaults
    // unless a method is named. The first sample and `wilcoxon(DIFFERENCES)` are those of scipy's own documentation.
    const DIFFERENCES: [f64; 15] = [
        6.0, 8.0, 14.0, 16.0, 23.0, 24.0, 28.0, 29.0, 41.0, -48.0, 49.0, 56.0, 60.0, -67.0, 75.0,
    ];

    fn close(found: (f64, f64), statistic: f64, p: f64) {
        assert!(
            (found.0 - statistic).abs() < 1e-9,
            "statistic {found:?}, expected {statistic}"
        );
        assert!((found.1 - p).abs() < 1e-9 * p.max(1e-3), "p {found:?}, expected {p}");
    }

    #[test]
    fn mann_whitney_exact_agrees_with_scipy() {
        close(
            mann_whitney_u(&[19.0, 22.0, 16.0, 29.0, 24.0], &[20.0, 11.0, 17.0, 12.0]),
            17.0,
            0.111_111_111_111_111_1,
        );
        let a = [10.1, 10.4, 9.8, 10.0, 10.3, 10.2, 9.9, 10.5, 10.6, 9.7];
        let b = [11.05, 10.95, 11.2, 10.45, 11.4, 10.85, 11.15, 10.9, 11.0, 11.3];
        // method='exact'
        close(mann_whitney_u(&a, &b), 2.0, 4.330_035_289_787_612e-5);
    }

    #[test]
    fn mann_whitney_with_ties_agrees_with_scipy() {
        let a = [1.0, 2.0, 2.0, 3.0, 3.0, 3.0, 4.0, 5.0, 5.0, 6.0];
        let b = [2.0, 3.0, 3.0, 4.0, 4.0, 5.0, 5.0, 6.0, 7.0, 7.0, 8.0];
        close(mann_whitney_u(&a, &b), 30.5, 0.086_820_297_136_733_1);
    }

    #[test]
    fn mann_whitney_of_many_samples_agrees_with_scipy() {
        let a: Vec<f64> = (0..35).map(|i| f64::from(i * 37 % 101) + 0.25 * f64::from(i)).collect();
        let b: Vec<f64> = (0..40)
            .map(|i| f64::from(i * 53 % 97) + 0.3 * f64::from(i) + 7.0)
            .collect();
        close(mann_whitney_u(&a, &b), 651.0, 0.606_508_006_930_672_1);
    }

    #[test]
    fn mann_whitney_of_equal_or_missing_samples_says_nothing() {
        assert_eq!(mann_whitney_u(&[1.0, 1.0], &[1.0, 1.0, 1.0]).1, 1.0);
        assert_eq!(mann_whitney_u(&[], &[1.0]).1, 1.0);
    }

    #[test]
    fn wilcoxon_exact_agrees_with_scipy() {
        let x = [125.0, 115.0, 130.0, 140.0, 140.5, 115.5, 140.2, 125.2, 140.3, 135.0];
        let y = [110.0, 122.1, 125.3, 120.4, 140.9, 124.6, 123.7, 137.8, 135.15, 145.35];
        close(wilcoxon_signed_rank(&x, &y), 23.0, 0.695_312_5);
        close(wilcoxon_signed_rank(&DIFFERENCES, &[0.0; 15]), 24.0, 0.041_259_765_625);
    }

    #[test]
    fn wilcoxon_with_ties_and_zeros_agrees_with_scipy() {
        let x = [5.0, 7.0, 3.0, 9.0, 6.0, 4.0, 8.0, 5.0, 7.0, 6.0, 9.0, 3.0];
        let y = [4.0, 7.0, 5.0, 6.0, 6.0, 3.0, 5.0, 4.0, 9.0, 2.0, 7.0, 1.0];
        // method='approx'
        close(wilcoxon_signed_rank(&x, &y), 11.0, 0.089_420_873_900_052_68);
    }

    // R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") gives 0.03 0.06 0.06 0.02.
    #[test]
    fn holm_agrees_with_r_and_never_decreases() {
        let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (found, expected) in adjusted.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert!((found - expected).abs() < 1e-12, "{adjusted:?}");
        }
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
    }

    #[test]
    fn cliffs_delta_is_one_where_all_candidates_are_larger() {
        assert_eq!(cliffs_delta(&[1.0, 2.0], &[3.0, 4.0]), 1.0);
        assert_eq!(cliffs_delta(&[3.0, 4.0], &[1.0, 2.0]), -1.0);
        assert_eq!(cliffs_delta(&[1.0, 2.0], &[1.0, 2.0]), 0.0);
        assert_eq!(cliffs_delta(&[], &[1.0]), 0.0);
    }
}
