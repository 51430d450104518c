//! Compressing and inflating single clusters with reusable state.

use flate2::{Compress, Compression, FlushCompress, Status};
use libdeflater::Decompressor;
use std::cell::RefCell;
use std::io;

/// How an image's compressed clusters are compressed. An image has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CompressedFormat {
    /// Raw deflate.
    Deflate,
    /// zstd frames; QEMU 5.1 or newer reads it.
    Zstd,
}

/// Raw deflate with a window of 4 KiB, which is what QEMU writes and promises when it reads.
pub struct Deflater {
    state: Compress,
    level: Compression,
}

impl std::fmt::Debug for Deflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Deflater")
    }
}

impl Deflater {
    /// A compressor of `level` 1 to 9.
    #[must_use]
    pub fn new(level: u32) -> Self {
        let level = Compression::new(level);
        Self {
            state: Compress::new_with_window_bits(level, false, 12),
            level,
        }
    }

    /// Compresses `cluster` into `out`; `None` where it does not fit.
    pub fn compress(&mut self, cluster: &[u8], out: &mut [u8]) -> Option<usize> {
        self.state.reset();
        match self.state.compress(cluster, out, FlushCompress::Finish) {
            Ok(Status::StreamEnd) => usize::try_from(self.state.total_out()).ok(),
            _ => {
                // zlib-rs 0.6.8 forgets to reset its output position: a state that was left in the middle of a stream
                // panics some clusters later, so it is not used again.
                self.state = Compress::new_with_window_bits(self.level, false, 12);
                None
            }
        }
    }
}

/// Compresses clusters in one of the formats.
pub enum Encoder {
    /// Deflate, window 4 KiB.
    Deflate(Deflater),
    /// zstd.
    Zstd(Box<zstd::bulk::Compressor<'static>>),
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Deflate(_) => "Encoder::Deflate",
            Self::Zstd(_) => "Encoder::Zstd",
        })
    }
}

impl Encoder {
    /// An encoder; `level` as the format counts (zstd 1 to 19, deflate 1 to 9).
    ///
    /// # Errors
    /// zstd refuses the level or has no memory.
    pub fn new(format: CompressedFormat, level: i32) -> io::Result<Self> {
        Ok(match format {
            CompressedFormat::Deflate => Self::Deflate(Deflater::new(u32::try_from(level).unwrap_or(6))),
            CompressedFormat::Zstd => Self::Zstd(Box::new(zstd::bulk::Compressor::new(level)?)),
        })
    }

    /// Compresses `cluster` into `out`; `None` where it does not fit.
    pub fn compress(&mut self, cluster: &[u8], out: &mut [u8]) -> Option<usize> {
        match self {
            Self::Deflate(deflater) => deflater.compress(cluster, out),
            Self::Zstd(compressor) => compressor.compress_to_buffer(cluster, out).ok(),
        }
    }
}

thread_local! {
    /// Making a decompressor costs as much as using it once.
    static INFLATE: RefCell<Decompressor> = RefCell::new(Decompressor::new());
    static ZSTD: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Inflates one cluster. `input` may go on behind the stream's end, as it does in qcow2.
///
/// # Errors
/// In words what is wrong with the stream.
pub(super) fn decode_cluster(format: CompressedFormat, input: &[u8], out: &mut [u8]) -> Result<(), String> {
    match format {
        CompressedFormat::Deflate => INFLATE.with_borrow_mut(|inflate| match inflate.deflate_decompress(input, out) {
            Ok(found) if found == out.len() => Ok(()),
            Ok(found) => Err(format!(
                "the cluster inflates to {found} bytes instead of {}",
                out.len()
            )),
            Err(error) => Err(format!("the cluster does not inflate: {error}")),
        }),
        CompressedFormat::Zstd => ZSTD.with_borrow_mut(|kept| {
            let context = match kept {
                Some(context) => context,
                None => kept.insert(zstd::bulk::Decompressor::new().map_err(|error| error.to_string())?),
            };
            decode_zstd(context, input, out)
        }),
    }
}

fn decode_zstd(context: &mut zstd::bulk::Decompressor<'static>, input: &[u8], out: &mut [u8]) -> Result<(), String> {
    let (mut from, mut filled) = (0, 0);
    while filled < out.len() {
        let rest = &input[from..];
        let frame = zstd::zstd_safe::find_frame_compressed_size(rest)
            .map_err(|code| format!("no zstd frame: {}", zstd::zstd_safe::get_error_name(code)))?;
        let found = context
            .decompress_to_buffer(&rest[..frame], &mut out[filled..])
            .map_err(|error| format!("the cluster does not decompress: {error}"))?;
        if frame == 0 || found == 0 {
            return Err(format!(
                "the cluster decompresses to {filled} bytes instead of {}",
                out.len()
            ));
        }
        from += frame;
        filled += found;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_shrink_is_declined() {
        let mut noise = vec![0_u8; 4096];
        let mut reader = blake3::Hasher::new().finalize_xof();
        reader.fill(&mut noise);
        let mut out = vec![0; 4095];
        for format in [CompressedFormat::Deflate, CompressedFormat::Zstd] {
            assert_eq!(Encoder::new(format, 1).unwrap().compress(&noise, &mut out), None);
        }
    }

    #[test]
    fn streams_that_do_not_fit_leave_no_trace() {
        let mut deflater = Deflater::new(6);
        let mut noise = vec![0_u8; 65536];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let text: Vec<u8> = noise.iter().map(|byte| byte & 0x1f).collect();
        let mut out = vec![0; 65535];
        let length = deflater.compress(&text, &mut out).unwrap();
        let expected = out[..length].to_vec();
        for room in (0..65535).step_by(1777) {
            let _ = deflater.compress(&text, &mut vec![0; room]);
            assert_eq!(deflater.compress(&noise, &mut out), None);
            assert_eq!(deflater.compress(&text, &mut out), Some(length));
            assert!(out[..length] == expected);
        }
    }

    #[test]
    fn clusters_come_back_with_garbage_behind_the_stream() {
        let cluster: Vec<u8> = (0..65536_u32).flat_map(|i| (i / 7).to_le_bytes()).take(65536).collect();
        for format in [CompressedFormat::Deflate, CompressedFormat::Zstd] {
            let mut out = vec![0x55; 65536];
            let mut encoder = Encoder::new(format, 3).unwrap();
            encoder.compress(&cluster, &mut out[..65535]).unwrap();
            let length = encoder.compress(&cluster, &mut out[..65535]).unwrap();
            let mut back = vec![0; 65536];
            decode_cluster(format, &out[..length + 300], &mut back).unwrap();
            assert!(back == cluster);
        }
    }
}
