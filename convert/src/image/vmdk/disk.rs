//! The chain as one disk.

use std::collections::VecDeque;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::image::bytes::{to_u64, to_usize};
use crate::image::inflate::GrainInflater;
use crate::image::map::{DiskFacts, DiskSource, LinkFacts, Run, RunSource, SourceHandle};
use crate::image::notes::Notes;
use crate::image::{ImageError, ImageErrorKind};

use super::context::Context;
use super::link::{Body, Link};
use super::opener::Opener;

/// Inflated grains kept for readers that read less than a grain at a time.
const CACHED_GRAINS: usize = 16;
/// `read_at` maps this many bytes at once.
const READ_WINDOW: u64 = 64 << 20;
/// What salvage reads at a time behind a read error.
pub(crate) const SALVAGE_BYTES: usize = 4096;
/// The largest grain any header may state.
const LARGEST_GRAIN: u64 = 1 << 20;

/// A chain of links, newest first; a raw image is a chain of one.
#[derive(Debug)]
pub(crate) struct Disk {
    files: Vec<SourceHandle>,
    links: Vec<Link>,
    notes: Notes,
    salvage: bool,
    compressed_grain: Option<u64>,
    largest_grain: u64,
    reader: Mutex<Reader>,
}

type CachedGrain = ((usize, u64), Arc<[u8]>);

#[derive(Debug, Default)]
struct Reader {
    inflater: GrainInflater,
    compressed: Vec<u8>,
    cache: VecDeque<CachedGrain>,
}

impl Disk {
    /// The disk made of these links.
    pub(crate) fn new(opener: Opener<'_>, links: Vec<Link>, salvage: bool) -> Self {
        let mut grains: Vec<u64> = links
            .iter()
            .flat_map(|link| &link.extents)
            .filter_map(|extent| {
                if let Body::Hosted(hosted) = &extent.body {
                    hosted.compressed_grain()
                } else {
                    None
                }
            })
            .collect();
        grains.sort_unstable();
        grains.dedup();
        Self {
            compressed_grain: if grains.len() == 1 {
                grains.first().copied()
            } else {
                None
            },
            largest_grain: grains.last().copied().unwrap_or(LARGEST_GRAIN),
            files: opener.files,
            notes: opener.notes,
            links,
            salvage,
            reader: Mutex::new(Reader::default()),
        }
    }

    fn context(&self) -> Context<'_> {
        Context {
            files: &self.files,
            notes: &self.notes,
            salvage: self.salvage,
        }
    }

    fn top(&self) -> &Link {
        &self.links[0]
    }

    fn check(&self, offset: u64, length: u64) -> Result<u64, ImageError> {
        offset
            .checked_add(length)
            .filter(|end| *end <= self.top().bytes)
            .ok_or_else(|| {
                ImageError::new(
                    ImageErrorKind::Limit,
                    &self.top().path,
                    format!(
                        "guest bytes {offset} + {length} are wanted, the disk has {}",
                        self.top().bytes
                    ),
                )
            })
    }

    /// Reads from a file; with salvage what cannot be read becomes zeros and a note.
    fn read_stored(&self, handle: &SourceHandle, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        let Err(error) = read_file(handle, offset, buffer) else {
            return Ok(());
        };
        if error.kind != ImageErrorKind::Io {
            return Err(error);
        }
        self.damage(error)?;
        for (number, piece) in buffer.chunks_mut(SALVAGE_BYTES).enumerate() {
            let at = offset + to_u64(number * SALVAGE_BYTES);
            if let Err(error) = read_file(handle, at, piece) {
                piece.fill(0);
                self.damage(error)?;
            }
        }
        Ok(())
    }

    /// The inflated grain of a run, from the cache or the file.
    fn grain(&self, run: &Run, file: usize, offset: u64, compressed: u32, bytes: u32) -> Result<Arc<[u8]>, ImageError> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let reader = &mut *reader;
        if let Some((_, grain)) = reader
            .cache
            .iter()
            .find(|((f, o), grain)| (*f, *o) == (file, offset) && to_u64(grain.len()) >= u64::from(bytes))
        {
            return Ok(Arc::clone(grain));
        }
        let handle = &self.files[file];
        reader.compressed.resize(to_usize(u64::from(compressed)), 0);
        self.read_stored(handle, offset, &mut reader.compressed)?;
        let full = self.compressed_grain.unwrap_or(self.largest_grain);
        let grain: Arc<[u8]> = match reader.inflater.inflate(&reader.compressed, full, bytes) {
            Ok(grain) => Arc::from(grain),
            Err(error) => {
                let error = ImageError::new(
                    ImageErrorKind::Damaged,
                    &handle.path,
                    format!("the grain for guest offset {}: {error}", run.offset),
                )
                .at(offset)
                .advise("The file is damaged here; copy or export it again");
                self.context().damage(error)?;
                vec![0; to_usize(u64::from(bytes))].into()
            }
        };
        if reader.cache.len() >= CACHED_GRAINS {
            reader.cache.pop_front();
        }
        reader.cache.push_back(((file, offset), Arc::clone(&grain)));
        Ok(grain)
    }
}

fn read_file(handle: &SourceHandle, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
    handle.file.read_exact_at(buffer, offset).map_err(|error| {
        if error.kind() == std::io::ErrorKind::UnexpectedEof {
            ImageError::new(
                ImageErrorKind::Changed,
                &handle.path,
                "the file became shorter while it was read",
            )
            .at(offset)
            .advise("Make sure that nothing writes to the source, then start again")
        } else {
            ImageError::io(&handle.path, "reading", error).at(offset)
        }
    })
}

impl DiskSource for Disk {
    fn virtual_bytes(&self) -> u64 {
        self.top().bytes
    }

    fn kind(&self) -> String {
        let mut kinds: Vec<String> = Vec::new();
        for link in self.links.iter().rev() {
            let mut parts: Vec<&str> = link.extents.iter().map(|extent| extent.body.kind()).collect();
            parts.dedup();
            let body = parts.join(", ");
            let label = link
                .descriptor
                .as_ref()
                .map(|descriptor| descriptor.create_type.as_str())
                .filter(|label| !label.is_empty());
            kinds.push(match label {
                Some(label) if label.eq_ignore_ascii_case(&body) => label.to_owned(),
                Some(label) => format!("{label} ({body})"),
                None if link.descriptor.is_none() && body == "flat" => "raw".to_owned(),
                None => body,
            });
        }
        kinds.join(" + ")
    }

    fn files(&self) -> &[SourceHandle] {
        &self.files
    }

    fn compressed_grain_bytes(&self) -> Option<u64> {
        self.compressed_grain
    }

    fn map(&self, offset: u64, length: u64) -> Result<Vec<Run>, ImageError> {
        let end = self.check(offset, length)?;
        if length == 0 {
            return Ok(Vec::new());
        }
        let mut segments = self.top().map(self.context(), offset, end)?;
        for link in &self.links[1..] {
            // One mapping of the hull of all gaps: a snapshot of small grains would cost one lookup a gap otherwise.
            let Some((first, last)) = segments.absent() else { break };
            let last = last.min(link.bytes);
            if first >= last {
                // Beyond this parent's end are zeros, whatever an older and larger link holds there.
                break;
            }
            let mut lower = link.map(self.context(), first, last)?;
            lower.push(last, end.saturating_sub(last), Some(RunSource::Hole));
            segments = segments.over(&lower);
        }
        Ok(segments.into_runs())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        let end = self.check(offset, to_u64(buffer.len()))?;
        let mut at = offset;
        while at < end {
            let length = READ_WINDOW.min(end - at);
            for run in self.map(at, length)? {
                let begin = to_usize(run.offset - offset);
                let target = &mut buffer[begin..begin + to_usize(run.length)];
                match run.source {
                    RunSource::Hole | RunSource::Zero => target.fill(0),
                    RunSource::Raw { file, offset } => self.read_stored(&self.files[file], offset, target)?,
                    RunSource::Deflate {
                        file,
                        offset,
                        compressed,
                        grain_start,
                        grain_bytes,
                    } => {
                        let grain = self.grain(&run, file, offset, compressed, grain_bytes)?;
                        let skip = to_usize(run.offset - grain_start);
                        target.copy_from_slice(&grain[skip..skip + target.len()]);
                    }
                }
            }
            at += length;
        }
        Ok(())
    }

    fn notes(&self) -> Vec<String> {
        self.notes.all()
    }

    fn damage(&self, error: ImageError) -> Result<(), ImageError> {
        self.context().damage(error)
    }

    fn facts(&self) -> DiskFacts {
        let links = self.links.iter().map(|link| LinkFacts {
            path: link.path.clone(),
            create_type: link
                .descriptor
                .as_ref()
                .map(|descriptor| descriptor.create_type.clone()),
            cid: link
                .descriptor
                .as_ref()
                .and_then(|descriptor| descriptor.cid)
                .map(|cid| format!("{cid:08x}")),
            parent_cid: link
                .descriptor
                .as_ref()
                .filter(|descriptor| descriptor.has_parent())
                .map(|descriptor| format!("{:08x}", descriptor.parent_cid)),
            virtual_bytes: link.bytes,
            extents: link
                .extents
                .iter()
                .map(|extent| extent.body.kind().to_owned())
                .collect(),
        });
        // The disk data base is looked up from the newest link downwards.
        let mut ddb = std::collections::BTreeMap::new();
        for descriptor in self.links.iter().rev().filter_map(|link| link.descriptor.as_ref()) {
            ddb.extend(descriptor.ddb.clone());
        }
        DiskFacts {
            links: links.collect(),
            ddb,
        }
    }
}
