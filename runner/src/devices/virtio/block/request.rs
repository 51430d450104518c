//! A virtio-blk request (virtio 1.2, section 5.2.6): parsed from a descriptor chain, checked against the disk, carried out.

use std::io::{self, Read as _, Write as _};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use virtio_queue::{Reader, Writer};
use vm_memory::GuestMemoryMmap;

use super::backend::BlockBackend;
use crate::devices::virtio::Chain;

/// Unit of request addresses, in bytes.
pub const SECTOR: u64 = 512;
/// Length of the serial number field.
pub const ID_BYTES: usize = 20;
/// Requests are copied in pieces of this size.
pub const BUFFER: usize = 1 << 20;
/// Most segments in one discard or write-zeroes request.
pub const MAX_SEGMENTS: usize = 64;
/// Most sectors in one segment: 1 GiB.
pub const MAX_SEGMENT_SECTORS: u32 = 1 << 21;

/// How a request ended; the value of its status byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Ok,
    /// Failed: malformed, out of range, or the back end's error.
    IoError,
    /// Not a request that this device knows.
    Unsupported,
}

impl Status {
    fn byte(self) -> u8 {
        let code = match self {
            Self::Ok => VIRTIO_BLK_S_OK,
            Self::IoError => VIRTIO_BLK_S_IOERR,
            Self::Unsupported => VIRTIO_BLK_S_UNSUPP,
        };
        u8::try_from(code).expect("0, 1 or 2")
    }
}

/// What the disk is, as far as requests need to know.
#[derive(Debug)]
pub struct Disk<'a> {
    /// The image.
    pub backend: &'a dyn BlockBackend,
    /// Refuses everything that writes.
    pub read_only: bool,
    /// Serial number, zero-padded.
    pub id: [u8; ID_BYTES],
    /// The driver did not negotiate FLUSH: every write has to be durable at once.
    pub write_through: bool,
}

/// One range of a discard or write-zeroes request.
#[derive(Debug, Clone, Copy)]
struct Segment {
    sector: u64,
    sectors: u32,
    flags: u32,
}

/// Serves one chain; says how many bytes were written into it. A chain without room for a status byte gets none.
pub fn serve(disk: &Disk<'_>, memory: &GuestMemoryMmap, chain: Chain<'_>, buffer: &mut [u8]) -> u32 {
    let (Ok(mut reader), Ok(mut writer)) = (
        Reader::<()>::new(memory, chain.clone()),
        Writer::<()>::new(memory, chain),
    ) else {
        return 0;
    };
    let Some(data_bytes) = writer.available_bytes().checked_sub(1) else {
        return 0;
    };
    // The status byte is the last writable one, however the driver cut the buffers.
    let Ok(mut status_writer) = writer.split_at(data_bytes) else {
        return 0;
    };
    let status = execute(disk, &mut reader, &mut writer, buffer);
    let data_written = writer.bytes_written();
    if status_writer.write_obj(status.byte()).is_err() {
        return 0;
    }
    // "len" counts from the start of the writable part to the end of what was written; the status is its end.
    u32::try_from(data_written.max(data_bytes).saturating_add(1)).unwrap_or(u32::MAX)
}

fn execute(disk: &Disk<'_>, reader: &mut Reader<'_>, writer: &mut Writer<'_>, buffer: &mut [u8]) -> Status {
    let (Ok(kind), Ok(_reserved), Ok(sector)) = (
        reader.read_obj::<u32>(),
        reader.read_obj::<u32>(),
        reader.read_obj::<u64>(),
    ) else {
        return Status::IoError;
    };
    let result = match u32::from_le(kind) {
        VIRTIO_BLK_T_IN => read(disk, u64::from_le(sector), writer, buffer),
        VIRTIO_BLK_T_OUT if !disk.read_only => {
            write(disk, u64::from_le(sector), reader, buffer).and_then(|()| settle(disk))
        }
        VIRTIO_BLK_T_FLUSH => disk.backend.flush(),
        VIRTIO_BLK_T_GET_ID => {
            let length = writer.available_bytes().min(ID_BYTES);
            writer.write_all(&disk.id[..length])
        }
        kind @ (VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES) if !disk.read_only => {
            return clear(disk, kind == VIRTIO_BLK_T_DISCARD, reader);
        }
        VIRTIO_BLK_T_OUT | VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => {
            return Status::IoError;
        }
        _ => return Status::Unsupported,
    };
    if result.is_ok() { Status::Ok } else { Status::IoError }
}

fn settle(disk: &Disk<'_>) -> io::Result<()> {
    if disk.write_through {
        disk.backend.flush()
    } else {
        Ok(())
    }
}

/// The byte range of a request, inside the disk and in whole sectors.
fn range(disk: &Disk<'_>, sector: u64, bytes: usize) -> io::Result<u64> {
    let outside = || io::Error::from(io::ErrorKind::InvalidInput);
    let bytes = u64::try_from(bytes).map_err(|_| outside())?;
    let offset = sector.checked_mul(SECTOR).ok_or_else(outside)?;
    let end = offset.checked_add(bytes).ok_or_else(outside)?;
    if !bytes.is_multiple_of(SECTOR) || end > disk.backend.size() {
        return Err(outside());
    }
    Ok(offset)
}

fn read(disk: &Disk<'_>, sector: u64, writer: &mut Writer<'_>, buffer: &mut [u8]) -> io::Result<()> {
    let mut left = writer.available_bytes();
    let mut offset = range(disk, sector, left)?;
    while left > 0 {
        let piece = left.min(buffer.len());
        let part = &mut buffer[..piece];
        disk.backend.read(offset, part)?;
        writer.write_all(part)?;
        left -= piece;
        offset += u64::try_from(piece).expect("at most the buffer");
    }
    Ok(())
}

fn write(disk: &Disk<'_>, sector: u64, reader: &mut Reader<'_>, buffer: &mut [u8]) -> io::Result<()> {
    let mut left = reader.available_bytes();
    let mut offset = range(disk, sector, left)?;
    while left > 0 {
        let piece = left.min(buffer.len());
        let part = &mut buffer[..piece];
        reader.read_exact(part)?;
        disk.backend.write(offset, part)?;
        left -= piece;
        offset += u64::try_from(piece).expect("at most the buffer");
    }
    Ok(())
}

/// Discard and write-zeroes.
fn clear(disk: &Disk<'_>, discard: bool, reader: &mut Reader<'_>) -> Status {
    let bytes = reader.available_bytes();
    if bytes == 0 || !bytes.is_multiple_of(16) || bytes / 16 > MAX_SEGMENTS {
        return Status::IoError;
    }
    let mut segments = Vec::with_capacity(bytes / 16);
    for _ in 0..bytes / 16 {
        let (Ok(sector), Ok(sectors), Ok(flags)) = (
            reader.read_obj::<u64>(),
            reader.read_obj::<u32>(),
            reader.read_obj::<u32>(),
        ) else {
            return Status::IoError;
        };
        segments.push(Segment {
            sector: u64::from_le(sector),
            sectors: u32::from_le(sectors),
            flags: u32::from_le(flags),
        });
    }
    // All segments are checked before the first one is carried out.
    let mut ranges = Vec::with_capacity(segments.len());
    for segment in &segments {
        let known = if discard { 0 } else { VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP };
        if segment.flags & !known != 0 {
            return Status::Unsupported;
        }
        if segment.sectors > MAX_SEGMENT_SECTORS {
            return Status::IoError;
        }
        let bytes = u64::from(segment.sectors) * SECTOR;
        let Ok(offset) = range(disk, segment.sector, usize::try_from(bytes).unwrap_or(usize::MAX)) else {
            return Status::IoError;
        };
        ranges.push((offset, bytes, segment.flags != 0));
    }
    for (offset, bytes, unmap) in ranges {
        let done = if discard {
            disk.backend.discard(offset, bytes)
        } else {
            disk.backend.write_zeroes(offset, bytes, unmap)
        };
        if done.is_err() {
            return Status::IoError;
        }
    }
    if settle(disk).is_err() {
        return Status::IoError;
    }
    Status::Ok
}
