//! The journal that makes an interrupted conversion continue.
//!
//! A record says what became of some units: for each cluster absent, zero, stored, or compressed to so many bytes, and
//! the hashes of the leaves. Since layout is a pure function of these outcomes, replaying them through the same writer
//! restores every table without reading the source again. Data is synced before the record that vouches for it, and a
//! record that is incomplete or whose hash is wrong ends the journal.

use super::error::ConvertError;
use super::hash::Leaf;
use super::target::sync_folder;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"esxjrnl1";
/// Bound on a record, far above what one checkpoint makes.
const MAX_RECORD: u32 = 64 << 20;

/// Kinds of record: outcomes of units, the length of the complete file, a note about the source, and the length that the
/// partial file had when the outcomes that follow were written.
const OUTCOMES: u8 = 1;
const COMPLETE: u8 = 2;
const NOTE: u8 = 3;
const LENGTH: u8 = 4;

/// Cluster outcome: not planned, reads as zeros.
pub(super) const ABSENT: u32 = 0;
/// Cluster outcome: a place was planned and the data turned out to be zero.
pub(super) const PLANNED_ZERO: u32 = 1;
/// Cluster outcome: stored as it is. Every other value is the length of a compressed stream.
pub(super) const STORED: u32 = u32::MAX;

/// What became of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Outcome {
    /// Guest offset of the unit in bytes.
    pub(super) offset: u64,
    /// Length in bytes.
    pub(super) length: u64,
    /// One code a cluster; empty for raw targets.
    pub(super) codes: Vec<u32>,
    pub(super) leaves: Vec<Leaf>,
    /// Guest bytes written.
    pub(super) data_bytes: u64,
}

impl Outcome {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.offset.to_le_bytes());
        out.extend(self.length.to_le_bytes());
        out.extend(self.data_bytes.to_le_bytes());
        out.extend(
            u32::try_from(self.codes.len())
                .expect("a unit has few clusters")
                .to_le_bytes(),
        );
        out.extend(
            u32::try_from(self.leaves.len())
                .expect("a unit has few leaves")
                .to_le_bytes(),
        );
        for code in &self.codes {
            out.extend(code.to_le_bytes());
        }
        for (index, hash) in &self.leaves {
            out.extend(index.to_le_bytes());
            out.extend(hash);
        }
    }

    fn decode(from: &mut &[u8]) -> Option<Self> {
        let mut outcome = Self {
            offset: number(from)?,
            length: number(from)?,
            data_bytes: number(from)?,
            ..Self::default()
        };
        let (codes, leaves) = (short(from)?, short(from)?);
        for _ in 0..codes {
            outcome.codes.push(short(from)?);
        }
        for _ in 0..leaves {
            let index = number(from)?;
            outcome.leaves.push((index, *take::<32>(from)?));
        }
        Some(outcome)
    }
}

fn take<'a, const N: usize>(from: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (head, rest) = from.split_first_chunk::<N>()?;
    *from = rest;
    Some(head)
}

fn number(from: &mut &[u8]) -> Option<u64> {
    take::<8>(from).map(|bytes| u64::from_le_bytes(*bytes))
}

fn short(from: &mut &[u8]) -> Option<u32> {
    take::<4>(from).map(|bytes| u32::from_le_bytes(*bytes))
}

/// An open journal, positioned for appending.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    sync: bool,
    /// Notes of this run that it holds.
    notes: usize,
}

/// What a journal tells besides the outcomes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Replayed {
    /// Length of the file where it was complete.
    pub(super) complete: Option<u64>,
    /// Length that the partial file has at least.
    pub(super) file_bytes: u64,
    /// Notes of the interrupted run about the source: whoever goes on does not meet the same damage again.
    pub(super) notes: Vec<String>,
}

impl Journal {
    /// A new journal in place of any other.
    pub(super) fn create(path: &Path, fingerprint: &[u8; 32], sync: bool) -> Result<Self, ConvertError> {
        let failed = |error| ConvertError::target(path, "creating the journal", error);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .map_err(failed)?;
        let mut head = MAGIC.to_vec();
        head.extend(fingerprint);
        file.write_all(&head).map_err(failed)?;
        if sync {
            file.sync_data().map_err(failed)?;
            sync_folder(path).map_err(failed)?;
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            sync,
            notes: 0,
        })
    }

    /// Opens a journal and hands every outcome in it to `apply`. `None` where there is none or it never got its head.
    pub(super) fn replay(
        path: &Path,
        fingerprint: &[u8; 32],
        sync: bool,
        mut apply: impl FnMut(Outcome) -> Result<(), ConvertError>,
    ) -> Result<Option<(Self, Replayed)>, ConvertError> {
        let failed = |error| ConvertError::target(path, "reading the journal", error);
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut reader = BufReader::with_capacity(1 << 20, &file);
        let mut head = [0; 40];
        if !fill(&mut reader, &mut head).map_err(failed)? {
            return Ok(None);
        }
        if head[..8] != *MAGIC || head[8..] != *fingerprint {
            return Err(ConvertError::Journal {
                path: path.to_owned(),
                detail:
                    "the interrupted conversion had other options or another source, or the source has changed since"
                        .into(),
            });
        }
        let mut good = 40;
        let mut state = Replayed::default();
        while let Some(record) = next_record(&mut reader).map_err(failed)? {
            good += 12 + u64::try_from(record.len()).expect("a record is bounded");
            let mut rest = record.as_slice();
            let kind = take::<1>(&mut rest).map_or(0, |kind| kind[0]);
            match kind {
                OUTCOMES => {
                    while !rest.is_empty() {
                        let outcome = Outcome::decode(&mut rest).ok_or_else(|| ConvertError::Journal {
                            path: path.to_owned(),
                            detail: "a record contradicts itself".into(),
                        })?;
                        apply(outcome)?;
                    }
                }
                COMPLETE => state.complete = Some(number(&mut rest).unwrap_or(0)),
                NOTE => state.notes.push(String::from_utf8_lossy(rest).into_owned()),
                LENGTH => state.file_bytes = number(&mut rest).unwrap_or(0),
                _ => {}
            }
        }
        drop(reader);
        let mut file = file;
        file.set_len(good).map_err(failed)?;
        file.seek(SeekFrom::Start(good)).map_err(failed)?;
        let journal = Self {
            path: path.to_owned(),
            file,
            sync,
            notes: 0,
        };
        Ok(Some((journal, state)))
    }

    /// Appends outcomes, already encoded one behind the other, and those of the source's `notes` that are new.
    /// `file_bytes` is the length of the partial file that they are about.
    pub(super) fn outcomes(&mut self, encoded: &[u8], notes: &[String], file_bytes: u64) -> Result<(), ConvertError> {
        let mut records = Vec::new();
        for note in notes.iter().skip(self.notes) {
            record(NOTE, note.as_bytes(), &mut records);
        }
        self.notes = self.notes.max(notes.len());
        record(LENGTH, &file_bytes.to_le_bytes(), &mut records);
        record(OUTCOMES, encoded, &mut records);
        self.append(&records)
    }

    /// Says that the partial file is complete.
    pub(super) fn complete(&mut self, file_bytes: u64) -> Result<(), ConvertError> {
        let mut records = Vec::new();
        record(COMPLETE, &file_bytes.to_le_bytes(), &mut records);
        self.append(&records)
    }

    fn append(&mut self, records: &[u8]) -> Result<(), ConvertError> {
        self.file
            .write_all(records)
            .and_then(|()| if self.sync { self.file.sync_data() } else { Ok(()) })
            .map_err(|error| ConvertError::target(&self.path, "writing the journal", error))
    }
}

/// Appends a record to `out`: length, kind, body, and a hash that tells whether all of it was written.
fn record(kind: u8, body: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(body.len() + 1).expect("a checkpoint is bounded");
    out.extend(length.to_le_bytes());
    let begin = out.len();
    out.push(kind);
    out.extend(body);
    let hash = blake3::hash(&out[begin..]);
    out.extend(&hash.as_bytes()[..8]);
}

fn next_record(reader: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    if !fill(reader, &mut length)? {
        return Ok(None);
    }
    let length = u32::from_le_bytes(length);
    if length == 0 || length > MAX_RECORD {
        return Ok(None);
    }
    let mut record = vec![0; usize::try_from(length).expect("bounded above")];
    let mut hash = [0; 8];
    if !fill(reader, &mut record)? || !fill(reader, &mut hash)? {
        return Ok(None);
    }
    Ok((blake3::hash(&record).as_bytes()[..8] == hash).then_some(record))
}

/// Fills `out`; false where the file ends before.
fn fill(reader: &mut impl Read, out: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(out) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_cut_at_any_byte_yields_a_prefix() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        let mut journal = Journal::create(&path, &[7; 32], false).unwrap();
        let outcomes: Vec<Outcome> = (0..5)
            .map(|i| Outcome {
                offset: i << 20,
                length: 1 << 20,
                codes: vec![STORED, 77, ABSENT],
                leaves: vec![(i, [3; 32])],
                data_bytes: 5,
            })
            .collect();
        for outcome in &outcomes {
            let mut bytes = Vec::new();
            outcome.encode(&mut bytes);
            journal.outcomes(&bytes, &[], 7).unwrap();
        }
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut seen = Vec::new();
            let _ = Journal::replay(&path, &[7; 32], false, |outcome| {
                seen.push(outcome);
                Ok(())
            })
            .unwrap();
            assert_eq!(seen, outcomes[..seen.len()], "cut at {cut}");
        }
        std::fs::write(&path, &whole).unwrap();
        let (mut journal, _) = Journal::replay(&path, &[7; 32], false, |_| Ok(())).unwrap().unwrap();
        let notes = ["one".to_owned(), "two".to_owned()];
        journal.outcomes(&[], &notes[..1], 8).unwrap();
        journal.outcomes(&[], &notes, 9).unwrap();
        let (_, replayed) = Journal::replay(&path, &[7; 32], false, |_| Ok(())).unwrap().unwrap();
        assert_eq!((replayed.notes.as_slice(), replayed.file_bytes), (&notes[..], 9));
        assert!(Journal::replay(&path, &[8; 32], false, |_| Ok(())).is_err());
    }
}
