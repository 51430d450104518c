//! The compressions that Linux accepts for an initramfs (kernel `lib/decompress.c`), as readers that stop exactly where their data ends.

use std::io::{self, Read};

/// How a part of an initramfs is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    None,
    Gzip,
    Xz,
    Zstd,
    Lz4,
}

/// What is no packing that the kernel knows.
pub(super) const UNKNOWN: &str = "something unknown";

/// By the first bytes; the kernel's own table (`lib/decompress.c`). What it accepts and we cannot read is named.
pub(crate) fn recognise(bytes: &[u8]) -> Result<Packing, &'static str> {
    let table: [(&[u8], Result<Packing, &'static str>); 10] = [
        (b"070701", Ok(Packing::None)),
        (b"070702", Ok(Packing::None)),
        (&[0x1f, 0x8b], Ok(Packing::Gzip)),
        (&[0xfd, b'7', b'z', b'X', b'Z', 0], Ok(Packing::Xz)),
        (&[0x28, 0xb5, 0x2f, 0xfd], Ok(Packing::Zstd)),
        (&LZ4_MAGIC, Ok(Packing::Lz4)),
        (&[0x89, b'L', b'Z', b'O'], Err("lzo")),
        (&[0x5d, 0, 0], Err("lzma")),
        (b"BZh", Err("bzip2")),
        (b"070707", Err("the old portable cpio format")),
    ];
    table
        .into_iter()
        .find(|(magic, _)| bytes.starts_with(magic))
        .map_or(Err(UNKNOWN), |(_, packing)| packing)
}

/// A reader of the part's content. It takes from `from` no more than the part.
pub(crate) fn reader<'r>(packing: Packing, from: &'r mut &[u8]) -> io::Result<Box<dyn Read + 'r>> {
    Ok(match packing {
        Packing::None => Box::new(from),
        Packing::Gzip => Box::new(flate2::bufread::GzDecoder::new(from)),
        Packing::Xz => Box::new(Xz {
            stream: xz2::stream::Stream::new_stream_decoder(MAX_XZ_MEMORY, 0)?,
            from,
            ended: false,
        }),
        Packing::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(from)?.single_frame()),
        Packing::Lz4 => Box::new(LegacyLz4::new(from)?),
    })
}

/// A kernel module's bytes without its compression, by the name's ending; bounded by `most`.
pub(crate) fn module(name: &str, bytes: &[u8], most: u64) -> io::Result<Vec<u8>> {
    let packing = match name.rsplit('.').next() {
        Some("xz") => Packing::Xz,
        Some("zst") => Packing::Zstd,
        Some("gz") => Packing::Gzip,
        _ => return Ok(bytes.to_vec()),
    };
    let (mut from, mut out) = (bytes, Vec::new());
    reader(packing, &mut from)?.take(most + 1).read_to_end(&mut out)?;
    if out.len() as u64 > most {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("unpacks to more than {most} bytes"),
        ));
    }
    Ok(out)
}

/// The largest dictionary of `xz -9` has 64 MiB; the kernel's own decoder allows 128 MiB.
const MAX_XZ_MEMORY: u64 = 192 << 20;

/// One xz stream. The crate's own reader takes what follows a stream for damage.
struct Xz<'r, 's> {
    stream: xz2::stream::Stream,
    from: &'r mut &'s [u8],
    ended: bool,
}

impl Read for Xz<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.ended && !buffer.is_empty() {
            let (read, written) = (self.stream.total_in(), self.stream.total_out());
            let status = self.stream.process(self.from, buffer, xz2::stream::Action::Run)?;
            let read = usize::try_from(self.stream.total_in() - read).map_err(io::Error::other)?;
            let written = usize::try_from(self.stream.total_out() - written).map_err(io::Error::other)?;
            *self.from = &self.from[read..];
            self.ended = status == xz2::stream::Status::StreamEnd;
            if written > 0 {
                return Ok(written);
            }
            if !self.ended && (read == 0 || self.from.is_empty()) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(0)
    }
}

const LZ4_MAGIC: [u8; 4] = 0x184c_2102_u32.to_le_bytes();
/// Content of a block in the legacy format (LZ4 frame specification, "Legacy frame").
const LZ4_BLOCK: usize = 8 << 20;

/// The legacy frame, which is what the kernel's decompressor reads. It has no end mark: a length of zero, or one that cannot be,
/// ends it (kernel `lib/decompress_unlz4.c`).
struct LegacyLz4<'r, 's> {
    from: &'r mut &'s [u8],
    block: Vec<u8>,
    given: usize,
}

impl<'r, 's> LegacyLz4<'r, 's> {
    fn new(from: &'r mut &'s [u8]) -> io::Result<Self> {
        *from = from.get(LZ4_MAGIC.len()..).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Self {
            from,
            block: Vec::new(),
            given: 0,
        })
    }

    fn next_block(&mut self) -> io::Result<bool> {
        loop {
            let Some((length, rest)) = self.from.split_first_chunk::<4>() else {
                return Ok(false);
            };
            if *length == LZ4_MAGIC {
                *self.from = rest;
                continue;
            }
            let length = usize::try_from(u32::from_le_bytes(*length)).map_err(io::Error::other)?;
            if length == 0 || length > lz4_flex::block::get_maximum_output_size(LZ4_BLOCK) {
                return Ok(false);
            }
            let packed = rest.get(..length).ok_or(io::ErrorKind::UnexpectedEof)?;
            let mut block = vec![0; LZ4_BLOCK];
            let written = lz4_flex::block::decompress_into(packed, &mut block)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            block.truncate(written);
            *self.from = &rest[length..];
            (self.block, self.given) = (block, 0);
            if written > 0 {
                return Ok(true);
            }
        }
    }
}

impl Read for LegacyLz4<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given == self.block.len() && !self.next_block()? {
            return Ok(0);
        }
        let count = buffer.len().min(self.block.len() - self.given);
        buffer[..count].copy_from_slice(&self.block[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}

/// A legacy frame of `bytes`.
pub(crate) fn lz4_frame(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut frame = LZ4_MAGIC.to_vec();
    for block in bytes.chunks(LZ4_BLOCK) {
        let packed = lz4_flex::block::compress(block);
        frame.extend(u32::try_from(packed.len()).map_err(io::Error::other)?.to_le_bytes());
        frame.extend(packed);
    }
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::{Packing, lz4_frame, module, reader, recognise};
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    /// Packed by the program itself, as a distribution does it.
    fn packed(program: &[&str], content: &[u8]) -> Option<Vec<u8>> {
        let Ok(mut child) = Command::new(program[0])
            .args(&program[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
        else {
            eprintln!("SKIP: {} is not installed", program[0]);
            return None;
        };
        let (mut input, content) = (child.stdin.take().expect("piped"), content.to_vec());
        let writer = std::thread::spawn(move || input.write_all(&content));
        let output = child.wait_with_output().expect("it ends");
        writer.join().expect("no panic").expect("written");
        Some(output.stdout)
    }

    #[test]
    fn each_packing_is_read_to_its_end_and_no_further() {
        let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let programs: [(&[&str], Packing); 4] = [
            (&["gzip", "-c"], Packing::Gzip),
            (&["xz", "-c", "--check=crc32"], Packing::Xz),
            (&["zstd", "-q", "-c"], Packing::Zstd),
            (&["lz4", "-l", "-c"], Packing::Lz4),
        ];
        for (program, packing) in programs {
            let Some(bytes) = packed(program, &content) else {
                continue;
            };
            assert_eq!(recognise(&bytes), Ok(packing));
            let followed = [bytes, b"\0\0\0\x00070701rest".to_vec()].concat();
            let (mut from, mut out) = (followed.as_slice(), Vec::new());
            reader(packing, &mut from).unwrap().read_to_end(&mut out).unwrap();
            assert!(out == content, "{packing:?}");
            assert_eq!(from, b"\0\0\0\x00070701rest", "{packing:?}");
        }
    }

    #[test]
    fn our_lz4_frame_is_read_by_ourselves_right_behind_another_one() {
        let content = b"esxodus ".repeat(2_000_000);
        let bytes = [lz4_frame(&content).unwrap(), lz4_frame(b"second").unwrap()].concat();
        let (mut from, mut out) = (bytes.as_slice(), Vec::new());
        reader(Packing::Lz4, &mut from).unwrap().read_to_end(&mut out).unwrap();
        assert!(out == [content, b"second".to_vec()].concat() && from.is_empty());
    }

    #[test]
    fn a_module_that_unpacks_to_more_than_the_bound_is_refused() {
        let bomb = zstd::encode_all(vec![0; 100_000].as_slice(), 1).unwrap();
        assert_eq!(module("a.ko.zst", &bomb, 100_000).unwrap().len(), 100_000);
        assert!(module("a.ko.zst", &bomb, 99_999).is_err());
    }
}
