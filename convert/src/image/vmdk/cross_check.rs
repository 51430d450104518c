//! Compares the tables of a stream with the grains that came, whether the tables lie in front of the grains or behind them.

use std::collections::HashMap;

use crate::image::ImageErrorKind;
use crate::image::bytes::{SECTOR, le32, to_u64, to_usize};

use super::header::HostedHeader;

/// Grains that may wait for their table before the comparison is given up.
const MAX_PENDING: usize = 1 << 20;
/// Tables that may wait for the directory, for the same reason; a full disk of 62 TB has half of that.
const MAX_TABLES: usize = 4 << 20;

/// What is known so far.
#[derive(Debug, Default)]
pub(super) struct CrossCheck {
    /// The metadata in front, where the tables are in it.
    front: Option<Vec<u8>>,
    /// Sector of a grain that no table named yet → its number.
    pending: HashMap<u64, u64>,
    /// Number and sector of each table met.
    tables: Vec<(u64, u32)>,
    /// How many of the tables the directory has confirmed.
    confirmed: usize,
    directory: Option<u64>,
    given_up: bool,
}

impl CrossCheck {
    /// `front` is the metadata in front of the grains, where the tables are in it.
    pub(super) fn new(front: Option<Vec<u8>>) -> Self {
        Self {
            front,
            ..Self::default()
        }
    }

    /// Whether tables were there and agreed.
    pub(super) fn agreed(&self) -> bool {
        !self.given_up && self.has_directory()
    }

    /// Whether a directory was met.
    pub(super) fn has_directory(&self) -> bool {
        self.front.is_some() || self.directory.is_some()
    }

    /// The sector of the directory behind the grains.
    pub(super) fn directory(&self) -> Option<u64> {
        self.directory
    }

    /// A grain came. True where the comparison is given up here.
    pub(super) fn grain(&mut self, header: &HostedHeader, sector: u64, number: u64) -> Result<bool, String> {
        if let Some(front) = &self.front {
            let entry = front_entry(front, header, number);
            if entry != Some(sector) {
                return Err(format!(
                    "the grain table in front says {entry:?} for grain {number}, its marker is at sector {sector}"
                ));
            }
        } else if !self.given_up {
            if self.pending.len() >= MAX_PENDING {
                self.give_up();
                return Ok(true);
            }
            self.pending.insert(sector, number);
        }
        Ok(false)
    }

    fn give_up(&mut self) {
        self.given_up = true;
        self.pending = HashMap::new();
        self.tables = Vec::new();
    }

    /// A grain table came, which lies at `sector`. True where the comparison is given up here.
    pub(super) fn table(&mut self, header: &HostedHeader, sector: u64, body: &[u8]) -> Result<bool, String> {
        if self.front.is_some() || self.given_up {
            return Ok(false);
        }
        let mut table = None;
        for (slot, entry) in (0_u64..)
            .zip(body.chunks_exact(4))
            .take(to_usize(header.entries_per_table))
        {
            let entry = u64::from(le32(entry, 0));
            if entry == 0 || (entry == 1 && header.zeroed_entries) {
                continue;
            }
            let number = self.pending.remove(&entry);
            let fits = number.is_some_and(|number| {
                number % header.entries_per_table == slot
                    && *table.get_or_insert(number / header.entries_per_table) == number / header.entries_per_table
            });
            if !fits {
                return Err(format!(
                    "grain-table entry {slot} names sector {entry}, the markers say {number:?}"
                ));
            }
        }
        if let Some(table) = table {
            let sector = u32::try_from(sector)
                .map_err(|_| format!("a grain table at sector {sector}, which no directory entry can name"))?;
            if self.tables.len() >= MAX_TABLES {
                self.give_up();
                return Ok(true);
            }
            self.tables.push((table, sector));
        }
        Ok(false)
    }

    /// The directory begins, at `sector`.
    pub(super) fn begin_directory(&mut self, sector: u64) {
        self.directory = Some(sector);
        self.confirmed = 0;
        self.tables.sort_unstable();
    }

    /// Entries of the directory from number `first` on.
    pub(super) fn directory_part(&mut self, first: u64, bytes: &[u8]) -> Result<(), String> {
        while let Some((table, wanted)) = self.tables.get(self.confirmed) {
            let index = to_usize(table.saturating_sub(first)) * 4;
            let Some(entry) = bytes.get(index..index + 4) else {
                break;
            };
            let found = le32(entry, 0);
            if found != *wanted {
                return Err(format!(
                    "grain directory entry {table} is {found}, the table lies at sector {wanted}"
                ));
            }
            self.confirmed += 1;
        }
        Ok(())
    }

    /// The directory has ended.
    pub(super) fn end_directory(&self) -> Result<(), String> {
        match self.tables.get(self.confirmed) {
            None => Ok(()),
            Some((table, sector)) => Err(format!(
                "grain directory entry {table} is missing, the table lies at sector {sector}"
            )),
        }
    }

    /// The end: every grain must be in a table, and every entry of the tables in front must have come.
    pub(super) fn finish(&self, header: &HostedHeader, grains: u64) -> Result<(), (ImageErrorKind, String)> {
        if let Some(front) = &self.front {
            let stated = stated(front, header);
            if stated != grains {
                let text = format!("the tables name {stated} grains, {grains} came: the stream is incomplete");
                return Err((ImageErrorKind::Truncated, text));
            }
        } else if self.directory.is_some() && !self.pending.is_empty() {
            let text = format!("{} grains are in no table", self.pending.len());
            return Err((ImageErrorKind::Damaged, text));
        }
        Ok(())
    }
}

/// The number at byte `offset` of the metadata in front.
fn word(front: &[u8], offset: u64) -> Option<u64> {
    let offset = usize::try_from(offset).ok()?;
    front
        .get(offset..offset.checked_add(4)?)
        .map(|entry| u64::from(le32(entry, 0)))
}

/// The sector that the tables in front name for a grain.
fn front_entry(front: &[u8], header: &HostedHeader, number: u64) -> Option<u64> {
    let table = word(front, header.directory? + number / header.entries_per_table * 4)?;
    if table == 0 {
        return None;
    }
    word(front, table * SECTOR + number % header.entries_per_table * 4)
}

/// How many grains the tables in front name. A directory of 16 MiB could stand for 10^10 entries: empty tables cost nothing,
/// and one that several entries name is counted once.
fn stated(front: &[u8], header: &HostedHeader) -> u64 {
    let Some(directory) = header.directory else { return 0 };
    let grains = header.capacity.div_ceil(header.grain);
    let mut counted: HashMap<u64, u64> = HashMap::new();
    let mut stated = 0_u64;
    for table in 0..header.directory_entries() {
        let Some(sector) = word(front, directory + table * 4).filter(|sector| *sector != 0) else {
            continue;
        };
        let left = grains - table * header.entries_per_table;
        // What the last table has behind the disk's end is garbage.
        let count = if left < header.entries_per_table {
            count(front, sector, left)
        } else {
            *counted
                .entry(sector)
                .or_insert_with(|| count(front, sector, header.entries_per_table))
        };
        stated = stated.saturating_add(count);
    }
    stated
}

/// Grains among the first `entries` of the table at `sector`, as far as it is there.
fn count(front: &[u8], sector: u64, entries: u64) -> u64 {
    let start = to_usize(sector.saturating_mul(SECTOR)).min(front.len());
    let table = &front[start..];
    let table = &table[..table.len().min(to_usize(entries * 4))];
    to_u64(table.chunks_exact(4).filter(|entry| le32(entry, 0) > 1).count())
}
