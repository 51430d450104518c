//! The same guest through the engine's interface, as proof, appliance and `esxodus run` use it.

use std::{
    thread,
    time::{Duration, Instant},
};

use esxodus_runner::{
    engine::{
        Accelerator, DiskBus, DiskCache, DiskFormat as Format, DiskSpec, Engine as _, FirmwareSpec, MachineModel,
        Network, NicSpec, VmEventKind, VmSpec,
    },
    engine::{DirectKernel, Vm},
    kvm::{
        ExitReason,
        config::{CacheMode, DiskFormat},
        engine::Kvm,
    },
};

use super::{Failure, Options, check_echo};

fn spec(options: &Options) -> VmSpec {
    let config = &options.config;
    let disk = |disk: &esxodus_runner::kvm::DiskConfig| DiskSpec {
        path: disk.path.clone(),
        format: match disk.format {
            DiskFormat::Raw => Format::Raw,
            DiskFormat::Qcow2 => Format::Qcow2,
        },
        bus: DiskBus::VirtioBlk,
        serial: (!disk.serial.is_empty()).then(|| disk.serial.clone()),
        snapshot: false,
        cache: match disk.cache {
            CacheMode::Writeback => DiskCache::Writeback,
            CacheMode::Unsafe => DiskCache::Unsafe,
        },
    };
    VmSpec {
        name: "lab".into(),
        topology: config.topology,
        memory_mib: config.memory_bytes >> 20,
        machine: MachineModel::Q35,
        firmware: FirmwareSpec::Bios,
        kernel: Some(DirectKernel {
            kernel: config.boot.kernel.clone(),
            initrd: config.boot.initrd.clone(),
            cmdline: config.boot.cmdline.clone(),
        }),
        disks: config.disks.iter().map(disk).collect(),
        nics: options.user_net.then(card).into_iter().collect(),
        uuid: None,
        display: false,
        agent: options.echo.is_some(),
        rtc_local: false,
        accelerator: Accelerator::Kvm,
        scratch: std::env::temp_dir(),
    }
}

fn card() -> NicSpec {
    NicSpec {
        mac: None,
        model: "virtio-net".into(),
        slot: None,
        network: Network::User,
    }
}

/// Whether a whole line of the console has `text`.
fn seen(vm: &dyn Vm, text: &str) -> bool {
    vm.console().lines(0).iter().any(|line| line.text.contains(text))
}

pub(super) fn run(options: Options) -> Result<ExitReason, Failure> {
    let engine = Kvm {
        transport: options.config.transport,
        hugepages: options.config.hugepages,
        program: Some(std::env::current_exe()?),
        no_sandbox: !options.sandbox,
    };
    let mut vm = engine.start(&spec(&options))?;
    let end = Instant::now() + options.config.deadline.unwrap_or(Duration::from_secs(3600));
    let echo = vm
        .agent_lines()
        .pop()
        .map(|line| thread::spawn(move || check_echo(line)));
    let (mut shown, mut pressed, mut resident) = (0, false, 0);
    let mut kinds: Vec<VmEventKind> = Vec::new();
    let marker = options.config.marker.clone().unwrap_or_default();
    let ended = loop {
        for line in vm.console().lines(shown) {
            println!("{}", line.text);
            shown += 1;
        }
        kinds.extend(vm.events().iter().map(|event| event.kind));
        resident = vm.stats().resident_bytes.max(resident);
        if let Some(ended) = vm.ended() {
            break Some(ended);
        }
        if Instant::now() > end {
            break None;
        }
        if let Some(after) = options.power_button
            && !pressed
            && seen(&*vm, &marker)
        {
            thread::sleep(after);
            vm.power_button()?;
            pressed = true;
        }
        thread::sleep(Duration::from_millis(20));
    };
    kinds.extend(vm.events().iter().map(|event| event.kind));
    if let Some(echo) = echo {
        let answer = echo.join().map_err(|_| "the echo check panicked")?;
        println!("\nAGENT-ECHO {}", answer.unwrap_or_else(|error| error.to_string()));
    }
    kinds.retain(|kind| *kind != VmEventKind::Other);
    println!("\nENGINE-EVENTS {kinds:?} running {}", resident > 16 << 20);
    let stages = vm.stages().unwrap_or_default();
    println!(
        "ENGINE-STAGES in order {} {stages:?}",
        stages.entered.is_some() && stages.entered < stages.console
    );
    let killing = Instant::now();
    vm.kill();
    let Some(ended) = ended else {
        // A guest that hangs must not take the engine with it.
        println!(
            "ENGINE-KILLED {:?} in time {}",
            vm.ended().map(|ended| ended.detail),
            killing.elapsed() < Duration::from_secs(9)
        );
        return Ok(ExitReason::Deadline);
    };
    println!("ENGINE-ENDED {} {}", ended.clean, ended.detail);
    Ok(if ended.clean {
        ExitReason::PoweredOff
    } else {
        ExitReason::Stopped
    })
}
