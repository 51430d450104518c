//! Sources for tests and benchmarks: a raw file, and just enough VMDK to read what qemu-img writes.

use convert::image::map::{DiskSource, Run, RunSource, SourceHandle};
use convert::image::{ImageError, ImageErrorKind};
use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

const GRAIN: u64 = 65536;

/// A disk in one file, with all its runs known.
#[derive(Debug)]
pub(crate) struct TestSource {
    files: Vec<SourceHandle>,
    runs: Vec<Run>,
    bytes: u64,
    grain: Option<u64>,
}

fn handle(path: &Path) -> SourceHandle {
    let file = File::open(path).unwrap();
    let metadata = file.metadata().unwrap();
    SourceHandle {
        path: path.to_owned(),
        bytes: metadata.len(),
        mtime_ns: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
        file,
        link: 0,
    }
}

impl TestSource {
    fn new(path: &Path, bytes: u64, data: Vec<Run>, grain: Option<u64>) -> Self {
        let mut runs: Vec<Run> = Vec::new();
        let mut at = 0;
        for run in data {
            if run.offset > at {
                runs.push(Run {
                    offset: at,
                    length: run.offset - at,
                    source: RunSource::Hole,
                });
            }
            at = run.offset + run.length;
            runs.push(run);
        }
        if at < bytes {
            runs.push(Run {
                offset: at,
                length: bytes - at,
                source: RunSource::Hole,
            });
        }
        Self {
            files: vec![handle(path)],
            runs,
            bytes,
            grain,
        }
    }

    /// A raw file; its holes are holes.
    pub(crate) fn raw(path: &Path) -> Self {
        let file = File::open(path).unwrap();
        let bytes = file.metadata().unwrap().len();
        let mut runs = Vec::new();
        let mut at = 0;
        while let Ok(data) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
            let hole = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(data)).unwrap();
            runs.push(Run {
                offset: data,
                length: hole - data,
                source: RunSource::Raw { file: 0, offset: data },
            });
            at = hole;
        }
        Self::new(path, bytes, runs, None)
    }

    /// A streamOptimized file, walked marker by marker.
    pub(crate) fn stream(path: &Path) -> Self {
        let file = File::open(path).unwrap();
        let header = read(&file, 0, 512);
        let bytes = le64(&header, 12) * 512;
        let mut at = le64(&header, 64) * 512;
        let mut runs = Vec::new();
        loop {
            let marker = read(&file, at, 512);
            let (sector, size) = (le64(&marker, 0), le32(&marker, 8));
            if size != 0 {
                let start = sector * 512;
                let length = GRAIN.min(bytes - start);
                runs.push(Run {
                    offset: start,
                    length,
                    source: RunSource::Deflate {
                        file: 0,
                        offset: at + 12,
                        compressed: size,
                        grain_start: start,
                        grain_bytes: u32::try_from(length).unwrap(),
                    },
                });
                at += (12 + u64::from(size)).next_multiple_of(512);
            } else if le32(&marker, 12) == 0 {
                break;
            } else {
                at += 512 + sector * 512;
            }
        }
        runs.sort_by_key(|run| run.offset);
        Self::new(path, bytes, runs, Some(GRAIN))
    }

    /// A monolithicSparse file.
    pub(crate) fn sparse(path: &Path) -> Self {
        let file = File::open(path).unwrap();
        let header = read(&file, 0, 512);
        let bytes = le64(&header, 12) * 512;
        let tables = bytes.div_ceil(512 * GRAIN);
        let directory = read(&file, le64(&header, 56) * 512, usize::try_from(tables * 4).unwrap());
        let mut runs: Vec<Run> = Vec::new();
        for (table, entry) in (0_u64..).zip(directory.chunks_exact(4)) {
            if le32(entry, 0) == 0 {
                continue;
            }
            let grains = read(&file, u64::from(le32(entry, 0)) * 512, 2048);
            for (slot, grain) in (0_u64..).zip(grains.chunks_exact(4)) {
                let sector = u64::from(le32(grain, 0));
                let start = (table * 512 + slot) * GRAIN;
                if sector < 2 || start >= bytes {
                    continue;
                }
                let length = GRAIN.min(bytes - start);
                if let Some(last) = runs.last_mut()
                    && let RunSource::Raw { offset, .. } = last.source
                    && last.offset + last.length == start
                    && offset + last.length == sector * 512
                {
                    last.length += length;
                    continue;
                }
                runs.push(Run {
                    offset: start,
                    length,
                    source: RunSource::Raw {
                        file: 0,
                        offset: sector * 512,
                    },
                });
            }
        }
        Self::new(path, bytes, runs, None)
    }

    /// The first compressed grain's file offset and length.
    pub(crate) fn a_grain(&self) -> (u64, u32) {
        self.runs
            .iter()
            .find_map(|run| match run.source {
                RunSource::Deflate { offset, compressed, .. } => Some((offset, compressed)),
                _ => None,
            })
            .unwrap()
    }
}

fn read(file: &File, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

impl DiskSource for TestSource {
    fn virtual_bytes(&self) -> u64 {
        self.bytes
    }

    fn kind(&self) -> String {
        "test".into()
    }

    fn files(&self) -> &[SourceHandle] {
        &self.files
    }

    fn compressed_grain_bytes(&self) -> Option<u64> {
        self.grain
    }

    fn map(&self, offset: u64, length: u64) -> Result<Vec<Run>, ImageError> {
        let end = offset + length;
        let first = self.runs.partition_point(|run| run.offset + run.length <= offset);
        Ok(self.runs[first..]
            .iter()
            .take_while(|run| run.offset < end)
            .map(|run| {
                let from = run.offset.max(offset);
                let source = match run.source {
                    RunSource::Raw { file, offset } => RunSource::Raw {
                        file,
                        offset: offset + (from - run.offset),
                    },
                    other => other,
                };
                Run {
                    offset: from,
                    length: (run.offset + run.length).min(end) - from,
                    source,
                }
            })
            .collect())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        for run in self.map(offset, u64::try_from(buffer.len()).unwrap())? {
            let from = usize::try_from(run.offset - offset).unwrap();
            let out = &mut buffer[from..from + usize::try_from(run.length).unwrap()];
            match run.source {
                RunSource::Hole | RunSource::Zero => out.fill(0),
                RunSource::Raw { offset, .. } => self.files[0].file.read_exact_at(out, offset).unwrap(),
                RunSource::Deflate {
                    offset,
                    compressed,
                    grain_start,
                    ..
                } => {
                    let stream = read(&self.files[0].file, offset, usize::try_from(compressed).unwrap());
                    let mut grain = vec![0; usize::try_from(GRAIN).unwrap()];
                    libdeflater::Decompressor::new()
                        .zlib_decompress(&stream, &mut grain)
                        .map_err(|error| {
                            ImageError::new(ImageErrorKind::Damaged, &self.files[0].path, error.to_string()).at(offset)
                        })?;
                    let skip = usize::try_from(run.offset - grain_start).unwrap();
                    out.copy_from_slice(&grain[skip..skip + out.len()]);
                }
            }
        }
        Ok(())
    }

    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}
