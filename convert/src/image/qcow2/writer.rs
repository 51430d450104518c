//! Tables, refcounts and header around data that somebody else writes.

use super::codec::CompressedFormat;
use super::header::Header;
use super::layout::{ClosedTable, Placer};
use super::refcount::Refcounts;
use super::tables::{COPIED, Geometry, compressed_entry, stored_entry};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Writes an image's metadata while guest clusters are placed in ascending order. It never writes guest data: callers
/// write that to the offsets they are given. Memory: the L1 table, one L2 table and two refcount blocks.
#[derive(Debug)]
pub struct Qcow2Writer<'f> {
    file: &'f File,
    geometry: Geometry,
    compressed: CompressedFormat,
    placer: Placer,
    counts: Refcounts,
    l1: Vec<u64>,
    entries: Vec<u64>,
    used: bool,
}

impl<'f> Qcow2Writer<'f> {
    /// A new image in `file`, which is empty or the partial file of an interrupted run with the same options.
    #[must_use]
    pub fn new(file: &'f File, geometry: Geometry, compressed: CompressedFormat) -> Self {
        let placer = Placer::new(&geometry);
        let counts = Refcounts::new(&geometry, &placer.layout);
        let l1 = usize::try_from(geometry.l1_entries()).expect("the geometry caps L1 at 32 MiB");
        let entries = usize::try_from(geometry.cluster() / 8).expect("at most 2 MiB");
        Self {
            file,
            geometry,
            compressed,
            placer,
            counts,
            l1: vec![0; l1],
            entries: vec![0; entries],
            used: false,
        }
    }

    /// The state of placing, for a planner that runs ahead.
    #[must_use]
    pub fn placer(&self) -> Placer {
        self.placer.clone()
    }

    /// Bytes of the file that are laid out so far.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.placer.end()
    }

    /// Places a stored cluster and returns its host offset. With `present` false the place stays empty and the cluster
    /// reads as zeros: data that turned out to be zero after its place was planned.
    ///
    /// # Errors
    /// Writing a table that this completes.
    pub fn stored(&mut self, guest_cluster: u64, present: bool) -> io::Result<u64> {
        self.enter(guest_cluster)?;
        let host = self.placer.layout.take();
        let offset = host << self.geometry.cluster_bits;
        if present {
            self.count(host)?;
            self.set(guest_cluster, stored_entry(offset), 0xffff_ffff << 32);
        }
        Ok(offset)
    }

    /// Places a compressed cluster of `length` bytes (shorter than a cluster) and returns its host offset.
    ///
    /// # Errors
    /// Writing a table that this completes; an offset above what a compressed entry holds.
    pub fn compressed(&mut self, guest_cluster: u64, length: u64) -> io::Result<u64> {
        self.enter(guest_cluster)?;
        let bits = self.geometry.cluster_bits;
        let offset = self.placer.layout.compressed(length);
        let entry = compressed_entry(bits, offset, length).ok_or_else(|| {
            io::Error::other(format!(
                "byte {offset} is past what a compressed qcow2 cluster can name"
            ))
        })?;
        let (first, last) = (offset >> bits, (offset + length - 1) >> bits);
        for host in first..=last {
            self.count(host)?;
        }
        self.set(guest_cluster, entry, 0);
        Ok(offset)
    }

    fn enter(&mut self, guest_cluster: u64) -> io::Result<()> {
        match self.placer.enter(guest_cluster) {
            Some(closed) => self.write_table(closed),
            None => Ok(()),
        }
    }

    fn set(&mut self, guest_cluster: u64, entry: u64, subclusters: u64) {
        let slot = usize::try_from(guest_cluster % self.geometry.l2_entries()).expect("at most 2^18 entries");
        if self.geometry.extended_l2 {
            // Bits 0 to 31 of the second word: subcluster allocated.
            self.entries[2 * slot] = entry;
            self.entries[2 * slot + 1] = subclusters >> 32;
        } else {
            self.entries[slot] = entry;
        }
        self.used = true;
    }

    fn count(&mut self, host: u64) -> io::Result<()> {
        self.counts.add(host, &self.placer.layout);
        if self.counts.behind(host) {
            self.write_blocks(Some(host))?;
        }
        Ok(())
    }

    fn write_blocks(&mut self, before: Option<u64>) -> io::Result<()> {
        for (host, bytes) in self.counts.finished(before, &self.placer.layout) {
            self.file.write_all_at(&bytes, host << self.geometry.cluster_bits)?;
        }
        Ok(())
    }

    fn write_table(&mut self, closed: ClosedTable) -> io::Result<()> {
        if !std::mem::take(&mut self.used) {
            return Ok(());
        }
        let offset = closed.host_cluster << self.geometry.cluster_bits;
        self.count(closed.host_cluster)?;
        self.file.write_all_at(&big_endian(&self.entries), offset)?;
        self.entries.fill(0);
        let slot = usize::try_from(closed.l1_index).expect("the L1 table is in memory");
        self.l1[slot] = stored_entry(offset);
        Ok(())
    }

    /// Writes everything but the header and returns the file's length. Sync the file, then call
    /// [`Self::write_header`] with the result.
    ///
    /// # Errors
    /// Writing; a refcount table above QEMU's 8 MiB.
    pub fn finish(&mut self) -> io::Result<Header> {
        if let Some(closed) = self.placer.close() {
            self.write_table(closed)?;
        }
        let bits = self.geometry.cluster_bits;
        let (first, clusters) = self.placer.layout.take_refcount_table();
        if clusters << bits > 8 << 20 || clusters >= self.geometry.refcounts_per_block() {
            return Err(io::Error::other(
                "the refcount table grows past the 8 MiB that QEMU accepts: choose larger clusters",
            ));
        }
        for host in first..first + clusters {
            self.count(host)?;
        }
        self.write_blocks(None)?;
        self.file.set_len(self.placer.end())?;
        self.file
            .write_all_at(&big_endian(self.counts.table()), first << bits)?;
        self.file
            .write_all_at(&big_endian(&self.l1), self.placer.layout.l1_offset())?;
        Ok(Header {
            version: 3,
            cluster_bits: bits,
            virtual_bytes: self.geometry.virtual_bytes,
            l1_entries: u32::try_from(self.l1.len()).expect("the geometry caps L1 at 32 MiB"),
            l1_offset: self.placer.layout.l1_offset(),
            refcount_table_offset: first << bits,
            refcount_table_clusters: u32::try_from(clusters).expect("at most 8 MiB"),
            compressed: self.compressed,
            extended_l2: self.geometry.extended_l2,
            data_file: None,
            dirty: false,
        })
    }

    /// Writes the header: from here on the file is an image.
    ///
    /// # Errors
    /// Writing.
    pub fn write_header(&self, header: &Header) -> io::Result<()> {
        self.file.write_all_at(&header.encode(), 0)
    }
}

/// Writes an image that holds only tables: every guest cluster lies at its own offset in the data file `name`. The L2
/// tables are complete, since QEMU reads zeros where an entry is missing. Returns the file's length.
///
/// # Errors
/// Writing.
pub fn write_data_file_shell(file: &File, geometry: Geometry, name: &[u8]) -> io::Result<Header> {
    let mut writer = Qcow2Writer::new(file, geometry, CompressedFormat::Deflate);
    let per_table = geometry.l2_entries();
    let words = usize::try_from(geometry.cluster() / geometry.entry_bytes()).expect("at most 2^18");
    let step = usize::try_from(geometry.entry_bytes()).expect("8 or 16");
    let mut bytes = vec![0_u8; words * step];
    for l1_index in 0..geometry.l1_entries() {
        let first = l1_index * per_table;
        let count = per_table.min(geometry.clusters() - first);
        for (slot, chunk) in (0..per_table).zip(bytes.chunks_exact_mut(step)) {
            let (entry, subclusters) = if slot < count {
                (COPIED | (first + slot) << geometry.cluster_bits, 0xffff_ffff_u64)
            } else {
                (0, 0)
            };
            chunk[..8].copy_from_slice(&entry.to_be_bytes());
            if geometry.extended_l2 {
                chunk[8..].copy_from_slice(&subclusters.to_be_bytes());
            }
        }
        let host = writer.placer.layout.take();
        writer.count(host)?;
        let offset = host << geometry.cluster_bits;
        file.write_all_at(&bytes, offset)?;
        let slot = usize::try_from(l1_index).expect("the L1 table is in memory");
        writer.l1[slot] = stored_entry(offset);
    }
    let mut header = writer.finish()?;
    header.data_file = Some(name.to_vec());
    Ok(header)
}

fn big_endian(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}
