//! The file under test. It has no name (O_TMPFILE, or unlinked right after it was made where that is not to be had), so that
//! its space comes back however the program ends. It is filled once and shared by all disk metrics.

use super::BLOCK;
use crate::harness::{Clock, Halt};
use crate::stats::Prng;
use crate::sys::mapping::{Mapping, Pages};
use crate::workloads::Context;
use crate::workloads::engine::{Engine, EngineKind};
use rustix::fs::{FallocateFlags, OFlags, fallocate, fstatvfs};
use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::Ordering;

const MIB: u64 = 1 << 20;

/// Made by the first metric that needs it.
pub(super) type Shared = Rc<RefCell<Option<Result<Rc<Target>, String>>>>;

/// The file under test.
pub(super) struct Target {
    pub(super) file: File,
    pub(super) bytes: u64,
    pub(super) engine: EngineKind,
    pub(super) how: String,
}

impl Target {
    pub(super) fn of(shared: &Shared, context: &Context<'_>) -> Result<Rc<Self>, Halt> {
        let made = shared.borrow().clone();
        let made = match made {
            Some(made) => made,
            None => match Self::create(context) {
                Ok(target) => Ok(Rc::new(target)),
                Err(Halt::Cancelled) => return Err(Halt::Cancelled),
                Err(Halt::Skip(reason)) => Err(reason),
            },
        };
        *shared.borrow_mut() = Some(made.clone());
        made.map_err(Halt::Skip)
    }

    fn create(context: &Context<'_>) -> Result<Self, Halt> {
        let file = nameless(&context.folder);
        let file = file.map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => {
                Halt::Skip("this file system has no direct I/O (tmpfs?); give a folder on the disk to test".to_owned())
            }
            _ => Halt::failed("cannot make a file in the folder", error),
        })?;
        let wanted = room(&file, context.like.disk_file_bytes.unwrap_or(context.disk_budget_bytes))?;
        allocate(&file, wanted)?;
        let bytes = fill(&file, wanted, context)?;
        context.sizes.borrow_mut().disk_file_bytes = Some(bytes);
        let engine = EngineKind::best(&file, BLOCK);
        let how = format!(
            "O_DIRECT on a preallocated file of {} MiB of random data, no two writes alike, {}",
            bytes / MIB,
            engine.name()
        );
        Ok(Self {
            file,
            bytes,
            engine,
            how,
        })
    }
}

/// A file for direct I/O that has no name: made so where the kernel (3.11) and the file system can, or unlinked at once.
fn nameless(folder: &Path) -> std::io::Result<File> {
    let flags = |flags: OFlags| i32::try_from(flags.bits()).map_err(std::io::Error::other);
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    let made = options
        .clone()
        .custom_flags(flags(OFlags::DIRECT | OFlags::TMPFILE)?)
        .open(folder);
    // Which error says "not here" differs between file systems; what is truly wrong shows again below.
    if let Ok(file) = made {
        return Ok(file);
    }
    let name = folder.join(format!(".esxodus-bench-{}", std::process::id()));
    let file = options
        .create_new(true)
        .custom_flags(flags(OFlags::DIRECT)?)
        .open(&name);
    // Even an open that fails with EINVAL for O_DIRECT has made the name; one that was there before is not ours.
    if !matches!(&file, Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists) {
        let _ = std::fs::remove_file(&name);
    }
    file
}

/// The size of the file: the budget rounded down to a power of two, or a refusal where that would leave the disk short.
fn room(file: &File, budget: u64) -> Result<u64, Halt> {
    const LEAST: u64 = 16 * MIB;
    let stat = fstatvfs(file).map_err(|error| Halt::failed("statvfs", error))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let bytes = budget.checked_ilog2().map_or(0, |bits| 1_u64 << bits).min(64 << 30);
    if bytes < LEAST {
        return Err(Halt::Skip(format!(
            "the disk budget is {} MiB, at least {} MiB are needed",
            budget / MIB,
            LEAST / MIB
        )));
    }
    // A tenth of the file system stays free for others.
    let reserve = stat.f_blocks.saturating_mul(stat.f_frsize) / 10;
    let needed = bytes.saturating_add(reserve.min(4 << 30));
    if free < needed {
        return Err(Halt::Skip(format!(
            "free space is short: {} MiB free, {} MiB wanted and {} MiB left for others; lower the disk budget",
            free / MIB,
            bytes / MIB,
            (needed - bytes) / MIB
        )));
    }
    Ok(bytes)
}

fn allocate(file: &File, bytes: u64) -> Result<(), Halt> {
    use rustix::io::Errno;
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        // File systems without fallocate get their blocks from the fill.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(error) => Err(Halt::failed("fallocate", error)),
    }
}

/// Writes random data, and stops at a power of two where the share of time is used up. A size that was asked for is kept or
/// refused: on a smaller file caches would answer instead of the disk. Returns the size.
fn fill(file: &File, wanted: u64, context: &Context<'_>) -> Result<u64, Halt> {
    const CHUNK: u64 = 4 * MIB;
    let size = usize::try_from(CHUNK).map_err(|error| Halt::failed("chunk", error))?;
    let mut buffer = Mapping::new(size, Pages::Small).map_err(|error| Halt::failed("mmap", error))?;
    Prng::new(99).fill(buffer.bytes());
    let start = Clock::now();
    let (mut at, mut power) = (0, 0);
    while at < wanted {
        if context.cancel.load(Ordering::Relaxed) {
            return Err(Halt::Cancelled);
        }
        // Every block differs from every other, so that storage cannot deduplicate.
        for (index, block) in buffer.words().chunks_mut(BLOCK / 8).enumerate() {
            block[0] = at + (index * BLOCK) as u64;
        }
        file.write_all_at(buffer.bytes(), at)
            .map_err(|error| Halt::failed("cannot fill the file", error))?;
        at += CHUNK;
        if at.is_power_of_two() && at >= 16 * MIB {
            power = at;
        }
        let used = start.elapsed();
        if context.like.disk_file_bytes.is_some() {
            // As long as a metric may take at most (Plan::limit).
            if used > context.share * 3 && at < wanted {
                return Err(Halt::Skip(format!(
                    "filling a file of {} MiB, the size of the other record, was not done in time ({} MiB in {:.0} s); raise \
                     the budget",
                    wanted / MIB,
                    at / MIB,
                    used.as_secs_f64()
                )));
            }
            continue;
        }
        // The next power of two would take as long again as all up to here.
        if power == at && used > context.share * 3 / 8 || used > context.share && power > 0 {
            break;
        }
    }
    let bytes = if context.like.disk_file_bytes.is_some() {
        wanted
    } else {
        power.max(wanted.min(16 * MIB)).min(wanted)
    };
    file.set_len(bytes)
        .map_err(|error| Halt::failed("cannot cut the file", error))?;
    file.sync_all().map_err(|error| Halt::failed("fsync", error))?;
    Ok(bytes)
}

/// An engine of the target's kind, with random data in its buffers.
pub(super) fn open(target: &Target, block: usize, depth: u32) -> Result<Box<dyn Engine>, Halt> {
    let random = |bytes: &mut [u8]| Prng::new(u64::from(depth)).fill(bytes);
    target
        .engine
        .open(&target.file, block, depth, &random)
        .map_err(|error| Halt::failed(target.engine.name(), error))
}

#[cfg(test)]
mod tests {
    use super::room;
    use crate::harness::Halt;

    #[test]
    fn too_little_space_is_refused_with_the_figures() {
        let file = tempfile::tempfile().expect("a temporary file");
        let refused = room(&file, 1 << 60);
        // The file is never larger than 64 GiB; where that much is free the test shows nothing.
        match refused {
            Err(Halt::Skip(reason)) => assert!(reason.contains("free space is short"), "{reason}"),
            other => println!("SKIP: more than 64 GiB free: {other:?}"),
        }
        assert!(matches!(room(&file, 1 << 20), Err(Halt::Skip(reason)) if reason.contains("at least 16 MiB")));
    }
}
