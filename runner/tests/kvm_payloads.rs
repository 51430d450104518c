//! The own VMM with guests of a few instructions, on whatever `/dev/kvm` there is: kernels that interpret guests included. The
//! payloads keep to instructions that all of them know: no SSE, no `int3`, no `hlt`.
#![expect(
    clippy::tests_outside_test_module,
    reason = "an integration test program is one test module"
)]

use std::{
    io::Write as _,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use esxodus_runner::{
    arch::Topology,
    boot::LinuxBoot,
    devices::{PanicSource, ResetSource},
    kvm::{AgentChannel, ExitReason, Report, SerialInput, SerialOutput, Vmm, VmmConfig, VmmError},
};

const POWER_PORT: u16 = 0x600;
const POWER_OFF: u8 = 5 << 2 | 1 << 5;
const COM1: u16 = 0x3f8;
/// `jmp $`
const HANG: [u8; 2] = [0xeb, 0xfe];

/// `mov dx, port; mov al, value; out dx, al`
fn out(port: u16, value: u8) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0x66, 0xba, low, high, 0xb0, value, 0xee]
}

/// `mov dword [address], value` in long mode, address below 2 GiB.
fn store(address: u32, value: u32) -> Vec<u8> {
    let mut code = vec![0xc7, 0x04, 0x25];
    code.extend(address.to_le_bytes());
    code.extend(value.to_le_bytes());
    code
}

/// `mov rbx, value`
fn rbx(value: u64) -> Vec<u8> {
    let mut code = vec![0x48, 0xbb];
    code.extend(value.to_le_bytes());
    code
}

/// `mov rax, cr3; mov cr3, rax`: forgets old translations.
const FLUSH: [u8; 6] = [0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8];

/// A bzImage whose 64-bit entry is `code`.
fn image(code: &[u8]) -> tempfile::NamedTempFile {
    const SECTORS: usize = 2;
    let mut bytes = vec![0; SECTORS * 512 + 0x200];
    let mut put = |at: usize, data: &[u8]| bytes[at..at + data.len()].copy_from_slice(data);
    put(0x1f1, &[1]);
    put(0x1fe, &[0x55, 0xaa]);
    put(0x202, b"HdrS");
    put(0x206, &0x20f_u16.to_le_bytes());
    put(0x211, &[1]);
    put(0x214, &0x10_0000_u32.to_le_bytes());
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x236, &[1, 0]);
    put(0x238, &2047_u32.to_le_bytes());
    put(0x258, &(16_u64 << 20).to_le_bytes());
    put(0x260, &(32_u32 << 20).to_le_bytes());
    bytes.extend(code);
    bytes.resize(bytes.len().next_multiple_of(512), 0xcc);
    let mut file = tempfile::NamedTempFile::new().expect("temp file");
    file.write_all(&bytes).expect("write");
    file
}

/// Runs a payload; `None` where this host has no KVM that could.
fn run(code: &[u8], change: impl FnOnce(&mut VmmConfig)) -> Option<Report> {
    let file = image(code);
    let mut config = VmmConfig::new(LinuxBoot {
        kernel: file.path().to_owned(),
        initrd: None,
        cmdline: String::new(),
    });
    config.console = SerialOutput::Discard;
    config.rng = false;
    // Generous: an interpreting KVM on a busy machine does half a million instructions a second.
    config.deadline = Some(Duration::from_secs(60));
    change(&mut config);
    match Vmm::new(config) {
        Ok(vmm) => Some(vmm.start().expect("threads").wait()),
        Err(error @ (VmmError::Open { .. } | VmmError::Capability(_))) => {
            println!("SKIP: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn text_on_the_console_and_boot_marks_arrive_before_power_off() {
    let mut code = out(0x80, 0x11);
    for byte in b"HELLO\n" {
        code.extend(out(COM1, *byte));
    }
    code.extend(out(0x80, 0x22));
    code.extend(out(POWER_PORT, POWER_OFF));
    code.extend(HANG);
    let Some(report) = run(&code, |config| config.marker = Some("HELLO".into())) else {
        return;
    };
    assert_eq!(report.reason, ExitReason::PoweredOff);
    assert_eq!(report.console, "HELLO\n");
    let stages = &report.stages;
    let marks: Vec<u8> = stages.marks.iter().map(|(mark, _)| *mark).collect();
    assert_eq!(marks, [0x11, 0x22]);
    let order = [
        stages.first_run,
        Some(stages.marks[0].1),
        stages.console,
        stages.marker,
        Some(stages.marks[1].1),
        stages.end,
    ];
    assert!(
        order.windows(2).all(|pair| pair[0].is_some() && pair[0] <= pair[1]),
        "{stages:?}"
    );
}

#[test]
fn resets_are_told_apart_by_their_register() {
    for (port, value, source) in [(0x64, 0xfe, ResetSource::I8042), (POWER_PORT, 1, ResetSource::Acpi)] {
        let code = [out(port, value), HANG.to_vec()].concat();
        let Some(report) = run(&code, |_| ()) else { return };
        assert_eq!(report.reason, ExitReason::Reset { source });
    }
}

#[test]
fn a_fault_that_nobody_handles_is_a_triple_fault() {
    // xor ecx, ecx; div ecx: no handler for the division, none for what follows.
    let code = [[0x31, 0xc9, 0xf7, 0xf1].as_slice(), HANG.as_slice()].concat();
    let Some(report) = run(&code, |_| ()) else { return };
    assert!(
        matches!(report.reason, ExitReason::TripleFault { vcpu: 0, .. }),
        "{}",
        report.reason
    );
}

#[test]
fn code_that_is_fetched_from_nowhere_is_an_internal_error_with_its_place() {
    const NOWHERE: u64 = 0x2000_0000;
    // mov rbx, NOWHERE; jmp rbx
    let code = [rbx(NOWHERE), vec![0xff, 0xe3]].concat();
    let Some(report) = run(&code, |_| ()) else { return };
    match report.reason {
        ExitReason::InternalError(error) => assert_eq!((error.vcpu, error.rip, error.cpl), (0, NOWHERE, 0)),
        // Some processors make a fault of it, which the payload does not handle.
        ExitReason::TripleFault { .. } => {}
        other => panic!("{other}"),
    }
}

#[test]
fn a_guest_that_never_exits_is_kicked_out_at_its_deadline() {
    let limit = Duration::from_millis(300);
    let started = Instant::now();
    let Some(report) = run(&HANG, |config| config.deadline = Some(limit)) else {
        return;
    };
    assert_eq!(report.reason, ExitReason::Deadline);
    assert!(started.elapsed() >= limit);
}

#[test]
fn a_panicked_guest_is_ended_after_its_grace_time() {
    let code = [out(0x505, 1), HANG.to_vec()].concat();
    let Some(report) = run(&code, |_| ()) else { return };
    assert_eq!(
        report.reason,
        ExitReason::Panicked {
            source: PanicSource::Pvpanic
        }
    );
}

/// Maps 2 MiB at 4 GiB, writes a letter there, reads it back onto the console.
fn beyond_4_gib() -> Vec<u8> {
    const PDPT: u32 = 0xa000;
    const DIRECTORY: u32 = 0xc000;
    let mut code = store(PDPT + 4 * 8, DIRECTORY | 3);
    code.extend(store(PDPT + 4 * 8 + 4, 0));
    code.extend(store(DIRECTORY, 0x83));
    code.extend(store(DIRECTORY + 4, 1));
    code.extend(FLUSH);
    code.extend(rbx(1 << 32));
    // mov byte [rbx], 'G'; mov al, [rbx]; mov dx, COM1; out dx, al
    code.extend([0xc6, 0x03, b'G', 0x8a, 0x03, 0x66, 0xba, 0xf8, 0x03, 0xee]);
    code.extend(out(POWER_PORT, POWER_OFF));
    code.extend(HANG);
    code
}

#[test]
fn memory_continues_at_4_gib_behind_the_device_hole() {
    let more = |config: &mut VmmConfig| config.memory_bytes = (3 << 30) + (64 << 20);
    let Some(report) = run(&beyond_4_gib(), more) else {
        return;
    };
    assert_eq!((report.reason, report.console.as_str()), (ExitReason::PoweredOff, "G"));
    // With less memory there is nothing: writes are lost, reads give ones.
    let Some(report) = run(&beyond_4_gib(), |_| ()) else {
        return;
    };
    assert_eq!(report.reason, ExitReason::PoweredOff);
    assert_ne!(report.console, "G");
}

#[test]
fn a_second_cpu_starts_in_real_mode_by_init_and_sipi() {
    const PDPT: u32 = 0xa000;
    const DIRECTORY: u32 = 0xd000;
    /// Vector 0x10 of the start-up message.
    const TRAMPOLINE: u32 = 0x1_0000;
    const FLAG: u32 = TRAMPOLINE + 0x100;
    let lapic = |register: u64| rbx(0xfee0_0000 + register);
    // mov dword [rbx], value
    let set = |value: u32| [vec![0xc7, 0x03], value.to_le_bytes().to_vec()].concat();
    // Real mode: mov dx, COM1; mov al, '2'; out dx, al; mov byte [cs:0x100], 1; jmp $
    let trampoline = [
        0xba, 0xf8, 0x03, 0xb0, b'2', 0xee, 0x2e, 0xc6, 0x06, 0x00, 0x01, 0x01, 0xeb, 0xfe, 0, 0,
    ];
    let mut code = Vec::new();
    for (at, word) in (TRAMPOLINE..).step_by(4).zip(trampoline.chunks(4)) {
        code.extend(store(at, u32::from_le_bytes(word.try_into().expect("four bytes"))));
    }
    code.extend(store(FLAG, 0));
    // The local APIC's page, uncached.
    code.extend(store(PDPT + 3 * 8, DIRECTORY | 3));
    code.extend(store(PDPT + 3 * 8 + 4, 0));
    code.extend(store(DIRECTORY + 503 * 8, 0xfee0_0093));
    code.extend(store(DIRECTORY + 503 * 8 + 4, 0));
    code.extend(FLUSH);
    for message in [0x4500, 0x4610] {
        code.extend([lapic(0x310), set(1 << 24), lapic(0x300), set(message)].concat());
    }
    // mov al, [FLAG]; test al, al; jz back
    code.extend([0x8a, 0x04, 0x25]);
    code.extend(FLAG.to_le_bytes());
    code.extend([0x84, 0xc0, 0x74, 0xf5]);
    code.extend(out(COM1, b'1'));
    code.extend(out(POWER_PORT, POWER_OFF));
    code.extend(HANG);
    let Some(report) = run(&code, |config| config.topology = Topology::flat(2)) else {
        return;
    };
    assert_eq!((report.reason, report.console.as_str()), (ExitReason::PoweredOff, "21"));
}

/// Names of this process' threads.
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("procfs");
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect()
}

#[test]
fn no_thread_of_the_machine_runs_before_the_sandbox_and_none_is_left_where_it_cannot_be_closed() {
    let file = image(&HANG);
    let mut config = VmmConfig::new(LinuxBoot {
        kernel: file.path().to_owned(),
        initrd: None,
        cmdline: String::new(),
    });
    let (_console, console) = UnixStream::pair().expect("socketpair");
    let (_agent, agent) = UnixStream::pair().expect("socketpair");
    config.console = SerialOutput::Discard;
    config.console_input = SerialInput::Stream(console);
    config.agent = Some(AgentChannel::Stream(agent));
    let vmm = match Vmm::new(config) {
        Ok(vmm) => vmm,
        Err(error @ (VmmError::Open { .. } | VmmError::Capability(_))) => {
            println!("SKIP: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    // Other tests run machines beside this one, but none with inputs.
    let inputs = || threads().iter().filter(|name| name.ends_with("-in")).count();
    assert_eq!(inputs(), 0, "{:?}", threads());
    let mut at_the_gate = 0;
    let error = vmm
        .start_after(|| {
            // A thread gives itself its name, some time after it was started.
            let end = Instant::now() + Duration::from_secs(20);
            while at_the_gate < 2 && Instant::now() < end {
                at_the_gate = inputs();
            }
            Err(VmmError::CpuidTooLarge)
        })
        .expect_err("the sandbox fails");
    assert!(matches!(error, VmmError::CpuidTooLarge));
    assert_eq!((at_the_gate, inputs()), (2, 0));
}

#[test]
fn hugepages_are_an_error_with_words_where_the_host_has_none_left() {
    let meminfo = std::fs::read_to_string("/proc/meminfo").expect("procfs");
    let free = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("HugePages_Free:")?.trim().parse::<u64>().ok());
    let file = image(&HANG);
    let mut config = VmmConfig::new(LinuxBoot {
        kernel: file.path().to_owned(),
        initrd: None,
        cmdline: String::new(),
    });
    config.hugepages = true;
    config.memory_bytes = 1 << 40;
    match (Vmm::new(config), free) {
        (Err(VmmError::MemoryMap { size, .. }), Some(_)) => assert!(size >= 3 << 30),
        (Err(error @ (VmmError::Open { .. } | VmmError::Capability(_))), _) => println!("SKIP: {error}"),
        (_, None) => println!("SKIP: this kernel has no huge pages"),
        (other, _) => panic!("a tebibyte of huge pages: {other:?}"),
    }
}
