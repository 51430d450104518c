//! Fixing a guest up with `virt-v2v-in-place`, where the user has it and prefers it: it knows Windows. It works on overlays as our own fix-up
//! does, so that a failure or a stop leaves the disks as they were.
//!
//! What it changed is told by looking before and after; it keeps nothing by which a change could be taken back.

use crate::engine::{Accelerator, Process};
use crate::fixup::{Change, FixupOutcome, FixupRequest, Staged, Undo, look, stage};
use crate::{Result, RunnerError};
use convert::machine::{FirmwareKind, Machine};
use reports::schema::{DeepFacts, DriverPlace, SystemFacts};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PROGRAM: &str = "virt-v2v-in-place";
/// Distributions that don't take it for a user's command keep it here.
const ELSEWHERE: [&str; 2] = ["/usr/libexec", "/usr/lib/virt-v2v"];
/// A large guest under emulation: it boots its own appliance and may make every initramfs again.
const DEADLINE: Duration = Duration::from_secs(2 * 3600);
/// So many of its last lines are told.
const TOLD: usize = 12;

/// Where the program is, if it is installed.
#[must_use]
pub fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(ELSEWHERE.iter().map(PathBuf::from))
        .map(|folder| folder.join(PROGRAM))
        .find(|path| path.is_file())
}

/// Lets it fix the guest up on overlays; its output goes to `log`.
///
/// # Errors
/// It is not installed, fails or takes too long; the appliance, which looks before and after, can't be had; stopped.
pub fn fixup(request: &FixupRequest, log: &Path, cancel: &AtomicBool) -> Result<Staged> {
    let program = find().ok_or_else(|| RunnerError::Missing {
        what: PROGRAM.to_owned(),
        advice: "Install it (apt install virt-v2v), or leave --engine virt-v2v away".to_owned(),
    })?;
    if request.dry_run {
        return Err(RunnerError::Unusable {
            what: format!("{PROGRAM} can't say what it would change"),
            advice: "Leave --dry-run away: it works on overlays, and a failure leaves the disks as they were"
                .to_owned(),
        });
    }
    if request.key.is_some() {
        return Err(RunnerError::Unusable {
            what: format!("{PROGRAM} gets no keys from here"),
            advice: "Use the own fix-up for a guest with LUKS volumes".to_owned(),
        });
    }
    let (overlays, scratch) = stage(request)?;
    let before = look(request, &overlays, scratch.path(), cancel)?;
    let description = scratch.path().join("guest.xml");
    std::fs::write(&description, domain(&request.machine, &overlays)?)
        .map_err(|error| RunnerError::io("writing", &description, error))?;
    run(request, &program, &description, log, cancel)?;
    let after = look(request, &overlays, scratch.path(), cancel)?;
    let outcome = FixupOutcome {
        changes: changes(&before, &after, &last_words(log)),
        ..FixupOutcome::default()
    };
    Ok(Staged::new(outcome, Some(before), overlays, scratch))
}

fn run(request: &FixupRequest, program: &Path, description: &Path, log: &Path, cancel: &AtomicBool) -> Result<()> {
    let mut words: Vec<OsString> = Vec::new();
    // The user's own settings of libguestfs hold; without any it needs no libvirtd, and the accelerator that was chosen.
    let settings = [
        ("LIBGUESTFS_BACKEND", Some("direct")),
        (
            "LIBGUESTFS_BACKEND_SETTINGS",
            (request.choice.accelerator == Accelerator::Tcg).then_some("force_tcg"),
        ),
    ];
    for (name, value) in settings {
        if let (None, Some(value)) = (std::env::var_os(name), value) {
            words.push(format!("{name}={value}").into());
        }
    }
    words.push(program.into());
    words.extend(["-i", "libvirtxml"].map(OsString::from));
    words.push(description.into());
    let process = Process::start("env", words, Stdio::null(), log)?;
    let until = Instant::now() + DEADLINE;
    while !process.wait(Duration::from_millis(100)) {
        if cancel.load(Ordering::Relaxed) {
            process.kill();
            return Err(RunnerError::Cancelled);
        }
        if Instant::now() >= until {
            process.kill();
            return Err(RunnerError::Deadline {
                what: format!("{PROGRAM} (its output is in {})", log.display()),
                after: DEADLINE,
            });
        }
    }
    match process.ended() {
        Some(ended) if ended.clean => Ok(()),
        ended => Err(RunnerError::Engine {
            engine: PROGRAM.to_owned(),
            message: format!(
                "{} (all of it: {})",
                ended.map_or_else(|| "it did not end".to_owned(), |ended| ended.detail),
                log.display()
            ),
        }),
    }
}

/// Text in XML. Control characters, which XML cannot hold, become question marks.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&apos;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push('?'),
            c => out.push(c),
        }
    }
    out
}

/// As much of a libvirt domain as it reads: name, size, firmware, the overlays as disks, NICs by MAC.
fn domain(machine: &Machine, overlays: &[PathBuf]) -> Result<String> {
    let firmware = if machine.firmware.kind == FirmwareKind::Bios {
        ""
    } else {
        " firmware='efi'"
    };
    let mut devices = String::new();
    for (overlay, letter) in overlays.iter().zip('a'..='z') {
        let path = overlay.to_str().ok_or_else(|| RunnerError::Unusable {
            what: format!("{} is not a name that XML can hold", overlay.display()),
            advice: "Use a run folder with a plain name".to_owned(),
        })?;
        devices.push_str(&format!(
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/><target dev='sd{letter}' bus='scsi'/></disk>\n",
            escaped(path)
        ));
    }
    if overlays.len() > 26 {
        return Err(RunnerError::Unusable {
            what: format!("{PROGRAM} is given at most 26 disks, the guest has {}", overlays.len()),
            advice: "Use the own fix-up".to_owned(),
        });
    }
    for mac in machine.nics.iter().filter_map(|nic| nic.mac.as_deref()) {
        devices.push_str(&format!(
            "<interface type='network'><mac address='{}'/><source network='default'/></interface>\n",
            escaped(mac)
        ));
    }
    Ok(format!(
        "<domain type='kvm'>\n<name>{}</name>\n<memory unit='MiB'>{}</memory>\n<vcpu>{}</vcpu>\n<os{firmware}><type arch='x86_64'>hvm</type></os>\n<features><acpi/></features>\n<devices>\n{devices}</devices>\n</domain>\n",
        escaped(&machine.name),
        machine.memory.mib,
        machine.cpu.vcpus
    ))
}

fn last_words(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(TOLD)..].join("\n")
}

/// What a system is, as words by subject.
fn subjects(system: &SystemFacts) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for kernel in &system.kernels {
        let place = |place: &DriverPlace| match place {
            DriverPlace::BuiltIn => "built in",
            DriverPlace::Initramfs => "in the initramfs",
            DriverPlace::Modules => "only on the root",
            DriverPlace::Missing => "missing",
        };
        let drivers = kernel
            .drivers
            .iter()
            .map(|(name, at)| format!("{name} {}\n", place(at)));
        let image = kernel
            .initramfs
            .clone()
            .unwrap_or_else(|| format!("kernel {}", kernel.version));
        found.insert(image, drivers.collect());
    }
    let table = system.fstab.iter();
    let lines = table.map(|line| format!("{} {} {} {}\n", line.spec, line.file, line.kind, line.options));
    found.insert("/etc/fstab".to_owned(), lines.collect());
    found.insert("/etc/crypttab".to_owned(), system.crypttab.join("\n"));
    found.insert("boot entries".to_owned(), system.boot_device_names.join("\n"));
    found.insert(
        "VMware Tools".to_owned(),
        system.vmware_tools.clone().unwrap_or_default(),
    );
    found.insert(
        "QEMU guest agent".to_owned(),
        system.qemu_guest_agent.clone().unwrap_or_default(),
    );
    found.retain(|_, words| !words.is_empty());
    found
}

fn changes(before: &DeepFacts, after: &DeepFacts, words: &str) -> Vec<Change> {
    let why = format!("{PROGRAM} made it so");
    let change = |path: String, before: Option<String>, after: String| Change {
        path,
        before,
        after,
        why: why.clone(),
        undo: Undo::Never,
    };
    // Its own account comes first: of Windows the look sees little.
    let mut changes = vec![change("the guest".to_owned(), None, words.to_owned())];
    for system in &before.systems {
        let Some(now) = after.systems.iter().find(|other| other.device == system.device) else {
            continue;
        };
        let (old, new) = (subjects(system), subjects(now));
        let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
        names.sort();
        names.dedup();
        for name in names {
            if old.get(name) != new.get(name) {
                let after = new.get(name).cloned().unwrap_or_else(|| "(nothing)".to_owned());
                changes.push(change(name.clone(), old.get(name).cloned(), after));
            }
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::{changes, escaped};
    use reports::schema::{DeepFacts, MountFacts, SystemFacts};

    fn guest(spec: &str, tools: Option<&str>) -> DeepFacts {
        DeepFacts {
            systems: vec![SystemFacts {
                device: "vda1".to_owned(),
                fstab: vec![MountFacts {
                    spec: spec.to_owned(),
                    file: "/".to_owned(),
                    ..MountFacts::default()
                }],
                vmware_tools: tools.map(str::to_owned),
                ..SystemFacts::default()
            }],
            ..DeepFacts::default()
        }
    }

    #[test]
    fn what_differs_before_and_after_is_told_beside_its_own_words() {
        let (before, after) = (guest("/dev/sda1", Some("/usr/bin/vmtoolsd")), guest("/dev/vda1", None));
        let found = changes(&before, &after, "[  9.0] Finishing off");
        let paths: Vec<&str> = found.iter().map(|change| change.path.as_str()).collect();
        assert_eq!(paths, ["the guest", "/etc/fstab", "VMware Tools"]);
        assert_eq!(
            (found[2].before.as_deref(), found[2].after.as_str()),
            (Some("/usr/bin/vmtoolsd"), "(nothing)")
        );
        assert_eq!(changes(&before, &before, "").len(), 1);
    }

    #[test]
    fn a_name_becomes_no_markup() {
        assert_eq!(escaped("a'/><x>&\n"), "a&apos;/&gt;&lt;x&gt;&amp;?");
    }
}
