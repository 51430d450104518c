//! `esxodus convert`: disks and machine definitions.

use super::options::{CopyArgs, SourceOptions};
use super::{Context, Outcome};
use crate::chain::{self, RunFolder};
use crate::terminal::bytes;
use std::path::PathBuf;

/// Converts a guest's disks to qcow2 or raw and writes its machine definitions.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  esxodus convert web01/web01.vmx -o out/web01
  esxodus convert appliance.ova -o out/appliance --compress keep
  esxodus convert disk.vmdk -o out/disk --format raw --bwlimit 100M
  esxodus convert web01/web01.vmx -o out/web01 --resume       after Ctrl-C or a crash

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

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<Outcome> {
    let options = chain::copy::options(&args.copy, args.resume)?;
    let opened = chain::source::open(&args.source)?;
    opened.all_disks()?;
    let mut findings = opened.findings();
    let blocking = chain::source::blocking(&findings);
    if !blocking.is_empty() {
        for finding in &blocking {
            eprintln!(
                "esxodus: {}: {} ({}). {}",
                finding.id, finding.message, finding.evidence, finding.fix
            );
        }
        context.print(&serde_json::json!({ "findings": findings }), String::new)?;
        return Ok(Outcome::No);
    }
    let folder = RunFolder::create(&args.output, args.resume)?;
    folder.write(RunFolder::MACHINE, &opened.imported.machine)?;
    folder.write(RunFolder::ACCOUNTING, &opened.imported.accounting)?;
    let manifest = chain::copy::copy(context, &opened, &folder, &options)?;
    let (written, more) = chain::copy::targets(&opened, &manifest, &folder, &args.target, args.map.as_deref())?;
    findings.extend(more);
    folder.write(RunFolder::FINDINGS, &findings)?;
    let result =
        serde_json::json!({ "folder": folder.root(), "manifest": manifest, "targets": written, "findings": findings });
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
        for path in &written {
            text.push_str(&format!("\nwrote {}", path.display()));
        }
        text
    })?;
    Ok(Outcome::Good)
}
