//! Reads and writes through the kernel's native AIO (io_setup(2) and friends), for kernels before 5.6.
#![expect(
    unsafe_code,
    reason = "system calls without a safe wrapper; the kernel uses buffers behind raw pointers"
)]

use super::mapping::{Mapping, Pages};
use crate::workloads::engine::{Engine, Operation, Stamp};
use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::AsRawFd as _;

/// `struct iocb` of linux/aio_abi.h, little endian.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: u16,
    fd: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event_fd: u32,
}

/// `struct io_event` of linux/aio_abi.h.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct IoEvent {
    data: u64,
    object: u64,
    result: i64,
    result2: i64,
}

const IOCB_CMD_PREAD: u16 = 0;
const IOCB_CMD_PWRITE: u16 = 1;

/// An AIO context with one buffer a slot.
pub(crate) struct Aio {
    context: libc::c_ulong,
    requests: Vec<Iocb>,
    events: Vec<IoEvent>,
    buffers: Mapping,
    file: File,
    block: usize,
    stamp: Stamp,
}

impl Aio {
    /// `depth` slots of `block` bytes.
    pub(crate) fn new(file: File, block: usize, depth: u32, fill: &dyn Fn(&mut [u8])) -> Result<Self> {
        let slots = usize::try_from(depth).unwrap_or(1);
        let mut buffers = Mapping::new(block * slots, Pages::Small)?;
        fill(buffers.bytes());
        let mut context: libc::c_ulong = 0;
        // SAFETY: context is zero and valid for writing, as io_setup(2) demands.
        let result = unsafe { libc::syscall(libc::SYS_io_setup, libc::c_long::from(depth), &raw mut context) };
        if result < 0 {
            return Err(Error::last_os_error());
        }
        let (requests, events) = (vec![Iocb::default(); slots], vec![IoEvent::default(); slots]);
        Ok(Self {
            context,
            requests,
            events,
            buffers,
            file,
            block,
            stamp: Stamp::new(0),
        })
    }
}

impl Engine for Aio {
    fn submit(&mut self, slot: usize, operation: Operation, offset: u64) -> Result<()> {
        let start = slot * self.block;
        let buffer = self
            .buffers
            .bytes()
            .get_mut(start..start + self.block)
            .ok_or(std::io::ErrorKind::InvalidInput)?;
        if operation == Operation::Write {
            self.stamp.mark(buffer);
        }
        let request = Iocb {
            data: slot as u64,
            opcode: match operation {
                Operation::Read => IOCB_CMD_PREAD,
                Operation::Write => IOCB_CMD_PWRITE,
            },
            fd: u32::try_from(self.file.as_raw_fd()).map_err(Error::other)?,
            buffer: buffer.as_mut_ptr().expose_provenance() as u64,
            bytes: self.block as u64,
            offset: i64::try_from(offset).map_err(Error::other)?,
            ..Iocb::default()
        };
        self.requests[slot] = request;
        let mut list = [&raw mut self.requests[slot]];
        // SAFETY: the list holds one pointer to a valid iocb, which the kernel copies during the call; its buffer lives
        // until drop, where io_destroy waits for all requests.
        let result = unsafe { libc::syscall(libc::SYS_io_submit, self.context, 1 as libc::c_long, list.as_mut_ptr()) };
        match result {
            1 => Ok(()),
            0 => Err(std::io::ErrorKind::WouldBlock.into()),
            _ => Err(Error::last_os_error()),
        }
    }

    fn wait(&mut self, done: &mut Vec<usize>, block: bool) -> Result<()> {
        let most = libc::c_long::try_from(self.events.len()).map_err(Error::other)?;
        loop {
            // SAFETY: events has room for `most` entries; with a least number of 0 the call takes what there is, and a
            // null timeout waits for the first otherwise.
            let count = unsafe {
                libc::syscall(
                    libc::SYS_io_getevents,
                    self.context,
                    libc::c_long::from(block),
                    most,
                    self.events.as_mut_ptr(),
                    std::ptr::null_mut::<libc::timespec>(),
                )
            };
            if count < 0 {
                let error = Error::last_os_error();
                if error.kind() == std::io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            }
            for event in self.events.iter().take(usize::try_from(count).unwrap_or(0)) {
                if event.result < 0 {
                    return Err(Error::from_raw_os_error(
                        i32::try_from(-event.result).unwrap_or(libc::EIO),
                    ));
                }
                if usize::try_from(event.result).is_ok_and(|moved| moved != self.block) {
                    return Err(Error::other(format!("short transfer of {} bytes", event.result)));
                }
                done.push(usize::try_from(event.data).map_err(Error::other)?);
            }
            return Ok(());
        }
    }
}

impl Drop for Aio {
    fn drop(&mut self) {
        // SAFETY: the context came from io_setup; io_destroy waits until no request uses the buffers (io_destroy(2)).
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}
