//! `esxodus limits`: the documented limits with their sources.

use super::{Context, Outcome};
use reports::limits;
use std::collections::BTreeSet;

/// Shows the documented limits of hypervisors and tools, each with the place where it is stated.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  esxodus limits
  esxodus limits --product proxmox --scope VM
  esxodus limits --probe                           what KVM on this host really takes, and what it costs
  esxodus limits --probe -o out/web01              the same, for the report of that guest
  esxodus limits --json | jq '.limits[] | select(.key == \"vcpus\")'

Confidence: A read in a primary source or measured, B a secondary source, U stated by the user of this project and kept as given.")]
pub(crate) struct Args {
    /// Only products whose name contains this, whatever the case.
    #[arg(long, value_name = "TEXT")]
    product: Option<String>,
    /// Only this scope: VM, host, cluster, device, tool.
    #[arg(long, value_name = "SCOPE")]
    scope: Option<String>,
    /// Measure instead: create VMs that never run, with growing vCPUs, memory slots, memory and queues, until KVM says no.
    #[arg(long, conflicts_with_all = ["product", "scope"])]
    probe: bool,
    /// Time for --probe.
    #[arg(long, value_name = "SECONDS", default_value = "30", requires = "probe", value_parser = clap::value_parser!(u64).range(1..=3600))]
    probe_seconds: u64,
    /// Write what --probe found there: a file, or a run folder, whose report then shows it.
    #[arg(short, long, value_name = "FILE.json|OUT", requires = "probe")]
    output: Option<std::path::PathBuf>,
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<Outcome> {
    if args.probe {
        return super::limits_probe::run(context, args.probe_seconds, args.output.as_deref());
    }
    let product = args.product.as_deref().unwrap_or_default().to_lowercase();
    let chosen: Vec<&limits::Limit> = limits::all()
        .iter()
        .filter(|limit| limit.product.to_lowercase().contains(&product))
        .filter(|limit| {
            args.scope
                .as_ref()
                .is_none_or(|scope| scope.eq_ignore_ascii_case(limit.scope.as_str()))
        })
        .collect();
    let comparison: Vec<&limits::ComparisonRow> = limits::comparison()
        .iter()
        .filter(|row| row.product.to_lowercase().contains(&product))
        .collect();
    let result = serde_json::json!({ "limits": chosen, "comparison": comparison });
    context.print(&result, || {
        let rows = chosen.iter().map(|limit| {
            vec![
                limit.product.clone(),
                limit.version.clone(),
                limit.scope.as_str().to_owned(),
                limit.key.clone(),
                format!("{} {}", limit.value, limit.unit),
                limit.kind.as_str().to_owned(),
                limit.confidence.as_str().to_owned(),
                limit.source.clone(),
                limit.retrieved.clone(),
                limit.note.clone().unwrap_or_default(),
            ]
        });
        let header = [
            "product", "version", "scope", "limit", "value", "kind", "conf.", "source", "read on", "note",
        ];
        let mut text = crate::terminal::table(&header, rows).to_string();
        let aspects: BTreeSet<&str> = comparison.iter().map(|row| row.aspect.as_str()).collect();
        if !aspects.is_empty() {
            text.push_str("\n\nAs stated by the user of this project, with what other sources say:\n");
            let rows = comparison.iter().map(|row| {
                vec![
                    row.aspect.clone(),
                    row.product.clone(),
                    row.stated.clone().unwrap_or_else(|| "not handed down".to_owned()),
                    row.confirmed.clone().unwrap_or_else(|| "nothing to confirm".to_owned()),
                    row.found.clone(),
                    row.confidence.as_str().to_owned(),
                    row.source.clone(),
                    row.retrieved.clone(),
                ]
            });
            let header = [
                "aspect",
                "product",
                "stated",
                "confirmed",
                "other sources",
                "conf.",
                "source",
                "read on",
            ];
            text.push_str(&crate::terminal::table(&header, rows).to_string());
        }
        text
    })?;
    Ok(Outcome::Good)
}
