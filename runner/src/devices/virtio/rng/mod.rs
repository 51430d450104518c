//! Entropy device (virtio 1.2, section 5.4): fills buffers from the host's random source.

use std::{
    fs::File,
    io::{self, Read},
    sync::Arc,
};

use virtio_queue::Writer;
use vm_memory::GuestMemoryMmap;

use super::{
    Activation, COMMON_FEATURES, Chain, VirtioDevice, drain,
    worker::{Next, Worker},
};

const DEVICE_TYPE: u32 = 4;
const QUEUE_SIZES: [u16; 1] = [64];
/// Most bytes that one request gets; the driver asks again for more.
const LARGEST: usize = 64 << 10;

/// The device.
#[derive(Debug)]
pub struct Rng {
    source: Arc<File>,
    worker: Option<Worker>,
}

impl Rng {
    /// A device over `/dev/urandom`.
    ///
    /// # Errors
    /// Where that cannot be opened.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            source: Arc::new(File::open("/dev/urandom")?),
            worker: None,
        })
    }
}

/// Fills one chain; says how many bytes it wrote.
fn fill(mut source: &File, memory: &GuestMemoryMmap, chain: Chain<'_>, buffer: &mut [u8]) -> u32 {
    let Ok(mut writer) = Writer::<()>::new(memory, chain) else {
        return 0;
    };
    let length = writer.available_bytes().min(buffer.len());
    if source.read_exact(&mut buffer[..length]).is_err() {
        return 0;
    }
    match io::Write::write_all(&mut writer, &buffer[..length]) {
        Ok(()) => u32::try_from(length).expect("at most 64 KiB"),
        Err(_) => 0,
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        COMMON_FEATURES
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, mut activation: Activation) -> io::Result<()> {
        let Some((mut queue, kick)) = activation.queues.pop().flatten() else {
            return Ok(());
        };
        let (memory, interrupt) = (activation.memory, activation.interrupt);
        let source = Arc::clone(&self.source);
        let mut buffer = vec![0; LARGEST];
        self.worker = Some(Worker::spawn("virtio-rng".into(), vec![kick], None, move |_| {
            let served = drain(0, &mut queue, &memory, &interrupt, |chain| {
                Some(fill(&source, &memory, chain, &mut buffer))
            });
            if served.is_err() {
                interrupt.fail_device();
                return Next::Idle;
            }
            Next::Continue
        })?);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }
}
