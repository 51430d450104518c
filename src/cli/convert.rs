//! `esxodus convert`: disks and machine definitions.

use super::options::{CopyArgs, SourceOptions};
use super::{Context, Outcome};
use crate::chain::source::Opened;
use crate::chain::{self, RunFolder};
use crate::terminal::bytes;
use convert::preflight;
use reports::schema::{Finding, Manifest};
use std::path::PathBuf;

/// Converts a guest's disks to qcow2 or raw and writes its machine definitions.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  esxodus convert web01/web01.vmx -o out/web01
  esxodus convert appliance.ova -o out/appliance --compress keep
  esxodus convert disk.vmdk -o out/disk --format raw --bwlimit 100M
  esxodus convert web01/web01.vmx -o out/web01 --resume       after Ctrl-C or a crash
  tar -xOf app.ova disk1.vmdk | esxodus convert - -o out/app  a streamOptimized disk from a pipe, converted as it arrives

The source is opened read-only. Disks appear under their final names when they are complete; the content hash of what the guest
sees goes into manifest.json. Exit code 1: a blocking check fired (see it with 'esxodus inspect', override with --suppress).")]
pub(crate) struct Args {
    #[command(flatten)]
    source: SourceOptions,
    /// Run folder: new, empty, or with --resume an earlier one of the same source.
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    #[command(flatten)]
    copy: CopyArgs,
    /// Machine definitions to write: all, none, proxmox, libvirt, qemu, kubevirt.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "all")]
    target: Vec<String>,
    /// TOML file that maps networks and storages of the source to those of the target.
    #[arg(long, value_name = "FILE")]
    map: Option<PathBuf>,
    /// Continue an interrupted conversion; finished disks are kept.
    #[arg(long)]
    resume: bool,
}

impl Args {
    /// Whether the disk comes through standard input.
    pub(crate) fn is_piped(&self) -> bool {
        chain::stream::is_stdin(&self.source.source)
    }
}

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<Outcome> {
    let options = chain::copy::options(&args.copy, args.resume)?;
    if args.is_piped() {
        anyhow::ensure!(
            args.source.vm.is_none() && args.source.allow_path.is_empty() && !args.source.ignore_cid_mismatch,
            "--vm, --allow-path and --ignore-cid-mismatch are for files: one disk comes through a pipe, and nothing lies beside it"
        );
        let arriving = chain::stream::open(context, &args.source, &args.output)?;
        let findings = arriving.opened.findings();
        if blocked(context, &findings)? {
            return Ok(Outcome::No);
        }
        let folder = begin(args, &arriving.opened)?;
        let (opened, manifest) = chain::stream::copy(context, arriving, &folder, &options, args.source.salvage)?;
        return finish(context, args, &opened, &folder, &manifest, findings);
    }
    let opened = chain::source::open(&args.source)?;
    opened.all_disks()?;
    let findings = opened.findings();
    if blocked(context, &findings)? {
        return Ok(Outcome::No);
    }
    let folder = begin(args, &opened)?;
    let manifest = chain::copy::copy(context, &opened, &folder, &options)?;
    finish(context, args, &opened, &folder, &manifest, findings)
}

/// Prints the findings that stop the work, where there are any.
fn blocked(context: &Context, findings: &[Finding]) -> anyhow::Result<bool> {
    let blocking = chain::source::blocking(findings);
    if blocking.is_empty() {
        return Ok(false);
    }
    for finding in &blocking {
        eprintln!(
            "esxodus: {}: {} ({}). {}",
            finding.id, finding.message, finding.evidence, finding.fix
        );
    }
    context.print(&serde_json::json!({ "findings": findings }), String::new)?;
    Ok(true)
}

/// The run folder with what is known before the copy.
fn begin(args: &Args, opened: &Opened) -> anyhow::Result<RunFolder> {
    let folder = RunFolder::create(&args.output, args.resume)?;
    folder.keep_to(&opened.imported.machine)?;
    folder.write(RunFolder::MACHINE, &opened.imported.machine)?;
    folder.write(RunFolder::ACCOUNTING, &opened.imported.accounting)?;
    Ok(folder)
}

/// Machine definitions, findings, and the result for people or programs.
fn finish(
    context: &Context,
    args: &Args,
    opened: &Opened,
    folder: &RunFolder,
    manifest: &Manifest,
    mut findings: Vec<Finding>,
) -> anyhow::Result<Outcome> {
    let machine = &opened.imported.machine;
    let mut written = chain::targets::write(machine, manifest, folder, &args.target, args.map.as_deref())?;
    preflight::suppress(&mut written.findings, &args.source.suppress.iter().cloned().collect());
    findings.append(&mut written.findings);
    folder.write(RunFolder::FINDINGS, &findings)?;
    let result = serde_json::json!({
        "folder": folder.root(),
        "manifest": manifest,
        "targets": written.files,
        "hardware": written.drivers,
        "findings": findings,
    });
    context.print(&result, || {
        let rows = manifest.disks.iter().map(|disk| {
            vec![
                disk.name.clone(),
                disk.file.clone(),
                bytes(disk.virtual_bytes),
                bytes(disk.data_bytes),
                bytes(disk.file_bytes),
                disk.mode.clone(),
                format!("{:.1} s", disk.seconds),
                disk.content
                    .as_ref()
                    .map_or_else(|| "not hashed".to_owned(), |tree| tree.root.chars().take(16).collect()),
            ]
        });
        let header = [
            "disk",
            "file",
            "guest sees",
            "data",
            "file size",
            "mode",
            "time",
            "content hash",
        ];
        let mut text = crate::terminal::table(&header, rows).to_string();
        for disk in &manifest.disks {
            for note in &disk.notes {
                text.push_str(&format!("\n{}: {note}", disk.name));
            }
        }
        for path in &written.files {
            text.push_str(&format!("\nwrote {}", path.display()));
        }
        if let Some(drivers) = &written.drivers {
            text.push_str(&format!("\n{}", drivers.words()));
        }
        text
    })?;
    Ok(Outcome::Good)
}
