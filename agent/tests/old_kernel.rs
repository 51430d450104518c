//! The agent with the system calls of Linux 3.10 only: a seccomp filter answers every later one with ENOSYS, as that kernel
//! would.
#![cfg(test)]

use reports::schema::BenchRecord;
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
    apply_filter,
};
use std::collections::BTreeMap;
use std::process::{Command, Output};

/// The last system call of Linux 3.10 on x86-64 is finit_module (arch/x86/syscalls/syscall_64.tbl); 3.14 added the next.
const LAST_OF_3_10: i64 = 313;
/// Generously behind the newest; 335 to 423 do not exist on x86-64.
const NEWEST: i64 = 600;

fn filter(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) -> seccompiler::BpfProgram {
    let errno = u32::try_from(errno).expect("positive");
    SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(errno),
        TargetArch::x86_64,
    )
    .and_then(TryInto::try_into)
    .expect("a valid filter")
}

/// Runs the agent under the filters. They hold for the thread that takes them and what it starts, so it is one of its own.
fn under(filters: Vec<seccompiler::BpfProgram>, arguments: Vec<String>) -> Output {
    let run = move || {
        for filter in &filters {
            apply_filter(filter).expect("no new privileges are needed for a filter");
        }
        Command::new(env!("CARGO_BIN_EXE_esxodus-agent"))
            .args(arguments)
            .output()
            .expect("the agent starts")
    };
    std::thread::spawn(run).join().expect("the agent ran")
}

/// O_TMPFILE is one bit and O_DIRECTORY (open(2)); a kernel before 3.11 ignores the bit and refuses to open a folder for writing.
fn without_tmpfile() -> seccompiler::BpfProgram {
    const TMPFILE: u64 = 0o20_000_000;
    const OPENAT: i64 = 257;
    let bit = SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(TMPFILE), TMPFILE);
    let rule = SeccompRule::new(vec![bit.expect("a third argument")]).expect("one condition");
    filter(BTreeMap::from([(OPENAT, vec![rule])]), 21)
}

fn none_of(calls: impl Iterator<Item = i64>) -> seccompiler::BpfProgram {
    filter(calls.map(|call| (call, Vec::new())).collect(), 38)
}

fn arguments(folder: &std::path::Path, more: &[&str]) -> Vec<String> {
    let folder = folder.to_str().expect("text");
    let mut arguments = [
        "bench",
        "--folder",
        folder,
        "--disk-budget",
        "32",
        "--memory-budget",
        "128",
    ]
    .to_vec();
    arguments.extend(more);
    arguments.into_iter().map(str::to_owned).collect()
}

fn record(output: &Output) -> BenchRecord {
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{words}");
    serde_json::from_slice(&output.stdout).expect("a record")
}

#[test]
fn every_workload_runs_with_the_system_calls_of_linux_3_10_and_the_record_names_what_stood_in() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder");
    // The one that takes seccomp(2) itself away comes last.
    let filters = vec![without_tmpfile(), none_of(LAST_OF_3_10 + 1..=NEWEST)];
    let record = record(&under(filters, arguments(folder.path(), &["--budget", "12"])));
    for skipped in &record.skipped {
        println!("skipped {}: {}", skipped.id, skipped.reason);
        let known = ["--peer", "budget", "bytes of memory", "huge pages", "two CPUs", "CPU"];
        assert!(
            known.iter().any(|part| skipped.reason.contains(part)),
            "{}: {}",
            skipped.id,
            skipped.reason
        );
    }
    let method = |id: &str| {
        let found = record.metrics.iter().find(|metric| metric.id == id);
        found.map_or_else(
            || panic!("{id} is missing: {:?}", record.skipped),
            |metric| metric.method.clone(),
        )
    };
    assert!(
        method("disk.randread-4k.qd32").contains("libaio"),
        "{}",
        method("disk.randread-4k.qd32")
    );
    assert!(
        method("kernel.fork-exec").contains("in a folder"),
        "{}",
        method("kernel.fork-exec")
    );
    assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 0);
}

#[test]
fn without_io_uring_and_native_aio_threads_keep_the_requests_in_flight() {
    const IO_SETUP: i64 = 206;
    const IO_URING_SETUP: i64 = 425;
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder");
    let filters = vec![none_of([IO_SETUP, IO_URING_SETUP].into_iter())];
    let only = [
        "--budget",
        "3",
        "--only",
        "disk.randread-4k",
        "--only",
        "disk.seqwrite-1m.qd8",
    ];
    let record = record(&under(filters, arguments(folder.path(), &only)));
    assert_eq!(record.metrics.len(), 4, "{:?}", record.skipped);
    for metric in &record.metrics {
        assert!(
            metric.method.contains("threads with pread and pwrite"),
            "{}: {}",
            metric.id,
            metric.method
        );
        assert!(metric.samples.iter().all(|value| *value > 0.0));
    }
}
