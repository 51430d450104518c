//! Opens the extents of one link: those that its descriptor names, and the file that holds the descriptor.

use std::path::{Path, PathBuf};

use crate::image::bytes::SECTOR;
use crate::image::gate::Place;
use crate::image::storage::Storage;
use crate::image::{ImageError, ImageErrorKind};

use super::cowd::CowdExtent;
use super::descriptor::{Access, Descriptor, ExtentLine, ExtentType, MAX_TEXT};
use super::flat::FlatExtent;
use super::header::HostedHeader;
use super::line::{no_access_note, own_line, refuse_foreign};
use super::link::{Body, Extent, Link, Sniffed, sniff};
use super::opener::{Opener, unfinished};
use super::sesparse::SeSparseExtent;
use super::sparse::HostedExtent;

impl Opener<'_> {
    /// A hosted sparse file that the chain names directly.
    pub(super) fn embedded(
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
    pub(super) fn link_of(
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
