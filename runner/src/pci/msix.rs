//! MSI-X (PCI Local Bus 3.0, section 6.8.2): a table of messages that the driver fills, each sent through an eventfd that the
//! machine turns into that message.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use vmm_sys_util::eventfd::EventFd;

/// Bytes of a table entry.
pub const ENTRY: u64 = 16;
/// "No vector".
pub const NO_VECTOR: u16 = 0xffff;

const MASKED: u32 = 1;
/// Message control, upper byte: enable and function mask.
const ENABLE: u8 = 1 << 7;
const FUNCTION_MASK: u8 = 1 << 6;

/// Makes an eventfd send a message.
pub trait Router: Send + Sync + std::fmt::Debug {
    /// From now on the eventfd behind `gsi` sends `data` to `address`.
    ///
    /// # Errors
    /// The system's.
    fn route(&self, gsi: u32, address: u64, data: u32) -> io::Result<()>;
}

/// A vector's own eventfd and interrupt number.
#[derive(Debug)]
pub struct Vector {
    /// Writing it sends the message.
    pub fd: EventFd,
    /// Its number at the router.
    pub gsi: u32,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    words: [u32; 4],
    pending: bool,
    /// The router has this entry's message.
    routed: bool,
}

#[derive(Debug)]
struct Table {
    entries: Vec<Entry>,
    enabled: bool,
    masked: bool,
}

/// The table of one function.
#[derive(Debug)]
pub struct Msix {
    table: Mutex<Table>,
    vectors: Vec<Vector>,
    router: Arc<dyn Router>,
}

impl Msix {
    /// A table with an entry a vector, all masked.
    pub fn new(vectors: Vec<Vector>, router: Arc<dyn Router>) -> Self {
        let entry = Entry {
            words: [0, 0, 0, MASKED],
            pending: false,
            routed: false,
        };
        Self {
            table: Mutex::new(Table {
                entries: vec![entry; vectors.len()],
                enabled: false,
                masked: false,
            }),
            vectors,
            router,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many vectors there are.
    pub fn len(&self) -> usize {
        self.vectors.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.vectors.is_empty()
    }

    /// Takes the upper byte of message control.
    pub fn set_control(&self, control: u8) {
        let mut table = self.lock();
        table.enabled = control & ENABLE != 0;
        table.masked = control & FUNCTION_MASK != 0;
        for index in 0..table.entries.len() {
            self.deliver(&mut table, index);
        }
    }

    /// Sends a vector's message, or remembers it while it is masked.
    pub fn signal(&self, vector: u16) {
        let mut table = self.lock();
        let index = usize::from(vector);
        if let Some(entry) = table.entries.get_mut(index) {
            entry.pending = true;
            self.deliver(&mut table, index);
        }
    }

    fn deliver(&self, table: &mut Table, index: usize) {
        let open = table.enabled && !table.masked;
        let (Some(entry), Some(vector)) = (table.entries.get_mut(index), self.vectors.get(index)) else {
            return;
        };
        if !open || entry.words[3] & MASKED != 0 {
            return;
        }
        if !entry.routed {
            let address = u64::from(entry.words[1]) << 32 | u64::from(entry.words[0]);
            entry.routed = self.router.route(vector.gsi, address, entry.words[2]).is_ok();
        }
        if entry.pending && entry.routed {
            entry.pending = false;
            // A full counter means that the message is on its way already.
            let _ = vector.fd.write(1);
        }
    }

    /// Reads the table.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        let table = self.lock();
        let bytes = table
            .entries
            .iter()
            .flat_map(|entry| entry.words)
            .flat_map(u32::to_le_bytes);
        copy(bytes, offset, data);
    }

    /// Writes the table: aligned words only, as the specification asks for; others are lost.
    pub fn write_table(&self, offset: u64, data: &[u8]) {
        for (step, word) in (0_u64..).zip(data.chunks(4)) {
            if let Ok(word) = <[u8; 4]>::try_from(word) {
                self.write_word(offset.saturating_add(step * 4), u32::from_le_bytes(word));
            }
        }
    }

    fn write_word(&self, offset: u64, value: u32) {
        let index = usize::try_from(offset / ENTRY).unwrap_or(usize::MAX);
        let word = usize::try_from(offset % ENTRY / 4).expect("below four");
        if !offset.is_multiple_of(4) {
            return;
        }
        let mut table = self.lock();
        if let Some(entry) = table.entries.get_mut(index) {
            if word < 3 && entry.words[word] != value {
                entry.routed = false;
            }
            entry.words[word] = if word == 3 { value & MASKED } else { value };
            self.deliver(&mut table, index);
        }
    }

    /// Reads the pending bits.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        let table = self.lock();
        let bytes = table.entries.chunks(8).map(|entries| {
            let bits = entries.iter().zip(0_u8..).filter(|(entry, _)| entry.pending);
            bits.fold(0, |byte, (_, bit)| byte | 1 << bit)
        });
        copy(bytes, offset, data);
    }

    /// Forgets what is pending: the device was reset.
    pub fn forget_pending(&self) {
        for entry in &mut self.lock().entries {
            entry.pending = false;
        }
    }
}

fn copy(bytes: impl Iterator<Item = u8>, offset: u64, data: &mut [u8]) {
    data.fill(0);
    let skip = usize::try_from(offset).unwrap_or(usize::MAX);
    for (target, source) in data.iter_mut().zip(bytes.skip(skip)) {
        *target = source;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Log(Mutex<Vec<(u32, u64, u32)>>);
    impl Router for Log {
        fn route(&self, gsi: u32, address: u64, data: u32) -> io::Result<()> {
            self.0.lock().expect("alive").push((gsi, address, data));
            Ok(())
        }
    }

    fn table() -> (Arc<Log>, Msix) {
        let log = Arc::new(Log::default());
        let vector = |gsi| Vector {
            fd: EventFd::new(libc::EFD_NONBLOCK).expect("eventfd"),
            gsi,
        };
        let msix = Msix::new(vec![vector(24), vector(25)], log.clone());
        (log, msix)
    }

    #[test]
    fn messages_wait_while_masked_and_go_out_once_when_unmasked() {
        let (log, msix) = table();
        msix.write_table(16, &0xfee0_1000_u64.to_le_bytes());
        msix.write_table(24, &[0x31, 0, 0, 0]);
        msix.signal(1);
        let mut pending = [0];
        msix.read_pending(0, &mut pending);
        assert_eq!(pending, [2]);
        msix.set_control(ENABLE);
        assert!(msix.vectors[1].fd.read().is_err(), "the entry is still masked");
        msix.write_table(28, &[0; 4]);
        assert_eq!(msix.vectors[1].fd.read().expect("sent"), 1);
        assert_eq!(*log.0.lock().expect("alive"), [(25, 0xfee0_1000, 0x31)]);
        msix.set_control(ENABLE | FUNCTION_MASK);
        msix.signal(1);
        assert!(msix.vectors[1].fd.read().is_err());
        msix.set_control(ENABLE);
        assert_eq!(msix.vectors[1].fd.read().expect("sent"), 1);
        assert_eq!(
            log.0.lock().expect("alive").len(),
            1,
            "an unchanged message is not routed again"
        );
    }

    #[test]
    fn a_changed_message_is_routed_anew_and_accesses_outside_are_lost() {
        let (log, msix) = table();
        msix.set_control(ENABLE);
        msix.write_table(12, &[0; 4]);
        msix.write_table(8, &[7, 0, 0, 0]);
        assert_eq!(*log.0.lock().expect("alive"), [(24, 0, 0), (24, 0, 7)]);
        msix.write_table(32, &[1; 4]);
        msix.write_table(u64::MAX, &[1; 4]);
        msix.signal(NO_VECTOR);
        let mut data = [0xff; 4];
        msix.read_table(u64::MAX, &mut data);
        assert_eq!(data, [0; 4]);
        msix.read_table(8, &mut data);
        assert_eq!(data, [7, 0, 0, 0]);
    }
}
