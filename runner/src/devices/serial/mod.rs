//! 16550 UARTs: ttyS0 is the console, ttyS1 the agent's channel. The register model is `vm-superio`'s.

pub mod channel;
pub mod console;

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};

use vm_superio::{Serial, Trigger, serial::SerialEvents};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::BusDevice;

/// The UART's interrupt line.
#[derive(Debug)]
pub struct Line(pub EventFd);

impl Trigger for Line {
    type E = io::Error;
    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Tells the input side that the guest emptied the receive FIFO.
#[derive(Debug, Clone)]
pub struct Drained(Arc<EventFd>);

impl SerialEvents for Drained {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        // A full counter already says "drained".
        let _ = self.0.write(1);
    }
}

/// What the guest's bytes go to.
pub type Output = Box<dyn Write + Send>;

type Registers = Serial<Line, Drained, Output>;

/// One UART, shared by the bus and by the input side.
#[derive(Clone)]
pub struct Uart {
    registers: Arc<Mutex<Registers>>,
    drained: Arc<EventFd>,
}

impl std::fmt::Debug for Uart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uart").finish_non_exhaustive()
    }
}

impl Uart {
    /// A UART that raises `line` and writes to `output`.
    ///
    /// # Errors
    /// Where no eventfd can be made.
    pub fn new(line: EventFd, output: Output) -> io::Result<Self> {
        let drained = Arc::new(EventFd::new(libc::EFD_NONBLOCK)?);
        let registers = Serial::with_events(Line(line), Drained(Arc::clone(&drained)), output);
        Ok(Self {
            registers: Arc::new(Mutex::new(registers)),
            drained,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Registers> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts as many bytes as fit into the receive FIFO and says how many.
    pub fn send(&self, bytes: &[u8]) -> usize {
        // A full FIFO and loopback mode both mean "none taken"; the caller waits for the guest.
        self.lock().enqueue_raw_bytes(bytes).unwrap_or(0)
    }

    /// Becomes readable when the guest emptied the FIFO.
    pub fn drained(&self) -> &EventFd {
        &self.drained
    }
}

impl BusDevice for Uart {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let offset = u8::try_from(offset).unwrap_or(u8::MAX);
        let mut registers = self.lock();
        for byte in data {
            *byte = registers.read(offset);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let offset = u8::try_from(offset).unwrap_or(u8::MAX);
        let mut registers = self.lock();
        for &byte in data {
            // A lost output byte (closed pipe) must not disturb the guest.
            let _ = registers.write(offset, byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_beyond_the_fifo_are_taken_after_the_guest_reads() {
        let line = EventFd::new(libc::EFD_NONBLOCK).expect("eventfd");
        let mut uart = Uart::new(line, Box::new(io::sink())).expect("uart");
        let bytes = [b'x'; 100];
        let taken = uart.send(&bytes);
        assert_eq!(taken, 64);
        assert_eq!(uart.send(&bytes[taken..]), 0);
        for _ in 0..taken {
            let mut byte = [0];
            uart.read(0, &mut byte);
            assert_eq!(byte, [b'x']);
        }
        assert!(uart.drained().read().is_ok());
        assert_eq!(uart.send(&bytes[taken..]), 36);
    }
}
