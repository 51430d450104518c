//! Opens links: a descriptor with its extents, and the chain of them down to the base.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::image::bytes::{MAX_DISK, SECTOR, le32, le64};
use crate::image::gate::{Gate, Opened, Place};
use crate::image::map::{FileIndex, SourceHandle};
use crate::image::notes::Notes;
use crate::image::segments::Segments;
use crate::image::storage::{Part, Storage};
use crate::image::{ImageError, ImageErrorKind, OpenOptions};

use super::context::{Context, Window};
use super::cowd::{self, CowdExtent};
use super::descriptor::{Access, Descriptor, ExtentLine, ExtentType, MAX_TEXT, looks_like_descriptor};
use super::flat::FlatExtent;
use super::header::{self, HostedHeader};
use super::line::{no_access_note, own_line, refuse_foreign};
use super::parent;
use super::sesparse::{self, SeSparseExtent};
use super::sparse::HostedExtent;

/// Longest chain accepted.
const MAX_LINKS: usize = 64;

/// What a file is, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sniffed {
    Hosted,
    Cowd,
    SeSparse,
    Descriptor,
    Unfinished,
    ChangeTracking,
    Qcow2,
    Other,
}

/// Tells what a file is.
pub(crate) fn sniff(head: &[u8]) -> Sniffed {
    if head.len() >= 8 {
        match le32(head, 0) {
            header::MAGIC => return Sniffed::Hosted,
            header::MAGIC_UNFINISHED => return Sniffed::Unfinished,
            cowd::MAGIC => return Sniffed::Cowd,
            0xf619_72a2 => return Sniffed::ChangeTracking,
            0xfb49_4651 => return Sniffed::Qcow2,
            _ => {}
        }
        if le64(head, 0) == sesparse::MAGIC {
            return Sniffed::SeSparse;
        }
    }
    if looks_like_descriptor(head) {
        Sniffed::Descriptor
    } else {
        Sniffed::Other
    }
}

/// One descriptor with its extents.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) path: PathBuf,
    /// `None` for a raw image.
    pub(crate) descriptor: Option<Descriptor>,
    pub(crate) extents: Vec<Extent>,
    /// Guest bytes.
    pub(crate) bytes: u64,
    place: Option<Place>,
}

/// An extent at its place in the link.
#[derive(Debug)]
pub(crate) struct Extent {
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) body: Body,
}

/// What an extent is.
#[derive(Debug)]
pub(crate) enum Body {
    Zero,
    Flat(FlatExtent),
    Hosted(Box<HostedExtent>),
    Cowd(CowdExtent),
    SeSparse(SeSparseExtent),
}

impl Body {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Zero => "zero",
            Self::Flat(_) => "flat",
            Self::Hosted(hosted) => hosted.kind(),
            Self::Cowd(_) => "COWD",
            Self::SeSparse(_) => "seSparse",
        }
    }

    fn capacity(&self) -> Option<u64> {
        match self {
            Self::Zero | Self::Flat(_) => None,
            Self::Hosted(hosted) => Some(hosted.capacity()),
            Self::Cowd(cowd) => Some(cowd.capacity()),
            Self::SeSparse(sesparse) => Some(sesparse.capacity()),
        }
    }
}

impl Link {
    /// The segments of `[start, end)`, which lies inside the link.
    pub(crate) fn map(&self, context: Context<'_>, start: u64, end: u64) -> Result<Segments, ImageError> {
        let mut out = Segments::default();
        let first = self
            .extents
            .partition_point(|extent| extent.start + extent.length <= start);
        for extent in &self.extents[first..] {
            if extent.start >= end {
                break;
            }
            let window = Window {
                base: extent.start,
                start: start.max(extent.start) - extent.start,
                end: (end - extent.start).min(extent.length),
                extent: extent.length,
            };
            match &extent.body {
                Body::Zero => out.push(
                    window.base + window.start,
                    window.end - window.start,
                    Some(crate::image::map::RunSource::Zero),
                ),
                Body::Flat(flat) => flat.map(context, window, &mut out),
                Body::Hosted(hosted) => hosted.map(context, window, &mut out)?,
                Body::Cowd(cowd) => cowd.map(context, window, &mut out)?,
                Body::SeSparse(sesparse) => sesparse.map(context, window, &mut out)?,
            }
        }
        Ok(out)
    }
}

/// Opens a disk: collects files and notes on the way.
#[derive(Debug)]
pub(crate) struct Opener<'a> {
    gate: Gate,
    options: &'a OpenOptions,
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

    fn context(&self) -> Context<'_> {
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

    /// A hosted sparse file that the chain names directly.
    fn embedded(
        &mut self,
        storage: Storage,
        head: &[u8],
        place: Option<Place>,
        number: usize,
    ) -> Result<Link, ImageError> {
        let path = storage.path.clone();
        let header = self.hosted_header(&storage, head)?;
        if header.descriptor_offset == 0 || header.descriptor_length == 0 {
            if !header.markers {
                return Err(storage
                    .error(
                        ImageErrorKind::Unsupported,
                        28,
                        "a sparse extent without a descriptor: it is one part of a disk",
                    )
                    .advise("Open the descriptor that names it (the .vmdk without -s001)"));
            }
            self.notes.add(format!(
                "{}: the stream has no descriptor; its header's capacity counts",
                path.display()
            ));
            let (link, bytes) = (number, header.capacity);
            let hosted = HostedExtent::open(
                &mut self.files,
                &self.notes,
                self.options.salvage,
                link,
                storage,
                header,
            )?;
            let extents = vec![Extent {
                start: 0,
                length: bytes,
                body: Body::Hosted(Box::new(hosted)),
            }];
            return Ok(Link {
                path,
                descriptor: None,
                extents,
                bytes,
                place,
            });
        }
        if header.descriptor_length > MAX_TEXT {
            let text = format!(
                "the descriptor has {} bytes, at most {MAX_TEXT} are read",
                header.descriptor_length
            );
            return Err(storage.error(ImageErrorKind::Limit, 36, text));
        }
        let text = storage.read_vec(
            &self.files,
            header.descriptor_offset,
            header.descriptor_length,
            "embedded descriptor",
        )?;
        let descriptor = Descriptor::parse(&path, header.descriptor_offset, &text)?;
        self.link_of(path, descriptor, Some((storage, header)), place, number)
    }

    fn hosted_header(&self, storage: &Storage, head: &[u8]) -> Result<HostedHeader, ImageError> {
        if u64::try_from(head.len()).is_ok_and(|length| length < SECTOR) {
            return Err(storage.error(
                ImageErrorKind::Truncated,
                0,
                format!("{} bytes, the header alone has 512", head.len()),
            ));
        }
        HostedHeader::parse(storage, 0, head)
    }

    /// Opens the extents of a parsed descriptor. `own` is the sparse file that holds the descriptor.
    fn link_of(
        &mut self,
        path: PathBuf,
        descriptor: Descriptor,
        mut own: Option<(Storage, HostedHeader)>,
        place: Option<Place>,
        number: usize,
    ) -> Result<Link, ImageError> {
        for note in &descriptor.notes {
            self.notes.add(note.clone());
        }
        let own_line = own.as_ref().map(|_| own_line(&path, &descriptor)).transpose()?;
        let mut extents = Vec::with_capacity(descriptor.extents.len());
        let mut start = 0;
        for (index, line) in descriptor.extents.iter().enumerate() {
            let length = line.sectors * SECTOR;
            if length == 0 {
                continue;
            }
            let body = match own.take_if(|_| own_line == Some(index)) {
                Some(_) if line.access == Access::None => self.no_access(&path, line),
                Some((storage, header)) => {
                    if line.kind != ExtentType::Sparse {
                        self.notes.add(format!(
                            "{}: the extent line says {:?}, the file is hosted sparse",
                            path.display(),
                            line.kind
                        ));
                    }
                    let hosted = HostedExtent::open(
                        &mut self.files,
                        &self.notes,
                        self.options.salvage,
                        number,
                        storage,
                        header,
                    )?;
                    Body::Hosted(Box::new(hosted))
                }
                None => self.extent(&path, line, length, place.as_ref(), number)?,
            };
            if body.capacity().is_some_and(|capacity| capacity != length) {
                self.notes.add(format!(
                    "{}: descriptor line {} says {length} bytes, the extent's header {}; the descriptor counts",
                    path.display(),
                    line.line,
                    body.capacity().unwrap_or(0)
                ));
            }
            extents.push(Extent { start, length, body });
            start += length;
        }
        self.note_label(&path, &descriptor, &extents);
        Ok(Link {
            path,
            descriptor: Some(descriptor),
            extents,
            bytes: start,
            place,
        })
    }

    fn note_label(&self, path: &Path, descriptor: &Descriptor, extents: &[Extent]) {
        let label = descriptor.create_type.to_ascii_lowercase();
        let sparse = extents.iter().any(|extent| extent.body.capacity().is_some());
        let flat = extents.iter().any(|extent| matches!(extent.body, Body::Flat(_)));
        let says_sparse = label.contains("sparse") || label == "streamoptimized";
        if (says_sparse && flat && !sparse) || (label.contains("flat") && sparse && !flat) {
            self.notes.add(format!(
                "{}: createType {:?} contradicts the extents; the extents count",
                path.display(),
                descriptor.create_type
            ));
        }
    }

    fn no_access(&self, path: &Path, line: &ExtentLine) -> Body {
        self.notes.add(no_access_note(path, line));
        Body::Zero
    }

    fn extent(
        &mut self,
        path: &Path,
        line: &ExtentLine,
        length: u64,
        place: Option<&Place>,
        number: usize,
    ) -> Result<Body, ImageError> {
        if line.kind == ExtentType::Zero {
            return Ok(Body::Zero);
        }
        refuse_foreign(path, line)?;
        if line.access == Access::None {
            return Ok(self.no_access(path, line));
        }
        let unsupported = |text: &str, advice: &str| {
            ImageError::new(
                ImageErrorKind::Unsupported,
                path,
                format!("descriptor line {}: {text}", line.line),
            )
            .advise(advice)
        };
        let Some(name) = &line.file else {
            return Err(unsupported("the extent names no file", "The descriptor is damaged"));
        };
        let Some(place) = place else {
            return Err(unsupported(
                "a descriptor inside an archive names another file",
                "Extract the archive and convert the disk from the folder",
            ));
        };
        let opened = self.gate.open_named(place, name)?;
        let storage = self.whole(opened, number)?;
        if matches!(line.kind, ExtentType::Flat | ExtentType::Vmfs) {
            let offset = line
                .offset
                .checked_mul(SECTOR)
                .filter(|offset| offset.checked_add(length).is_some())
                .ok_or_else(|| {
                    ImageError::new(
                        ImageErrorKind::Limit,
                        path,
                        format!("descriptor line {}: offset and length exceed 2^64 bytes", line.line),
                    )
                })?;
            return Ok(Body::Flat(FlatExtent::open(self.context(), storage, offset, length)?));
        }
        let head = self.head(&storage)?;
        match sniff(&head) {
            Sniffed::Hosted => {
                let header = self.hosted_header(&storage, &head)?;
                let hosted = HostedExtent::open(
                    &mut self.files,
                    &self.notes,
                    self.options.salvage,
                    number,
                    storage,
                    header,
                )?;
                Ok(Body::Hosted(Box::new(hosted)))
            }
            Sniffed::Cowd => Ok(Body::Cowd(CowdExtent::open(&self.files, &self.notes, storage)?)),
            Sniffed::SeSparse => Ok(Body::SeSparse(SeSparseExtent::open(&self.files, storage)?)),
            Sniffed::Unfinished => Err(unfinished(&storage)),
            _ => Err(storage.error(
                ImageErrorKind::Damaged,
                0,
                format!(
                    "the descriptor says {:?}, but the file begins with {:02x?}",
                    line.kind,
                    &head[..head.len().min(8)]
                ),
            )),
        }
    }
}

fn unfinished(storage: &Storage) -> ImageError {
    storage
        .error(
            ImageErrorKind::Damaged,
            0,
            "unfinished write: the writer (open-vmdk) marks a file so until it is complete",
        )
        .advise("Create or export the disk again")
}
