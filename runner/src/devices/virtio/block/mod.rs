//! Block device (virtio 1.2, section 5.2).

pub mod backend;
pub mod request;

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_WRITE_ZEROES,
};

use self::{
    backend::{BlockBackend, Qcow2File, RawFile},
    request::{BUFFER, Disk, ID_BYTES, MAX_SEGMENT_SECTORS, MAX_SEGMENTS, SECTOR},
};
use super::{
    Activation, COMMON_FEATURES, VirtioDevice, drain, read_config_bytes,
    worker::{Next, Worker},
};
use crate::kvm::config::{CacheMode, DiskConfig, DiskFormat};

const DEVICE_TYPE: u32 = 2;
const QUEUE_SIZE: u16 = 256;
/// Data descriptors in one request: the queue without header and status.
const SEG_MAX: u32 = 254;
/// Most queues of one disk.
const MAX_QUEUES: u16 = 16;

/// Why a disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The image cannot be opened.
    #[error("disk {path}: {error}")]
    Open {
        /// Which one.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The number of queues is out of bounds.
    #[error("disk {path}: {queues} queues, 1 to {MAX_QUEUES} are possible")]
    Queues {
        /// Which disk.
        path: PathBuf,
        /// What was asked for.
        queues: u16,
    },
    /// The serial number is too long.
    #[error("disk {path}: serial number of {length} bytes, {ID_BYTES} fit")]
    Serial {
        /// Which disk.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
}

/// The device.
pub struct Block {
    backend: Arc<dyn BlockBackend>,
    read_only: bool,
    id: [u8; ID_BYTES],
    sizes: Vec<u16>,
    config: Vec<u8>,
    workers: Vec<Worker>,
    served: Arc<AtomicU64>,
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Block")
            .field("size", &self.backend.size())
            .field("read_only", &self.read_only)
            .finish_non_exhaustive()
    }
}

impl Block {
    /// Opens the disk.
    ///
    /// # Errors
    /// See [`BlockError`].
    pub fn open(config: &DiskConfig) -> Result<Self, BlockError> {
        let open_error = |error| BlockError::Open {
            path: config.path.clone(),
            error,
        };
        if config.queues == 0 || config.queues > MAX_QUEUES {
            return Err(BlockError::Queues {
                path: config.path.clone(),
                queues: config.queues,
            });
        }
        let mut id = [0; ID_BYTES];
        match id.get_mut(..config.serial.len()) {
            Some(start) => start.copy_from_slice(config.serial.as_bytes()),
            None => {
                return Err(BlockError::Serial {
                    path: config.path.clone(),
                    length: config.serial.len(),
                });
            }
        }
        let durable = config.cache == CacheMode::Writeback;
        let backend: Arc<dyn BlockBackend> = match config.format {
            DiskFormat::Raw => Arc::new(RawFile::open(&config.path, config.read_only, durable).map_err(open_error)?),
            DiskFormat::Qcow2 => {
                Arc::new(Qcow2File::open(&config.path, &config.backing, config.read_only, durable).map_err(open_error)?)
            }
        };
        Ok(Self::new(backend, config.read_only, id, config.queues))
    }

    /// A device over any back end. `queues` is at least 1.
    pub fn new(backend: Arc<dyn BlockBackend>, read_only: bool, id: [u8; ID_BYTES], queues: u16) -> Self {
        let config = config_space(backend.size() / SECTOR, queues);
        Self {
            backend,
            read_only,
            id,
            sizes: vec![QUEUE_SIZE; usize::from(queues)],
            config,
            workers: Vec::new(),
            served: Arc::default(),
        }
    }

    /// Adds its requests to a count that others share.
    #[must_use]
    pub fn counted_in(self, served: Arc<AtomicU64>) -> Self {
        Self { served, ..self }
    }
}

/// `struct virtio_blk_config`.
fn config_space(sectors: u64, queues: u16) -> Vec<u8> {
    let mut config = vec![0; 60];
    let mut put = |offset: usize, bytes: &[u8]| {
        config[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    let segments = u32::try_from(MAX_SEGMENTS).expect("small");
    put(0, &sectors.to_le_bytes());
    put(12, &SEG_MAX.to_le_bytes());
    put(20, &512_u32.to_le_bytes());
    put(34, &queues.to_le_bytes());
    put(36, &MAX_SEGMENT_SECTORS.to_le_bytes());
    put(40, &segments.to_le_bytes());
    // Discards are most useful in whole clusters or file system blocks; 8 sectors = 4 KiB.
    put(44, &8_u32.to_le_bytes());
    put(48, &MAX_SEGMENT_SECTORS.to_le_bytes());
    put(52, &segments.to_le_bytes());
    // Write-zeroes may unmap.
    put(56, &[1]);
    config
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.sizes
    }

    fn features(&self) -> u64 {
        let mut features =
            COMMON_FEATURES | 1 << VIRTIO_BLK_F_FLUSH | 1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_BLK_SIZE;
        if self.read_only {
            features |= 1 << VIRTIO_BLK_F_RO;
        } else {
            features |= 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES;
        }
        if self.sizes.len() > 1 {
            features |= 1 << VIRTIO_BLK_F_MQ;
        }
        features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let write_through = activation.features & 1 << VIRTIO_BLK_F_FLUSH == 0;
        for (index, queue) in activation.queues.into_iter().enumerate() {
            let Some((mut queue, kick)) = queue else {
                continue;
            };
            let (memory, interrupt) = (activation.memory.clone(), Arc::clone(&activation.interrupt));
            let backend = Arc::clone(&self.backend);
            let (read_only, id, served) = (self.read_only, self.id, Arc::clone(&self.served));
            let mut buffer = vec![0; BUFFER];
            self.workers.push(Worker::spawn(
                format!("virtio-blk-{index}"),
                vec![kick],
                None,
                move |_| {
                    let disk = Disk {
                        backend: &*backend,
                        read_only,
                        id,
                        write_through,
                    };
                    let drained = drain(index, &mut queue, &memory, &interrupt, |chain| {
                        served.fetch_add(1, Ordering::Relaxed);
                        Some(request::serve(&disk, &memory, chain, &mut buffer))
                    });
                    if drained.is_err() {
                        interrupt.fail_device();
                        return Next::Idle;
                    }
                    Next::Continue
                },
            )?);
        }
        Ok(())
    }

    fn reset(&mut self) {
        // Joins: every request in flight is finished before its buffers stop to be the device's.
        self.workers.clear();
    }

    fn close(&mut self) -> Result<(), String> {
        if self.read_only {
            return Ok(());
        }
        self.backend
            .flush()
            .map_err(|error| format!("last flush of a disk: {error}"))
    }
}
