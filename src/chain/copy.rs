//! The step that copies: disks and manifest.

use super::folder::RunFolder;
use super::source::Opened;
use crate::cli::Context;
use crate::cli::options::{CompressWish, CopyArgs, FormatWish, PreallocationWish, ReflinkWish};
use convert::copy::{
    Compress, CopyOptions, DiskJob, Preallocation, Reflink, TargetFormat, VerifyOptions, VerifyOutcome,
};
use convert::image::map::DiskSource;
use reports::schema::{Manifest, Stamp};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The library's options from the command line's.
///
/// # Errors
/// Options that exclude each other.
pub(crate) fn options(args: &CopyArgs, resume: bool) -> anyhow::Result<CopyOptions> {
    let compress = match args.compress {
        CompressWish::None => Compress::None,
        CompressWish::Zstd => Compress::Zstd {
            level: args.level.unwrap_or(3),
        },
        CompressWish::Zlib => Compress::Zlib,
        CompressWish::Keep => Compress::Keep { trust: args.trust },
    };
    anyhow::ensure!(
        !args.trust || args.compress == CompressWish::Keep,
        "--trust goes with --compress keep only"
    );
    anyhow::ensure!(
        args.level.is_none() || args.compress == CompressWish::Zstd,
        "--level goes with --compress zstd only"
    );
    anyhow::ensure!(
        args.format == FormatWish::Qcow2
            || (args.compress == CompressWish::None && !args.data_file && !args.extended_l2),
        "--compress, --data-file and --extended-l2 are for --format qcow2"
    );
    anyhow::ensure!(
        !args.data_file || args.compress == CompressWish::None,
        "--data-file leaves the data where it is: it can't be compressed"
    );
    anyhow::ensure!(
        args.bwlimit != Some(0),
        "--bwlimit 0 would never end: name the bytes per second, for example 100M"
    );
    if let Some(size) = args.cluster_size {
        anyhow::ensure!(
            size.is_power_of_two() && (4096..=2 << 20).contains(&size),
            "--cluster-size {size}: a power of two from 4K to 2M"
        );
    }
    Ok(CopyOptions {
        format: match args.format {
            FormatWish::Qcow2 => TargetFormat::Qcow2,
            FormatWish::Raw => TargetFormat::Raw,
        },
        compress,
        cluster_bytes: args.cluster_size,
        data_file: args.data_file,
        extended_l2: args.extended_l2,
        preallocation: match args.preallocation {
            PreallocationWish::None => Preallocation::None,
            PreallocationWish::Metadata => Preallocation::Metadata,
        },
        checkpoint_bytes: args.checkpoint,
        jobs: args.jobs,
        bwlimit: args.bwlimit,
        hash: !args.no_hash,
        sync: !args.no_sync,
        resume,
        reflink: match args.reflink {
            ReflinkWish::Auto => Reflink::Auto,
            ReflinkWish::Never => Reflink::Never,
            ReflinkWish::Always => Reflink::Always,
        },
        keep_journal: true,
    })
}

/// File names of the target disks: the source's base names, made unique.
pub(crate) fn target_names(files: &[String], format: TargetFormat) -> Vec<String> {
    let mut taken = BTreeSet::new();
    files
        .iter()
        .map(|file| {
            let base = file.rsplit(['/', '\\']).next().unwrap_or(file);
            let stem = base
                .strip_suffix(".vmdk")
                .or_else(|| base.strip_suffix(".VMDK"))
                .unwrap_or(base);
            let clean: String = stem
                .chars()
                .map(|c| {
                    if c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '+') {
                        c
                    } else {
                        '_'
                    }
                })
                .collect();
            let clean = clean.trim_start_matches(['.', '-']).to_owned();
            let clean = if clean.is_empty() { "disk".to_owned() } else { clean };
            let mut name = format!("{clean}.{}", format.name());
            let mut number = 2;
            while !taken.insert(name.clone()) {
                name = format!("{clean}-{number}.{}", format.name());
                number += 1;
            }
            name
        })
        .collect()
}

/// Converts all disks into `disks/` and writes the manifest. Disks that an earlier run finished are kept.
///
/// # Errors
/// What the copy met; nothing stands under a final name then.
pub(crate) fn copy(
    context: &Context,
    opened: &Opened,
    folder: &RunFolder,
    options: &CopyOptions,
) -> anyhow::Result<Manifest> {
    let sources = opened.all_disks()?;
    let machine = &opened.imported.machine;
    let files: Vec<String> = machine.disks.iter().map(|disk| disk.file.clone()).collect();
    let names: Vec<String> = machine.disks.iter().map(convert::machine::Disk::name).collect();
    let targets: Vec<PathBuf> = target_names(&files, options.format)
        .iter()
        .map(|name| folder.path("disks").join(name))
        .collect();
    let jobs: Vec<DiskJob<'_>> = sources
        .iter()
        .zip(&targets)
        .zip(&names)
        .map(|((source, target), name)| DiskJob {
            source: *source,
            target,
            name,
            options,
        })
        .collect();
    if options.resume
        && let Some(manifest) = finished(folder, &sources, &targets)?
    {
        for (disk, target) in manifest.disks.iter().zip(&targets) {
            let wanted = convert::copy::mode_name(options);
            // Whether blocks were shared the file system decided.
            let is = if disk.mode == "reflink" {
                "copy"
            } else {
                disk.mode.as_str()
            };
            anyhow::ensure!(
                is == wanted,
                "{} was finished before as {}, not as {wanted}: leave the options as they were, or convert into another folder",
                target.display(),
                disk.mode
            );
        }
        // Killed after the manifest was written: only the journals may be left.
        for target in &targets {
            convert::copy::discard_journal(target)?;
        }
        return Ok(manifest);
    }
    let mut disks = convert::copy::convert_disks(&jobs, &context.bars, &context.cancel)?;
    for disk in &mut disks {
        disk.file = relative(folder, Path::new(&disk.file));
        // A data file is found again by its whole path only.
        let kept_whole = disk.mode == "data-file";
        for source in disk.sources.iter_mut().filter(|_| !kept_whole) {
            if let Ok(inside) = Path::new(&source.path).strip_prefix(&opened.imported.folder) {
                source.path = inside.display().to_string();
            }
        }
    }
    let manifest = Manifest {
        stamp: Stamp::now(crate::cli::TOOL),
        disks,
    };
    folder.write(RunFolder::MANIFEST, &manifest)?;
    // The manifest is on disk: the journals that could still have made it are not needed any more.
    for target in &targets {
        convert::copy::discard_journal(target)?;
    }
    Ok(manifest)
}

/// The manifest of an earlier run over the same source whose disks all stand under their final names.
fn finished(folder: &RunFolder, sources: &[&dyn DiskSource], targets: &[PathBuf]) -> anyhow::Result<Option<Manifest>> {
    let Some(manifest) = folder.read::<Manifest>(RunFolder::MANIFEST)? else {
        return Ok(None);
    };
    let same = manifest.disks.len() == targets.len()
        && manifest
            .disks
            .iter()
            .zip(sources)
            .zip(targets)
            .all(|((disk, source), target)| {
                let files = source.files();
                let unchanged = disk.sources.len() == files.len()
                    && disk
                        .sources
                        .iter()
                        .zip(files)
                        .all(|(then, now)| (then.bytes, then.mtime_ns) == (now.bytes, now.mtime_ns));
                unchanged
                    && folder.path(&disk.file) == *target
                    && target.metadata().is_ok_and(|facts| facts.len() == disk.file_bytes)
            });
    Ok(same.then_some(manifest))
}

/// The path of a target disk as the manifest names it: relative to the run folder.
fn relative(folder: &RunFolder, file: &Path) -> String {
    if let Ok(inside) = file.strip_prefix(folder.root()) {
        return inside.display().to_string();
    }
    Path::new("disks")
        .join(file.file_name().unwrap_or_default())
        .display()
        .to_string()
}

/// Verifies every disk of the manifest again, and against the source where it is given.
///
/// # Errors
/// A file can't be read.
pub(crate) fn verify(
    context: &Context,
    folder: &RunFolder,
    manifest: &Manifest,
    against: Option<&[&dyn DiskSource]>,
) -> anyhow::Result<Vec<(String, VerifyOutcome)>> {
    if let Some(sources) = against {
        anyhow::ensure!(
            sources.len() == manifest.disks.len(),
            "the source has {} disks, the manifest {}: this is not what was converted",
            sources.len(),
            manifest.disks.len()
        );
    }
    let mut outcomes = Vec::new();
    for (index, disk) in manifest.disks.iter().enumerate() {
        let source = against.and_then(|sources| sources.get(index).copied());
        let outcome = convert::copy::verify(
            &folder.path(&disk.file),
            disk,
            source,
            VerifyOptions { jobs: None },
            &context.bars,
            &context.cancel,
        )?;
        outcomes.push((disk.file.clone(), outcome));
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::target_names;
    use convert::copy::TargetFormat;

    #[test]
    fn target_names_are_clean_and_unique() {
        let files = [
            "web.vmdk",
            "/vmfs/volumes/ds/other/web.vmdk",
            "../../etc/passwd",
            "a b|c.vmdk",
            ".vmdk",
        ]
        .map(str::to_owned);
        assert_eq!(
            target_names(&files, TargetFormat::Qcow2),
            ["web.qcow2", "web-2.qcow2", "passwd.qcow2", "a_b_c.qcow2", "disk.qcow2"]
        );
    }
}
