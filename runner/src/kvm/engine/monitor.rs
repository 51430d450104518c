//! The monitor process: takes one order from its standard input, runs that machine in the sandbox, tells how it went.

use super::wire::{self, Command, Order, Told};
use crate::boot::LinuxBoot;
use crate::devices::{Events, MachineEvent};
use crate::kvm::config::{NetConfig, SerialInput, Uplink};
use crate::kvm::{AgentChannel, SerialOutput, Vmm, VmmConfig};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The parent hears so often how much the disks have done: a guest that only computes and reads is alive too.
const DISK_TICK: Duration = Duration::from_secs(1);

/// Passes on what the devices tell; the marks of a booting kernel stay here.
#[derive(Debug)]
struct Passing {
    line: Arc<OwnedFd>,
    started: Instant,
}

impl Events for Passing {
    fn event(&self, event: MachineEvent) {
        if !matches!(event, MachineEvent::Mark(_)) {
            // A parent that does not listen loses events, and the guest goes on.
            let _ = wire::tell_now(&*self.line, &Told::Event(event, self.started.elapsed()));
        }
    }
}

fn config(order: Order, descriptors: Vec<OwnedFd>, line: &Arc<OwnedFd>) -> io::Result<VmmConfig> {
    let streams = order.cards.iter().filter(|card| card.stream).count();
    if descriptors.len() != 1 + usize::from(order.agent) + streams {
        return Err(io::Error::other("the order came with the wrong number of descriptors"));
    }
    let mut sockets = descriptors.into_iter().map(UnixStream::from);
    let console = sockets.next().ok_or_else(|| io::Error::other("no console"))?;
    let agent = if order.agent { sockets.next() } else { None };
    let mut config = VmmConfig::new(LinuxBoot {
        kernel: order.kernel,
        initrd: order.initrd,
        cmdline: order.cmdline,
    });
    config.topology = order.topology;
    config.memory_bytes = order.memory_bytes;
    config.hugepages = order.hugepages;
    config.transport = order.transport;
    config.console_input = SerialInput::Stream(console.try_clone()?);
    config.console = SerialOutput::Stream(console);
    config.agent = agent.map(AgentChannel::Stream);
    config.disks = order.disks;
    config.nets = order
        .cards
        .into_iter()
        .map(|card| NetConfig {
            uplink: match card.stream.then(|| sockets.next()).flatten() {
                Some(socket) => Uplink::Stream(socket),
                None => Uplink::Nothing,
            },
            mac: card.mac,
        })
        .collect();
    let age = wire::uptime().saturating_sub(order.spawned);
    let started = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
    config.started = Some(started);
    config.observer = Some(Arc::new(Passing {
        line: Arc::clone(line),
        started,
    }));
    Ok(config)
}

/// Runs one machine as its parent ordered through standard input. Returns whether the guest ended well; the parent was
/// told everything by then.
///
/// # Errors
/// Nobody talks to this process: it was not started by the engine.
pub fn serve() -> io::Result<bool> {
    let line = Arc::new(io::stdin().as_fd().try_clone_to_owned()?);
    let Some((order, descriptors)) = wire::hear::<Order>(&*line)? else {
        return Err(io::Error::other("no order came"));
    };
    let sandbox = order.sandbox;
    let operations = Arc::new(AtomicU64::new(0));
    let started = config(order, descriptors, &line)
        .map_err(|error| error.to_string())
        .and_then(|config| {
            let disk_operations = Arc::clone(&operations);
            Vmm::new(VmmConfig {
                disk_operations,
                ..config
            })
            .map_err(|error| error.to_string())
        })
        .and_then(|vmm| {
            let handle = if sandbox { vmm.start_sandboxed() } else { vmm.start() };
            handle.map_err(|error| error.to_string())
        });
    let vm = match started {
        Ok(vm) => Arc::new(vm),
        Err(error) => {
            wire::tell(&*line, &Told::Failed(error))?;
            return Ok(false);
        }
    };
    wire::tell(&*line, &Told::Started)?;
    let (listener, commanded) = (Arc::clone(&line), Arc::clone(&vm));
    // Not joined: it waits for the parent, and the process ends without it.
    std::thread::Builder::new().name("commands".into()).spawn(move || {
        loop {
            match wire::hear::<Command>(&*listener) {
                Ok(Some((Command::PowerButton, _))) => commanded.press_power_button(),
                // The parent let go of its end: nobody wants this guest any more.
                Ok(Some((Command::Stop, _)) | None) | Err(_) => {
                    commanded.stop();
                    return;
                }
            }
        }
    })?;
    let mut told = 0;
    let report = loop {
        if let Some(report) = vm.wait_timeout(DISK_TICK) {
            break report;
        }
        let now = operations.load(Ordering::Relaxed);
        // A parent that does not listen loses a count, and gets a later one.
        if now != told && wire::tell_now(&*line, &Told::Disk(now)).is_ok() {
            told = now;
        }
    };
    let ended = Told::ended(&report.reason, report.stages, &report.close_errors);
    let clean = matches!(ended, Told::Ended { clean: true, .. });
    // The parent may be gone; then nobody needs to be told.
    let _ = wire::tell(&*line, &ended);
    Ok(clean)
}
