//! Owns measuring: workloads, the harness that repeats them, the statistics, and the comparison of two records.
//! Owns no guests and no rendering: it runs where it is started, and returns records.
//!
//! Entry points: [`run_suite`] measures this machine, [`compare()`] sets two records beside each other.

mod compare;
pub mod harness;
pub mod host;
mod import;
pub mod stats;
mod suite;
mod sys;
pub mod workloads;

pub use compare::{
    CompareOptions, Margins, NotComparable, Regression, Trend, TrendPoint, compare, compare_paired, regressions, trend,
};
pub use import::{ImportError, contradictions, import};
pub use suite::{BenchError, SuiteOptions, kernel, list, run_suite};
