//! How a virtio device is reached: its registers, notifications and interrupts.

pub mod mmio;
mod negotiation;
pub mod pci;

/// A device behind either transport, as the machine holds it.
pub trait Carrier: Send {
    /// Stops the device for good.
    ///
    /// # Errors
    /// What the device could not make durable.
    fn close(&mut self) -> Result<(), String>;
}
