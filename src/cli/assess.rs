//! `esxodus assess`: an estate judged at once.

use super::options::{parse_size, parse_suppression};
use super::{Context, Outcome};
use crate::chain::{numbers, targets};
use crate::terminal::{bytes, table};
use anyhow::Context as _;
use convert::assess::{AssessOptions, assess};
use convert::source::ImportOptions;
use reports::limits::{EstateTally, HostNumbers, hosts_from_toml};
use reports::render;
use reports::schema::{EstateGuest, EstateReport, EstateVerdict, LimitEffect, Severity};
use std::path::PathBuf;
use std::time::Instant;

/// Judges many guests at once: a verdict for each, risks, waves, the hosts that are needed, and how long the copy takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Sources: folders (searched through for .vmx, .vmtx, .ovf, .ova), such files, and RVTools exports (.xlsx, or the tab vInfo as .csv).

Examples:
  esxodus assess /mnt/datastore1
  esxodus assess /mnt/datastore1 RVTools_export.xlsx --html estate.html --csv estate.csv
  esxodus assess /mnt/datastore1 --target-host hosts.toml --rate 400M
  esxodus assess /mnt/datastore1 --map map.toml --target proxmox    what the map lacks, for all guests at once
  esxodus assess web01/web01.vmx --json | jq '.guests[].verdict'

A host file:
  [[host]]
  name = \"pve1\"
  product = \"Proxmox VE\"
  version = \"9.1\"
  logical_cpus = 64
  memory_gib = 512

Exit code 1: a guest is blocked or can't be read."
)]
pub(crate) struct Args {
    /// Folders, descriptions of guests, RVTools exports.
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<PathBuf>,
    /// Write the whole assessment as one page.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write it as Markdown.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Write a line a guest, for a spreadsheet.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Hosts of the target (TOML): each is set beside its product's limits, and each guest beside it.
    #[arg(long, value_name = "FILE")]
    target_host: Option<PathBuf>,
    /// Map of networks and storages (TOML): guests with a network or datastore that it lacks are blocked, with what to add.
    #[arg(long, value_name = "FILE")]
    map: Option<PathBuf>,
    /// Targets that the map is for: all, proxmox, libvirt, qemu, kubevirt.
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "all",
        requires = "map"
    )]
    target: Vec<String>,
    /// Rate of the copy a second, for example 110M (one 1 Gbit/s link) or 1G.
    #[arg(long, value_name = "RATE", default_value = "100M", value_parser = parse_size)]
    rate: u64,
    /// Logical CPUs of one host in the sizing (default: the smallest of --target-host, else 32).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    host_cpus: Option<u32>,
    /// Memory of one host that guests may use (default: the smallest of --target-host, else 512G).
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    host_memory: Option<u64>,
    /// vCPUs to put on a logical CPU.
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u32).range(1..))]
    vcpus_per_cpu: u32,
    /// Most guests in a wave.
    #[arg(long, value_name = "N", default_value = "20")]
    wave: usize,
    /// Another folder that disks may lie in. May be repeated.
    #[arg(long, value_name = "DIR")]
    allow_path: Vec<PathBuf>,
    /// Suppress a check for all guests: `disk.shared=moved by the storage team`. May be repeated.
    #[arg(long, value_name = "ID=REASON", value_parser = parse_suppression)]
    suppress: Vec<(String, String)>,
    /// Don't compare packages with their manifests.
    #[arg(long)]
    no_verify_manifest: bool,
}

/// Renders an estate in one of its written forms.
type Form = fn(&EstateReport) -> String;

pub(crate) fn run(context: &Context, args: &Args) -> anyhow::Result<Outcome> {
    for source in &args.sources {
        anyhow::ensure!(source.exists(), "{} is not there", source.display());
    }
    let hosts = hosts(args)?;
    let options = options(args, &hosts)?;
    let mut tally = EstateTally::new(&hosts);
    let spinner = context.bars.spinner("assessing");
    let started = Instant::now();
    let mut seen = 0_u64;
    let mut on_guest = |guest: &mut EstateGuest, machine: Option<&convert::machine::Machine>| {
        seen += 1;
        if seen.is_multiple_of(50) {
            spinner.set_message(format!("{seen} guests"));
        }
        if guest.verdict == EstateVerdict::Unreadable {
            return;
        }
        let numbers = match machine {
            Some(machine) => numbers::of_machine(machine, guest.largest_disk_bytes),
            None => numbers::of_row(guest),
        };
        guest.limits = tally.add(&guest.name, &numbers);
    };
    let mut report = assess(&args.sources, &options, super::TOOL, &mut on_guest, &context.cancel);
    spinner.finish_and_clear();
    anyhow::ensure!(
        !context.cancelled(),
        "stopped after {} guests; nothing was written",
        report.guests.len()
    );
    anyhow::ensure!(
        !report.guests.is_empty(),
        "no guest found: no .vmx, .vmtx, .ovf or .ova below the folders given"
    );
    (report.limits, report.hosts) = tally.finish();
    tracing::info!(
        guests = report.guests.len(),
        seconds = started.elapsed().as_secs_f64(),
        "assessed"
    );
    let forms: [(&Option<PathBuf>, Form); 3] = [
        (&args.html, render::estate_html),
        (&args.markdown, render::estate_markdown),
        (&args.csv, render::estate_csv),
    ];
    for (path, form) in forms {
        if let Some(path) = path {
            std::fs::write(path, form(&report)).with_context(|| format!("writing {}", path.display()))?;
        }
    }
    context.print(&render::EstateJson::new(&report), || text(args, &report))?;
    let good = report.guests.iter().all(|guest| guest.verdict < EstateVerdict::Blocked);
    Ok(if good { Outcome::Good } else { Outcome::No })
}

fn hosts(args: &Args) -> anyhow::Result<Vec<HostNumbers>> {
    let Some(path) = &args.target_host else {
        return Ok(Vec::new());
    };
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let hosts = hosts_from_toml(&path.display().to_string(), &text)?;
    anyhow::ensure!(!hosts.is_empty(), "{}: no [[host]]", path.display());
    Ok(hosts)
}

fn options(args: &Args, hosts: &[HostNumbers]) -> anyhow::Result<AssessOptions> {
    let defaults = AssessOptions::default();
    let fleet: Vec<(u32, u64)> = hosts
        .iter()
        .map(|host| (host.logical_cpus, host.memory_gib.saturating_mul(1024)))
        .collect();
    let smallest = fleet.iter().min_by_key(|(cpus, memory)| (*memory, *cpus)).copied();
    let map = args.map.as_deref().map(targets::read_map).transpose()?;
    Ok(AssessOptions {
        map: map
            .map(|(_, map)| anyhow::Ok((map, targets::parse(&args.target)?)))
            .transpose()?,
        import: ImportOptions {
            allow: args.allow_path.clone(),
            suppress: args.suppress.iter().cloned().collect(),
            skip_manifest: args.no_verify_manifest,
            skip_target_values: true,
            ..ImportOptions::default()
        },
        wave_guests: args.wave,
        host_cores: args
            .host_cpus
            .or(smallest.map(|(cpus, _)| cpus))
            .unwrap_or(defaults.host_cores),
        host_memory_mib: args
            .host_memory
            .map(|bytes| bytes >> 20)
            .or(smallest.map(|(_, memory)| memory))
            .unwrap_or(defaults.host_memory_mib),
        vcpus_per_core: args.vcpus_per_cpu,
        copy_bytes_per_second: args.rate,
        fleet,
    })
}

fn verdict(guest: &EstateGuest) -> &'static str {
    match guest.verdict {
        EstateVerdict::Ready => "ready",
        EstateVerdict::Attention => "attention",
        EstateVerdict::Blocked => "BLOCKED",
        EstateVerdict::Unreadable => "UNREADABLE",
    }
}

/// What stands against a guest, in few words: the blocking checks, else the number of warnings.
fn against(guest: &EstateGuest) -> String {
    if let Some(error) = &guest.error {
        return error.clone();
    }
    let ids = |severity: Severity| -> Vec<&str> {
        let mut ids: Vec<&str> = guest
            .findings
            .iter()
            .filter(|finding| finding.severity == severity && finding.suppressed.is_none())
            .map(|finding| finding.id.as_str())
            .collect();
        ids.dedup();
        ids
    };
    let mut words: Vec<String> = ids(Severity::Block).into_iter().map(str::to_owned).collect();
    words.extend(
        guest
            .limits
            .iter()
            .filter(|limit| limit.effect == LimitEffect::Blocks)
            .map(|limit| format!("{} of {}", limit.quantity, limit.product)),
    );
    match ids(Severity::Warn).len() {
        0 => {}
        1 => words.push("1 warning".to_owned()),
        more => words.push(format!("{more} warnings")),
    }
    words.join(", ")
}

fn text(args: &Args, report: &EstateReport) -> String {
    let rows = report.guests.iter().map(|guest| {
        vec![
            guest.name.clone(),
            guest.guest_os.clone(),
            guest.vcpus.to_string(),
            render::bytes(guest.memory_mib.saturating_mul(1 << 20)),
            guest.disks.to_string(),
            bytes(guest.capacity_bytes),
            verdict(guest).to_owned(),
            guest.effort.to_string(),
            if guest.wave == 0 {
                "-".to_owned()
            } else {
                guest.wave.to_string()
            },
            against(guest),
        ]
    });
    let header = [
        "guest",
        "OS",
        "vCPUs",
        "memory",
        "disks",
        "guest sees",
        "verdict",
        "effort",
        "wave",
        "what stands against it",
    ];
    let mut text = format!("{}\n\n", table(&header, rows));
    for line in render::estate_summary(report) {
        text.push_str(&line);
        text.push('\n');
    }
    if !report.risks.is_empty() {
        text.push_str("\nBiggest risks\n");
        let rows = report.risks.iter().take(10).map(|risk| {
            let word = if risk.severity == Severity::Block {
                "block"
            } else {
                "warn"
            };
            vec![
                word.to_owned(),
                risk.guests.to_string(),
                risk.id.clone(),
                risk.message.clone(),
                risk.fix.clone(),
            ]
        });
        text.push_str(&format!(
            "{}\n",
            table(&["", "guests", "check", "what it means", "what to do"], rows)
        ));
    }
    text.push_str("\nWaves\n");
    let rows = report.waves.iter().map(|wave| {
        vec![
            wave.number.to_string(),
            wave.guests.to_string(),
            wave.blocked.to_string(),
            bytes(wave.copy_bytes),
            render::duration(std::time::Duration::from_secs(wave.copy_seconds).as_secs_f64()),
            wave.networks.join(", "),
        ]
    });
    text.push_str(&format!(
        "{}\n",
        table(
            &["wave", "guests", "blocked", "to copy", "copy takes", "networks"],
            rows
        )
    ));
    text.push_str("\nDocumented limits that come nearest (all of them: --json, --html)\n");
    let rows = report
        .limits
        .iter()
        .take(8)
        .map(|limit| limit_row(&limit.limit, &limit.guest));
    text.push_str(&format!("{}\n", table(&LIMIT_HEADER, rows)));
    for host in &report.hosts {
        text.push_str(&format!(
            "\nHost {}: {} {}, {} logical CPUs, {} GiB; {} guests are larger than it{}\n",
            host.name,
            host.product,
            host.version,
            host.logical_cpus,
            host.memory_gib,
            host.too_large,
            if host.too_large_names.is_empty() {
                String::new()
            } else {
                format!(": {}", host.too_large_names.join(", "))
            }
        ));
        let rows = host.limits.iter().map(|limit| limit_row(limit, &host.name));
        text.push_str(&format!("{}\n", table(&LIMIT_HEADER, rows)));
    }
    for path in [&args.html, &args.markdown, &args.csv].into_iter().flatten() {
        text.push_str(&format!("Written: {}\n", path.display()));
    }
    text
}

const LIMIT_HEADER: [&str; 7] = ["limit", "used by", "used", "allowed", "headroom", "", "source"];

fn limit_row(limit: &reports::schema::LimitUse, who: &str) -> Vec<String> {
    let word = match limit.effect {
        LimitEffect::Fits => "fits",
        LimitEffect::Warns => "warn",
        LimitEffect::Blocks => "BLOCK",
        LimitEffect::PrintedOnly if limit.fits => "fits (not enforced)",
        LimitEffect::PrintedOnly => "beyond (not enforced)",
    };
    vec![
        format!(
            "{} {}: {} ({})",
            limit.product, limit.version, limit.quantity, limit.scope
        ),
        who.to_owned(),
        format!("{} {}", render::number(limit.used), limit.unit),
        render::number(limit.allowed),
        render::number(limit.headroom()),
        word.to_owned(),
        limit.source.clone(),
    ]
}
