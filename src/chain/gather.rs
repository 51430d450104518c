//! Gathering a run folder into one report, and writing it in every form.

use super::folder::{RunFolder, write_whole};
use super::inside;
use anyhow::Context as _;
use base64::Engine as _;
use convert::machine::Machine;
use reports::schema::{
    Accounting, BenchRecord, BenchSizes, Comparison, Finding, GuestReport, LimitsReport, MachineFacts, Manifest, Place,
    ProofRecord, Stamp, StepRecord,
};
use runner::fixup::FixupOutcome;
use std::path::{Path, PathBuf};

/// Largest screenshot that goes into the HTML, so that the report stays small enough to mail.
const MAX_SCREENSHOT_BYTES: u64 = 200_000;

/// Reads everything that the run folder knows.
///
/// # Errors
/// A record can't be read.
pub(crate) fn gather(folder: &RunFolder) -> anyhow::Result<GuestReport> {
    let machine: Machine = folder.need(RunFolder::MACHINE, "convert")?;
    let facts: MachineFacts = match folder.read(RunFolder::FACTS)? {
        Some(facts) => facts,
        None => bare_facts(&machine),
    };
    let proof: Option<ProofRecord> = folder.read(RunFolder::PROOF)?;
    let bench = bench_records(folder)?;
    let comparisons = comparisons(folder, &bench)?;
    let screenshots = proof
        .as_ref()
        .map(|proof| screenshots(folder, proof))
        .unwrap_or_default();
    let limits = reports::limits::usage(&reports::limits::MachineNumbers::from(&facts));
    Ok(GuestReport {
        stamp: Stamp::now(crate::cli::TOOL),
        machine: facts,
        host: bench::host::facts(),
        steps: folder.read::<Vec<StepRecord>>(RunFolder::STEPS)?.unwrap_or_default(),
        findings: findings(folder)?,
        accounting: folder.read::<Accounting>(RunFolder::ACCOUNTING)?.unwrap_or_default(),
        manifest: folder.read::<Manifest>(RunFolder::MANIFEST)?,
        deep: inside::known(folder)?,
        fixup: inside::changes(&folder.read::<Vec<FixupOutcome>>(RunFolder::FIXUP)?.unwrap_or_default()),
        proof,
        bench,
        comparisons,
        limits,
        probed_limits: folder.read::<LimitsReport>(RunFolder::LIMITS)?,
        screenshots,
    })
}

/// Findings of the files, and of the inside where somebody looked.
fn findings(folder: &RunFolder) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for name in [RunFolder::FINDINGS, RunFolder::INSIDE] {
        findings.extend(folder.read::<Vec<Finding>>(name)?.unwrap_or_default());
    }
    Ok(findings)
}

/// The machine for tables where no disk was opened.
fn bare_facts(machine: &Machine) -> MachineFacts {
    MachineFacts {
        name: machine.name.clone(),
        source: machine.source.display().to_string(),
        guest_os: machine.os.title.clone(),
        hw_version: machine.hw_version,
        vcpus: machine.cpu.vcpus,
        memory_mib: machine.memory.mib,
        ..MachineFacts::default()
    }
}

/// All measurements of the folder: the host's first, then by name.
fn bench_records(folder: &RunFolder) -> anyhow::Result<Vec<BenchRecord>> {
    let mut files: Vec<PathBuf> = match std::fs::read_dir(folder.path("bench")) {
        Ok(entries) => entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "json"))
            .collect(),
        Err(_) => Vec::new(),
    };
    files.sort();
    let mut records = Vec::new();
    for file in files {
        let name = Path::new("bench").join(file.file_name().unwrap_or_default());
        if name.to_string_lossy().contains("compare") {
            continue;
        }
        if let Some(record) = folder.read::<BenchRecord>(&name.to_string_lossy())? {
            records.push(record);
        }
    }
    records.sort_by_key(|record| record.place != Place::Host);
    Ok(records)
}

/// Sizes of the record that was taken before the move (`bench/*.json`, imported): what is measured after takes them over.
///
/// # Errors
/// A record can't be read.
pub(crate) fn sizes_before(folder: &RunFolder) -> anyhow::Result<BenchSizes> {
    let records = bench_records(folder)?;
    let before = records.iter().find(|record| record.place == Place::Imported);
    Ok(before.map(|record| record.sizes).unwrap_or_default())
}

/// Comparisons that were asked for (`bench/compare*.json`), and each guest's beside the record of before the move, where one is there.
fn comparisons(folder: &RunFolder, records: &[BenchRecord]) -> anyhow::Result<Vec<Comparison>> {
    let mut found = Vec::new();
    if let Ok(entries) = std::fs::read_dir(folder.path("bench")) {
        let mut names: Vec<String> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        for name in names
            .iter()
            .filter(|name| name.starts_with("compare") && name.ends_with(".json"))
        {
            found.extend(folder.read::<Comparison>(&format!("bench/{name}"))?);
        }
    }
    let before = records.iter().find(|record| record.place == Place::Imported);
    let after = records.iter().find(|record| record.place == Place::Guest);
    if let (Some(before), Some(after), true) = (before, after, found.is_empty())
        && let Ok(comparison) = bench::compare(before, after, &bench::CompareOptions::default())
    {
        found.push(comparison);
    }
    Ok(found)
}

/// The screenshots of the milestones, the last one of each picture only.
fn screenshots(folder: &RunFolder, proof: &ProofRecord) -> Vec<(String, String)> {
    let mut pictures = Vec::new();
    for milestone in &proof.milestones {
        let Some(file) = &milestone.screenshot else { continue };
        let path = folder.path(file);
        let small = std::fs::metadata(&path).is_ok_and(|meta| meta.len() <= MAX_SCREENSHOT_BYTES);
        if let (true, Ok(png)) = (small, std::fs::read(&path)) {
            pictures.push((
                milestone.name.clone(),
                base64::engine::general_purpose::STANDARD.encode(png),
            ));
        }
    }
    pictures
}

/// Writes the report in every form into the folder. Returns the paths, HTML first.
///
/// # Errors
/// The folder can't be written.
pub(crate) fn write_report(folder: &RunFolder, report: &GuestReport) -> anyhow::Result<Vec<PathBuf>> {
    let forms = [
        ("report.html", reports::render::html(report)),
        ("report.md", reports::render::markdown(report)),
        ("report.json", reports::render::json(report)),
        ("report.csv", reports::render::csv(report)),
        ("report.junit.xml", reports::render::junit(report)),
    ];
    forms
        .into_iter()
        .map(|(name, text)| folder.write_bytes(name, text.as_bytes()))
        .collect()
}

/// Writes any record to a file of the user's choice.
///
/// # Errors
/// The file can't be written.
pub(crate) fn write_record<T: serde::Serialize>(path: &Path, record: &T) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec_pretty(record)?;
    text.push(b'\n');
    write_whole(path, &text).with_context(|| "writing the record".to_owned())
}
