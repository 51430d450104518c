//! Opening a source: the description, its disks, and what the checks say of them.

use crate::cli::options::SourceOptions;
use anyhow::Context as _;
use convert::image::map::DiskSource;
use convert::image::{self, DiskChunk, DiskLocation, DiskSummary, ImageError, OpenOptions};
use convert::source::{DiskPlace, ImportOptions, Imported};
use reports::schema::{DiskFacts, Finding, MachineFacts, NicFacts, Severity};
use std::sync::atomic::AtomicBool;

/// A disk of the source: open, or why not.
pub(crate) type OpenedDisk = Result<Box<dyn DiskSource>, ImageError>;

/// A source, opened read-only.
pub(crate) struct Opened {
    pub(crate) imported: Imported,
    /// In the order of `imported.machine.disks`.
    pub(crate) disks: Vec<OpenedDisk>,
}

/// Opens the description and its disks.
///
/// # Errors
/// The description can't be read. Disks that can't be opened are kept as errors, one each.
pub(crate) fn open(options: &SourceOptions) -> anyhow::Result<Opened> {
    let import = ImportOptions {
        system: options.vm.clone(),
        allow: options.allow_path.clone(),
        ignore_cid_mismatch: options.ignore_cid_mismatch,
        salvage: options.salvage,
        suppress: options.suppress.iter().cloned().collect(),
        ..ImportOptions::default()
    };
    let imported = convert::source::open(&options.source, &import)?;
    let disk_options = OpenOptions {
        allow: options.allow_path.clone(),
        ignore_cid_mismatch: options.ignore_cid_mismatch,
        salvage: options.salvage,
        ..OpenOptions::default()
    };
    let disks = imported
        .disks
        .iter()
        .zip(&imported.machine.disks)
        .map(|(place, disk)| {
            if place.path.as_os_str().is_empty() && place.chunks.is_empty() {
                let path = imported.folder.join(&disk.file);
                let error = ImageError::new(
                    image::ImageErrorKind::Refused,
                    &path,
                    "the name leaves the guest's folder",
                );
                return Err(error.advise("Allow the folder with --allow-path DIR if you trust it"));
            }
            image::open(&location(place), &disk_options)
        })
        .collect();
    Ok(Opened { imported, disks })
}

fn location(place: &DiskPlace) -> DiskLocation {
    DiskLocation {
        path: place.path.clone(),
        window: place.window,
        chunks: place
            .chunks
            .iter()
            .map(|(path, offset, length)| DiskChunk {
                path: path.clone(),
                offset: *offset,
                length: Some(*length),
            })
            .collect(),
    }
}

impl Opened {
    /// The findings of the checks, with one more for each disk that can't be opened and that no check named yet.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        let mut findings = self.imported.findings.clone();
        for (disk, opened) in self.imported.machine.disks.iter().zip(&self.disks) {
            let Err(error) = opened else { continue };
            let name = disk.name();
            let known = findings.iter().any(|finding| {
                finding.severity == Severity::Block
                    && finding.id.starts_with("disk.")
                    && finding.evidence.starts_with(&name)
            });
            if !known {
                findings.push(Finding {
                    id: "disk.unreadable".to_owned(),
                    severity: Severity::Block,
                    message: "The disk can't be read, so the guest can't be converted.".to_owned(),
                    evidence: format!("{name}: {error}"),
                    fix: error
                        .advice
                        .clone()
                        .unwrap_or_else(|| "Copy the guest's folder again and compare the sizes.".to_owned()),
                    suppressed: None,
                });
            }
        }
        findings
    }

    /// All disks, or the first error.
    ///
    /// # Errors
    /// The first disk that can't be opened, with its name in the machine.
    pub(crate) fn all_disks(&self) -> anyhow::Result<Vec<&dyn DiskSource>> {
        let machine = &self.imported.machine;
        let mut disks: Vec<&dyn DiskSource> = Vec::new();
        for (disk, opened) in machine.disks.iter().zip(&self.disks) {
            match opened {
                Ok(source) => disks.push(source.as_ref()),
                Err(error) => {
                    return Err(anyhow::anyhow!("{error}"))
                        .with_context(|| format!("disk {} ({}) can't be opened", disk.name(), disk.file));
                }
            }
        }
        anyhow::ensure!(
            !disks.is_empty(),
            "{} has no hard disk: nothing to convert",
            machine.source.display()
        );
        Ok(disks)
    }

    /// A summary of each disk that could be opened, in the machine's order. Walks every map once.
    ///
    /// # Errors
    /// Damaged tables; stopped.
    pub(crate) fn summaries(&self, cancel: &AtomicBool) -> Result<Vec<Option<DiskSummary>>, ImageError> {
        self.disks
            .iter()
            .map(|opened| {
                opened
                    .as_ref()
                    .ok()
                    .map(|source| image::describe(source.as_ref(), cancel))
                    .transpose()
            })
            .collect()
    }
}

/// The machine for tables and the report.
pub(crate) fn facts(opened: &Opened, summaries: &[Option<DiskSummary>]) -> MachineFacts {
    let machine = &opened.imported.machine;
    let disks = machine.disks.iter().zip(summaries).map(|(disk, summary)| DiskFacts {
        name: disk.name(),
        controller: machine
            .controllers
            .iter()
            .find(|controller| controller.bus == disk.bus && controller.index == disk.controller)
            .map_or_else(|| "unknown".to_owned(), |controller| controller.model.clone()),
        source: disk.file.clone(),
        kind: summary
            .as_ref()
            .map_or_else(|| "unreadable".to_owned(), |summary| summary.kind.clone()),
        capacity_bytes: summary
            .as_ref()
            .map_or_else(|| disk.capacity_bytes.unwrap_or(0), |summary| summary.virtual_bytes),
        allocated_bytes: summary.as_ref().map_or(0, |summary| summary.stored_bytes),
    });
    MachineFacts {
        name: machine.name.clone(),
        source: machine.source.display().to_string(),
        guest_os: machine.os.title.clone(),
        hw_version: machine.hw_version,
        vcpus: machine.cpu.vcpus,
        memory_mib: machine.memory.mib,
        firmware: match machine.firmware.kind {
            convert::machine::FirmwareKind::Bios => "bios".to_owned(),
            convert::machine::FirmwareKind::Uefi => "uefi".to_owned(),
        },
        disks: disks.collect(),
        nics: machine
            .nics
            .iter()
            .map(|nic| NicFacts {
                name: format!("ethernet{}", nic.index),
                model: nic.model.clone().unwrap_or_else(|| "not stated".to_owned()),
                mac: nic.mac.clone(),
                network: nic.network.clone(),
            })
            .collect(),
    }
}

/// Findings that stop the work.
pub(crate) fn blocking(findings: &[Finding]) -> Vec<&Finding> {
    findings
        .iter()
        .filter(|finding| finding.severity == Severity::Block && finding.suppressed.is_none())
        .collect()
}
