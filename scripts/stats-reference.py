#!/usr/bin/env python3
"""Writes bench/tests/scipy.json: samples, and what numpy and scipy say about them. The tests of bench/src/stats hold ours beside it.

usage: scripts/stats-reference.py > bench/tests/scipy.json        (needs numpy and scipy: Debian's python3-scipy, or pip)

The method is named in each call, as the comments of bench/src/stats/rank.rs state it: newer versions choose differently.
"""
import json

import numpy as np
import scipy
from scipy import stats

rng = np.random.default_rng(20260101)
UNPAIRED = [(3, 4), (5, 5), (8, 12), (10, 10), (10, 20), (20, 20), (30, 30), (31, 30), (60, 45)]
PAIRED = [5, 6, 9, 12, 20, 35, 50, 51, 80]


def numbers(values):
    return [float(value) for value in values]


def unpaired():
    for m, n in UNPAIRED:
        for shift, digits in [(0.0, 6), (0.8, 6), (2.5, 6), (0.5, 0)]:
            # No digits: many equal values.
            a = np.round(rng.normal(10, 1, m), digits)
            b = np.round(rng.normal(10 + shift, 1, n), digits)
            ties = len(set(a) | set(b)) < m + n
            method = "asymptotic" if ties or max(m, n) > 30 else "exact"
            test = stats.mannwhitneyu(a, b, alternative="two-sided", method=method)
            delta = float(np.mean(np.sign(b[None, :] - a[:, None])))
            yield {"a": numbers(a), "b": numbers(b), "method": method, "u": float(test.statistic), "p": float(test.pvalue),
                   "cliffs_delta": delta}


def paired():
    for n in PAIRED:
        for shift, digits in [(0.0, 6), (0.4, 6), (0.5, 0)]:
            a = np.round(rng.normal(10, 1, n), digits)
            b = np.round(a + rng.normal(shift, 1, n), digits)
            differences = np.round(a - b, 9)
            exact = n <= 50 and len(set(np.abs(differences))) == n and not (differences == 0).any()
            test = stats.wilcoxon(differences, zero_method="wilcox", correction=False, mode="exact" if exact else "approx")
            yield {"differences": numbers(differences), "method": "exact" if exact else "approx",
                   "t": float(test.statistic), "p": float(test.pvalue)}


def summaries():
    for n in [1, 2, 5, 11, 24, 60]:
        values = np.round(rng.lognormal(3, 0.6, n), 6)
        centre = np.median(values)
        mad = stats.median_abs_deviation(values)
        one = {"values": numbers(values), "quantiles": numbers(np.quantile(values, [0.025, 0.25, 0.5, 0.75, 0.99])),
               "mean": float(np.mean(values)), "z": numbers(0.6745 * (values - centre) / mad) if mad > 0 else []}
        if n >= 11:
            # Other resamples give a slightly other level: ours, from 10,000, must lie where scipy's levels 2.5 % and 97.5 %
            # lie, give or take what 10,000 can miss (standard error 0.16 %).
            medians = stats.bootstrap((values,), np.median, n_resamples=100_000, method="percentile", random_state=1,
                                      vectorized=True, batch=10_000).bootstrap_distribution
            one["low"], one["high"] = numbers(np.quantile(medians, [0.019, 0.031])), numbers(np.quantile(medians, [0.969, 0.981]))
        yield one


parts = [("unpaired", unpaired), ("paired", paired), ("summaries", summaries)]
print('{"made_by": "scripts/stats-reference.py, scipy %s, numpy %s"' % (scipy.__version__, np.__version__), end="")
for name, cases in parts:  # a case a line, for readable differences
    print(',\n"%s": [\n%s\n]' % (name, ",\n".join(map(json.dumps, cases()))), end="")
print("}")
