//! Ways to keep several disk requests in flight: io_uring, else native AIO, else threads with pread and pwrite.

use crate::sys::aio::Aio;
use crate::sys::mapping::{Mapping, Pages};
use crate::sys::uring::Uring;
use std::fs::File;
use std::io::Result;
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc::{Receiver, Sender, channel};

/// What a request does with its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Read,
    Write,
}

/// Requests by slot; a slot holds at most one at a time.
pub(crate) trait Engine {
    /// Starts the request of a free slot at `offset`.
    fn submit(&mut self, slot: usize, operation: Operation, offset: u64) -> Result<()>;
    /// Adds the slots that became free; waits for the first where `block` is set.
    fn wait(&mut self, done: &mut Vec<usize>, block: bool) -> Result<()>;
}

/// Makes every block that is written differ from all others before it, so that storage that compares contents cannot leave the
/// write out (fio does so too: scramble_buffers).
pub(crate) struct Stamp {
    slot: u64,
    next: u64,
}

impl Stamp {
    /// For the buffer of a slot, or for all buffers of an engine.
    pub(crate) fn new(slot: usize) -> Self {
        // From the clock, so that runs and metrics do not repeat each other's marks.
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        Self {
            slot: slot as u64,
            next: u64::try_from(since.as_nanos()).unwrap_or(0),
        }
    }

    /// Marks each 4 KiB of `buffer`.
    pub(crate) fn mark(&mut self, buffer: &mut [u8]) {
        for block in buffer.chunks_exact_mut(4096) {
            self.next = self.next.wrapping_add(1);
            block[..8].copy_from_slice(&self.next.to_le_bytes());
            block[8..16].copy_from_slice(&self.slot.to_le_bytes());
        }
    }
}

/// Which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EngineKind {
    Uring,
    Aio,
    Threads,
}

impl EngineKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Uring => "io_uring",
            Self::Aio => "libaio",
            Self::Threads => "threads with pread and pwrite",
        }
    }

    /// The best that works on `file`.
    pub(crate) fn best(file: &File, block: usize) -> Self {
        let works = |kind: &Self| {
            let once = || {
                let mut engine = kind.open(file, block, 1, &|_| ())?;
                engine.submit(0, Operation::Read, 0)?;
                engine.wait(&mut Vec::new(), true)
            };
            once().is_ok()
        };
        [Self::Uring, Self::Aio]
            .into_iter()
            .find(works)
            .unwrap_or(Self::Threads)
    }

    /// An engine over its own handle of `file`; `fill` puts data to write into all buffers.
    pub(crate) fn open(
        self,
        file: &File,
        block: usize,
        depth: u32,
        fill: &dyn Fn(&mut [u8]),
    ) -> Result<Box<dyn Engine>> {
        let file = file.try_clone()?;
        Ok(match self {
            Self::Uring => Box::new(Uring::new(file, block, depth, fill)?),
            Self::Aio => Box::new(Aio::new(file, block, depth, fill)?),
            Self::Threads => Box::new(Threads::new(&file, block, depth, fill)?),
        })
    }
}

/// A thread a slot.
struct Threads {
    slots: Vec<Sender<(Operation, u64)>>,
    done: Receiver<(usize, Result<()>)>,
}

impl Threads {
    fn new(file: &File, block: usize, depth: u32, fill: &dyn Fn(&mut [u8])) -> Result<Self> {
        let (done_in, done) = channel();
        let mut slots = Vec::new();
        for slot in 0..usize::try_from(depth).unwrap_or(1) {
            let (requests_in, requests) = channel::<(Operation, u64)>();
            let (file, done_in) = (file.try_clone()?, done_in.clone());
            let mut buffer = Mapping::new(block, Pages::Small)?;
            fill(buffer.bytes());
            let mut stamp = Stamp::new(slot);
            // Ends when the sender is dropped.
            std::thread::Builder::new().spawn(move || {
                while let Ok((operation, offset)) = requests.recv() {
                    let result = match operation {
                        Operation::Read => file.read_exact_at(buffer.bytes(), offset),
                        Operation::Write => {
                            stamp.mark(buffer.bytes());
                            file.write_all_at(buffer.bytes(), offset)
                        }
                    };
                    if done_in.send((slot, result)).is_err() {
                        break;
                    }
                }
            })?;
            slots.push(requests_in);
        }
        Ok(Self { slots, done })
    }
}

impl Engine for Threads {
    fn submit(&mut self, slot: usize, operation: Operation, offset: u64) -> Result<()> {
        self.slots[slot]
            .send((operation, offset))
            .map_err(std::io::Error::other)
    }

    fn wait(&mut self, done: &mut Vec<usize>, block: bool) -> Result<()> {
        let received = if block {
            self.done.recv().ok()
        } else {
            self.done.try_recv().ok()
        };
        let Some((slot, result)) = received else {
            return if block {
                Err(std::io::ErrorKind::BrokenPipe.into())
            } else {
                Ok(())
            };
        };
        result?;
        done.push(slot);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{EngineKind, Operation};
    use std::io::Write as _;
    use std::os::unix::fs::FileExt as _;

    #[test]
    fn every_engine_writes_what_the_file_then_holds_or_says_that_it_cannot() {
        for kind in [EngineKind::Uring, EngineKind::Aio, EngineKind::Threads] {
            let mut file = tempfile::tempfile().expect("a temporary file");
            file.write_all(&[0; 16384]).expect("writable");
            let opened = kind.open(&file, 4096, 2, &|bytes| bytes.fill(0xa5));
            let Ok(mut engine) = opened else {
                assert_ne!(kind, EngineKind::Threads);
                println!("SKIP: no {} here", kind.name());
                continue;
            };
            engine.submit(0, Operation::Write, 4096).expect("submitted");
            engine.submit(1, Operation::Write, 12288).expect("submitted");
            let mut done = Vec::new();
            while done.len() < 2 {
                engine.wait(&mut done, true).expect("completed");
            }
            drop(engine);
            let mut found = [1; 16384];
            file.read_exact_at(&mut found, 0).expect("readable");
            let block = |at: usize| &found[at * 4096..(at + 1) * 4096];
            let holds = |at: usize, value: u8| block(at)[16..].iter().all(|byte| *byte == value);
            assert_ne!(block(1)[..16], block(3)[..16], "{}: two blocks alike", kind.name());
            assert!(
                holds(0, 0) && holds(1, 0xa5) && holds(2, 0) && holds(3, 0xa5),
                "{}",
                kind.name()
            );
        }
    }

    #[test]
    fn reading_beyond_the_end_is_an_error_in_every_engine() {
        for kind in [EngineKind::Uring, EngineKind::Aio, EngineKind::Threads] {
            let file = tempfile::tempfile().expect("a temporary file");
            if let Ok(mut engine) = kind.open(&file, 4096, 1, &|_| ()) {
                engine.submit(0, Operation::Read, 0).expect("submitted");
                assert!(engine.wait(&mut Vec::new(), true).is_err(), "{}", kind.name());
            }
        }
    }
}
