//! The suite on this machine with tiny budgets.

use esxodus_bench::{BenchError, SuiteOptions, list, run_suite};
use reports::schema::{BenchRecord, Suite};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// A folder on a disk, not on a tmpfs, inside the target folder.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder")
}

fn options(folder: &Path) -> SuiteOptions {
    let mut options = SuiteOptions::new(Suite::Quick, folder);
    options.disk_budget_bytes = 32 << 20;
    options.memory_budget_bytes = Some(128 << 20);
    options.budget_seconds = Some(6.0);
    options
}

fn left_behind(folder: &Path) -> usize {
    std::fs::read_dir(folder).expect("readable").count()
}

#[test]
fn every_workload_gives_positive_finite_samples_within_a_tiny_budget_and_leaves_nothing() {
    let folder = folder();
    let mut options = options(folder.path());
    // On a loaded machine first metrics may take three times their share, and the last ones would be skipped.
    options.budget_seconds = Some(24.0);
    let record = run_suite(&options, &|_, _, _| (), &AtomicBool::new(false)).expect("it runs");
    for metric in record.metrics.iter().filter(|metric| metric.id != "hypervisor.steal") {
        assert!(
            metric.samples.iter().all(|v| v.is_finite() && *v > 0.0),
            "{}: {:?}",
            metric.id,
            metric.samples
        );
        assert!(!metric.method.is_empty() && ["interval", "budget", "count"].contains(&metric.stopped.as_str()));
    }
    let wanted = list(&options);
    for skipped in &record.skipped {
        println!("SKIP: {}: {}", skipped.id, skipped.reason);
        assert!(!skipped.reason.is_empty());
    }
    assert_eq!(
        record.metrics.len() + record.skipped.len(),
        wanted.len() + 1,
        "all listed metrics and steal"
    );
    let measured = |id: &str| record.metrics.iter().any(|metric| metric.id.starts_with(id));
    for family in [
        "cpu.integer",
        "cpu.sieve",
        "kernel.getppid",
        "kernel.fork-exec",
        "hypervisor.cpuid",
        "memory.copy",
        "memory.latency",
    ] {
        assert!(measured(family), "{family} is missing");
    }
    assert!(
        record
            .self_checks
            .iter()
            .all(|check| !check.contains("WRONG") && !check.contains("BACKWARDS"))
    );
    assert_eq!(left_behind(folder.path()), 0);
}

#[test]
fn a_record_survives_json_and_unknown_fields() {
    let folder = folder();
    let mut options = options(folder.path());
    options.only = Some(vec!["kernel.getppid".to_owned()]);
    options.budget_seconds = Some(0.3);
    let record = run_suite(&options, &|_, _, _| (), &AtomicBool::new(false)).expect("it runs");
    let mut json = serde_json::to_value(&record).expect("serializable");
    json["from_the_future"] = 1.into();
    assert_eq!(serde_json::from_value::<BenchRecord>(json).expect("readable"), record);
}

#[test]
fn disk_tests_are_refused_where_the_space_is_short() {
    let folder = folder();
    let mut options = options(folder.path());
    options.only = Some(vec!["disk.*".to_owned()]);
    options.disk_budget_bytes = 4 << 20;
    let record = run_suite(&options, &|_, _, _| (), &AtomicBool::new(false)).expect("it runs");
    assert!(record.metrics.is_empty());
    assert_eq!(record.skipped.len(), 12);
    assert!(
        record
            .skipped
            .iter()
            .all(|skipped| skipped.reason.contains("disk budget")),
        "{:?}",
        record.skipped
    );
}

#[test]
fn cancelling_ends_the_run_and_leaves_nothing_behind() {
    let folder = folder();
    let mut options = options(folder.path());
    options.only = Some(vec!["disk.*".to_owned()]);
    options.budget_seconds = Some(60.0);
    let cancel = AtomicBool::new(false);
    let stop_at_second = |_: &str, at: usize, _: usize| cancel.store(at >= 2, Ordering::Relaxed);
    let found = run_suite(&options, &stop_at_second, &cancel);
    assert!(matches!(found, Err(BenchError::Cancelled)));
    assert_eq!(left_behind(folder.path()), 0);
}

#[test]
fn mistakes_are_errors_that_name_them() {
    let folder = folder();
    let mut wrong = options(folder.path());
    wrong.only = Some(vec!["no-such-metric".to_owned()]);
    let found = run_suite(&wrong, &|_, _, _| (), &AtomicBool::new(false));
    assert!(found.is_err_and(|error| error.to_string().contains("no-such-metric")));
    let missing = options(Path::new("/no/such/folder"));
    let found = run_suite(&missing, &|_, _, _| (), &AtomicBool::new(false));
    assert!(found.is_err_and(|error| error.to_string().contains("/no/such/folder")));
}

#[test]
fn ids_are_unique_and_every_metric_is_explained() {
    for suite in [Suite::Quick, Suite::Full] {
        let mut options = SuiteOptions::new(suite, ".");
        options.threads = Some(6);
        let metrics = list(&options);
        let mut ids: Vec<&str> = metrics.iter().map(|metric| metric.id.as_str()).collect();
        ids.sort_unstable();
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count);
        assert!(
            metrics
                .iter()
                .all(|m| !m.measures.is_empty() && !m.pitfalls.is_empty() && !m.reference.is_empty())
        );
    }
}

#[test]
fn a_record_with_another_budget_takes_the_sizes_of_the_first_and_compares_with_it() {
    let folder = folder();
    let mut first = options(folder.path());
    let ids = ["disk.randread-4k.rate", "disk.randread-4k.qd1", "memory.copy.single"];
    first.only = Some(ids.map(str::to_owned).to_vec());
    first.noise_bar = esxodus_bench::harness::NoiseBar {
        steal: f64::INFINITY,
        foreign: f64::INFINITY,
        drift: f64::INFINITY,
    };
    first.budget_seconds = Some(3.0);
    let base = run_suite(&first, &|_, _, _| (), &AtomicBool::new(false)).expect("it runs");
    let second = SuiteOptions {
        like: base.sizes,
        disk_budget_bytes: 64 << 20,
        memory_budget_bytes: Some(512 << 20),
        budget_seconds: Some(6.0),
        ..first.clone()
    };
    let candidate = run_suite(&second, &|_, _, _| (), &AtomicBool::new(false)).expect("it runs");
    assert!(base.sizes.disk_file_bytes.is_some() && base.sizes.stream_array_bytes.is_some());
    if !candidate.skipped.is_empty() {
        println!("SKIP: too busy a machine for {:?}", candidate.skipped);
        return;
    }
    assert_eq!(candidate.sizes, base.sizes);
    let found =
        esxodus_bench::compare(&base, &candidate, &esxodus_bench::CompareOptions::default()).expect("comparable");
    assert!(found.left_out.is_empty(), "{:?}", found.left_out);
    assert_eq!(found.metrics.len(), ids.len());
}

#[test]
fn sizes_of_another_record_that_do_not_fit_here_are_a_skip_that_says_so() {
    let folder = folder();
    let mut options = options(folder.path());
    options.only = Some(vec!["memory.copy.single".to_owned()]);
    options.like.stream_array_bytes = Some(1 << 40);
    let record = run_suite(&options, &|_, _, _| (), &AtomicBool::new(false)).expect("it runs");
    assert!(record.metrics.is_empty());
    assert!(
        record.skipped[0].reason.contains("other record's arrays"),
        "{:?}",
        record.skipped
    );
}
