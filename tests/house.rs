//! The house: which crate may know which.

use crate::util::text;
use std::collections::BTreeMap;
use std::process::Command;

#[test]
fn crates_depend_one_way() {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
            "--locked",
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut known = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        let ours: Vec<&str> = package["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|dependency| dependency["kind"].is_null())
            .filter_map(|dependency| dependency["name"].as_str().unwrap().strip_prefix("esxodus-"))
            .collect();
        known.insert(package["name"].as_str().unwrap().to_owned(), ours);
    }
    let allowed: [(&str, &[&str]); 5] = [
        ("esxodus-reports", &[]),
        ("esxodus-convert", &["reports"]),
        ("esxodus-bench", &["reports"]),
        ("esxodus-agent", &["bench", "reports"]),
        ("esxodus-runner", &["agent", "bench", "convert", "reports"]),
    ];
    for (package, may) in allowed {
        for dependency in &known[package] {
            assert!(may.contains(dependency), "{package} must not depend on {dependency}");
        }
    }
}

#[test]
fn every_crate_says_in_two_lines_what_it_owns_and_what_not() {
    for krate in ["convert", "runner", "bench", "reports", "agent"] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(krate)
            .join("src/lib.rs");
        let source = std::fs::read_to_string(&path).unwrap();
        let mut lines = source.lines();
        assert!(
            lines.next().is_some_and(|line| line.starts_with("//! Owns ")),
            "{krate}: first line"
        );
        assert!(
            lines.next().is_some_and(|line| line.starts_with("//! Owns no ")),
            "{krate}: second line"
        );
    }
}
