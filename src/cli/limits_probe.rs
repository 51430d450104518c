//! `esxodus limits --probe`: what KVM takes on this host, in text.

use super::{Context, Outcome};
use crate::chain::RunFolder;
use reports::limits::{Limit, Scope};
use reports::schema::{DocumentedLimit, LimitsReport};
use runner::probe::limits::{LimitsOptions, probe_limits};
use std::path::Path;
use std::time::Duration;

pub(crate) fn run(context: &Context, seconds: u64, output: Option<&Path>) -> anyhow::Result<Outcome> {
    let options = LimitsOptions {
        deadline: Duration::from_secs(seconds),
        ..LimitsOptions::default()
    };
    let spinner = context.bars.spinner("creating VMs");
    let report = probe_limits(&options, &|what| spinner.set_message(what.to_owned()), &context.cancel);
    spinner.finish_and_clear();
    let mut report = report?;
    for series in &mut report.series {
        series.documented = documented(&series.key);
    }
    report.host = bench::host::facts();
    if let Some(output) = output {
        // A run folder's report shows what lies there under this name.
        let file = if output.is_dir() {
            output.join(RunFolder::LIMITS)
        } else {
            output.to_owned()
        };
        crate::chain::write_record(&file, &report)?;
        context.say(&format!("written to {}", file.display()));
    }
    context.print(&report, || text(&report))?;
    if context.cancelled() {
        anyhow::bail!("stopped");
    }
    Ok(Outcome::Good)
}

fn documented(key: &str) -> Vec<DocumentedLimit> {
    let of_key = |limit: &&Limit| limit.key == key && limit.scope == Scope::Vm && limit.compare;
    let documented = |limit: &Limit| DocumentedLimit {
        product: limit.product.clone(),
        version: limit.version.clone(),
        value: format!("{} {}", limit.value, limit.unit),
        source: limit.source.clone(),
    };
    reports::limits::all().iter().filter(of_key).map(documented).collect()
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
        text.push_str(&format!(
            "\n{}: accepted here {}; KVM's own figure {}. Ended: {}\n",
            series.key,
            series.accepted_words(),
            series
                .capability
                .map_or("none".to_owned(), |count| series.amount(count)),
            series.reason
        ));
        for line in series.documented_words() {
            text.push_str(&format!("  documented for one VM: {line}\n"));
        }
        let rows = series.curve.iter().map(|point| {
            vec![
                series.amount(point.count),
                format!("{:.1}", point.create_ms),
                bytes(point.kernel_bytes),
            ]
        });
        let header = ["one VM with", "made in ms", "kernel memory"];
        text.push_str(&crate::terminal::table(&header, rows).to_string());
        text.push_str(&format!("\ntaken down in {:.1} ms\n", series.release_ms));
    }
    text.push_str(&format!(
        "\n{:.1} s. No guest ran, no guest memory was touched; kernel memory is the whole host's growth meanwhile. \
         Sources of the documented figures: esxodus limits.\n",
        report.seconds
    ));
    text
}
