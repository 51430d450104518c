//! Inflates one zlib-compressed grain, never more than one grain of output, checksum verified.

use libdeflater::{DecompressionError, Decompressor};

use super::bytes::to_usize;

/// A grain may compress to more than a grain (65,562 bytes were seen for 64 KiB); what is beyond this slack is refused.
pub const COMPRESSED_SLACK: u64 = 65_536;

/// Why a grain cannot be used. The caller knows the file and the offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    /// The zlib stream is damaged, its Adler-32 is wrong, or it wants a preset dictionary.
    #[error("the zlib stream is damaged (bad header, bad code or wrong Adler-32)")]
    Damaged,
    /// More output than a grain: an inflate bomb or a wrong grain size.
    #[error("the zlib stream inflates to more than one grain of {0} bytes")]
    TooLong(usize),
    /// Less output than the grain must have.
    #[error("the zlib stream inflates to {found} bytes where the grain has {wanted}")]
    TooShort {
        /// Bytes that came out.
        found: usize,
        /// Bytes wanted.
        wanted: usize,
    },
}

/// One thread's inflater with its buffer.
#[derive(Default)]
pub struct GrainInflater {
    inner: Option<Decompressor>,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for GrainInflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrainInflater")
            .field("buffer", &self.buffer.len())
            .finish_non_exhaustive()
    }
}

impl GrainInflater {
    /// An inflater without a buffer yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Inflates `zlib`, at most `full` bytes (the grain size), and returns the first `wanted` (the grain clipped by the
    /// end of the disk; the stream of the last grain may hold either length).
    ///
    /// # Errors
    /// [`InflateError`]; nothing of a refused grain is to be used.
    pub fn inflate(&mut self, zlib: &[u8], full: u64, wanted: u32) -> Result<&[u8], InflateError> {
        let full = to_usize(full);
        let wanted = to_usize(u64::from(wanted));
        if self.buffer.len() < full {
            self.buffer.resize(full, 0);
        }
        let inner = self.inner.get_or_insert_with(Decompressor::new);
        let found = match inner.zlib_decompress(zlib, &mut self.buffer[..full]) {
            Ok(found) => found,
            Err(DecompressionError::BadData) => return Err(InflateError::Damaged),
            Err(DecompressionError::InsufficientSpace) => return Err(InflateError::TooLong(full)),
        };
        if found < wanted {
            return Err(InflateError::TooShort { found, wanted });
        }
        Ok(&self.buffer[..wanted])
    }
}
