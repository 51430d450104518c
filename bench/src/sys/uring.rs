//! Reads, writes and fdatasync through io_uring.
#![expect(unsafe_code, reason = "the kernel reads and writes buffers behind raw pointers")]

use super::mapping::{Mapping, Pages};
use crate::workloads::engine::{Engine, Operation, Stamp};
use io_uring::{IoUring, opcode, types};
use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::AsRawFd as _;

/// A ring with one buffer a slot.
pub(crate) struct Uring {
    ring: Option<IoUring>,
    // An option, so that drop can leak it together with a ring that still uses it.
    buffers: Option<Mapping>,
    file: File,
    block: usize,
    stamp: Stamp,
    in_flight: usize,
}

impl Uring {
    /// `depth` slots of `block` bytes. Fails where the kernel has no io_uring or forbids it.
    pub(crate) fn new(file: File, block: usize, depth: u32, fill: &dyn Fn(&mut [u8])) -> Result<Self> {
        // Completions wait for the next system call instead of interrupting the program (Linux 5.19, as fio asks for it): in a guest
        // each such interrupt may be an exit. Older kernels refuse the flags.
        let entries = depth.next_power_of_two();
        let mut builder = IoUring::builder();
        builder.setup_coop_taskrun().setup_taskrun_flag();
        let ring = builder.build(entries).or_else(|_| IoUring::new(entries))?;
        let mut probe = io_uring::Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        // IORING_OP_READ and WRITE came with Linux 5.6.
        if !probe.is_supported(opcode::Read::CODE) || !probe.is_supported(opcode::Write::CODE) {
            return Err(std::io::ErrorKind::Unsupported.into());
        }
        let slots = usize::try_from(depth).unwrap_or(1);
        let mut buffers = Mapping::new(block * slots, Pages::Small)?;
        fill(buffers.bytes());
        Ok(Self {
            ring: Some(ring),
            buffers: Some(buffers),
            file,
            block,
            stamp: Stamp::new(0),
            in_flight: 0,
        })
    }
}

impl Engine for Uring {
    fn submit(&mut self, slot: usize, operation: Operation, offset: u64) -> Result<()> {
        let ring = self.ring.as_mut().ok_or(std::io::ErrorKind::BrokenPipe)?;
        let fd = types::Fd(self.file.as_raw_fd());
        let start = slot * self.block;
        let buffer = self
            .buffers
            .as_mut()
            .and_then(|buffers| buffers.bytes().get_mut(start..start + self.block))
            .ok_or(std::io::ErrorKind::InvalidInput)?;
        let len = u32::try_from(self.block).map_err(Error::other)?;
        if operation == Operation::Write {
            self.stamp.mark(buffer);
        }
        let entry = match operation {
            Operation::Read => opcode::Read::new(fd, buffer.as_mut_ptr(), len).offset(offset).build(),
            Operation::Write => opcode::Write::new(fd, buffer.as_ptr(), len).offset(offset).build(),
        };
        let entry = entry.user_data(slot as u64);
        // SAFETY: the buffer is a mapping that is freed only after drop waited for all requests in flight, a slot has at
        // most one request, and the file stays open as long.
        unsafe { ring.submission().push(&entry) }.map_err(Error::other)?;
        ring.submit()?;
        self.in_flight += 1;
        Ok(())
    }

    fn wait(&mut self, done: &mut Vec<usize>, block: bool) -> Result<()> {
        let ring = self.ring.as_mut().ok_or(std::io::ErrorKind::BrokenPipe)?;
        let mut asked = false;
        loop {
            for completion in ring.completion() {
                self.in_flight -= 1;
                let slot = usize::try_from(completion.user_data()).map_err(Error::other)?;
                let result = completion.result();
                if result < 0 {
                    return Err(Error::from_raw_os_error(-result));
                }
                if usize::try_from(result).is_ok_and(|moved| moved != self.block) {
                    return Err(Error::other(format!("short transfer of {result} bytes")));
                }
                done.push(slot);
            }
            if !done.is_empty() {
                return Ok(());
            }
            if !block {
                // What has completed may wait for a system call.
                if asked || !ring.submission().taskrun() {
                    return Ok(());
                }
                asked = true;
                ring.submit()?;
                continue;
            }
            match ring.submit_and_wait(1) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                other => {
                    other?;
                }
            }
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let Some(mut ring) = self.ring.take() else { return };
        while self.in_flight > 0 {
            if ring
                .submit_and_wait(1)
                .is_err_and(|error| error.kind() != std::io::ErrorKind::Interrupted)
            {
                // Requests may still write to the buffers: better to leak the ring than to free them under it.
                std::mem::forget((ring, self.buffers.take()));
                return;
            }
            self.in_flight = self.in_flight.saturating_sub(ring.completion().count());
        }
    }
}
