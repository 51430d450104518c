//! Verdicts on simulated records: what is planted is found, what is not there is not.

use esxodus_bench::stats::{Prng, summarise};
use esxodus_bench::{CompareOptions, compare, compare_paired, regressions, trend};
use reports::schema::{
    AcceleratorClass, BenchRecord, BenchSizes, Better, Comparability, ComparisonVerdict, HostFacts, Metric, Noise,
    Place, Stamp, Suite,
};

const METRICS: usize = 12;

fn metric(id: String, samples: Vec<f64>) -> Metric {
    Metric {
        name: id.clone(),
        id,
        unit: "Mops/s".to_owned(),
        better: Better::Higher,
        summary: summarise(&samples),
        samples,
        percentiles: Vec::new(),
        percentile_unit: None,
        method: "simulated".to_owned(),
        stopped: "count".to_owned(),
        unfit: None,
    }
}

/// 12 CPU metrics of 10 samples with 2 % noise; metric 0 is slower by `slowdown`.
fn record(prng: &mut Prng, slowdown: f64) -> BenchRecord {
    let one = |at: usize, prng: &mut Prng| {
        let centre = if at == 0 { 1000.0 * (1.0 - slowdown) } else { 1000.0 };
        metric(
            format!("cpu.m{at}"),
            (0..10).map(|_| centre * (1.0 + 0.02 * prng.normal())).collect(),
        )
    };
    BenchRecord {
        stamp: Stamp {
            schema: 1,
            tool: "test".to_owned(),
            created: "2026-01-01T00:00:00Z".to_owned(),
        },
        label: "simulated".to_owned(),
        place: Place::Guest,
        accelerator: AcceleratorClass::Native,
        engine: None,
        host: HostFacts {
            cpus_usable: 2,
            cpu_model: Some("CPU A".to_owned()),
            ..HostFacts::default()
        },
        suite: Suite::Quick,
        storage: None,
        sizes: BenchSizes::default(),
        noise: Noise::default(),
        metrics: (0..METRICS).map(|at| one(at, prng)).collect(),
        skipped: Vec::new(),
        self_checks: Vec::new(),
    }
}

#[test]
fn equal_machines_are_called_same_or_undecided_in_at_least_95_of_100_runs() {
    let mut prng = Prng::new(2026);
    let honest = (0..100)
        .filter(|_| {
            let (base, candidate) = (record(&mut prng, 0.0), record(&mut prng, 0.0));
            let found = compare(&base, &candidate, &CompareOptions::default()).expect("comparable");
            let quiet = |v| matches!(v, ComparisonVerdict::Same | ComparisonVerdict::CantTell);
            found.metrics.iter().all(|metric| quiet(metric.verdict))
        })
        .count();
    assert!(honest >= 95, "{honest} of 100");
}

#[test]
fn a_slowdown_of_ten_percent_is_found_in_at_least_90_of_100_runs() {
    let mut prng = Prng::new(2027);
    let found = (0..100)
        .filter(|_| {
            let (base, candidate) = (record(&mut prng, 0.0), record(&mut prng, 0.10));
            let found = compare(&base, &candidate, &CompareOptions::default()).expect("comparable");
            found.metrics[0].verdict == ComparisonVerdict::Worse && !regressions(&found, 5.0).is_empty()
        })
        .count();
    assert!(found >= 90, "{found} of 100");
}

#[test]
fn lower_is_better_turns_the_verdict_round() {
    let mut prng = Prng::new(1);
    let (mut base, mut candidate) = (record(&mut prng, 0.0), record(&mut prng, 0.2));
    base.metrics[0].better = Better::Lower;
    candidate.metrics[0].better = Better::Lower;
    let found = compare(&base, &candidate, &CompareOptions::default()).expect("comparable");
    assert_eq!(found.metrics[0].verdict, ComparisonVerdict::Better);
    assert!(
        found.metrics[0].words.contains("lower is better"),
        "{}",
        found.metrics[0].words
    );
    assert!(regressions(&found, 0.0).is_empty());
}

#[test]
fn steady_equal_samples_are_the_same_and_few_noisy_ones_name_how_many_more_are_needed() {
    let mut prng = Prng::new(4);
    let (mut base, mut candidate) = (record(&mut prng, 0.0), record(&mut prng, 0.0));
    base.metrics = vec![metric(
        "cpu.steady".to_owned(),
        vec![100.0, 100.1, 99.9, 100.0, 100.2, 99.8],
    )];
    candidate.metrics = vec![metric(
        "cpu.steady".to_owned(),
        vec![100.1, 100.0, 99.9, 100.2, 100.0, 99.7],
    )];
    base.metrics
        .push(metric("cpu.noisy".to_owned(), vec![80.0, 120.0, 100.0, 95.0, 110.0]));
    candidate
        .metrics
        .push(metric("cpu.noisy".to_owned(), vec![85.0, 125.0, 103.0, 96.0, 112.0]));
    let found = compare(&base, &candidate, &CompareOptions::default()).expect("comparable");
    assert_eq!(found.metrics[0].verdict, ComparisonVerdict::Same);
    assert!(
        found.metrics[0].words.contains("within ±3 %"),
        "{}",
        found.metrics[0].words
    );
    assert_eq!(found.metrics[1].verdict, ComparisonVerdict::CantTell);
    assert!(
        found.metrics[1].words.contains("samples a side would decide"),
        "{}",
        found.metrics[1].words
    );
}

#[test]
fn unlike_machines_are_refused_and_forcing_says_why_it_should_not_count() {
    let mut prng = Prng::new(3);
    let base = BenchRecord {
        accelerator: AcceleratorClass::Esxi,
        ..record(&mut prng, 0.0)
    };
    let mut candidate = BenchRecord {
        accelerator: AcceleratorClass::Tcg,
        ..record(&mut prng, 0.0)
    };
    candidate.host.cpu_model = Some("CPU B".to_owned());
    candidate.host.cpus_usable = 4;
    let refused = compare(&base, &candidate, &CompareOptions::default()).expect_err("not comparable");
    assert_eq!(refused.reasons.len(), 3, "{refused}");
    assert!(refused.to_string().contains("ESXi against TCG"), "{refused}");
    let forced = CompareOptions {
        force: true,
        ..CompareOptions::default()
    };
    let found = compare(&base, &candidate, &forced).expect("forced");
    assert!(matches!(found.comparability, Comparability::Forced(reasons) if reasons.len() >= 3));
}

#[test]
fn esxi_and_kvm_on_hardware_are_comparable() {
    let mut prng = Prng::new(3);
    let base = BenchRecord {
        accelerator: AcceleratorClass::Esxi,
        ..record(&mut prng, 0.0)
    };
    let found = compare(&base, &record(&mut prng, 0.0), &CompareOptions::default()).expect("comparable");
    assert_eq!(found.comparability, Comparability::Yes);
}

#[test]
fn metrics_that_were_measured_otherwise_or_are_unfit_are_left_out_with_the_reason() {
    let mut prng = Prng::new(3);
    let (base, mut candidate) = (record(&mut prng, 0.0), record(&mut prng, 0.0));
    candidate.metrics[0].method = "another size".to_owned();
    let (mut small, mut large) = (base.clone(), base.clone());
    small.metrics[0].method = "a file of 16 MiB".to_owned();
    large.metrics[0].method = "a file of 256 MiB".to_owned();
    let sizes = compare(&small, &large, &CompareOptions::default()).expect("comparable");
    assert!(sizes.left_out[0].1.contains("--like"), "{:?}", sizes.left_out);
    candidate.metrics[1].unfit = Some("steal".to_owned());
    candidate.metrics[2].samples = vec![0.0, 0.0];
    candidate.metrics.remove(3);
    let found = compare(&base, &candidate, &CompareOptions::default()).expect("comparable");
    assert_eq!(found.metrics.len(), METRICS - 4);
    let reasons: Vec<&str> = found.left_out.iter().map(|(_, reason)| reason.as_str()).collect();
    for part in ["measured differently", "unfit: steal", "no ratio", "was not measured"] {
        assert!(
            reasons.iter().any(|reason| reason.contains(part)),
            "{part}: {reasons:?}"
        );
    }
}

#[test]
fn a_trend_is_in_time_order_and_says_where_methods_changed() {
    let mut prng = Prng::new(3);
    let mut late = record(&mut prng, 0.5);
    late.stamp.created = "2026-03-01T00:00:00Z".to_owned();
    late.metrics[1].method = "another size".to_owned();
    let found = trend(&[late, record(&mut prng, 0.0)]);
    assert_eq!(found.len(), METRICS);
    assert!((found[0].ratio - 0.5).abs() < 0.05 && found[0].like && !found[1].like);
}

#[test]
fn a_comparison_survives_json() {
    let mut prng = Prng::new(3);
    let found = compare(
        &record(&mut prng, 0.0),
        &record(&mut prng, 0.1),
        &CompareOptions::default(),
    )
    .expect("comparable");
    let text = serde_json::to_string(&found).expect("serializable");
    assert_eq!(
        serde_json::from_str::<reports::schema::Comparison>(&text).expect("readable"),
        found
    );
}

/// Rounds in turn on a host whose speed wanders by a factor of two, which hits both sides of a pair alike.
fn rounds(prng: &mut Prng, pairs: usize, slowdown: f64) -> (Vec<BenchRecord>, Vec<BenchRecord>) {
    let mut sides = (Vec::new(), Vec::new());
    for round in 0..pairs {
        let drift = 1.0 + (round % 4) as f64 / 3.0;
        let mut pair = (record(prng, 0.0), record(prng, slowdown));
        for metric in pair.0.metrics.iter_mut().chain(&mut pair.1.metrics) {
            metric.samples.iter_mut().for_each(|value| *value *= drift);
        }
        sides.0.push(pair.0);
        sides.1.push(pair.1);
    }
    sides
}

#[test]
fn pairs_taken_in_turn_find_ten_percent_under_a_drift_that_blinds_the_plain_comparison() {
    let mut prng = Prng::new(11);
    let (base, candidate) = rounds(&mut prng, 14, 0.10);
    let found = compare_paired(&base, &candidate, &CompareOptions::default()).expect("comparable");
    assert_eq!(found.metrics.len(), METRICS);
    assert_eq!(
        found.metrics[0].verdict,
        ComparisonVerdict::Worse,
        "{}",
        found.metrics[0].words
    );
    assert!((found.metrics[0].ratio - 0.9).abs() < 0.02);
    assert!(
        found.metrics[1..]
            .iter()
            .all(|metric| metric.verdict == ComparisonVerdict::Same)
    );
    let pooled = |records: &[BenchRecord]| {
        let samples: Vec<f64> = records
            .iter()
            .flat_map(|record| record.metrics[0].samples.clone())
            .collect();
        let mut one = records[0].clone();
        one.metrics = vec![metric("cpu.m0".to_owned(), samples)];
        one
    };
    let plain = compare(&pooled(&base), &pooled(&candidate), &CompareOptions::default()).expect("comparable");
    assert_ne!(plain.metrics[0].verdict, ComparisonVerdict::Same);
    assert!(plain.metrics[0].ratio_ci.1 - plain.metrics[0].ratio_ci.0 > 0.05);
}

#[test]
fn rounds_that_are_unfit_on_one_side_count_on_neither_and_too_few_are_said() {
    let mut prng = Prng::new(12);
    let (mut base, candidate) = rounds(&mut prng, 7, 0.0);
    for record in &mut base[..3] {
        record.metrics[0].unfit = Some("other processes".to_owned());
    }
    let found = compare_paired(&base, &candidate, &CompareOptions::default()).expect("comparable");
    assert!(found.metrics.iter().all(|metric| metric.id != "cpu.m0"));
    let words = &found.left_out.iter().find(|(id, _)| id == "cpu.m0").expect("named").1;
    assert!(words.contains("only 4 of 7 rounds"), "{words}");
    assert!(compare_paired(&[], &[], &CompareOptions::default()).is_err());
}

#[test]
fn a_single_sample_decides_nothing_however_equal() {
    let mut prng = Prng::new(13);
    let (mut base, mut candidate) = (record(&mut prng, 0.0), record(&mut prng, 0.0));
    base.metrics = vec![metric("boot.kernel".to_owned(), vec![900.0])];
    candidate.metrics = vec![metric("boot.kernel".to_owned(), vec![900.0])];
    let found = compare(&base, &candidate, &CompareOptions::default()).expect("comparable");
    assert_eq!(found.metrics[0].verdict, ComparisonVerdict::CantTell);
    assert!(
        found.metrics[0].words.contains("1 sample(s)"),
        "{}",
        found.metrics[0].words
    );
}

#[test]
fn a_metric_that_only_the_last_round_lacks_is_compared_over_the_others() {
    let mut prng = Prng::new(14);
    let (mut base, candidate) = rounds(&mut prng, 14, 0.10);
    base.last_mut().expect("rounds").metrics.remove(0);
    let found = compare_paired(&base, &candidate, &CompareOptions::default()).expect("comparable");
    assert_eq!(found.metrics.len(), METRICS);
    let first = found
        .metrics
        .iter()
        .find(|metric| metric.id == "cpu.m0")
        .expect("compared");
    assert_eq!(first.verdict, ComparisonVerdict::Worse, "{}", first.words);
    assert!(found.left_out.is_empty(), "{:?}", found.left_out);
}

#[test]
fn what_the_guest_was_given_and_where_it_ran_are_reservations() {
    let mut prng = Prng::new(15);
    let (mut base, mut candidate) = (record(&mut prng, 0.0), record(&mut prng, 0.0));
    for side in [&mut base, &mut candidate] {
        side.metrics
            .push(metric("disk.seqread-1m.qd1".to_owned(), vec![100.0; 10]));
        side.metrics.push(metric("net.stream".to_owned(), vec![100.0; 10]));
    }
    base.host.disk_drivers = vec!["sda sd/vmw_pvscsi".to_owned()];
    base.host.nic_drivers = vec!["ens192 vmxnet3".to_owned()];
    base.host.memory_bytes = 4 << 30;
    candidate.storage = Some("throw-away qcow2 overlays".to_owned());
    candidate.host.disk_drivers = vec!["vda virtio_blk".to_owned()];
    candidate.host.nic_drivers = vec!["ens192 virtio_net".to_owned()];
    candidate.host.memory_bytes = 2 << 30;
    candidate.host.governor = Some("powersave".to_owned());
    candidate.host.container = Some("lxc".to_owned());
    candidate.accelerator = AcceleratorClass::Unknown;
    candidate.place = Place::Host;
    candidate.host.hypervisor = Some("KVMKVMKVM".to_owned());
    let found = compare(&base, &candidate, &CompareOptions::default()).expect("comparable");
    let Comparability::WithReservations(reasons) = found.comparability else {
        panic!("no reservation");
    };
    for part in [
        "vmw_pvscsi",
        "vmxnet3",
        "different storage",
        "4096 MiB against 2048 MiB",
        "governors",
        "containers",
        "what lay under the candidate is not known",
    ] {
        assert!(
            reasons.iter().any(|reason| reason.contains(part)),
            "{part}: {reasons:?}"
        );
    }
}
