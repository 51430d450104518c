//! Opens the links of a chain from the file that the user named down to the base.

use std::collections::HashMap;

use crate::image::bytes::{MAX_DISK, SECTOR};
use crate::image::gate::{Gate, Opened, Place};
use crate::image::map::{FileIndex, SourceHandle};
use crate::image::notes::Notes;
use crate::image::storage::{Part, Storage};
use crate::image::{ImageError, ImageErrorKind, OpenOptions};

use super::context::Context;
use super::descriptor::{Descriptor, MAX_TEXT};
use super::flat::FlatExtent;
use super::link::{Body, Extent, Link, Sniffed, sniff};
use super::parent;

/// Longest chain accepted.
const MAX_LINKS: usize = 64;

/// Opens a disk: collects files and notes on the way.
#[derive(Debug)]
pub(crate) struct Opener<'a> {
    pub(super) gate: Gate,
    pub(super) options: &'a OpenOptions,
    pub(crate) files: Vec<SourceHandle>,
    pub(crate) notes: Notes,
    known: HashMap<(u64, u64), FileIndex>,
}

impl<'a> Opener<'a> {
    pub(crate) fn new(gate: Gate, options: &'a OpenOptions) -> Self {
        Self {
            gate,
            options,
            files: Vec::new(),
            notes: Notes::default(),
            known: HashMap::new(),
        }
    }

    pub(crate) fn gate(&mut self) -> &mut Gate {
        &mut self.gate
    }

    pub(super) fn context(&self) -> Context<'_> {
        Context {
            files: &self.files,
            notes: &self.notes,
            salvage: self.options.salvage,
        }
    }

    /// Registers a file and gives its index; the same file is registered once.
    pub(crate) fn register(&mut self, opened: Opened, link: usize) -> FileIndex {
        if let Some(index) = self.known.get(&opened.identity) {
            return *index;
        }
        let index = self.files.len();
        self.known.insert(opened.identity, index);
        self.files.push(opened.into_handle(link));
        index
    }

    /// The whole of an opened file.
    pub(crate) fn whole(&mut self, opened: Opened, link: usize) -> Result<Storage, ImageError> {
        let (path, bytes) = (opened.path.clone(), opened.bytes);
        let file = self.register(opened, link);
        Storage::new(
            &path,
            vec![Part {
                start: 0,
                length: bytes,
                file,
                base: 0,
            }],
        )
    }

    /// The first bytes of a file, at most 512.
    pub(crate) fn head(&self, storage: &Storage) -> Result<Vec<u8>, ImageError> {
        storage.read_vec(&self.files, 0, storage.length.min(SECTOR), "first sector")
    }

    /// A raw image.
    pub(crate) fn raw(&self, storage: Storage) -> Result<Link, ImageError> {
        let length = storage.length / SECTOR * SECTOR;
        if length != storage.length {
            self.notes.add(format!(
                "{}: {} bytes behind the last full sector are ignored",
                storage.path.display(),
                storage.length - length
            ));
        }
        if length == 0 {
            return Err(storage.error(ImageErrorKind::Truncated, 0, "the file holds no sector"));
        }
        if length > MAX_DISK {
            let text = format!("the file has {length} bytes, disks of at most 1 PiB are read");
            return Err(storage.error(ImageErrorKind::Limit, 0, text));
        }
        let path = storage.path.clone();
        let flat = FlatExtent::open(self.context(), storage, 0, length)?;
        let extents = vec![Extent {
            start: 0,
            length,
            body: Body::Flat(flat),
        }];
        Ok(Link {
            path,
            descriptor: None,
            extents,
            bytes: length,
            place: None,
        })
    }

    /// The chain from the file that the user named; `place` is `None` inside an archive.
    pub(crate) fn chain(
        &mut self,
        top: Storage,
        place: Option<Place>,
        identity: Option<(u64, u64)>,
    ) -> Result<Vec<Link>, ImageError> {
        let mut links = vec![self.link(top, place, 0)?];
        let mut seen: Vec<(u64, u64)> = identity.into_iter().collect();
        loop {
            let number = links.len();
            let child = &links[number - 1];
            let Some(descriptor) = child.descriptor.as_ref().filter(|descriptor| descriptor.has_parent()) else {
                return Ok(links);
            };
            let path = child.path.clone();
            let chain = |message: String| ImageError::new(ImageErrorKind::Chain, &path, message);
            let Some(hint) = descriptor.parent_hint.clone() else {
                return Err(chain(format!(
                    "the disk has a parent (parentCID {:08x}) but no parentFileNameHint",
                    descriptor.parent_cid
                ))
                .advise(
                    "Reading it without its parent would show old data as zeros; restore the hint from the source",
                ));
            };
            if number >= MAX_LINKS {
                return Err(ImageError::new(
                    ImageErrorKind::Limit,
                    &path,
                    format!("the chain has more than {MAX_LINKS} links"),
                )
                .advise("Consolidate the snapshots at the source"));
            }
            let Some(place) = child.place.clone() else {
                return Err(ImageError::new(
                    ImageErrorKind::Unsupported,
                    &path,
                    "a delta disk inside an archive has no parent beside it",
                )
                .advise("Extract the archive and convert the disk from the folder"));
            };
            let opened = self.gate.open_parent(&place, &path, &hint, &seen)?;
            let (place, identity) = (opened.place.clone(), opened.identity);
            seen.push(identity);
            let storage = self.whole(opened, number)?;
            let parent = self.link(storage, Some(place), number)?;
            self.check_parent(&links[number - 1], &parent)?;
            if parent.bytes != links[number - 1].bytes {
                self.notes.add(format!(
                    "{}: {} bytes, its child {} has {}; what is beyond the parent's end reads as zeros",
                    parent.path.display(),
                    parent.bytes,
                    path.display(),
                    links[number - 1].bytes
                ));
            }
            links.push(parent);
        }
    }

    fn check_parent(&self, child: &Link, parent: &Link) -> Result<(), ImageError> {
        let Some(descriptor) = &child.descriptor else {
            return Ok(());
        };
        match parent::check((&child.path, descriptor), (&parent.path, parent.descriptor.as_ref())) {
            Ok(note) => {
                if let Some(note) = note {
                    self.notes.add(note);
                }
                Ok(())
            }
            // Salvage is for damaged data; to take another disk for the parent is a decision of its own.
            Err(error) if self.options.ignore_cid_mismatch => {
                self.notes.add(format!("ignored: {error}"));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn link(&mut self, storage: Storage, place: Option<Place>, number: usize) -> Result<Link, ImageError> {
        let head = self.head(&storage)?;
        let path = storage.path.clone();
        match sniff(&head) {
            Sniffed::Hosted => self.embedded(storage, &head, place, number),
            Sniffed::Descriptor => {
                if storage.length > MAX_TEXT {
                    let text = format!(
                        "the descriptor has {} bytes, at most {MAX_TEXT} are read",
                        storage.length
                    );
                    return Err(storage.error(ImageErrorKind::Limit, 0, text));
                }
                let text = storage.read_vec(&self.files, 0, storage.length, "descriptor")?;
                let descriptor = Descriptor::parse(&path, 0, &text)?;
                self.link_of(path, descriptor, None, place, number)
            }
            Sniffed::Cowd | Sniffed::SeSparse => Err(storage
                .error(
                    ImageErrorKind::Unsupported,
                    0,
                    "this is the body of a snapshot, which does not know its parent",
                )
                .advise("Open the descriptor that names it (the .vmdk without -delta or -sesparse)")),
            Sniffed::Unfinished => Err(unfinished(&storage)),
            Sniffed::ChangeTracking => Err(storage
                .error(
                    ImageErrorKind::Unsupported,
                    0,
                    "this is a change-tracking file (-ctk.vmdk), not a disk",
                )
                .advise("Open the descriptor of the disk")),
            Sniffed::Qcow2 | Sniffed::Other => Err(storage.error(
                ImageErrorKind::Damaged,
                0,
                format!(
                    "neither a descriptor nor a sparse extent: it begins with {:02x?}",
                    &head[..head.len().min(8)]
                ),
            )),
        }
    }
}

/// The refusal of a file that its writer has not finished.
pub(super) fn unfinished(storage: &Storage) -> ImageError {
    storage
        .error(
            ImageErrorKind::Damaged,
            0,
            "unfinished write: the writer (open-vmdk) marks a file so until it is complete",
        )
        .advise("Create or export the disk again")
}
