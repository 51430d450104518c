//! The whole chain on a real guest: the sample guest of `make demo`, booted under QEMU.

use crate::util::{esxodus, json_expecting, run_expecting, s, skip, text, tool};
use std::path::PathBuf;

fn demo_guest() -> Option<PathBuf> {
    let folder = std::env::var_os("ESXODUS_DEMO_GUEST").map(PathBuf::from)?;
    folder.join("demo.vmx").is_file().then(|| folder.join("demo.vmx"))
}

#[test]
fn migrate_takes_a_real_guest_through_every_step_and_a_second_run_reuses_them() {
    let Some(source) = demo_guest() else {
        return skip("ESXODUS_DEMO_GUEST names no sample guest: run 'make test'");
    };
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let output = esxodus()
        .args([
            "migrate",
            s(&source),
            "-o",
            s(&out),
            "--bench-budget",
            "8",
            "--timeout",
            "240",
            "--no-fixup",
            "--json",
        ])
        .output()
        .unwrap();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}\n{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["proof"]["verdict"], "proven", "{}", report["proof"]["reason"]);
    let places: Vec<&str> = report["bench"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|record| record["place"].as_str())
        .collect();
    assert!(places.contains(&"host") && places.contains(&"guest"), "{places:?}");
    for file in [
        "machine.json",
        "accounting.json",
        "manifest.json",
        "proof.json",
        "report.html",
        "report.md",
        "report.json",
    ] {
        assert!(out.join(file).is_file(), "{file} is missing");
    }

    // The independent judge: what qemu-img reads from the source is what it reads from the target.
    for (vmdk, qcow2) in [("demo.vmdk", "demo.qcow2"), ("demo_1.vmdk", "demo_1.qcow2")] {
        let target = out.join("disks").join(qcow2);
        tool(
            "qemu-img",
            &[
                "compare",
                "-f",
                "vmdk",
                "-F",
                "qcow2",
                s(&source.with_file_name(vmdk)),
                s(&target),
            ],
        );
        tool("qemu-img", &["check", s(&target)]);
    }

    fixup_keeps_the_nic_name_once(&out);
    migrate_fixes_up_once(&source, &out.with_file_name("fixed"));

    let (stdout, stderr) = run_expecting(
        0,
        &[
            "migrate",
            s(&source),
            "-o",
            s(&out),
            "--resume",
            "--no-fixup",
            "--bench-budget",
            "8",
        ],
    );
    assert!(
        (stdout + &stderr).contains("reused"),
        "the second run reuses the first one's results"
    );
}

/// On a copy of the run folder, since it changes the disks.
fn fixup_keeps_the_nic_name_once(out: &std::path::Path) {
    let copy = out.with_file_name("fixed");
    tool("cp", &["-a", s(out), s(&copy)]);
    let before = tool("sha256sum", &[s(&copy.join("disks/demo.qcow2"))]);
    let plan = json_expecting(0, &["fixup", s(&copy), "--dry-run"]);
    assert_eq!(
        plan["changes"][0]["path"],
        "/etc/systemd/network/10-esxodus-ens192.link"
    );
    assert_eq!(
        tool("sha256sum", &[s(&copy.join("disks/demo.qcow2"))]),
        before,
        "a dry run writes nothing"
    );

    let done = json_expecting(0, &["fixup", s(&copy)]);
    assert_eq!(done["changes"], plan["changes"]);
    assert_ne!(tool("sha256sum", &[s(&copy.join("disks/demo.qcow2"))]), before);
    run_expecting(0, &["verify", s(&copy)]);
    tool("qemu-img", &["check", s(&copy.join("disks/demo.qcow2"))]);

    let again = json_expecting(0, &["fixup", s(&copy)]);
    assert_eq!(
        again["changes"].as_array().map(Vec::len),
        Some(0),
        "a second run finds nothing to change"
    );

    let undone = json_expecting(0, &["fixup", s(&copy), "--undo"]);
    let paths = |outcome: &serde_json::Value| {
        let changes = outcome["changes"].as_array().expect("a list").iter();
        changes
            .map(|change| change["path"].to_string())
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(paths(&undone), paths(&done), "what was changed is taken back");
    assert_eq!(undone["notes"], serde_json::json!([]));
    run_expecting(0, &["verify", s(&copy)]);
    let (_, stderr) = run_expecting(2, &["fixup", s(&copy), "--undo"]);
    assert!(stderr.contains("not taken back"), "{stderr}");
}

/// The chain's own fix-up: shown as a step, reused by a repeat, and no difference from the source that anybody is warned of.
fn migrate_fixes_up_once(source: &std::path::Path, out: &std::path::Path) {
    let args = [
        "migrate",
        s(source),
        "-o",
        s(out),
        "--resume",
        "--no-bench",
        "--no-prove",
    ];
    let step = |report: &serde_json::Value, name: &str| {
        let steps = report["steps"].as_array().expect("a report has steps");
        steps
            .iter()
            .find(|step| step["name"] == name)
            .cloned()
            .unwrap_or_default()
    };
    let fixed = json_expecting(0, &args);
    assert_eq!(step(&fixed, "convert")["status"], "reused");
    assert_eq!(step(&fixed, "fixup")["status"], "good", "{}", step(&fixed, "fixup"));
    let again = json_expecting(0, &args);
    for name in ["convert", "verify", "fixup"] {
        assert_eq!(step(&again, name)["status"], "reused", "{}", step(&again, name));
    }
    run_expecting(0, &["verify", s(out)]);
}
