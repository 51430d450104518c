//! How a driver reaches a device: virtio-mmio version 2.

pub mod mmio;
