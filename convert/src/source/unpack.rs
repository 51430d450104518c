//! Unpacks what can't be read in place: packages in gzip, xz or zip, and disks in gzip or xz.

use super::DiskPlace;
use crate::ovf::tar::Member;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::path::Path;

/// What a package is wrapped in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Container {
    Gzip,
    Xz,
    Zip,
}

impl Container {
    /// By the first bytes; `None`: a tar, to be read as it is.
    pub(super) fn of(magic: &[u8]) -> Option<Self> {
        if magic.starts_with(b"\x1f\x8b") {
            Some(Self::Gzip)
        } else if magic.starts_with(b"\xfd7zXZ") {
            Some(Self::Xz)
        } else if magic.starts_with(b"PK\x03\x04") {
            Some(Self::Zip)
        } else {
            None
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zip => "zip",
        }
    }

    /// Unpacks `package` into the file `plain`. Returns its length, and for a zip where each member lies in it; gzip and xz
    /// hold a tar, which has its own index.
    pub(super) fn unpack(self, package: File, plain: &Path) -> io::Result<(u64, Option<Vec<Member>>)> {
        let mut out = File::create(plain)?;
        match self {
            Self::Gzip => Ok((
                io::copy(&mut flate2::read::MultiGzDecoder::new(package), &mut out)?,
                None,
            )),
            Self::Xz => Ok((
                io::copy(&mut xz2::read::XzDecoder::new_multi_decoder(package), &mut out)?,
                None,
            )),
            Self::Zip => {
                let members = unzip(package, &mut out)?;
                let bytes = members.iter().map(|member| member.bytes).fold(0, u64::saturating_add);
                Ok((bytes, Some(members)))
            }
        }
    }
}

/// The members of a zip, one behind the other. Their names are looked up, never opened as paths.
fn unzip(package: File, out: &mut File) -> io::Result<Vec<Member>> {
    let mut archive = zip::ZipArchive::new(package).map_err(io::Error::other)?;
    let mut members: Vec<Member> = Vec::new();
    let mut offset = 0;
    for number in 0..archive.len() {
        let mut entry = archive.by_index(number).map_err(io::Error::other)?;
        if !entry.is_file() {
            continue;
        }
        let name = entry.name().map_err(io::Error::other)?.into_owned();
        if members.iter().any(|member| member.name == name) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("\"{name}\" is in the zip twice"),
            ));
        }
        let bytes = io::copy(&mut entry, out)?;
        members.push(Member { name, offset, bytes });
        offset += bytes;
    }
    Ok(members)
}

/// Unpacks a disk that is in gzip or xz, in one file, a window of one, or in pieces. Returns its length.
pub(super) fn disk(place: &DiskPlace, compression: &str, target: &Path) -> io::Result<u64> {
    let window = |path: &Path, offset: u64, bytes: u64| -> io::Result<io::Take<File>> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(file.take(bytes))
    };
    let mut packed: Box<dyn Read> = Box::new(io::empty());
    if place.chunks.is_empty() {
        packed = match place.window {
            Some((offset, bytes)) => Box::new(window(&place.path, offset, bytes)?),
            None => Box::new(File::open(&place.path)?),
        };
    }
    for (path, offset, bytes) in &place.chunks {
        packed = Box::new(packed.chain(window(path, *offset, *bytes)?));
    }
    let mut out = File::create(target)?;
    if compression == "xz" {
        io::copy(&mut xz2::read::XzDecoder::new_multi_decoder(packed), &mut out)
    } else {
        io::copy(&mut flate2::read::MultiGzDecoder::new(packed), &mut out)
    }
}
