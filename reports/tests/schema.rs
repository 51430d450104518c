//! The published JSON Schemas.

use esxodus_reports::schema::{BenchRecord, Comparison, GuestReport};
use std::path::Path;

/// Every kind of file that programs read, with the name of its schema in docs/.
fn published() -> [(&'static str, schemars::Schema); 3] {
    [
        ("report.schema.json", schemars::schema_for!(GuestReport)),
        ("bench.schema.json", schemars::schema_for!(BenchRecord)),
        ("comparison.schema.json", schemars::schema_for!(Comparison)),
    ]
}

#[test]
fn the_published_schemas_are_those_of_the_code() {
    for (name, schema) in published() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
        let mut current = serde_json::to_string_pretty(&schema).expect("a schema is JSON");
        current.push('\n');
        if std::env::var_os("ESXODUS_UPDATE_SCHEMA").is_some() {
            std::fs::write(&path, &current).expect("docs/ can be written");
        }
        let published = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            published == current,
            "docs/{name} is behind the code: run this test once with ESXODUS_UPDATE_SCHEMA=1 and commit it"
        );
    }
}

#[test]
fn a_report_survives_the_way_through_json_and_older_records_are_still_read() {
    let report = esxodus_reports::test_utils::sample_report();
    let text = esxodus_reports::render::json(&report);
    let back: GuestReport = serde_json::from_str(&text).expect("own JSON is read");
    assert_eq!(back, report);

    // What a program of the first version wrote for a limit, without kind, effect and note.
    let mut old: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    for limit in old["limits"].as_array_mut().expect("limits") {
        let limit = limit.as_object_mut().expect("a limit");
        for field in ["kind", "effect", "note"] {
            limit.remove(field);
        }
    }
    let old: GuestReport = serde_json::from_value(old).expect("older records are read");
    assert_eq!(old.limits.len(), report.limits.len());
}
