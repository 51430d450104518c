//! Frames on a serial byte stream: where a message starts, where it ends, and whether it arrived whole.
//!
//! Layout, little endian: magic `EXF1` (4 bytes), length of the head (u32), length of the blob (u32), CRC-32 (IEEE) over
//! both lengths, head and blob (u32), head (JSON), blob (raw bytes). Kernel messages and a getty may write to the same line, so
//! a reader skips whatever is no frame and goes on behind it: it looks for the next magic after a bad length or checksum.

use std::io::{self, Read, Write};

/// Start of every frame.
pub const MAGIC: [u8; 4] = *b"EXF1";
/// Largest head in bytes.
pub const MAX_HEAD: usize = 4 << 20;
/// Largest blob in bytes.
pub const MAX_BLOB: usize = 1 << 20;
const FIXED: usize = 16;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The message as JSON.
    pub head: Vec<u8>,
    /// Raw bytes that belong to it.
    pub blob: Vec<u8>,
}

fn checksum(lengths: &[u8], head: &[u8], blob: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(lengths);
    hasher.update(head);
    hasher.update(blob);
    hasher.finalize()
}

/// Writes one frame and flushes.
///
/// # Errors
/// A head above [`MAX_HEAD`] or a blob above [`MAX_BLOB`] (`InvalidInput`), and write errors.
pub fn write(to: &mut dyn Write, head: &[u8], blob: &[u8]) -> io::Result<()> {
    let too_long = |what: &str, length: usize, most: usize| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{what} of {length} bytes is above {most}"),
        )
    };
    if head.len() > MAX_HEAD {
        return Err(too_long("a head", head.len(), MAX_HEAD));
    }
    if blob.len() > MAX_BLOB {
        return Err(too_long("a blob", blob.len(), MAX_BLOB));
    }
    let head_length = u32::try_from(head.len()).map_err(io::Error::other)?;
    let blob_length = u32::try_from(blob.len()).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(FIXED + head.len() + blob.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&head_length.to_le_bytes());
    bytes.extend_from_slice(&blob_length.to_le_bytes());
    let sum = checksum(&bytes[4..12], head, blob);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes.extend_from_slice(head);
    bytes.extend_from_slice(blob);
    to.write_all(&bytes)?;
    to.flush()
}

/// Takes bytes as they come and gives frames; skips what is none.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    skipped: u64,
}

impl Decoder {
    /// Adds bytes from the line.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes skipped so far because they belonged to no frame.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    fn skip(&mut self, count: usize) {
        self.buffer.drain(..count);
        self.skipped += count as u64;
    }

    /// The next whole frame, or `None` until more bytes come.
    pub fn next_frame(&mut self) -> Option<Frame> {
        loop {
            let start = self.buffer.windows(4).position(|window| window == MAGIC);
            let Some(start) = start else {
                // The last three bytes may be the start of a magic.
                self.skip(self.buffer.len().saturating_sub(3));
                return None;
            };
            self.skip(start);
            if self.buffer.len() < FIXED {
                return None;
            }
            let number = |at: usize| {
                let bytes = [
                    self.buffer[at],
                    self.buffer[at + 1],
                    self.buffer[at + 2],
                    self.buffer[at + 3],
                ];
                u32::from_le_bytes(bytes)
            };
            let (head_length, blob_length, sum) = (number(4) as usize, number(8) as usize, number(12));
            if head_length > MAX_HEAD || blob_length > MAX_BLOB {
                self.skip(4);
                continue;
            }
            let total = FIXED + head_length + blob_length;
            if self.buffer.len() < total {
                // A damaged length would make us wait for bytes that never come: a later whole frame proves it wrong.
                if self.whole_frame_behind() {
                    self.skip(4);
                    continue;
                }
                return None;
            }
            let (head, blob) = self.buffer[FIXED..total].split_at(head_length);
            if checksum(&self.buffer[4..12], head, blob) != sum {
                self.skip(4);
                continue;
            }
            let frame = Frame {
                head: head.to_vec(),
                blob: blob.to_vec(),
            };
            self.buffer.drain(..total);
            return Some(frame);
        }
    }

    fn whole_frame_behind(&self) -> bool {
        let mut at = 4;
        while let Some(found) = self.buffer[at..].windows(4).position(|window| window == MAGIC) {
            let start = at + found;
            let rest = &self.buffer[start..];
            if rest.len() >= FIXED {
                let number = |at: usize| u32::from_le_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
                let (head, blob) = (number(4) as usize, number(8) as usize);
                let fits = head <= MAX_HEAD && blob <= MAX_BLOB && rest.len() >= FIXED + head + blob;
                if fits {
                    let (head, blob) = rest[FIXED..FIXED + head + blob].split_at(head);
                    if checksum(&rest[4..12], head, blob) == number(12) {
                        return true;
                    }
                }
            }
            at = start + 4;
        }
        false
    }
}

/// Reads until a frame is whole.
///
/// # Errors
/// Read errors; `UnexpectedEof` where the line was closed.
pub fn read(from: &mut dyn Read, decoder: &mut Decoder) -> io::Result<Frame> {
    let mut buffer = [0_u8; 16 << 10];
    loop {
        if let Some(frame) = decoder.next_frame() {
            return Ok(frame);
        }
        match from.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => decoder.push(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Decoder, Frame, MAX_BLOB, write};
    use proptest::prelude::*;

    fn framed(head: &[u8], blob: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, head, blob).expect("small frame");
        bytes
    }

    #[test]
    fn kernel_text_between_frames_is_skipped() {
        let mut decoder = Decoder::default();
        let mut line = b"[    1.23] EXF random: crng init done\r\n".to_vec();
        line.extend(framed(b"{}", b"one"));
        line.extend(b"EXF1 login: ");
        line.extend(framed(b"[]", b"two"));
        for byte in line {
            decoder.push(&[byte]);
        }
        let first = decoder.next_frame().expect("first frame");
        assert_eq!(
            first,
            Frame {
                head: b"{}".to_vec(),
                blob: b"one".to_vec()
            }
        );
        assert_eq!(decoder.next_frame().expect("second frame").blob, b"two");
        assert!(decoder.next_frame().is_none());
    }

    #[test]
    fn a_damaged_frame_is_dropped_and_the_next_one_arrives() {
        let mut damaged = framed(b"{\"a\":1}", b"payload");
        damaged[18] ^= 1;
        let mut decoder = Decoder::default();
        decoder.push(&damaged);
        decoder.push(&framed(b"ok", b""));
        assert_eq!(decoder.next_frame().expect("whole frame").head, b"ok");
    }

    #[test]
    fn a_length_that_promises_too_much_does_not_block_the_line() {
        let mut damaged = framed(b"{\"a\":1}", b"payload");
        damaged[9] = 0x0f;
        let mut decoder = Decoder::default();
        decoder.push(&damaged);
        decoder.push(&framed(b"ok", b""));
        assert_eq!(decoder.next_frame().expect("whole frame").head, b"ok");
    }

    #[test]
    fn an_oversized_blob_is_refused_by_the_writer() {
        let error = write(&mut Vec::new(), b"", &vec![0; MAX_BLOB + 1]).expect_err("above the bound");
        assert!(error.to_string().contains("blob"), "{error}");
    }

    proptest! {
        #[test]
        fn any_split_and_any_noise_give_the_frames_back(
            frames in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..200), proptest::collection::vec(any::<u8>(), 0..200)), 1..6),
            noise in "[a-z \r\n]{0,40}",
            chunk in 1_usize..64,
        ) {
            let mut line = Vec::new();
            for (head, blob) in &frames {
                line.extend(noise.as_bytes());
                line.extend(framed(head, blob));
            }
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for part in line.chunks(chunk) {
                decoder.push(part);
                while let Some(frame) = decoder.next_frame() {
                    seen.push((frame.head, frame.blob));
                }
            }
            prop_assert_eq!(seen, frames);
        }
    }
}
