//! Owns measuring: workloads, the harness that repeats them, the statistics, and the comparison of two records.
//! Owns no guests and no rendering: it runs where it is started, and returns records.
