//! Builds a machine in the order that KVM asks for, then starts it.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::Instant,
};

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::{
    config::{AgentChannel, SerialInput, SerialOutput, Transport, VmmConfig},
    handle::{Running, VmHandle},
    kick, memory,
    outcome::Outcome,
    routes::{IoEvents, Routes},
    vcpu::{self, Buses, Gate},
};
use crate::{
    acpi::{self, AcpiError},
    arch::{TopologyError, layout},
    boot::{self, BootError},
    bus::{BusDevice, Overlap},
    devices::{
        EventSink,
        power::{I8042Reset, PostPort, PowerPort, Pvpanic},
        serial::{
            Output, Uart,
            channel::{ChannelOutput, Peer, Prepared},
            console::{Console, Tail},
        },
        virtio::{
            self, VirtioDevice,
            block::{Block, BlockError},
            net::{Net, NetError},
            rng::Rng,
            transport::{
                Carrier,
                mmio::MmioTransport,
                pci::{self as virtio_pci, PciTransport},
            },
        },
    },
    pci::{
        self,
        msix::{Msix, Vector},
    },
};

/// Why a machine cannot be built or started.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// The KVM device cannot be opened.
    #[error("{path}: {error}; `esxodus doctor` says what this host can do")]
    Open {
        /// Which one.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Not the KVM that everybody has.
    #[error("KVM API version {0}, need 12")]
    ApiVersion(i32),
    /// A capability is missing.
    #[error("this KVM lacks {0}; use the QEMU engine")]
    Capability(&'static str),
    /// A KVM call failed.
    #[error("{call}: {error}")]
    Kvm {
        /// The ioctl.
        call: &'static str,
        /// The system's error.
        error: kvm_ioctls::Error,
    },
    /// KVM stopped at an MSR.
    #[error("KVM refused MSR {index:#x}")]
    Msr {
        /// Which one.
        index: u32,
    },
    /// CPUID got too long.
    #[error("more CPUID leaves than KVM takes")]
    CpuidTooLarge,
    /// The memory size does not fit pages.
    #[error("guest memory of {bytes} bytes: at least 2 MiB and a multiple of {unit} needed")]
    MemorySize {
        /// What was asked for.
        bytes: u64,
        /// The page size.
        unit: u64,
    },
    /// Memory cannot be mapped.
    #[error("mapping {size} bytes of guest memory: {error}")]
    MemoryMap {
        /// How much.
        size: u64,
        /// Why.
        error: String,
    },
    /// See [`TopologyError`].
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// See [`BootError`].
    #[error(transparent)]
    Boot(#[from] BootError),
    /// See [`AcpiError`].
    #[error(transparent)]
    Acpi(#[from] AcpiError),
    /// See [`BlockError`].
    #[error(transparent)]
    Block(#[from] BlockError),
    /// See [`NetError`].
    #[error(transparent)]
    Net(#[from] NetError),
    /// Too many devices.
    #[error("{count} virtio devices, there are interrupt lines for {limit}")]
    TooManyDevices {
        /// What was asked for.
        count: usize,
        /// What fits.
        limit: u32,
    },
    /// See [`super::sandbox::SandboxError`].
    #[error("sandbox: {0}")]
    Sandbox(#[from] super::sandbox::SandboxError),
    /// See [`Overlap`].
    #[error(transparent)]
    Bus(#[from] Overlap),
    /// An operating system call failed.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        error: io::Error,
    },
}

impl VmmError {
    /// For `map_err` on ioctls.
    pub(super) fn kvm(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> Self {
        move |error| Self::Kvm { call, error }
    }

    /// For `map_err` on system calls.
    pub(super) fn system(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self::System { what, error }
    }
}

/// A built machine that has not run yet.
pub struct Vmm {
    config_deadline: Option<std::time::Duration>,
    outcome: Arc<Outcome>,
    vcpus: Vec<VcpuFd>,
    buses: Arc<Buses>,
    transports: Transports,
    inputs: Vec<Prepared>,
    tail: Tail,
    power_button: EventFd,
    // Dropped after everything that uses it; the memory last of all.
    vm: Arc<VmFd>,
    memory: GuestMemoryMmap,
}

impl std::fmt::Debug for Vmm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vmm")
            .field("vcpus", &self.vcpus.len())
            .finish_non_exhaustive()
    }
}

const CAPABILITIES: [(Cap, &str); 10] = [
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::Pit2, "KVM_CAP_PIT2"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::SignalMsi, "KVM_CAP_SIGNAL_MSI"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
];

impl Vmm {
    /// Builds the machine; nothing of the guest runs yet.
    ///
    /// # Errors
    /// See [`VmmError`].
    pub fn new(config: VmmConfig) -> Result<Self, VmmError> {
        let outcome = Arc::new(Outcome::new(
            config.started.unwrap_or_else(Instant::now),
            config.observer.clone(),
        ));
        config.topology.validate()?;
        let kvm = open(&config.kvm)?;
        let vm = Arc::new(kvm.create_vm().map_err(VmmError::kvm("KVM_CREATE_VM"))?);
        vm.set_tss_address(layout::KVM_TSS)
            .map_err(VmmError::kvm("KVM_SET_TSS_ADDR"))?;
        vm.set_identity_map_address(layout::KVM_IDENTITY_MAP)
            .map_err(VmmError::kvm("KVM_SET_IDENTITY_MAP_ADDR"))?;
        vm.create_irq_chip().map_err(VmmError::kvm("KVM_CREATE_IRQCHIP"))?;
        vm.create_pit2(kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..kvm_pit_config::default()
        })
        .map_err(VmmError::kvm("KVM_CREATE_PIT2"))?;
        let memory = memory::allocate(config.memory_bytes, config.hugepages)?;
        memory::register(&vm, &memory)?;

        let mut builder = Builder {
            vm: &vm,
            events: outcome.clone(),
            buses: Buses::default(),
            inputs: Vec::new(),
        };
        builder.small_devices()?;
        let tail = builder.console(config.console, config.console_input, config.marker.clone())?;
        builder.agent(config.agent)?;
        let power_button = builder.line(layout::GSI_POWER_BUTTON)?;
        let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::new();
        for disk in &config.disks {
            devices.push(Box::new(
                Block::open(disk)?.counted_in(Arc::clone(&config.disk_operations)),
            ));
        }
        for net in config.nets {
            devices.push(Box::new(Net::open(net)?));
        }
        if config.rng {
            devices.push(Box::new(Rng::open().map_err(VmmError::system("opening /dev/urandom"))?));
        }
        let pci = config.transport == Transport::Pci;
        let (transports, windows) = match config.transport {
            Transport::Mmio => builder.virtio_mmio(devices, &memory)?,
            Transport::Pci => (builder.virtio_pci(devices, &memory)?, Windows::new()),
        };

        let entry = boot::load(&memory, config.memory_bytes, &config.boot)?;
        crate::arch::regs::write_tables(&memory, entry).map_err(BootError::from)?;
        crate::arch::reset_vector::write(&memory).map_err(BootError::from)?;
        acpi::write(
            &memory,
            &acpi::Machine {
                topology: config.topology,
                virtio: windows,
                pci,
            },
        )?;

        let supported: CpuId = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(VmmError::kvm("KVM_GET_SUPPORTED_CPUID"))?;
        let mut vcpus = Vec::new();
        for index in 0..config.topology.vcpus() {
            let id = config.topology.apic_id(index);
            let fd = vm
                .create_vcpu(u64::from(id))
                .map_err(VmmError::kvm("KVM_CREATE_VCPU"))?;
            vcpus.push(fd);
        }
        for (index, fd) in (0..).zip(&vcpus) {
            let entry = (index == 0).then_some(entry);
            vcpu::configure(fd, &supported, config.topology, index, entry)?;
        }
        Ok(Self {
            config_deadline: config.deadline,
            outcome,
            vcpus,
            buses: Arc::new(builder.buses),
            transports,
            inputs: builder.inputs,
            tail,
            power_button,
            vm,
            memory,
        })
    }

    /// Starts all threads, calls `before_run` while the vCPUs wait at a gate (the place for the sandbox), opens the gate.
    ///
    /// # Errors
    /// Where threads cannot be made or `before_run` fails; the guest has not run then.
    pub fn start_after(self, before_run: impl FnOnce() -> Result<(), VmmError>) -> Result<VmHandle, VmmError> {
        kick::install().map_err(VmmError::system("installing the kick signal"))?;
        let outcome = Arc::clone(&self.outcome);
        let gate = Arc::new(Gate::default());
        let started = self.start_threads(&gate);
        let ready = if started.is_ok() { before_run() } else { Ok(()) };
        if started.is_err() || ready.is_err() {
            // Those behind the gate see it before they enter the guest.
            outcome.end(super::ExitReason::Stopped);
        }
        // Before anything of the machine is dropped: that waits for the threads at the gate.
        gate.open();
        ready.and(started)
    }

    /// All threads, with the vCPUs at the gate. Where one is missing, the others end as soon as the gate opens on a machine
    /// that was stopped.
    fn start_threads(self, gate: &Arc<Gate>) -> Result<VmHandle, VmmError> {
        let mut inputs = Vec::new();
        for input in self.inputs {
            inputs.push(input.start().map_err(VmmError::system("starting an input thread"))?);
        }
        let mut threads = Vec::new();
        for (index, fd) in (0_u32..).zip(self.vcpus) {
            let (buses, outcome, gate) = (Arc::clone(&self.buses), Arc::clone(&self.outcome), Arc::clone(gate));
            let spawned = thread::Builder::new().name(format!("vcpu{index}")).spawn(move || {
                kick::with_registration(fd, |vcpu| {
                    vcpu::run(index, vcpu, &buses, &outcome, &gate);
                });
            });
            threads.push(spawned.map_err(VmmError::system("starting a vCPU thread"))?);
        }
        VmHandle::supervise(
            Running {
                outcome: self.outcome,
                threads,
                transports: self.transports,
                inputs,
                tail: self.tail,
                buses: self.buses,
                vm: self.vm,
                memory: self.memory,
            },
            self.power_button,
            self.config_deadline,
        )
    }

    /// [`Vmm::start_after`] with nothing in between.
    ///
    /// # Errors
    /// Where threads cannot be made.
    pub fn start(self) -> Result<VmHandle, VmmError> {
        self.start_after(|| Ok(()))
    }
}

fn open(path: &std::path::Path) -> Result<Kvm, VmmError> {
    let open_error = |error: io::Error| VmmError::Open {
        path: path.to_owned(),
        error,
    };
    let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())
        .map_err(|error| open_error(io::Error::other(error)))?;
    let kvm = Kvm::new_with_path(name).map_err(|error| open_error(io::Error::from_raw_os_error(error.errno())))?;
    let version = kvm.get_api_version();
    if version != 12 {
        return Err(VmmError::ApiVersion(version));
    }
    for (capability, name) in CAPABILITIES {
        if !kvm.check_extension(capability) {
            return Err(VmmError::Capability(name));
        }
    }
    Ok(kvm)
}

type Transports = Vec<Arc<Mutex<dyn Carrier>>>;
/// (address, size, interrupt line) of each virtio window.
type Windows = Vec<(u32, u32, u32)>;

struct Builder<'a> {
    vm: &'a Arc<VmFd>,
    events: EventSink,
    buses: Buses,
    inputs: Vec<Prepared>,
}

impl Builder<'_> {
    /// An eventfd that raises the interrupt line.
    fn line(&self, gsi: u32) -> Result<EventFd, VmmError> {
        let fd = EventFd::new(libc::EFD_NONBLOCK).map_err(VmmError::system("eventfd"))?;
        self.vm.register_irqfd(&fd, gsi).map_err(VmmError::kvm("KVM_IRQFD"))?;
        Ok(fd)
    }

    fn port(&mut self, port: u16, size: u64, device: impl BusDevice + 'static) -> Result<(), VmmError> {
        self.buses
            .ports
            .insert(u64::from(port), size, Arc::new(Mutex::new(device)))?;
        Ok(())
    }

    fn small_devices(&mut self) -> Result<(), VmmError> {
        let events = || Arc::clone(&self.events);
        let (power, reset, panic, post) = (
            PowerPort(events()),
            I8042Reset(events()),
            Pvpanic(events()),
            PostPort(events()),
        );
        self.port(layout::POWER_PORT, 1, power)?;
        self.port(layout::I8042_COMMAND, 1, reset)?;
        self.port(layout::PVPANIC_PORT, 1, panic)?;
        self.port(layout::POST_PORT, 1, post)
    }

    fn console(&mut self, output: SerialOutput, input: SerialInput, marker: Option<String>) -> Result<Tail, VmmError> {
        let out: Output = match output {
            SerialOutput::Discard => Box::new(io::sink()),
            SerialOutput::Stdout => Box::new(Unbuffered(io::stdout())),
            SerialOutput::File(file) => Box::new(file),
            // With a time limit: whoever stops to read must not stop the vCPU that prints.
            SerialOutput::Stream(stream) => {
                Box::new(ChannelOutput::attached(stream).map_err(VmmError::system("console socket"))?)
            }
        };
        let console = Console::new(out, Arc::clone(&self.events), marker);
        let tail = console.tail();
        let (port, gsi) = layout::COM1;
        let uart = Uart::new(self.line(gsi)?, Box::new(console)).map_err(VmmError::system("console UART"))?;
        self.port(port, 8, uart.clone())?;
        let name = "console-in";
        let input = match input {
            SerialInput::None => return Ok(tail),
            SerialInput::Stdin => Prepared::from_reader(name, io::stdin(), uart),
            SerialInput::Stream(stream) => Prepared::from_reader(name, stream, uart),
        };
        self.inputs.push(input);
        Ok(tail)
    }

    fn agent(&mut self, agent: Option<AgentChannel>) -> Result<(), VmmError> {
        let (port, gsi) = layout::COM2;
        let line = self.line(gsi)?;
        let output = ChannelOutput::default();
        let out: Output = if agent.is_some() {
            Box::new(output.clone())
        } else {
            Box::new(io::sink())
        };
        let uart = Uart::new(line, out).map_err(VmmError::system("agent UART"))?;
        self.port(port, 8, uart.clone())?;
        let peer = match agent {
            None => return Ok(()),
            Some(AgentChannel::Listener(listener)) => Peer::Listener(listener),
            Some(AgentChannel::Stream(stream)) => Peer::Stream(stream),
        };
        self.inputs.push(Prepared::serve("agent-in", peer, uart, output));
        Ok(())
    }

    fn virtio_mmio(
        &mut self,
        devices: Vec<Box<dyn VirtioDevice>>,
        memory: &GuestMemoryMmap,
    ) -> Result<(Transports, Windows), VmmError> {
        let limit = layout::MAX_VIRTIO_DEVICES;
        let count = devices.len();
        if u32::try_from(count).map_or(true, |count| count > limit) {
            return Err(VmmError::TooManyDevices { count, limit });
        }
        let mut transports: Transports = Vec::new();
        let mut windows = Vec::new();
        for (index, device) in (0_u32..).zip(devices) {
            let base = layout::VIRTIO_MMIO_BASE + u64::from(index) * layout::VIRTIO_MMIO_STRIDE;
            let gsi = layout::GSI_DEVICES + index;
            let interrupt = Arc::new(virtio::Interrupt::new(self.line(gsi)?));
            let transport = MmioTransport::new(device, memory.clone(), interrupt)
                .map_err(VmmError::system("virtio queue eventfds"))?;
            for (queue, fd) in (0_u32..).zip(transport.kicks()) {
                let address = kvm_ioctls::IoEventAddress::Mmio(base + virtio::transport::mmio::QUEUE_NOTIFY);
                self.vm
                    .register_ioevent(fd, &address, queue)
                    .map_err(VmmError::kvm("KVM_IOEVENTFD"))?;
            }
            let transport = Arc::new(Mutex::new(transport));
            self.buses
                .memory
                .insert(base, layout::VIRTIO_MMIO_STRIDE, transport.clone())?;
            transports.push(transport);
            windows.push((
                u32::try_from(base).expect("windows lie below 4 GiB"),
                u32::try_from(layout::VIRTIO_MMIO_STRIDE).expect("one page"),
                gsi,
            ));
        }
        Ok((transports, windows))
    }

    fn virtio_pci(
        &mut self,
        devices: Vec<Box<dyn VirtioDevice>>,
        memory: &GuestMemoryMmap,
    ) -> Result<Transports, VmmError> {
        if devices.len() > pci::MAX_DEVICES {
            return Err(VmmError::TooManyDevices {
                count: devices.len(),
                limit: u32::try_from(pci::MAX_DEVICES).expect("31"),
            });
        }
        let routes = Arc::new(Routes::new(Arc::clone(self.vm)));
        let mut gsi = layout::GSI_MESSAGES;
        let mut transports: Transports = Vec::new();
        let mut functions: Vec<Arc<Mutex<dyn pci::Function>>> = Vec::new();
        for (index, device) in (0_u32..).zip(devices) {
            let mut vectors = Vec::new();
            for _ in 0..virtio_pci::vectors_of(&*device) {
                vectors.push(Vector {
                    fd: self.line(gsi)?,
                    gsi,
                });
                gsi += 1;
            }
            let msix = Arc::new(Msix::new(vectors, routes.clone()));
            let bar = layout::PCI_WINDOW + index * virtio_pci::BAR_SIZE;
            let doorbells = Box::new(IoEvents::new(Arc::clone(self.vm)));
            let transport = PciTransport::new(device, memory.clone(), bar, msix, doorbells)
                .map_err(VmmError::system("virtio queue eventfds"))?;
            let transport = Arc::new(Mutex::new(transport));
            functions.push(transport.clone());
            transports.push(transport);
        }
        let functions = pci::Functions::new(functions);
        self.port(layout::PCI_CONFIG_PORTS, 8, pci::ConfigPorts::new(functions.clone()))?;
        let window = u64::from(layout::PCI_WINDOW);
        let device = Arc::new(Mutex::new(pci::Window::new(functions, window)));
        self.buses
            .memory
            .insert(window, u64::from(layout::PCI_WINDOW_SIZE), device)?;
        Ok(transports)
    }
}

/// Shows console output at once, byte by byte.
struct Unbuffered<W>(W);

impl<W: io::Write> io::Write for Unbuffered<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.0.write(bytes)?;
        self.0.flush()?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
