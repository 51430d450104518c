//! Statistics over raw samples: small, deterministic, checked against scipy.
//!
//! Everything here takes plain slices and never drops a value. Random resampling uses [`Prng`] with a fixed seed, so that
//! the same record gives the same figures on every machine.

mod bootstrap;
mod outlier;
mod prng;
mod quantile;
mod rank;

pub(crate) use bootstrap::median_interval_quick;
pub use bootstrap::{RESAMPLES, median_interval, ratio_interval, ratio_interval_paired};
pub use outlier::{OUTLIER_BAR, modified_z_scores, outliers};
pub use prng::Prng;
pub use quantile::{median, quantile, summarise};
pub use rank::{cliffs_delta, holm, mann_whitney_u, wilcoxon_signed_rank};
