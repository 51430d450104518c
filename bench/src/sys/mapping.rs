//! Anonymous memory, aligned for huge pages and for direct I/O.
#![expect(unsafe_code, reason = "mmap, madvise and slices over what they return")]

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::ptr::NonNull;

const HUGE: usize = 2 << 20;

/// Which pages are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pages {
    /// 4 KiB only.
    Small,
    /// Transparent huge pages, where the kernel gives them.
    Huge,
}

/// Private anonymous memory that begins at a multiple of 2 MiB. Zeroed by the kernel on first touch.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<c_void>,
    mapped: usize,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is private to this value and its memory may be used from any thread.
unsafe impl Send for Mapping {}

impl Mapping {
    /// `len` bytes.
    pub(crate) fn new(len: usize, pages: Pages) -> std::io::Result<Self> {
        let mapped = len.checked_add(HUGE).ok_or(std::io::ErrorKind::OutOfMemory)?;
        // SAFETY: a null hint lets the kernel choose, so that no existing mapping is replaced.
        let base = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                mapped,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }?;
        let skip = base.cast::<u8>().align_offset(HUGE);
        // SAFETY: skip < HUGE, so that start + len lies within the mapping of len + HUGE bytes.
        let start = unsafe { base.cast::<u8>().add(skip) };
        let advice = match pages {
            Pages::Small => Advice::LinuxNoHugepage,
            Pages::Huge => Advice::LinuxHugepage,
        };
        let base = NonNull::new(base).ok_or(std::io::ErrorKind::OutOfMemory)?;
        let start = NonNull::new(start).ok_or(std::io::ErrorKind::OutOfMemory)?;
        let mapping = Self {
            base,
            mapped,
            start,
            len,
        };
        // A kernel without transparent huge pages refuses; then all pages are small anyway.
        // SAFETY: the range belongs to the mapping, and the advice does not change its content.
        let _ = unsafe { madvise(start.as_ptr().cast(), len, advice) };
        Ok(mapping)
    }

    /// Gives the pages back; the next touch faults them in again.
    pub(crate) fn forget_pages(&mut self) -> std::io::Result<()> {
        // SAFETY: the range belongs to the mapping; &mut self says that nobody holds a slice of it. Reads then give zeros.
        unsafe { madvise(self.start.as_ptr().cast(), self.len, Advice::LinuxDontNeed) }?;
        Ok(())
    }

    /// The memory.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: start..start+len is mapped readable and writable, zero-initialised, and borrowed through &mut self.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// The memory as 64-bit words.
    pub(crate) fn words(&mut self) -> &mut [u64] {
        // SAFETY: start is aligned to 2 MiB, len / 8 words lie within the mapping, any bit pattern is a u64.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.len / 8) }
    }

    /// The memory as doubles.
    pub(crate) fn doubles(&mut self) -> &mut [f64] {
        // SAFETY: as for words; any bit pattern is an f64.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.len / 8) }
    }

    /// Bytes that are backed by huge pages now, from `/proc/self/smaps`; `None` where that cannot be read.
    pub(crate) fn huge_bytes(&self) -> Option<u64> {
        let smaps = std::fs::read_to_string("/proc/self/smaps").ok()?;
        let wanted = self.start.as_ptr().addr();
        let mut inside = false;
        let mut total = 0;
        for line in smaps.lines() {
            let first = line.split_ascii_whitespace().next()?;
            if let Some((low, high)) = first.split_once('-')
                && let (Ok(low), Ok(high)) = (usize::from_str_radix(low, 16), usize::from_str_radix(high, 16))
            {
                inside = low < wanted + self.len && wanted < high;
            } else if inside && first == "AnonHugePages:" {
                total += line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()? * 1024;
            }
        }
        Some(total)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and mapped are what mmap returned; nothing borrows the memory any more.
        let _ = unsafe { munmap(self.base.as_ptr(), self.mapped) };
    }
}

#[cfg(test)]
mod tests {
    use super::{HUGE, Mapping, Pages};

    #[test]
    fn memory_is_aligned_zeroed_writable_and_forgettable() {
        let mut mapping = Mapping::new(5 << 20, Pages::Huge).expect("5 MiB");
        assert_eq!(mapping.bytes().as_ptr().addr() % HUGE, 0);
        assert!(mapping.bytes().iter().all(|byte| *byte == 0));
        mapping.words().fill(7);
        assert!(mapping.huge_bytes().is_some());
        mapping.forget_pages().expect("madvise");
        assert!(mapping.words().iter().all(|word| *word == 0));
        assert_eq!(mapping.doubles().len(), (5 << 20) / 8);
    }
}
