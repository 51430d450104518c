//! What runs guests, seen from outside: proof, appliance and benchmarks never know which engine it is.

mod choice;
mod console;
pub mod images;
mod passt;
mod process;
mod spec;

pub use choice::{AccelWish, Accelerator, Choice, EngineKind, EngineWish, choose, choose_direct, fitting};
pub use console::{Console, ConsoleLine};
pub(crate) use passt::Passt;
pub(crate) use process::Process;
pub use spec::{
    DirectKernel, DiskBus, DiskCache, DiskFormat, DiskSpec, FirmwareSpec, MachineModel, Network, NicSpec, VmSpec,
};

use crate::Result;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Starts guests.
pub trait Engine: Send + Sync {
    /// Name and version, for records: `qemu 10.0.2`.
    ///
    /// # Errors
    /// The engine is not installed or too old.
    fn version(&self) -> Result<String>;

    /// Starts a guest. Its disks are opened as `spec` says; sockets and logs live in a private folder of the machine that goes with it.
    ///
    /// # Errors
    /// Missing programs or firmware, an engine that ends at once (with its words).
    fn start(&self, spec: &VmSpec) -> Result<Box<dyn Vm>>;
}

/// The engine of a [`Choice`].
#[must_use]
pub fn engine(kind: EngineKind) -> Box<dyn Engine> {
    match kind {
        EngineKind::Kvm => Box::new(crate::kvm::engine::Kvm::default()),
        EngineKind::Qemu => Box::new(crate::qemu::Qemu),
    }
}

/// A running guest. Dropping it ends it.
pub trait Vm: Send {
    /// The serial console (ttyS0).
    fn console(&self) -> &Console;

    /// Lines on which the agent may speak, best first; taken once.
    fn agent_lines(&mut self) -> Vec<UnixStream>;

    /// Events since the last call, oldest first.
    fn events(&mut self) -> Vec<VmEvent>;

    /// Writes a PNG of the display; `false` where there is no display.
    ///
    /// # Errors
    /// The engine failed.
    fn screenshot(&mut self, path: &Path) -> Result<bool>;

    /// The memory of a VGA text screen, cells of character and attribute; empty where there is no such screen.
    ///
    /// # Errors
    /// The engine failed.
    fn text_memory(&mut self) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    /// Reads and writes that the guest's disks have served so far; `None` where the engine does not count.
    fn disk_operations(&mut self) -> Option<u64> {
        None
    }

    /// Firmware messages so far (SeaBIOS's debug port), empty where there are none.
    fn firmware_log(&self) -> String;

    /// Presses Enter, on the keyboard and on the serial console: a boot menu without a timeout waits for it.
    ///
    /// # Errors
    /// The engine failed.
    fn press_enter(&mut self) -> Result<()>;

    /// Presses the power button.
    ///
    /// # Errors
    /// The engine failed.
    fn power_button(&mut self) -> Result<()>;

    /// How it ended, once it has.
    fn ended(&mut self) -> Option<Ended>;

    /// Ends it now.
    fn kill(&mut self);

    /// When the boot stages that only the engine sees were reached; `None` where it does not stamp them.
    fn stages(&self) -> Option<BootStages> {
        None
    }

    /// CPU time used by the engine's process and its resident memory.
    fn stats(&self) -> VmStats;
}

/// Stages of a boot that only the engine sees, counted from the start of its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BootStages {
    /// The first processor entered the guest.
    pub entered: Option<Duration>,
    /// First byte on the console: the kernel speaks.
    pub console: Option<Duration>,
}

/// An event of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmEvent {
    /// Since the guest was started.
    pub at: Duration,
    /// Kind.
    pub kind: VmEventKind,
    /// The engine's own words.
    pub detail: String,
}

/// Kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VmEventKind {
    /// The guest asked for power-off, or the engine was told to end.
    Shutdown,
    /// The guest was reset.
    Reset,
    /// The guest reported a panic (pvpanic).
    Panicked,
    /// A disk failed.
    DiskError,
    /// Anything else.
    Other,
}

/// How an engine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Ended as it should.
    pub clean: bool,
    /// In words: exit code, signal, last lines of its log.
    pub detail: String,
}

/// What a running guest costs.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct VmStats {
    /// CPU seconds of the engine's process.
    pub cpu_seconds: f64,
    /// Resident bytes of the engine's process.
    pub resident_bytes: u64,
}
