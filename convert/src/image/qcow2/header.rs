//! The header: encoding ours, parsing anybody's.

use super::codec::CompressedFormat;
use crate::image::bytes::MAX_DISK;

const MAGIC: u32 = 0x5146_49fb;
/// Length of the header that we write.
const OURS: usize = 112;
/// Incompatible feature bits.
const DIRTY: u64 = 1;
const CORRUPT: u64 = 2;
const DATA_FILE: u64 = 4;
const COMPRESSION_TYPE: u64 = 8;
const EXTENDED_L2: u64 = 16;
/// Autoclear bit: the external data file is a valid raw image by itself.
const RAW_DATA_FILE: u64 = 2;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
const EXTENSION_FEATURE_NAMES: u32 = 0x6803_f857;

/// Why bytes are not a header that we read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct HeaderError {
    /// Byte offset in the file.
    pub offset: u64,
    /// Whether the image is sound but outside of what we read.
    pub unsupported: bool,
    /// Value found and value allowed.
    pub message: String,
}

/// What the header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// log2 of the cluster size.
    pub cluster_bits: u32,
    /// Guest-visible size in bytes.
    pub virtual_bytes: u64,
    /// Entries of the L1 table.
    pub l1_entries: u32,
    /// Byte offset of the L1 table.
    pub l1_offset: u64,
    /// Byte offset of the refcount table.
    pub refcount_table_offset: u64,
    /// Clusters of the refcount table.
    pub refcount_table_clusters: u32,
    /// Format of compressed clusters.
    pub compressed: CompressedFormat,
    /// 128-bit L2 entries.
    pub extended_l2: bool,
    /// Name of the external data file as stored, if there is one.
    pub data_file: Option<Vec<u8>>,
    /// The dirty bit: refcounts may be out of date. Content is sound.
    pub dirty: bool,
}

impl Header {
    /// The bytes of the first cluster up to the end of the extensions.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut incompatible = 0;
        let mut names: Vec<(u8, &str)> = Vec::new();
        if self.data_file.is_some() {
            incompatible |= DATA_FILE;
            names.push((2, "external data file"));
        }
        if self.compressed == CompressedFormat::Zstd {
            incompatible |= COMPRESSION_TYPE;
            names.push((3, "compression type"));
        }
        if self.extended_l2 {
            incompatible |= EXTENDED_L2;
            names.push((4, "extended L2 entries"));
        }
        let mut out = Vec::with_capacity(512);
        out.extend(MAGIC.to_be_bytes());
        out.extend(3_u32.to_be_bytes());
        out.extend([0; 12]); // no backing file
        out.extend(self.cluster_bits.to_be_bytes());
        out.extend(self.virtual_bytes.to_be_bytes());
        out.extend([0; 4]); // no encryption
        out.extend(self.l1_entries.to_be_bytes());
        out.extend(self.l1_offset.to_be_bytes());
        out.extend(self.refcount_table_offset.to_be_bytes());
        out.extend(self.refcount_table_clusters.to_be_bytes());
        out.extend([0; 12]); // no snapshots
        out.extend(incompatible.to_be_bytes());
        out.extend(0_u64.to_be_bytes());
        out.extend(if self.data_file.is_some() { RAW_DATA_FILE } else { 0 }.to_be_bytes());
        out.extend(4_u32.to_be_bytes()); // 16-bit refcounts
        out.extend(112_u32.to_be_bytes());
        out.push(match self.compressed {
            CompressedFormat::Deflate => 0,
            CompressedFormat::Zstd => 1,
        });
        out.extend([0; 7]);
        debug_assert_eq!(out.len(), OURS);
        if let Some(name) = &self.data_file {
            extension(&mut out, EXTENSION_DATA_FILE, name);
        }
        if !names.is_empty() {
            let mut table = Vec::new();
            for (bit, name) in names {
                table.extend([0, bit]); // type 0: incompatible
                let mut field = [0_u8; 46];
                field[..name.len()].copy_from_slice(name.as_bytes());
                table.extend(field);
            }
            extension(&mut out, EXTENSION_FEATURE_NAMES, &table);
        }
        out.extend([0; 8]);
        out
    }

    /// Parses the beginning of a file: `bytes` is its first cluster or less.
    ///
    /// # Errors
    /// Not qcow2, a feature that we do not read, fields out of range.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let bad = |offset: u64, message: String| HeaderError {
            offset,
            unsupported: false,
            message,
        };
        let unsupported = |offset: u64, message: String| HeaderError {
            offset,
            unsupported: true,
            message,
        };
        if bytes.len() < 72 {
            return Err(bad(0, format!("{} bytes are too few for a qcow2 header", bytes.len())));
        }
        if be32(bytes, 0) != MAGIC {
            return Err(bad(
                0,
                "no qcow2 magic number: not qcow2, or a conversion that never finished".into(),
            ));
        }
        let version = be32(bytes, 4);
        if !(2..=3).contains(&version) {
            return Err(unsupported(4, format!("qcow2 version {version}, readable are 2 and 3")));
        }
        if be64(bytes, 8) != 0 {
            return Err(unsupported(8, "the image has a backing file, which is not read".into()));
        }
        let cluster_bits = be32(bytes, 20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(bad(20, format!("cluster_bits is {cluster_bits}, allowed are 9 to 21")));
        }
        if be64(bytes, 24) > MAX_DISK {
            return Err(unsupported(
                24,
                format!("the disk has {} bytes, at most 1 PiB is read", be64(bytes, 24)),
            ));
        }
        if be32(bytes, 32) != 0 {
            return Err(unsupported(32, "the image is encrypted".into()));
        }
        let mut header = Self {
            version,
            cluster_bits,
            virtual_bytes: be64(bytes, 24),
            l1_entries: be32(bytes, 36),
            l1_offset: be64(bytes, 40),
            refcount_table_offset: be64(bytes, 48),
            refcount_table_clusters: be32(bytes, 56),
            compressed: CompressedFormat::Deflate,
            extended_l2: false,
            data_file: None,
            dirty: false,
        };
        let mut extensions = 72;
        if version == 3 {
            if bytes.len() < 104 {
                return Err(bad(0, "the version 3 header is cut off".into()));
            }
            let incompatible = be64(bytes, 72);
            let unknown = incompatible & !(DIRTY | CORRUPT | DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2);
            if unknown != 0 {
                return Err(unsupported(72, format!("unknown incompatible features {unknown:#x}")));
            }
            if incompatible & CORRUPT != 0 {
                return Err(bad(72, "the image is marked corrupt".into()));
            }
            header.dirty = incompatible & DIRTY != 0;
            header.extended_l2 = incompatible & EXTENDED_L2 != 0;
            if header.extended_l2 && cluster_bits < 14 {
                return Err(bad(20, format!("cluster_bits is {cluster_bits}, extended L2 needs 14")));
            }
            let length = be32(bytes, 100);
            extensions = usize::try_from(length)
                .ok()
                .filter(|&length| length >= 104 && length % 8 == 0 && length <= bytes.len())
                .ok_or_else(|| bad(100, format!("header length is {length}")))?;
            if incompatible & COMPRESSION_TYPE != 0 {
                header.compressed = match bytes.get(104).filter(|_| extensions > 104) {
                    Some(0) => CompressedFormat::Deflate,
                    Some(1) => CompressedFormat::Zstd,
                    other => {
                        return Err(unsupported(
                            104,
                            format!("compression type {other:?}, readable are 0 and 1"),
                        ));
                    }
                };
            }
            if incompatible & DATA_FILE != 0 {
                header.data_file = Some(Vec::new());
            }
        }
        header
            .extensions(bytes, extensions)
            .map_err(|(at, message)| bad(at, message))?;
        if header.data_file.as_ref().is_some_and(Vec::is_empty) {
            return Err(bad(72, "an external data file is announced and not named".into()));
        }
        Ok(header)
    }

    fn extensions(&mut self, bytes: &[u8], mut at: usize) -> Result<(), (u64, String)> {
        while let Some(head) = bytes.get(at..at + 8) {
            let (kind, length) = (be32(head, 0), be32(head, 4));
            let here = u64::try_from(at).unwrap_or(u64::MAX);
            if kind == 0 {
                break;
            }
            let length = usize::try_from(length).map_err(|_| (here, format!("extension of {length} bytes")))?;
            let body = at
                .checked_add(8)
                .and_then(|start| bytes.get(start..start.checked_add(length)?))
                .ok_or_else(|| {
                    (
                        here,
                        format!("extension {kind:#x} of {length} bytes ends past the first cluster"),
                    )
                })?;
            if kind == EXTENSION_DATA_FILE && self.data_file.is_some() {
                self.data_file = Some(body.to_vec());
            }
            at += 8 + length.next_multiple_of(8);
        }
        Ok(())
    }
}

fn extension(out: &mut Vec<u8>, kind: u32, body: &[u8]) {
    out.extend(kind.to_be_bytes());
    let length = u32::try_from(body.len()).expect("extensions are shorter than a cluster");
    out.extend(length.to_be_bytes());
    out.extend(body);
    out.resize(out.len().next_multiple_of(8), 0);
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Header {
        Header {
            version: 3,
            cluster_bits: 16,
            virtual_bytes: 5 << 30,
            l1_entries: 10,
            l1_offset: 0x10000,
            refcount_table_offset: 0x20000,
            refcount_table_clusters: 1,
            compressed: CompressedFormat::Zstd,
            extended_l2: true,
            data_file: Some(b"disk-flat.vmdk".to_vec()),
            dirty: false,
        }
    }

    #[test]
    fn a_header_survives_encoding() {
        let mut bytes = sample().encode();
        bytes.resize(65536, 0);
        assert_eq!(Header::parse(&bytes).unwrap(), sample());
    }

    #[test]
    fn every_truncation_and_every_flipped_byte_is_survived() {
        let bytes = sample().encode();
        for end in 0..bytes.len() {
            let _ = Header::parse(&bytes[..end]);
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                let _ = Header::parse(&damaged);
            }
        }
    }

    #[test]
    fn backing_files_and_unknown_features_are_refused() {
        let mut bytes = sample().encode();
        bytes[15] = 1;
        assert!(Header::parse(&bytes).unwrap_err().unsupported);
        let mut bytes = sample().encode();
        bytes[78] = 1;
        assert!(Header::parse(&bytes).unwrap_err().unsupported);
    }
}
