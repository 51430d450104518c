//! The command line contract: help, exit codes, one JSON document.

use crate::util::{esxodus, json_expecting, run_expecting, s, text, vmdk, vmx};
use std::process::Stdio;

const COMMANDS: [&str; 13] = [
    "doctor", "inspect", "assess", "convert", "verify", "fixup", "prove", "run", "bench", "compare", "limits",
    "report", "migrate",
];

#[test]
fn every_command_has_help_with_examples_and_the_exit_code_0() {
    for command in COMMANDS {
        let (help, _) = run_expecting(0, &[command, "--help"]);
        assert!(help.contains("Example"), "{command} --help shows no example:\n{help}");
        assert!(help.contains("--json"), "{command} --help does not mention --json");
    }
}

#[test]
fn an_unknown_command_or_option_ends_with_2() {
    run_expecting(2, &["teleport"]);
    run_expecting(2, &["inspect", "--no-such-option"]);
    run_expecting(2, &["inspect"]);
}

#[test]
fn limits_print_their_sources_as_text_and_as_json() {
    let (text, _) = run_expecting(0, &["limits"]);
    assert!(text.contains("Proxmox") && text.contains("6128"), "{text}");
    let json = json_expecting(0, &["limits"]);
    let rows = json["limits"].as_array().expect("limits is a list");
    assert!(rows.len() > 50);
    assert!(
        rows.iter()
            .all(|row| row["source"].as_str().is_some_and(|source| !source.is_empty()))
    );
}

#[test]
fn doctor_tells_the_class_of_kvm_and_never_hangs() {
    let json = json_expecting(0, &["doctor"]);
    let class = json["kvm"]["class"].as_str().expect("a class");
    assert!(
        ["native", "nested", "emulated", "unfit", "absent"].contains(&class),
        "{class}"
    );
    let (text, _) = run_expecting(0, &["doctor"]);
    assert!(text.contains(class) && text.contains("QEMU"), "{text}");
}

#[test]
fn inspect_prints_one_json_document_with_disks_and_findings() {
    let dir = tempfile::tempdir().unwrap();
    vmdk(dir.path(), "disk", "streamOptimized", 3);
    let machine = vmx(dir.path(), "web01", &["disk.vmdk"]);
    let json = json_expecting(0, &["inspect", s(&machine)]);
    assert_eq!(json["machine"]["name"], "web01");
    assert_eq!(json["disks"][0]["virtual_bytes"], 3 << 20);
    assert!(json["findings"].is_array());
    let (text, _) = run_expecting(0, &["inspect", s(dir.path())]);
    assert!(text.contains("web01") && text.contains("streamOptimized"), "{text}");
}

#[test]
fn the_extent_map_covers_the_disk_without_gaps() {
    let dir = tempfile::tempdir().unwrap();
    let (_, disk) = vmdk(dir.path(), "disk", "monolithicSparse", 5);
    let json = json_expecting(0, &["inspect", s(&disk), "--map"]);
    let runs = json["disks"][0]["map"].as_array().expect("a map");
    let mut at = 0;
    for run in runs {
        assert_eq!(run["offset"].as_u64(), Some(at));
        at += run["length"].as_u64().unwrap();
    }
    assert_eq!(at, 5 << 20);
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let mut child = esxodus()
        .args(["limits", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}
