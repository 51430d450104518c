//! Devices of the machine. A device knows neither the bus it sits on nor the transport that carries it; what it has to
//! tell the machine goes through [`Events`].

pub mod power;
pub mod serial;
pub mod virtio;

use std::sync::Arc;

/// What a device tells the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineEvent {
    /// The guest switched itself off (ACPI S5).
    PowerOff,
    /// The guest asked for a reset.
    Reset(ResetSource),
    /// The guest reports that it panicked. From the console again after each further line of the kernel's.
    Panic(PanicSource),
    /// The console goes on after what looked like a panic: until the kernel's next line this was none.
    PanicDoubted,
    /// The first processor enters the guest.
    Entered,
    /// The first byte appeared on the console.
    ConsoleStarted,
    /// The configured text appeared on the console.
    ConsoleMarker,
    /// The guest wrote a boot mark.
    Mark(u8),
}

/// By which register a guest asked for a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResetSource {
    /// The ACPI reset register.
    Acpi,
    /// The keyboard controller's reset line.
    I8042,
}

/// How a panic became known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PanicSource {
    /// The guest's pvpanic driver.
    Pvpanic,
    /// A line of the kernel's with "Kernel panic - not syncing" on the console, and nothing else's after it.
    Console,
}

/// Receives what devices tell; called on vCPU and device threads, must not block.
pub trait Events: Send + Sync + std::fmt::Debug {
    /// One event.
    fn event(&self, event: MachineEvent);
}

/// A shared receiver.
pub type EventSink = Arc<dyn Events>;
