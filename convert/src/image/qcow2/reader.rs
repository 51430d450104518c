//! A read-only qcow2 reader, written to check our own output and to survive anybody's.

use super::codec::decode_cluster;
use super::header::Header;
use super::tables::{Geometry, L2Entry, MAX_L1_BYTES, OFFSET_MASK, parse_l2_entry};
use crate::image::map::{DiskSource, Run, RunSource, SourceHandle};
use crate::image::{ImageError, ImageErrorKind};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Memory for L2 tables in bytes.
const TABLE_CACHE_BYTES: usize = 32 << 20;

/// Which external data file may be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataFileRule<'a> {
    /// None.
    Refuse,
    /// A regular file (no symbolic link) in the image's own folder.
    Beside,
    /// As [`Self::Beside`], or exactly this file.
    Named(&'a Path),
}

/// An opened qcow2 image, version 2 or 3, without backing file.
#[derive(Debug)]
pub struct Qcow2Image {
    header: Header,
    geometry: Geometry,
    l1: Vec<u64>,
    /// The image, then the data file if there is one.
    files: Vec<SourceHandle>,
    tables: Mutex<HashMap<usize, Arc<Vec<u8>>>>,
}

impl Qcow2Image {
    /// Opens `path`.
    ///
    /// # Errors
    /// No qcow2, damaged, with a backing file, encrypted, or with a data file that `rule` forbids.
    pub fn open(path: &Path, rule: DataFileRule<'_>) -> Result<Self, ImageError> {
        let image = handle(path)?;
        let damaged = |offset: u64, message: String| ImageError::new(ImageErrorKind::Damaged, path, message).at(offset);
        let mut head = vec![0; usize::try_from(image.bytes.min(2 << 20)).expect("at most 2 MiB")];
        image
            .file
            .read_exact_at(&mut head, 0)
            .map_err(|error| ImageError::io(path, "reading the header", error))?;
        let header = Header::parse(&head).map_err(|error| {
            let kind = if error.unsupported {
                ImageErrorKind::Unsupported
            } else {
                ImageErrorKind::Damaged
            };
            ImageError::new(kind, path, error.message).at(error.offset)
        })?;
        let geometry = Geometry {
            cluster_bits: header.cluster_bits,
            virtual_bytes: header.virtual_bytes,
            extended_l2: header.extended_l2,
        };
        let needed = geometry.l1_entries();
        let l1_bytes = u64::from(header.l1_entries) * 8;
        if header.virtual_bytes > 1 << 56 || u64::from(header.l1_entries) < needed || l1_bytes > MAX_L1_BYTES {
            return Err(damaged(
                36,
                format!(
                    "the L1 table has {} entries, {needed} are needed and at most {} are read",
                    header.l1_entries,
                    MAX_L1_BYTES / 8
                ),
            ));
        }
        if header
            .l1_offset
            .checked_add(needed * 8)
            .is_none_or(|end| end > image.bytes)
        {
            return Err(damaged(
                40,
                format!(
                    "the L1 table at {} ends past the file's {} bytes",
                    header.l1_offset, image.bytes
                ),
            ));
        }
        let mut raw = vec![0; usize::try_from(needed * 8).expect("at most 32 MiB")];
        image
            .file
            .read_exact_at(&mut raw, header.l1_offset)
            .map_err(|error| ImageError::io(path, "reading the L1 table", error).at(header.l1_offset))?;
        let l1 = raw.chunks_exact(8).map(word).collect();
        let mut files = vec![image];
        if let Some(name) = &header.data_file {
            files.push(open_data_file(path, name, rule)?);
        }
        Ok(Self {
            header,
            geometry,
            l1,
            files,
            tables: Mutex::default(),
        })
    }

    /// The parsed header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    fn damaged(&self, offset: u64, message: String) -> ImageError {
        ImageError::new(ImageErrorKind::Damaged, &self.files[0].path, message).at(offset)
    }

    /// The L2 table for L1 slot `slot`; `None` where there is none.
    fn table(&self, slot: usize) -> Result<Option<Arc<Vec<u8>>>, ImageError> {
        let entry = self.l1[slot];
        let offset = entry & OFFSET_MASK;
        if offset == 0 {
            return Ok(None);
        }
        if let Some(table) = self.tables.lock().unwrap_or_else(PoisonError::into_inner).get(&slot) {
            return Ok(Some(Arc::clone(table)));
        }
        let cluster = self.geometry.cluster();
        let image = &self.files[0];
        if !offset.is_multiple_of(cluster) || offset.checked_add(cluster).is_none_or(|end| end > image.bytes) {
            return Err(self.damaged(
                self.header.l1_offset + u64::try_from(slot).expect("a slot of L1") * 8,
                format!(
                    "an L2 table at {offset} is misaligned or ends past the file's {} bytes",
                    image.bytes
                ),
            ));
        }
        let mut bytes = vec![0; usize::try_from(cluster).expect("at most 2 MiB")];
        image
            .file
            .read_exact_at(&mut bytes, offset)
            .map_err(|error| ImageError::io(&image.path, "reading an L2 table", error).at(offset))?;
        let table = Arc::new(bytes);
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if (tables.len() + 1) * table.len() > TABLE_CACHE_BYTES {
            tables.clear();
        }
        tables.insert(slot, Arc::clone(&table));
        Ok(Some(table))
    }

    /// The entry of a guest cluster, and with extended L2 its subcluster bitmap.
    fn entry(&self, cluster: u64) -> Result<(L2Entry, u64), ImageError> {
        let per_table = self.geometry.l2_entries();
        let slot = usize::try_from(cluster / per_table).expect("inside L1");
        let Some(table) = self.table(slot)? else {
            return Ok((L2Entry::Unallocated, 0));
        };
        let at = usize::try_from((cluster % per_table) * self.geometry.entry_bytes()).expect("inside a cluster");
        let entry = parse_l2_entry(
            self.header.cluster_bits,
            self.header.extended_l2,
            word(&table[at..at + 8]),
        );
        let bitmap = if self.header.extended_l2 {
            word(&table[at + 8..at + 16])
        } else {
            0
        };
        if self.header.data_file.is_some() && entry == L2Entry::Unallocated {
            // Host offset 0 is a real place in a data file: only the COPIED bit tells.
            let allocated = word(&table[at..at + 8]) >> 63 == 1;
            return Ok((if allocated { L2Entry::Stored(0) } else { entry }, bitmap));
        }
        Ok((entry, bitmap))
    }

    /// The pieces that cover `[offset, offset + length)`.
    fn pieces(&self, offset: u64, length: u64) -> Result<Vec<Piece>, ImageError> {
        let end = offset
            .checked_add(length)
            .filter(|&end| end <= self.header.virtual_bytes)
            .ok_or_else(|| self.damaged(24, format!("a window at {offset} of {length} bytes ends past the disk")))?;
        let cluster_bytes = self.geometry.cluster();
        let subcluster = cluster_bytes / 32;
        let mut pieces: Vec<Piece> = Vec::new();
        let mut at = offset;
        while at < end {
            let cluster = at >> self.header.cluster_bits;
            let inside = at & (cluster_bytes - 1);
            let (entry, bitmap) = self.entry(cluster)?;
            let extended = self.header.extended_l2 && !matches!(entry, L2Entry::Compressed { .. });
            let part = if extended {
                subcluster - inside % subcluster
            } else {
                cluster_bytes - inside
            };
            let part = part.min(end - at);
            let place = match entry {
                _ if extended && bitmap >> (32 + inside / subcluster) & 1 == 1 => Place::Zero,
                _ if extended && bitmap >> (inside / subcluster) & 1 == 0 => Place::Hole,
                L2Entry::Unallocated => Place::Hole,
                L2Entry::Zero => Place::Zero,
                L2Entry::Stored(host) => {
                    if !host.is_multiple_of(cluster_bytes) {
                        return Err(
                            self.damaged(host, format!("guest cluster {cluster} lies at the misaligned {host}"))
                        );
                    }
                    Place::Stored(host + inside)
                }
                L2Entry::Compressed { offset, bytes } => {
                    if self.header.data_file.is_some() {
                        return Err(self.damaged(offset, "a compressed cluster beside a data file".into()));
                    }
                    Place::Compressed { offset, bytes, inside }
                }
            };
            match (pieces.last_mut(), place) {
                (Some(last), Place::Hole) if last.place == Place::Hole => last.length += part,
                (Some(last), Place::Zero) if last.place == Place::Zero => last.length += part,
                (
                    Some(Piece {
                        length,
                        place: Place::Stored(from),
                        ..
                    }),
                    Place::Stored(host),
                ) if *from + *length == host => {
                    *length += part;
                }
                _ => pieces.push(Piece {
                    offset: at,
                    length: part,
                    place,
                }),
            }
            at += part;
        }
        Ok(pieces)
    }

    /// The stretches of the window that hold something other than zeros by design.
    ///
    /// # Errors
    /// Damaged tables.
    pub fn data(&self, offset: u64, length: u64) -> Result<Vec<(u64, u64)>, ImageError> {
        Ok(self
            .pieces(offset, length)?
            .iter()
            .filter(|piece| !matches!(piece.place, Place::Hole | Place::Zero))
            .map(|piece| (piece.offset, piece.length))
            .collect())
    }

    fn read_stored(&self, host: u64, out: &mut [u8]) -> Result<(), ImageError> {
        let from = self.files.last().expect("the image itself");
        let length = u64::try_from(out.len()).expect("a buffer in memory");
        // The last cluster of an image need not be complete in the file.
        let there = usize::try_from(from.bytes.saturating_sub(host).min(length)).expect("a buffer in memory");
        if there == 0 && !out.is_empty() {
            return Err(ImageError::new(
                ImageErrorKind::Truncated,
                &from.path,
                format!("a cluster lies at {host}, the file has {} bytes", from.bytes),
            )
            .at(host));
        }
        from.file
            .read_exact_at(&mut out[..there], host)
            .map_err(|error| ImageError::io(&from.path, "reading", error).at(host))?;
        out[there..].fill(0);
        Ok(())
    }

    fn read_compressed(&self, offset: u64, bytes: u64, out: &mut [u8]) -> Result<(), ImageError> {
        let image = &self.files[0];
        let there = image.bytes.saturating_sub(offset).min(bytes);
        if there == 0 {
            return Err(self.damaged(
                offset,
                format!("a compressed cluster past the file's {} bytes", image.bytes),
            ));
        }
        // At most a cluster and a sector: the entry has no room for more.
        let mut input = vec![0; usize::try_from(there).expect("at most 4 MiB")];
        image
            .file
            .read_exact_at(&mut input, offset)
            .map_err(|error| ImageError::io(&image.path, "reading", error).at(offset))?;
        decode_cluster(self.header.compressed, &input, out).map_err(|message| self.damaged(offset, message))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Hole,
    Zero,
    Stored(u64),
    Compressed { offset: u64, bytes: u64, inside: u64 },
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    offset: u64,
    length: u64,
    place: Place,
}

impl DiskSource for Qcow2Image {
    fn virtual_bytes(&self) -> u64 {
        self.header.virtual_bytes
    }

    fn kind(&self) -> String {
        format!("qcow2 version {}", self.header.version)
    }

    fn files(&self) -> &[SourceHandle] {
        &self.files
    }

    fn compressed_grain_bytes(&self) -> Option<u64> {
        None
    }

    /// Compressed qcow2 clusters have no zlib wrapper and so no [`RunSource`]: a window that holds one is refused as
    /// unsupported. [`DiskSource::read_at`] reads everything.
    fn map(&self, offset: u64, length: u64) -> Result<Vec<Run>, ImageError> {
        let file = self.files.len() - 1;
        self.pieces(offset, length)?
            .into_iter()
            .map(|piece| {
                let source = match piece.place {
                    Place::Hole => RunSource::Hole,
                    Place::Zero => RunSource::Zero,
                    Place::Stored(offset) => RunSource::Raw { file, offset },
                    Place::Compressed { offset, .. } => {
                        return Err(ImageError::new(
                            ImageErrorKind::Unsupported,
                            &self.files[0].path,
                            "compressed qcow2 clusters cannot be mapped",
                        )
                        .at(offset)
                        .advise("Read the disk instead of mapping it"));
                    }
                };
                Ok(Run {
                    offset: piece.offset,
                    length: piece.length,
                    source,
                })
            })
            .collect()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        let length = u64::try_from(buffer.len()).expect("a buffer in memory");
        let cluster_bytes = usize::try_from(self.geometry.cluster()).expect("at most 2 MiB");
        let mut scratch = Vec::new();
        for piece in self.pieces(offset, length)? {
            let from = usize::try_from(piece.offset - offset).expect("inside the buffer");
            let count = usize::try_from(piece.length).expect("inside the buffer");
            let out = &mut buffer[from..from + count];
            match piece.place {
                Place::Hole | Place::Zero => out.fill(0),
                Place::Stored(host) => self.read_stored(host, out)?,
                Place::Compressed { offset, bytes, .. } if count == cluster_bytes => {
                    self.read_compressed(offset, bytes, out)?;
                }
                Place::Compressed { offset, bytes, inside } => {
                    scratch.resize(cluster_bytes, 0);
                    self.read_compressed(offset, bytes, &mut scratch)?;
                    let inside = usize::try_from(inside).expect("inside a cluster");
                    out.copy_from_slice(&scratch[inside..inside + count]);
                }
            }
        }
        Ok(())
    }

    fn notes(&self) -> Vec<String> {
        if self.header.dirty {
            vec!["the image was not closed cleanly (dirty bit)".into()]
        } else {
            Vec::new()
        }
    }
}

fn word(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().expect("eight bytes"))
}

fn handle(path: &Path) -> Result<SourceHandle, ImageError> {
    let file = File::open(path).map_err(|error| ImageError::io(path, "opening", error))?;
    let metadata = file
        .metadata()
        .map_err(|error| ImageError::io(path, "looking at", error))?;
    if !metadata.is_file() {
        return Err(ImageError::new(ImageErrorKind::Refused, path, "not a regular file"));
    }
    Ok(SourceHandle {
        path: path.to_owned(),
        bytes: metadata.len(),
        mtime_ns: metadata
            .mtime()
            .saturating_mul(1_000_000_000)
            .saturating_add(metadata.mtime_nsec()),
        file,
        link: 0,
    })
}

fn open_data_file(image: &Path, name: &[u8], rule: DataFileRule<'_>) -> Result<SourceHandle, ImageError> {
    let refused = |message: String| {
        ImageError::new(ImageErrorKind::Refused, image, message)
            .advise("Put the data file beside the image and name it without a folder")
    };
    let named = PathBuf::from(std::ffi::OsStr::from_bytes(name));
    let folder = match image.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if rule == DataFileRule::Refuse {
        return Err(refused(format!("the image names the data file {}", named.display())));
    }
    if let DataFileRule::Named(allowed) = rule {
        let same = |a: &Path, b: &Path| {
            a.canonicalize()
                .ok()
                .is_some_and(|a| b.canonicalize().is_ok_and(|b| a == b))
        };
        if same(&folder.join(&named), allowed) {
            return handle(allowed);
        }
    }
    // A whole path is taken for its last part, and only where its folder is the image's: it cannot lead elsewhere.
    let last = match named.parent() {
        Some(parent) if parent.is_absolute() => {
            let same = parent.canonicalize().ok() == folder.canonicalize().ok();
            named.file_name().filter(|_| same)
        }
        _ => Some(named.as_os_str()),
    };
    let plain = |name: &&std::ffi::OsStr| {
        let bytes = name.as_bytes();
        !matches!(bytes, b"" | b"." | b"..") && !bytes.contains(&b'/') && !bytes.contains(&0)
    };
    let Some(last) = last.filter(plain) else {
        return Err(refused(format!(
            "the data file {} does not lie beside the image",
            named.display()
        )));
    };
    let beside = folder.join(last);
    let metadata = std::fs::symlink_metadata(&beside)
        .map_err(|error| ImageError::io(&beside, "looking at the data file", error))?;
    if !metadata.is_file() {
        return Err(refused(format!(
            "the data file {} is no regular file",
            beside.display()
        )));
    }
    handle(&beside)
}
