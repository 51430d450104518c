//! Network device (virtio 1.2, section 5.1) without offloads: whole Ethernet frames between two queues and a back end.

pub mod stream;
pub mod tap;

use std::{
    io::{self, Read as _, Write as _},
    os::fd::{AsRawFd as _, RawFd},
    sync::Arc,
};

use virtio_bindings::virtio_net::VIRTIO_NET_F_MAC;
use virtio_queue::{Queue, Reader, Writer};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use self::{stream::Stream, tap::Tap};
use super::{
    Activation, COMMON_FEATURES, Chain, Interrupt, QueueFault, VirtioDevice, drain, read_config_bytes,
    worker::{Next, Wake, Worker},
};
use crate::kvm::config::{NetConfig, Uplink};

const DEVICE_TYPE: u32 = 1;
const QUEUE_SIZES: [u16; 2] = [256, 256];
/// Numbers of the queues.
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// Size of `struct virtio_net_hdr` under virtio 1.x.
const HEADER: usize = 12;
/// Largest frame: 64 KiB covers every MTU that a tap has.
const FRAME: usize = 65_536;

/// Why a card cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("network card on {uplink}: {error}")]
pub struct NetError {
    /// What it shall be connected with.
    pub uplink: String,
    /// The system's error.
    pub error: io::Error,
}

/// Sends and receives whole frames, without blocking.
pub trait NetBackend: Send + Sync {
    /// One frame, or `WouldBlock`.
    ///
    /// # Errors
    /// The system's; `UnexpectedEof` where no frame will ever come again.
    fn receive(&self, frame: &mut [u8]) -> io::Result<usize>;
    /// One frame.
    ///
    /// # Errors
    /// The system's; the frame is lost then, as on a wire.
    fn send(&self, frame: &[u8]) -> io::Result<()>;
    /// Readable when a frame waits.
    fn descriptor(&self) -> RawFd;
}

/// Link up, nothing behind it: takes every frame and has none.
#[derive(Debug)]
struct Unplugged(EventFd);

impl Unplugged {
    fn new() -> io::Result<Self> {
        Ok(Self(EventFd::new(libc::EFD_NONBLOCK)?))
    }
}

impl NetBackend for Unplugged {
    fn receive(&self, _frame: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn send(&self, _frame: &[u8]) -> io::Result<()> {
        Ok(())
    }

    /// Never readable: nobody writes it.
    fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The device.
pub struct Net {
    backend: Arc<dyn NetBackend>,
    config: [u8; 6],
    worker: Option<Worker>,
}

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Net").field("mac", &self.config).finish_non_exhaustive()
    }
}

impl Net {
    /// Connects the card.
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn open(config: NetConfig) -> Result<Self, NetError> {
        let failed = |uplink: &str| {
            let uplink = uplink.to_owned();
            move |error| NetError { uplink, error }
        };
        let backend: Arc<dyn NetBackend> = match config.uplink {
            Uplink::Nothing => Arc::new(Unplugged::new().map_err(failed("nothing"))?),
            Uplink::Tap(name) => Arc::new(Tap::open(&name).map_err(failed(&format!("tap device {name}")))?),
            Uplink::Stream(socket) => Arc::new(Stream::new(socket).map_err(failed("a stream socket"))?),
        };
        Ok(Self::new(backend, config.mac))
    }

    /// A card over any back end.
    pub fn new(backend: Arc<dyn NetBackend>, mac: [u8; 6]) -> Self {
        Self {
            backend,
            config: mac,
            worker: None,
        }
    }
}

/// What the worker thread owns.
struct Card {
    backend: Arc<dyn NetBackend>,
    memory: GuestMemoryMmap,
    interrupt: Arc<Interrupt>,
    receive: Queue,
    transmit: Queue,
    buffer: Vec<u8>,
}

impl Card {
    fn serve(&mut self, wake: Wake) -> Next {
        let served = match wake {
            Wake::Queue(TRANSMIT) => self.transmit().map(|()| Next::Continue),
            Wake::Queue(_) | Wake::Backend => self.receive(),
        };
        match served {
            Ok(next) => next,
            Err(_) => {
                self.interrupt.fail_device();
                Next::Idle
            }
        }
    }

    fn transmit(&mut self) -> Result<(), QueueFault> {
        let (memory, backend, buffer) = (&self.memory, &self.backend, &mut self.buffer);
        drain(TRANSMIT, &mut self.transmit, memory, &self.interrupt, |chain| {
            if let Some(frame) = frame_of(memory, chain, buffer) {
                // A frame that the host refuses is lost, as on a wire.
                let _ = backend.send(frame);
            }
            Some(0)
        })
    }

    /// Fills receive buffers until frames or buffers run out; in the second case the back end has to wait.
    fn receive(&mut self) -> Result<Next, QueueFault> {
        let (memory, backend, buffer) = (&self.memory, &self.backend, &mut self.buffer);
        let mut next = Next::PauseBackend;
        drain(RECEIVE, &mut self.receive, memory, &self.interrupt, |chain| {
            let length = match backend.receive(&mut buffer[HEADER..]) {
                Ok(length @ 1..) => length,
                // A connection that ended stays readable for ever: don't look at it again.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return None,
                Ok(0) | Err(_) => {
                    next = Next::Continue;
                    return None;
                }
            };
            buffer[..HEADER].fill(0);
            // num_buffers = 1, the only field that counts without offloads.
            buffer[10] = 1;
            Some(put(memory, chain, &buffer[..HEADER + length]))
        })?;
        Ok(next)
    }
}

/// The frame behind the header, cut at the buffer's size.
fn frame_of<'a>(memory: &GuestMemoryMmap, chain: Chain<'_>, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let mut reader = Reader::<()>::new(memory, chain).ok()?;
    let length = reader.available_bytes();
    if length <= HEADER || length > buffer.len() {
        return None;
    }
    reader.read_exact(&mut buffer[..length]).ok()?;
    Some(&buffer[HEADER..length])
}

/// Writes header and frame; a chain that is too small swallows the frame.
fn put(memory: &GuestMemoryMmap, chain: Chain<'_>, bytes: &[u8]) -> u32 {
    let Ok(mut writer) = Writer::<()>::new(memory, chain) else {
        return 0;
    };
    if writer.available_bytes() < bytes.len() || writer.write_all(bytes).is_err() {
        return 0;
    }
    u32::try_from(bytes.len()).expect("at most a frame")
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        COMMON_FEATURES | 1 << VIRTIO_NET_F_MAC
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config, offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> io::Result<()> {
        let transmit = activation.queues.pop().flatten();
        let receive = activation.queues.pop().flatten();
        let (Some((receive, receive_kick)), Some((transmit, transmit_kick))) = (receive, transmit) else {
            return Err(io::Error::other("a card without both queues"));
        };
        let mut card = Card {
            backend: Arc::clone(&self.backend),
            memory: activation.memory,
            interrupt: activation.interrupt,
            receive,
            transmit,
            buffer: vec![0; HEADER + FRAME],
        };
        self.worker = Some(Worker::spawn(
            "virtio-net".into(),
            vec![receive_kick, transmit_kick],
            Some(self.backend.descriptor()),
            move |wake| card.serve(wake),
        )?);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }
}

impl NetBackend for Tap {
    fn receive(&self, frame: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(frame)
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        (&self.file).write_all(frame)
    }

    fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}
