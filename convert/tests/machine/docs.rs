//! Published documents that are made from the code stay like it.

use std::path::{Path, PathBuf};

fn compare(name: &str, expected: &str) {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    if std::env::var_os("ESXODUS_WRITE_DOCS").is_some() {
        std::fs::create_dir_all(path.parent().expect("it has one")).expect("folder");
        std::fs::write(&path, expected).expect("written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/{name} is stale: run ESXODUS_WRITE_DOCS=1 cargo test -p esxodus-convert --test machine"
    );
}

#[test]
fn checks_are_documented_as_they_are() {
    compare("checks.md", &esxodus_convert::preflight::markdown());
}

#[test]
fn the_machine_schema_is_published_as_it_is() {
    let schema = schemars::schema_for!(esxodus_convert::machine::Machine);
    let text = serde_json::to_string_pretty(&schema).expect("serializes") + "\n";
    compare("machine.schema.json", &text);
}

#[test]
fn check_ids_are_unique_and_well_formed() {
    let mut seen = std::collections::HashSet::new();
    for check in esxodus_convert::preflight::checks() {
        assert!(seen.insert(check.id), "{}", check.id);
        let (area, what) = check.id.split_once('.').expect("area.what");
        assert!([area, what].iter().all(|part| {
            part.chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        }));
        for text in [check.message, check.fix] {
            assert!(text.ends_with('.'), "{}: {text}", check.id);
        }
    }
}
