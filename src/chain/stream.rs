//! A disk that comes through standard input: `curl … | esxodus convert - -o OUT`, `tar -xOf app.ova disk.vmdk | …`.

use super::folder::RunFolder;
use super::source::Opened;
use crate::cli::Context;
use crate::cli::options::SourceOptions;
use anyhow::Context as _;
use convert::copy::CopyOptions;
use convert::image::vmdk::stream::GrainStream;
use convert::source::ImportOptions;
use reports::schema::{Manifest, Stamp};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{Cursor, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The front of the stream, from which the machine is described: header and descriptor.
const HEAD_BYTES: u64 = 256 << 10;
/// Name of the stream in messages and in the manifest.
const SHOWN: &str = "standard input";

/// Whether `source` means standard input.
pub(crate) fn is_stdin(source: &Path) -> bool {
    source == Path::new("-")
}

/// Standard input that gives up when the user does, although whoever feeds it hangs.
struct Patient {
    input: OwnedFd,
    cancel: Arc<AtomicBool>,
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let moment = Timespec {
            tv_sec: 0,
            tv_nsec: 100_000_000,
        };
        loop {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(std::io::Error::other("stopped"));
            }
            let mut watched = [PollFd::new(&self.input, PollFlags::IN)];
            match poll(&mut watched, Some(&moment)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(rustix::io::read(&self.input, buffer)?),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The stream with what is known of its machine.
pub(crate) struct Arriving {
    pub(crate) opened: Opened,
    stream: GrainStream<Box<dyn Read + Send>>,
    /// File name of the disk, without the ending.
    stem: String,
}

/// Reads the front of standard input and describes the machine around the disk. The disk is called like the run folder.
///
/// # Errors
/// No streamOptimized disk comes.
pub(crate) fn open(context: &Context, wish: &SourceOptions, output: &Path) -> anyhow::Result<Arriving> {
    let input = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .context("cannot take over standard input")?;
    let mut rest = Patient {
        input,
        cancel: Arc::clone(&context.cancel),
    };
    let mut head = Vec::new();
    rest.by_ref()
        .take(HEAD_BYTES)
        .read_to_end(&mut head)
        .context("cannot read standard input")?;
    let stem = output
        .file_name()
        .map_or_else(|| "disk".to_owned(), |name| name.to_string_lossy().into_owned());
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let front = folder.path().join(format!("{stem}.vmdk"));
    std::fs::write(&front, &head).context("cannot write the stream's front to the temporary folder")?;
    let import = ImportOptions {
        suppress: wish.suppress.iter().cloned().collect(),
        ..ImportOptions::default()
    };
    let mut imported = convert::source::open(&front, &import)?;
    imported.machine.source = PathBuf::from(SHOWN);
    let (written, shown) = (front.display().to_string(), SHOWN);
    for finding in &mut imported.findings {
        finding.evidence = finding.evidence.replace(&written, shown);
    }
    let whole: Box<dyn Read + Send> = Box::new(Cursor::new(head).chain(rest));
    let stream = GrainStream::new(whole, Path::new(SHOWN))?;
    Ok(Arriving {
        opened: Opened {
            imported,
            disks: Vec::new(),
        },
        stream,
        stem,
    })
}

/// Converts the disk as it arrives and writes the manifest.
///
/// # Errors
/// What the copy met; nothing is left of the disk then.
pub(crate) fn copy(
    context: &Context,
    arriving: Arriving,
    folder: &RunFolder,
    options: &CopyOptions,
    salvage: bool,
) -> anyhow::Result<(Opened, Manifest)> {
    let Arriving { opened, stream, stem } = arriving;
    let machine = &opened.imported.machine;
    let name = machine
        .disks
        .first()
        .map_or_else(|| "disk".to_owned(), |disk| disk.name());
    let file = super::copy::target_names(&[format!("{stem}.vmdk")], options.format).remove(0);
    let options = CopyOptions {
        resume: false,
        ..options.clone()
    };
    let target = folder.path("disks").join(&file);
    let mut disk = convert::copy::convert_stream(
        stream,
        Path::new(SHOWN),
        &target,
        &name,
        &options,
        salvage,
        &context.bars,
        &context.cancel,
    )
    .context("a stream can't be continued: send it again, with --resume for the same folder")?;
    disk.file = format!("disks/{file}");
    let manifest = Manifest {
        stamp: Stamp::now(crate::cli::TOOL),
        disks: vec![disk],
    };
    folder.write(RunFolder::MANIFEST, &manifest)?;
    Ok((opened, manifest))
}
