//! A disk that comes through a pipe: read once, front to back, through the same workers as any other.

use super::disk::complete;
use super::error::ConvertError;
use super::hash;
use super::ledger::Ledger;
use super::manifest::{Earlier, manifest};
use super::options::{CopyOptions, Reflink};
use super::pipeline::copy;
use super::plan::Grains;
use super::pool::Pool;
use super::settle::settle;
use super::share::Sharing;
use super::target::Target;
use super::worker::{Context, unit_bytes};
use crate::image::gate::mtime_ns;
use crate::image::map::{DiskSource, Run, SourceHandle};
use crate::image::notes::Notes;
use crate::image::vmdk::stream::{GrainStream, StreamGrain};
use crate::image::{ImageError, ImageErrorKind};
use crate::progress::Progress;
use reports::schema::{DiskManifest, SourceFile};
use rustix::fs::{MemfdFlags, fstat, memfd_create};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// What the pipeline asks a source, answered for one that cannot be mapped.
struct Piped {
    /// One, without content: it has the stream's name.
    files: [SourceHandle; 1],
    virtual_bytes: u64,
    grain_bytes: u64,
    salvage: bool,
    notes: Notes,
}

impl DiskSource for Piped {
    fn virtual_bytes(&self) -> u64 {
        self.virtual_bytes
    }

    fn kind(&self) -> String {
        "streamOptimized, piped".to_owned()
    }

    fn files(&self) -> &[SourceHandle] {
        &self.files
    }

    fn compressed_grain_bytes(&self) -> Option<u64> {
        Some(self.grain_bytes)
    }

    fn map(&self, _offset: u64, _length: u64) -> Result<Vec<Run>, ImageError> {
        Err(self.once())
    }

    fn read_at(&self, _offset: u64, _buffer: &mut [u8]) -> Result<(), ImageError> {
        Err(self.once())
    }

    fn notes(&self) -> Vec<String> {
        self.notes.all()
    }

    fn damage(&self, error: ImageError) -> Result<(), ImageError> {
        if !self.salvage {
            return Err(error);
        }
        self.notes.add(format!("salvage: {error}"));
        Ok(())
    }
}

impl Piped {
    fn once(&self) -> ImageError {
        ImageError::new(
            ImageErrorKind::Unsupported,
            &self.files[0].path,
            "a stream can be read only once, front to back",
        )
    }
}

/// An empty file in memory under the stream's name: what messages and the check for changed sources look at.
fn nameplate(shown: &Path) -> std::io::Result<SourceHandle> {
    let file = File::from(memfd_create("stream", MemfdFlags::CLOEXEC)?);
    let mtime_ns = mtime_ns(&fstat(&file)?);
    Ok(SourceHandle {
        path: shown.to_owned(),
        file,
        bytes: 0,
        mtime_ns,
        link: 0,
    })
}

/// The grains on their way to the planner.
struct Feed<'a, R> {
    stream: GrainStream<R>,
    source: &'a Piped,
    pool: &'a Pool,
    cancel: &'a AtomicBool,
}

impl<R: Read + Send> Grains for Feed<'_, R> {
    fn next_grain(&mut self) -> Result<Option<StreamGrain>, ImageError> {
        match self.stream.next_grain() {
            Ok(Some(grain)) => {
                let bytes = u64::try_from(grain.data.len()).expect("in memory");
                self.pool.throttle(bytes, self.cancel);
                Ok(Some(grain))
            }
            Ok(None) => Ok(None),
            // What came before the damage is good; where the next marker would be nobody knows.
            Err(error) => self.source.damage(error).map(|()| None),
        }
    }

    fn path(&self) -> &Path {
        &self.source.files[0].path
    }
}

/// Converts a streamOptimized disk that arrives through `stream`, for which `shown` stands in messages and in the manifest.
/// It can be neither resumed nor repeated, so a failed conversion leaves nothing. With `salvage` a torn stream becomes what
/// is whole of it, and a note.
///
/// # Errors
/// As [`super::convert_disk`], and grains out of order.
#[expect(clippy::too_many_arguments, reason = "as convert_disk, with the stream's own two")]
pub fn convert_stream<R: Read + Send>(
    stream: GrainStream<R>,
    shown: &Path,
    path: &Path,
    name: &str,
    options: &CopyOptions,
    salvage: bool,
    progress: &dyn Progress,
    cancel: &AtomicBool,
) -> Result<DiskManifest, ConvertError> {
    let started = Instant::now();
    let source = Piped {
        files: [nameplate(shown).map_err(|error| ImageError::io(shown, "preparing to read", error))?],
        virtual_bytes: stream.virtual_bytes(),
        grain_bytes: stream.header().grain,
        salvage,
        notes: Notes::default(),
    };
    if options.data_file || options.resume || options.reflink == Reflink::Always {
        return Err(ConvertError::Options(
            "a stream cannot be resumed, shared or used as a data file: write it to a file first".into(),
        ));
    }
    let settled = settle(&source, options)?;
    if path.symlink_metadata().is_ok() {
        return Err(ConvertError::TargetExists { path: path.to_owned() });
    }
    let shape = hash::Shape::of(source.virtual_bytes);
    let pool = Pool::new(
        options.jobs,
        options.bwlimit,
        unit_bytes(shape.leaf_bytes, settled.cluster_bytes),
    );
    let target = Target::open(path)?;
    target.cut(0)?;
    let mut ledger = Ledger::new(settled.writer(&target, options), &settled, options, shape);
    let context = Context {
        source: &source,
        target: &target,
        pool: &pool,
        mode: settled.mode,
        compress: options.compress,
        cluster_bytes: usize::try_from(settled.cluster_bytes).expect("at most 2 MiB"),
        leaf_bytes: shape.leaf_bytes,
        hash: settled.hash,
        sharing: Sharing::none(),
        cancel,
    };
    let mut feed = Feed {
        stream,
        source: &source,
        pool: &pool,
        cancel,
    };
    progress.begin(name, source.virtual_bytes);
    let result = copy(&context, &mut ledger, None, Some(&mut feed), options, name, progress);
    progress.end(name);
    let length = result
        .and_then(|()| complete(&target, &mut ledger, None, &source, options.sync))
        .map_err(|error| {
            // Nobody can go on from here. Failing to remove it changes nothing about the error.
            let _ = std::fs::remove_file(&target.partial);
            match error {
                ConvertError::Cancelled { .. } => ConvertError::Cancelled { partial: None },
                error => error,
            }
        })?;
    let arrived = feed.stream.position();
    for note in feed.stream.finish().notes {
        source.notes.add(note);
    }
    let content = settled
        .hash
        .then(|| hash::tree(source.virtual_bytes, shape, &ledger.leaves.listed()));
    let mut manifest = manifest(
        &source,
        path,
        name,
        options,
        content,
        ledger.data_bytes,
        length,
        None,
        &Earlier::default(),
        started,
    );
    manifest.sources = vec![SourceFile {
        path: shown.display().to_string(),
        bytes: arrived,
        mtime_ns: 0,
    }];
    Ok(manifest)
}
