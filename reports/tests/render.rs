//! What the renderers write, read back by independent parsers.

use esxodus_reports::render::{self, Arrival};
use esxodus_reports::schema::{
    ComparisonVerdict, Finding, GuestReport, KeyClass, LimitEffect, ProofVerdict, Severity, StepStatus,
};
use esxodus_reports::test_utils::sample_report;
use quick_xml::events::Event;

/// Every text that a guest or its description brings, replaced by something hostile.
fn hostile() -> GuestReport {
    const EVIL: &str = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'`|&\u{202e}\u{0}";
    let mut report = sample_report();
    report.machine.name = EVIL.to_owned();
    report.machine.source = EVIL.to_owned();
    report.machine.guest_os = EVIL.to_owned();
    for disk in &mut report.machine.disks {
        disk.source = EVIL.to_owned();
        disk.controller = EVIL.to_owned();
    }
    for nic in &mut report.machine.nics {
        nic.network = Some(EVIL.to_owned());
    }
    for step in &mut report.steps {
        step.detail = EVIL.to_owned();
    }
    for finding in &mut report.findings {
        finding.message = EVIL.to_owned();
        finding.evidence = EVIL.to_owned();
        finding.fix = EVIL.to_owned();
    }
    for key in &mut report.accounting.keys {
        key.key = EVIL.to_owned();
        key.value = EVIL.to_owned();
        key.targets.insert(EVIL.to_owned(), EVIL.to_owned());
    }
    if let Some(deep) = &mut report.deep {
        deep.notes.push(EVIL.to_owned());
        for volume in &mut deep.volumes {
            volume.device = EVIL.to_owned();
            volume.mounted_at = Some(EVIL.to_owned());
        }
        for system in &mut deep.systems {
            system.name = EVIL.to_owned();
            system.crypttab = vec![EVIL.to_owned()];
            system.interfaces.insert(EVIL.to_owned(), EVIL.to_owned());
            for kernel in &mut system.kernels {
                kernel.version = EVIL.to_owned();
                kernel.unreadable = Some(EVIL.to_owned());
            }
        }
    }
    for change in &mut report.fixup {
        change.path = EVIL.to_owned();
        change.why = EVIL.to_owned();
        change.before = Some(EVIL.to_owned());
        change.after = EVIL.to_owned();
    }
    if let Some(proof) = &mut report.proof {
        proof.reason = EVIL.to_owned();
        proof.guest = Some(serde_json::json!({ EVIL: EVIL }));
        for milestone in &mut proof.milestones {
            milestone.seen = EVIL.to_owned();
            milestone.name = EVIL.to_owned();
        }
    }
    for record in &mut report.bench {
        record.label = EVIL.to_owned();
        record.host.cpu_model = Some(EVIL.to_owned());
        for metric in &mut record.metrics {
            metric.name = EVIL.to_owned();
            metric.unit = EVIL.to_owned();
            metric.method = EVIL.to_owned();
        }
    }
    for comparison in &mut report.comparisons {
        comparison.base.label = EVIL.to_owned();
        for metric in &mut comparison.metrics {
            metric.name = EVIL.to_owned();
            metric.unit = EVIL.to_owned();
        }
    }
    report.screenshots = vec![
        (EVIL.to_owned(), "QUJD".to_owned()),
        ("login".to_owned(), "\" onerror=\"alert(3)".to_owned()),
    ];
    report
}

/// Names of all elements and attributes, by an XML parser that knows which HTML elements are void.
fn xml_events(text: &str) -> (Vec<String>, Vec<(String, String)>) {
    let mut reader = quick_xml::Reader::from_str(text);
    let (mut elements, mut attributes) = (Vec::new(), Vec::new());
    loop {
        match reader
            .read_event()
            .unwrap_or_else(|error| panic!("{error} at {}", reader.buffer_position()))
        {
            Event::Start(tag) | Event::Empty(tag) => {
                elements.push(tag.name().as_ref().to_owned());
                for attribute in tag.attributes() {
                    let attribute = attribute.expect("a well-formed attribute");
                    attributes.push((attribute.key.as_ref().to_owned(), attribute.value.clone().into_owned()));
                }
            }
            Event::Eof => return (elements, attributes),
            _ => {}
        }
    }
}

#[test]
fn every_section_is_there_with_its_heading_and_in_the_order_of_the_page() {
    let html = render::html(&sample_report());
    let mut from = 0;
    for id in [
        "verdict-title",
        "steps",
        "proof",
        "inside",
        "measurements",
        "limits",
        "conversion",
        "checks",
        "settings",
        "raw",
    ] {
        let at = html[from..]
            .find(&format!("id=\"{id}\""))
            .unwrap_or_else(|| panic!("{id} is missing or misplaced"));
        from += at;
    }
    for landmark in [
        "<header>",
        "<main id=\"main\">",
        "<nav aria-label=",
        "<footer>",
        "class=\"skip\" href=\"#main\"",
        "<html lang=\"en\">",
    ] {
        assert!(html.contains(landmark), "{landmark}");
    }
    assert_eq!(
        html.matches("<table ").count(),
        html.matches("<caption").count(),
        "every table has a caption"
    );
    assert_eq!(
        html.matches("<th ").count(),
        html.matches(" scope=\"").count(),
        "every header cell has a scope"
    );
    assert_eq!(
        html.matches("<svg class=").count(),
        html.matches("role=\"img\" aria-label=\"").count(),
        "every chart has a text alternative"
    );
}

#[test]
fn every_raw_sample_hash_source_and_readable_key_is_on_the_page() {
    let report = sample_report();
    let html = render::html(&report);
    for record in &report.bench {
        for metric in &record.metrics {
            let samples: Vec<String> = metric.samples.iter().map(f64::to_string).collect();
            assert!(html.contains(&samples.join(" ")), "{} of {}", metric.id, record.label);
        }
    }
    for disk in &report.manifest.as_ref().expect("converted").disks {
        assert!(html.contains(&disk.content.as_ref().expect("hashed").root));
    }
    for limit in &report.limits {
        let source = limit.source.replace('/', "&#x2f;").replace('\'', "&#x27;");
        assert!(html.contains(&source), "{}", limit.source);
    }
    for key in &report.accounting.keys {
        let listed = html.contains(&format!("<code>{} = ", key.key));
        let wanted = matches!(
            key.class,
            KeyClass::Approximated | KeyClass::DroppedWarning | KeyClass::Unknown
        );
        assert_eq!(listed, wanted, "{}", key.key);
    }
}

#[test]
fn the_page_fetches_nothing_and_stays_under_a_megabyte() {
    let html = render::html(&sample_report());
    assert!(html.len() < 1_000_000, "{} bytes", html.len());
    for forbidden in [
        "<script",
        "src=\"http",
        "src=\"//",
        "<link rel=\"stylesheet",
        "@import",
        "url(",
        "@font-face",
        "<iframe",
    ] {
        assert!(!html.contains(forbidden), "{forbidden}");
    }
    for (at, _) in html.match_indices("href=\"") {
        let target = &html[at + 6..];
        assert!(
            target.starts_with('#') || target.starts_with("data:,"),
            "{}",
            &target[..40]
        );
    }
    for (at, _) in html.match_indices(" src=\"") {
        assert!(html[at + 6..].starts_with("data:image/png;base64,"));
    }
    assert!(html.contains("Content-Security-Policy"));
}

#[test]
fn hostile_text_becomes_no_markup_anywhere() {
    let report = hostile();
    let html = render::html(&report);
    assert!(!html.contains("<script") && !html.contains("<img src=x") && !html.contains(" onerror=\""));
    assert!(!html.contains('\u{202e}') && !html.contains('\0'));
    assert!(!html.contains("alert(3)"), "what is no base64 is no picture");
    assert_eq!(html.matches("<img ").count(), 1);

    let markdown = render::markdown(&report);
    assert!(!markdown.contains("<script") && !markdown.contains("<img"));
    let junit = render::junit(&report);
    let (elements, _) = xml_events(&junit);
    assert!(elements.iter().all(|name| {
        [
            "testsuites",
            "testsuite",
            "testcase",
            "failure",
            "skipped",
            "system-out",
        ]
        .contains(&name.as_str())
    }));
    let mut reader = csv::Reader::from_reader(render::csv(&report).into_bytes().leak() as &[u8]);
    assert!(
        reader
            .records()
            .all(|record| record.is_ok_and(|record| record.len() == 21))
    );
}

#[test]
fn csv_holds_each_metric_of_each_record_and_no_formula() {
    let mut report = sample_report();
    report.bench[0].label = "=HYPERLINK(1)".to_owned();
    let text = render::csv(&report);
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let rows: Vec<csv::StringRecord> = reader.records().map(|record| record.expect("a record")).collect();
    let metrics = report.bench.iter().map(|record| record.metrics.len()).sum::<usize>();
    let probe = report.probed_limits.as_ref().expect("the sample has one");
    let points = probe.series.iter().map(|series| series.curve.len()).sum::<usize>();
    // Each point of the probe has a time and a size.
    assert_eq!(rows.len(), metrics + 2 * points);
    assert_eq!(&rows[0][1], "'=HYPERLINK(1)");
    let first = &report.bench[0].metrics[0];
    assert_eq!(rows[0][10].parse::<f64>().expect("a number"), first.summary.median);
    let samples: Vec<f64> = rows[0][20]
        .split(' ')
        .map(|sample| sample.parse().expect("a number"))
        .collect();
    assert_eq!(samples, first.samples);
}

#[test]
fn junit_counts_agree_with_its_cases_and_failures_are_what_failed() {
    let mut report = sample_report();
    report.steps[2].status = StepStatus::Failed;
    report.findings[0].severity = Severity::Block;
    let junit = render::junit(&report);
    let (elements, attributes) = xml_events(&junit);
    let count = |name: &str| elements.iter().filter(|element| *element == name).count();
    assert_eq!(count("testcase"), report.steps.len() + 1 + report.findings.len());
    assert_eq!(count("failure"), 2);
    assert_eq!(count("skipped"), 1);
    assert!(attributes.contains(&("failures".to_owned(), "2".to_owned())));
}

type Change<'a> = &'a dyn Fn(&mut GuestReport);

#[test]
fn the_verdict_names_the_worst_reason_first() {
    let plain = |change: &dyn Fn(&mut GuestReport)| {
        let mut report = sample_report();
        report.findings.clear();
        report.accounting.keys.retain(|key| key.class == KeyClass::Mapped);
        report.comparisons.clear();
        change(&mut report);
        render::verdict(&report)
    };
    let good = plain(&|_| {});
    assert_eq!(good.arrival, Arrival::Yes, "{good:?}");
    assert_eq!(
        good.sentence,
        "2 disks converted and verified against the source, boot proven in 9.84 s (login prompt seen)."
    );

    let cases: [(Change<'_>, Arrival, &str); 8] = [
        (&|report| report.proof = None, Arrival::Unproven, "no boot was tried"),
        (
            &|report| {
                let proof = report.proof.as_mut().expect("a proof");
                proof.verdict = ProofVerdict::Failed;
                proof.reason = "no bootable device".to_owned();
            },
            Arrival::No,
            "It did not boot: no bootable device.",
        ),
        (
            &|report| report.proof.as_mut().expect("a proof").disks_after[0].1.push('0'),
            Arrival::No,
            "changed during the boot proof",
        ),
        (
            &|report| report.steps[1].status = StepStatus::Failed,
            Arrival::No,
            "The step convert failed",
        ),
        (
            &|report| report.steps[5].status = StepStatus::Failed,
            Arrival::WithTasks,
            "measurement bench-host failed",
        ),
        (
            &|report| report.manifest = None,
            Arrival::No,
            "Nothing was converted yet",
        ),
        (
            &|report| {
                report.limits[0].effect = LimitEffect::Blocks;
                report.limits[0].fits = false;
            },
            Arrival::WithReservations,
            "does not fit",
        ),
        (
            &|report| {
                report.findings.push(Finding {
                    id: "disk.rdm".to_owned(),
                    severity: Severity::Block,
                    message: "a raw device".to_owned(),
                    evidence: String::new(),
                    fix: String::new(),
                    suppressed: None,
                });
            },
            Arrival::No,
            "The check disk.rdm blocks: a raw device",
        ),
    ];
    for (change, arrival, words) in cases {
        let verdict = plain(change);
        assert_eq!(verdict.arrival, arrival, "{verdict:?}");
        assert!(verdict.sentence.contains(words), "{words}: {verdict:?}");
    }
}

#[test]
fn only_a_fair_comparison_with_esxi_speaks_against_the_move() {
    let mut report = sample_report();
    report.findings.clear();
    report.accounting.keys.clear();
    let worse_than_host = report.comparisons.pop().expect("the comparison with the host");
    assert!(
        worse_than_host
            .metrics
            .iter()
            .any(|metric| metric.verdict == ComparisonVerdict::Worse)
    );
    let esxi = std::mem::replace(&mut report.comparisons, vec![worse_than_host]);
    assert_eq!(render::verdict(&report).arrival, Arrival::Yes);
    report.comparisons = esxi;
    let verdict = render::verdict(&report);
    assert_eq!(verdict.arrival, Arrival::WithReservations);
    assert_eq!(verdict.words, "Arrived, but 1 of 17 figures is worse than on ESXi");
    assert!(
        verdict.sentence.ends_with("but 1 of 17 figures is worse than on ESXi."),
        "{}",
        verdict.sentence
    );
}

#[test]
fn warnings_alone_are_points_to_look_at_and_the_heading_counts_them() {
    let mut report = sample_report();
    report.comparisons.clear();
    let warnings = report
        .findings
        .iter()
        .filter(|finding| finding.severity == Severity::Warn)
        .count();
    let dropped = report.accounting.count(KeyClass::DroppedWarning);
    assert!(warnings > 0 && dropped > 0);
    let verdict = render::verdict(&report);
    assert_eq!(verdict.arrival, Arrival::WithTasks);
    assert_eq!(
        verdict.words,
        format!("Arrived well; {} points to look at", warnings + dropped)
    );
    assert!(!verdict.sentence.contains("but"), "{}", verdict.sentence);

    // An overruled block weighs more than any number of warnings, and is named first.
    report.findings[0].severity = Severity::Block;
    report.findings[0].suppressed = Some("we know".to_owned());
    let verdict = render::verdict(&report);
    assert_eq!(verdict.words, "Arrived, but against a blocking check");
    assert!(
        verdict
            .sentence
            .ends_with("but 1 blocking check was overruled by the user.")
    );
}

#[test]
fn a_report_of_a_run_that_stopped_early_is_still_a_page() {
    let mut report = sample_report();
    report.manifest = None;
    report.proof = None;
    report.steps.clear();
    report.findings.clear();
    report.accounting.keys.clear();
    report.bench.clear();
    report.comparisons.clear();
    report.limits.clear();
    report.screenshots.clear();
    let html = render::html(&report);
    for words in [
        "Not converted yet",
        "No step is on record",
        "No boot was tried",
        "Nothing was measured",
        "No check fired",
    ] {
        assert!(html.contains(words), "{words}");
    }
    assert!(render::markdown(&report).contains("No boot was tried."));
    xml_events(&render::junit(&report));
}

#[test]
fn each_change_inside_the_guest_is_listed_with_before_and_after_in_page_and_markdown() {
    let mut report = sample_report();
    report.fixup[1].undone = true;
    for text in [render::html(&report), render::markdown(&report)] {
        for words in [
            "Debian GNU/Linux 12",
            "6.1.0-28-amd64",
            "finds no virtio disk",
            "only on the root",
            "/etc/fstab",
            "/dev/sda5 none swap",
            "UUID=0f3c2a51-6a0e-4b7d-9d53-1c2b7b8e9f10 none swap",
            "bound to its MAC",
            "taken back",
        ] {
            let plain = text.replace('\\', "").replace("&#x2f;", "/");
            assert!(plain.contains(words), "{words}:\n{plain}");
        }
    }
    report.deep = None;
    report.fixup.clear();
    let html = render::html(&report);
    assert!(html.contains("Nobody looked inside") && html.contains("Nothing was changed inside"));
}
