//! The command line contract: help, exit codes, one JSON document.

use crate::util::{esxodus, json_expecting, run_expecting, s, text, tool, vmdk, vmx};
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

/// The map says where each byte lies: reading there gives what the guest sees, through a delta and its base.
#[test]
fn the_extent_map_names_the_file_of_the_chain_and_the_place_in_it() {
    let dir = tempfile::tempdir().unwrap();
    vmdk(dir.path(), "base", "monolithicSparse", 6);
    let (base, delta) = (dir.path().join("base.vmdk"), dir.path().join("delta.vmdk"));
    tool(
        "qemu-img",
        &["create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", s(&base), s(&delta)],
    );
    tool("qemu-io", &["-f", "vmdk", "-c", "write -q -P 9 2M 192k", s(&delta)]);
    // qemu-img writes the parent's whole path, which the gate would refuse.
    let text = std::fs::read(&delta).unwrap();
    let hint = format!("parentFileNameHint=\"{}\"", s(&base)).into_bytes();
    let at = text
        .windows(hint.len())
        .position(|window| window == hint)
        .expect("a hint");
    let mut bytes = text;
    let mut short = b"parentFileNameHint=\"base.vmdk\"\n".to_vec();
    short.resize(hint.len(), b'#');
    bytes[at..at + hint.len()].copy_from_slice(&short);
    std::fs::write(&delta, bytes).unwrap();

    let raw = dir.path().join("guest.raw");
    tool("qemu-img", &["convert", "-O", "raw", s(&delta), s(&raw)]);
    let guest = std::fs::read(&raw).unwrap();
    let json = json_expecting(0, &["inspect", s(&delta), "--map"]);
    let mut files = std::collections::BTreeSet::new();
    let mut at = 0;
    for run in json["disks"][0]["map"].as_array().expect("a map") {
        let number = |key: &str| usize::try_from(run[key].as_u64().unwrap()).unwrap();
        let (offset, length) = (number("offset"), number("length"));
        assert_eq!(offset, at);
        at += length;
        let seen = &guest[offset..offset + length];
        match run["kind"].as_str().unwrap() {
            "data" => {
                let file = run["file"].as_str().unwrap();
                let there = std::fs::read(file).unwrap();
                let from = number("file_offset");
                assert!(&there[from..from + length] == seen, "{run}");
                files.insert(file.to_owned());
            }
            "zero" | "hole" => assert!(seen.iter().all(|byte| *byte == 0), "{run}"),
            other => panic!("{other}"),
        }
    }
    assert_eq!((at, files.len()), (guest.len(), 2), "{files:?}");
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
