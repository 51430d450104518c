//! The accounting of the source's settings, as rows.

use super::format::float;
use super::view::{Badge, badge, clean, percent};
use crate::schema::{GuestReport, KeyClass};
use serde::Serialize;

#[derive(Debug, Serialize)]
pub(super) struct KeyRow {
    key: String,
    value: String,
    line: Option<u32>,
    badge: Badge,
    why: String,
    targets: Vec<(String, String)>,
}

#[derive(Debug, Serialize)]
pub(super) struct KeyCount {
    word: &'static str,
    class: &'static str,
    count: usize,
    share: String,
    meaning: &'static str,
}

const CLASSES: [(KeyClass, &str, &str, &str); 5] = [
    (KeyClass::Mapped, "mapped", "good", "same effect on the target"),
    (
        KeyClass::Approximated,
        "approximated",
        "warn",
        "nearest effect; the difference is stated",
    ),
    (
        KeyClass::DroppedWarning,
        "dropped, may be missed",
        "bad",
        "something that somebody may miss",
    ),
    (KeyClass::Unknown, "unknown", "warn", "not in our table"),
    (
        KeyClass::DroppedHarmless,
        "dropped, harmless",
        "quiet",
        "no effect on the guest away from VMware",
    ),
];

pub(super) fn key_counts(report: &GuestReport) -> Vec<KeyCount> {
    let total = report.accounting.keys.len();
    CLASSES
        .iter()
        .map(|(key_class, word, class, meaning)| {
            let count = report.accounting.count(*key_class);
            let float = |count: usize| float(u64::try_from(count).unwrap_or(u64::MAX));
            KeyCount {
                word,
                class,
                count,
                share: percent(float(count) / float(total.max(1))),
                meaning,
            }
        })
        .collect()
}

/// The keys that somebody should read: approximated, dropped with a warning, unknown.
pub(super) fn keys(report: &GuestReport) -> Vec<KeyRow> {
    let mut rows = Vec::new();
    for (key_class, word, class, _) in CLASSES {
        if matches!(key_class, KeyClass::Mapped | KeyClass::DroppedHarmless) {
            continue;
        }
        rows.extend(
            report
                .accounting
                .keys
                .iter()
                .filter(|key| key.class == key_class)
                .map(|key| KeyRow {
                    key: clean(&key.key),
                    value: clean(&key.value),
                    line: key.line,
                    badge: badge(class, word),
                    why: clean(&key.why),
                    targets: key
                        .targets
                        .iter()
                        .map(|(target, value)| (clean(target), clean(value)))
                        .collect(),
                }),
        );
    }
    rows
}
