//! The records: plain data with units in the names, one file a topic.
//!
//! Every file that esxodus writes as JSON is one of these. Readers accept unknown fields, so that an older program can
//! read what a newer one wrote; [`SCHEMA_VERSION`] grows only when a field changes its meaning.

mod accounting;
mod bench;
mod check;
mod compare;
mod conversion;
mod deep;
mod estate;
mod guest;
mod host;
mod probed;
mod proof;

pub use accounting::{AccountedKey, Accounting, KeyClass};
pub use bench::{BenchRecord, BenchSizes, Better, Metric, Noise, Percentile, Place, SkippedMetric, Suite, Summary};
pub use check::{Finding, Severity};
pub use compare::{Comparability, ComparedMetric, Comparison, ComparisonVerdict, RecordRef};
pub use conversion::{DiskManifest, HashTree, Manifest, SourceFile};
pub use deep::{
    DeepFacts, DriverPlace, KernelFacts, MountFacts, SCANNER_SERVICES, SystemFacts, SystemKind, VolumeFacts,
};
pub use estate::{
    EstateFleet, EstateGuest, EstateHost, EstateLimit, EstateReport, EstateRisk, EstateSizing, EstateVerdict,
    EstateWave,
};
pub use guest::{
    DiskFacts, FixupFacts, GuestReport, LimitEffect, LimitUse, MachineFacts, NicFacts, StepRecord, StepStatus,
};
pub use host::HostFacts;
pub use probed::{DocumentedLimit, KvmCapabilities, LimitsReport, ProbeEnd, ProbePoint, ProbeSeries};
pub use proof::{AcceleratorClass, Evidence, Milestone, ProofRecord, ProofTry, ProofVerdict};

/// Version of all record schemas. Written into every file as `schema`.
pub const SCHEMA_VERSION: u32 = 1;

/// Where and when a record was written, and by which program.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct Stamp {
    /// Schema version of the record, see [`SCHEMA_VERSION`].
    pub schema: u32,
    /// Program and version, for example `esxodus 0.1.0`.
    pub tool: String,
    /// UTC time in RFC 3339, seconds precision.
    pub created: String,
}

impl Stamp {
    /// A stamp for `tool`, at the current time.
    #[must_use]
    pub fn now(tool: &str) -> Self {
        Self {
            schema: SCHEMA_VERSION,
            tool: tool.to_owned(),
            created: rfc3339(std::time::SystemTime::now()),
        }
    }
}

/// UTC, RFC 3339, seconds precision: `2026-11-23T21:40:15Z`. Times before 1970 are shown as 1970.
#[must_use]
pub fn rfc3339(time: std::time::SystemTime) -> String {
    let seconds = time
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Civil date from a day number, Howard Hinnant's algorithm, for days since 1970-01-01 only.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 {
        month_index + 3
    } else {
        month_index - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest % 3600 / 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::rfc3339;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn rfc3339_agrees_with_date_minus_u() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_795_470_015, "2026-11-23T21:40:15Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }
}
