//! `esxodus inspect`: what a source is, and what would go wrong.

use super::inspect_map::Map;
use super::options::{EngineArgs, SourceOptions};
use super::{Context, Outcome};
use crate::chain::source;
use crate::terminal::{bytes, table};
use convert::image::{self, DiskSummary};
use reports::schema::{Finding, KeyClass, Severity};
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use std::io::Write as _;
use std::path::PathBuf;

/// Shows a guest: machine, disks with their chains, what is allocated, and what the checks find.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  esxodus inspect web01/web01.vmx
  esxodus inspect appliance.ova --json
  esxodus inspect disk.vmdk --map            every run: offset, length, data/zero/hole, which file, where
  esxodus inspect web01/web01.vmx --deep     inside the disks: systems, kernels, drivers in each initramfs, fstab, free space
  esxodus inspect out/web01 --deep           the same of a converted guest
  esxodus inspect out/db01 --deep --key luks.key

--deep boots the appliance on throw-away overlays; nothing is changed, and no program of the guest is run.
Exit code 1: a blocking check fired.")]
pub(crate) struct Args {
    #[command(flatten)]
    source: SourceOptions,
    /// List the extent map of each disk.
    #[arg(long)]
    map: bool,
    /// List every key of the source with what becomes of it.
    #[arg(long)]
    keys: bool,
    /// Look into the disks. SOURCE may be a run folder as well.
    #[arg(long, conflicts_with_all = ["map", "keys"])]
    deep: bool,
    /// With --deep: passphrase or key file for LUKS volumes.
    #[arg(long, value_name = "FILE", requires = "deep")]
    key: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineArgs,
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<Outcome> {
    if args.deep {
        return super::inspect_deep::run(context, &args.source, &args.engine, args.key.as_deref());
    }
    let opened = source::open(&args.source)?;
    let mut findings = opened.findings();
    let mut disks = Vec::new();
    let mut summaries = Vec::new();
    for (disk, open) in opened.imported.machine.disks.iter().zip(&opened.disks) {
        let mut entry = serde_json::json!({ "name": disk.name(), "file": disk.file });
        let summary = match open
            .as_ref()
            .map(|source| image::describe(source.as_ref(), &context.cancel))
        {
            Ok(Ok(summary)) => {
                merge(&mut entry, &serde_json::to_value(&summary)?);
                Some(summary)
            }
            Ok(Err(error)) => {
                findings.push(damaged(&disk.name(), &error));
                entry["error"] = error.to_string().into();
                None
            }
            Err(error) => {
                entry["error"] = error.to_string().into();
                None
            }
        };
        let map = match (open, &summary) {
            (Ok(source), Some(_)) if args.map => Some(Map {
                name: disk.name(),
                source: source.as_ref(),
                cancel: &context.cancel,
            }),
            _ => None,
        };
        disks.push(Entry { facts: entry, map });
        summaries.push(summary);
    }
    let blocked = !source::blocking(&findings).is_empty();
    if context.json {
        let result = Inspection {
            machine: &opened.imported.machine,
            disks: &disks,
            findings: &findings,
            accounting: &opened.imported.accounting,
        };
        context.print(&result, String::new)?;
    } else {
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        out.write_all(text(&opened, &summaries).as_bytes())?;
        for map in disks.iter().filter_map(|disk| disk.map.as_ref()) {
            map.write(&mut out)?;
        }
        out.write_all(judged(args, &opened, &findings).as_bytes())?;
        out.flush()?;
    }
    Ok(if blocked { Outcome::No } else { Outcome::Good })
}

/// What `--json` prints. The maps are written as they are walked.
#[derive(serde::Serialize)]
struct Inspection<'a> {
    machine: &'a convert::machine::Machine,
    disks: &'a [Entry<'a>],
    findings: &'a [Finding],
    accounting: &'a reports::schema::Accounting,
}

/// A disk with its facts, and its map where that is asked for.
struct Entry<'a> {
    facts: serde_json::Value,
    map: Option<Map<'a>>,
}

impl Serialize for Entry<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut entry = serializer.serialize_map(None)?;
        for (key, value) in self.facts.as_object().into_iter().flatten() {
            entry.serialize_entry(key, value)?;
        }
        if let Some(map) = &self.map {
            entry.serialize_entry("map", map)?;
        }
        entry.end()
    }
}

fn merge(into: &mut serde_json::Value, from: &serde_json::Value) {
    if let (Some(into), Some(from)) = (into.as_object_mut(), from.as_object()) {
        into.extend(from.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
}

fn damaged(disk: &str, error: &image::ImageError) -> Finding {
    Finding {
        id: "disk.damaged".to_owned(),
        severity: Severity::Block,
        message: "The disk's tables are damaged, so its content can't be read as a whole.".to_owned(),
        evidence: format!("{disk}: {error}"),
        fix: error
            .advice
            .clone()
            .unwrap_or_else(|| "Copy the disk again; --salvage reads what can be read.".to_owned()),
        suppressed: None,
    }
}

/// Machine, disks, NICs.
fn text(opened: &source::Opened, summaries: &[Option<DiskSummary>]) -> String {
    let facts = source::facts(opened, summaries);
    let mut text = format!(
        "{}  ({})\n{} · {} vCPUs · {} MiB · {}{}\n",
        facts.name,
        facts.source,
        facts.guest_os,
        facts.vcpus,
        facts.memory_mib,
        facts.firmware,
        facts
            .hw_version
            .map(|version| format!(" · hardware version {version}"))
            .unwrap_or_default()
    );
    let rows = facts.disks.iter().zip(summaries).map(|(disk, summary)| {
        vec![
            disk.name.clone(),
            disk.controller.clone(),
            disk.source.clone(),
            disk.kind.clone(),
            bytes(disk.capacity_bytes),
            summary
                .as_ref()
                .map_or_else(|| "-".to_owned(), |summary| bytes(summary.data_bytes)),
            bytes(disk.allocated_bytes),
        ]
    });
    text.push_str(
        &table(
            &["disk", "controller", "file", "kind", "guest sees", "data", "stored"],
            rows,
        )
        .to_string(),
    );
    text.push('\n');
    let rows = facts.nics.iter().map(|nic| {
        let show = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        vec![nic.name.clone(), nic.model.clone(), show(&nic.mac), show(&nic.network)]
    });
    if !facts.nics.is_empty() {
        text.push_str(&table(&["NIC", "model", "MAC", "network"], rows).to_string());
        text.push('\n');
    }
    for summary in summaries.iter().flatten() {
        for note in &summary.notes {
            text.push_str(&format!("note: {note}\n"));
        }
    }
    text
}

/// What becomes of the keys, and what the checks found.
fn judged(args: &Args, opened: &source::Opened, findings: &[Finding]) -> String {
    let mut text = String::new();
    let accounting = &opened.imported.accounting;
    if !accounting.keys.is_empty() {
        text.push_str(&format!(
            "\n{} keys: {} mapped, {} approximated, {} dropped without harm, {} dropped with a warning, {} unknown{}\n",
            accounting.keys.len(),
            accounting.count(KeyClass::Mapped),
            accounting.count(KeyClass::Approximated),
            accounting.count(KeyClass::DroppedHarmless),
            accounting.count(KeyClass::DroppedWarning),
            accounting.count(KeyClass::Unknown),
            if args.keys { "" } else { " (list them with --keys)" }
        ));
    }
    if args.keys {
        let rows = accounting.keys.iter().map(|key| {
            let class = serde_json::to_value(key.class)
                .ok()
                .and_then(|v| v.as_str().map(str::to_owned))
                .unwrap_or_default();
            vec![key.key.clone(), key.value.clone(), class, key.why.clone()]
        });
        text.push_str(&table(&["key", "value", "class", "why"], rows).to_string());
        text.push('\n');
    }
    text.push_str(&findings_text(findings));
    text
}

/// Findings as lines, the worst first.
pub(crate) fn findings_text(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "\nNo check fired.\n".to_owned();
    }
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| finding.severity);
    let mut text = String::from("\n");
    for finding in sorted {
        let word = match finding.severity {
            Severity::Block => "BLOCK",
            Severity::Warn => "warn",
            Severity::Info => "info",
            Severity::Skipped => "skipped",
        };
        let suppressed = finding
            .suppressed
            .as_ref()
            .map(|reason| format!(" [suppressed: {reason}]"))
            .unwrap_or_default();
        text.push_str(&format!("{word:<8}{}{suppressed}: {}\n", finding.id, finding.message));
        text.push_str(&format!(
            "        found: {}\n        do: {}\n",
            finding.evidence, finding.fix
        ));
    }
    text
}
