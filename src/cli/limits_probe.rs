//! `esxodus limits --probe`: what KVM takes on this host, in text.

use super::{Context, Outcome};
use reports::limits::{Limit, Scope};
use runner::probe::limits::{Documented, Ended, LimitsOptions, LimitsReport, Series, probe_limits};
use std::time::Duration;

pub(crate) fn run(context: &Context, seconds: u64) -> anyhow::Result<Outcome> {
    let options = LimitsOptions {
        deadline: Duration::from_secs(seconds),
        ..LimitsOptions::default()
    };
    let spinner = context.bars.spinner("creating VMs");
    let report = probe_limits(&options, &|what| spinner.set_message(what.to_owned()), &context.cancel);
    spinner.finish_and_clear();
    let mut report = report?;
    for series in &mut report.series {
        series.documented = documented(series.key);
    }
    context.print(&report, || text(&report))?;
    if context.cancelled() {
        anyhow::bail!("stopped");
    }
    Ok(Outcome::Good)
}

/// A line a product: most have a limit for each of their versions, in the table's order, the newest last.
fn documented_words(all: &[Documented]) -> Vec<String> {
    let mut lines: Vec<(&str, Vec<&Documented>)> = Vec::new();
    for one in all {
        let of_product = |(product, _): &(&str, Vec<&Documented>)| *product == one.product;
        match lines.iter_mut().find(|line| of_product(line)) {
            Some((_, versions)) => versions.push(one),
            None => lines.push((one.product.as_str(), vec![one])),
        }
    }
    lines
        .into_iter()
        .filter_map(|(product, versions)| {
            let last = versions.last()?;
            Some(match versions.first().filter(|first| first.value != last.value) {
                Some(first) => format!(
                    "{product}: {} ({}) to {} ({})",
                    first.value, first.version, last.value, last.version
                ),
                None => format!("{product} {}: {}", last.version, last.value),
            })
        })
        .collect()
}

fn documented(key: &str) -> Vec<Documented> {
    let of_key = |limit: &&Limit| limit.key == key && limit.scope == Scope::Vm && limit.compare;
    let documented = |limit: &Limit| Documented {
        product: limit.product.clone(),
        version: limit.version.clone(),
        value: format!("{} {}", limit.value, limit.unit),
        source: limit.source.clone(),
    };
    reports::limits::all().iter().filter(of_key).map(documented).collect()
}

fn amount(series: &Series, count: u64) -> String {
    match series.unit {
        "bytes" if count.is_multiple_of(1 << 40) => format!("{} TiB", count >> 40),
        "bytes" => format!("{} GiB", count >> 30),
        unit => format!("{count} {unit}"),
    }
}

fn bytes(count: u64) -> String {
    if count >= 10 << 20 {
        format!("{} MiB", count >> 20)
    } else {
        format!("{} KiB", count >> 10)
    }
}

fn text(report: &LimitsReport) -> String {
    let capabilities = &report.capabilities;
    let mut text = format!(
        "KVM says of itself: {} vCPUs recommended, {} at most, ids below {}, {} memory slots.\n",
        capabilities.nr_vcpus, capabilities.max_vcpus, capabilities.max_vcpu_id, capabilities.nr_memslots
    );
    for note in &report.notes {
        text.push_str(&format!("note: {note}\n"));
    }
    for series in &report.series {
        let sign = if series.ended == Ended::Refused {
            ""
        } else {
            "at least "
        };
        text.push_str(&format!(
            "\n{}: accepted here {sign}{}; KVM's own figure {}. Ended: {}\n",
            series.key,
            amount(series, series.accepted),
            series
                .capability
                .map_or("none".to_owned(), |count| amount(series, count)),
            series.reason
        ));
        for line in documented_words(&series.documented) {
            text.push_str(&format!("  documented for one VM: {line}\n"));
        }
        let rows = series.curve.iter().map(|point| {
            vec![
                amount(series, point.count),
                format!("{:.1}", point.create_ms),
                format!("{:.1}", point.release_ms),
                bytes(point.kernel_bytes),
            ]
        });
        let header = ["one VM with", "made in ms", "released in ms", "kernel memory"];
        text.push_str(&crate::terminal::table(&header, rows).to_string());
        text.push('\n');
    }
    text.push_str(&format!(
        "\n{:.1} s. No guest ran, no guest memory was touched; kernel memory is the whole host's growth meanwhile. \
         Sources of the documented figures: esxodus limits.\n",
        report.seconds
    ));
    text
}
