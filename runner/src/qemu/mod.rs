//! The QEMU engine: KVM where the probe trusts it, TCG everywhere else.

mod cmdline;
mod firmware;
mod qmp;

use crate::engine::{Console, DiskFormat, Ended, Engine, Process, Vm, VmEvent, VmEventKind, VmSpec, VmStats};
use crate::{Result, RunnerError};
use qmp::Qmp;
use serde_json::json;
use std::ffi::OsStr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = "qemu-system-x86_64";
/// Oldest QEMU whose options we use.
const OLDEST: u32 = 7;
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a disk may be held by the rest of a fix-up that was killed.
const LEFT_BEHIND: Duration = Duration::from_secs(120);
/// Where VGA shows its text memory to the guest (IBM VGA, colour text modes; Linux `vgacon.c` scrolls through all of it).
const TEXT_MEMORY: std::ops::Range<u64> = 0xb_8000..0xc_0000;

/// QEMU.
#[derive(Debug, Clone, Copy, Default)]
pub struct Qemu;

fn run(program: &str, args: &[&OsStr]) -> Result<String> {
    let output = Command::new(program).args(args).output().map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            RunnerError::Missing {
                what: program.to_owned(),
                advice: "Install QEMU: apt install qemu-system-x86 qemu-utils seabios ovmf (or run scripts/setup.sh)"
                    .into(),
            }
        } else {
            RunnerError::io("starting", Path::new(program), error)
        }
    })?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(RunnerError::Engine {
            engine: program.to_owned(),
            message,
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `QEMU emulator version 10.0.2 (Debian …)` to `10.0.2`.
fn parse_version(text: &str) -> Option<(u32, String)> {
    let version = text.split("version ").nth(1)?.split_whitespace().next()?;
    Some((version.split('.').next()?.parse().ok()?, version.to_owned()))
}

/// Makes a throw-away overlay on `base` in `folder`. The base is opened read-only whenever the overlay is used.
///
/// # Errors
/// `qemu-img` is missing or refuses, a base that does not exist.
pub fn overlay(base: &Path, format: DiskFormat, folder: &Path, name: &str) -> Result<PathBuf> {
    let base = std::fs::canonicalize(base).map_err(|error| RunnerError::io("opening", base, error))?;
    let path = folder.join(format!("{name}.qcow2"));
    let backing: std::ffi::OsString = match format {
        // A VMDK's own word about a parent is not followed: what is handed over stands alone.
        DiskFormat::Vmdk => {
            let file = json!({"driver": "file", "filename": base.to_string_lossy()});
            format!("json:{}", json!({"driver": "vmdk", "file": file, "backing": null})).into()
        }
        DiskFormat::Qcow2 | DiskFormat::Raw => base.clone().into_os_string(),
    };
    let parts: [&OsStr; 9] = [
        "create".as_ref(),
        "-q".as_ref(),
        "-f".as_ref(),
        "qcow2".as_ref(),
        "-F".as_ref(),
        format.name().as_ref(),
        "-b".as_ref(),
        backing.as_os_str(),
        path.as_os_str(),
    ];
    run("qemu-img", &parts)?;
    Ok(path)
}

/// Writes what an overlay holds into `base`, which is opened for writing; what the overlay's header says of its base is not followed. The
/// overlay stays as it is.
///
/// # Errors
/// `qemu-img` is missing or refuses.
pub(crate) fn commit(overlay: &Path, base: &Path, format: DiskFormat) -> Result<()> {
    let file = |path: &Path| json!({"driver": "file", "filename": path.to_string_lossy()});
    let mut below = json!({"driver": format.name(), "file": file(base)});
    if format == DiskFormat::Qcow2 {
        below["backing"] = serde_json::Value::Null;
    }
    let whole = json!({"driver": "qcow2", "file": file(overlay), "backing": below});
    let image: std::ffi::OsString = format!("json:{whole}").into();
    // Whoever was killed while it committed left a qemu-img behind, which finishes its work and holds the disk until then.
    let until = Instant::now() + LEFT_BEHIND;
    loop {
        let done = run(
            "qemu-img",
            &["commit".as_ref(), "-q".as_ref(), "-d".as_ref(), image.as_os_str()],
        );
        match done {
            Err(error) if error.to_string().contains("\"write\" lock") && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(200));
            }
            done => return done.map(drop),
        }
    }
}

impl Engine for Qemu {
    fn version(&self) -> Result<String> {
        let text = run(PROGRAM, &["--version".as_ref()])?;
        let (major, version) = parse_version(&text).ok_or_else(|| RunnerError::Engine {
            engine: PROGRAM.into(),
            message: format!("its version cannot be read from {text:?}"),
        })?;
        if major < OLDEST {
            return Err(RunnerError::Unusable {
                what: format!("QEMU {version} is too old, {OLDEST}.0 is the oldest that works"),
                advice: "Install a newer one, on Debian 12 from bookworm-backports (scripts/setup.sh does it)".into(),
            });
        }
        Ok(format!("qemu {version}"))
    }

    fn start(&self, spec: &VmSpec) -> Result<Box<dyn Vm>> {
        self.version()?;
        // Socket paths are limited to 107 bytes: a short private folder, wherever the run folder lies.
        let folder = tempfile::Builder::new()
            .prefix("esxodus-vm-")
            .tempdir()
            .map_err(|error| RunnerError::io("creating", &std::env::temp_dir(), error))?;
        let port = folder.path().join("sercon-port");
        std::fs::write(&port, 0x3f8_u16.to_le_bytes()).map_err(|error| RunnerError::io("writing", &port, error))?;
        let flash = match spec.kernel {
            Some(_) => None,
            None => firmware::prepare(&spec.firmware, folder.path())?,
        };
        let mut disks = Vec::new();
        for (index, disk) in spec.disks.iter().enumerate() {
            disks.push(if disk.snapshot {
                let name = format!("run-{}-{index}", std::process::id());
                (overlay(&disk.path, disk.format, &spec.scratch, &name)?, "qcow2")
            } else {
                (disk.path.clone(), disk.format.name())
            });
        }
        let args = cmdline::arguments(spec, flash.as_ref(), folder.path(), &disks);
        tracing::debug!(?args, "starting qemu");
        let process = Process::start(PROGRAM, args, Stdio::null(), &folder.path().join("qemu.log"))?;
        let connect = |name: &str| -> Result<UnixStream> {
            let path = folder.path().join(format!("{name}.sock"));
            let until = Instant::now() + PATIENCE;
            loop {
                match UnixStream::connect(&path) {
                    Ok(stream) => return Ok(stream),
                    Err(error) => {
                        if let Some(ended) = process.ended() {
                            return Err(RunnerError::Engine {
                                engine: PROGRAM.into(),
                                message: ended.detail,
                            });
                        }
                        if Instant::now() >= until {
                            return Err(RunnerError::io("connecting to", &path, error));
                        }
                        std::thread::sleep(Duration::from_millis(10));
                    }
                }
            }
        };
        let mut qmp = Qmp::new(connect("qmp")?)?;
        let console = connect("console")?;
        let lines = if spec.agent {
            vec![connect("agent")?, connect("uart")?]
        } else {
            Vec::new()
        };
        let started = Instant::now();
        let log = folder.path().join("console.log");
        let console =
            Console::follow(console, log.clone(), started).map_err(|error| RunnerError::io("writing", &log, error))?;
        qmp.execute("cont", &json!({}), PATIENCE)?;
        Ok(Box::new(QemuVm {
            process,
            qmp,
            console,
            lines,
            started,
            folder,
            display: spec.display,
        }))
    }
}

struct QemuVm {
    process: Process,
    qmp: Qmp,
    console: Console,
    lines: Vec<UnixStream>,
    started: Instant,
    folder: tempfile::TempDir,
    display: bool,
}

impl Vm for QemuVm {
    fn console(&self) -> &Console {
        &self.console
    }

    fn agent_lines(&mut self) -> Vec<UnixStream> {
        std::mem::take(&mut self.lines)
    }

    fn events(&mut self) -> Vec<VmEvent> {
        let known = |name: &str| match name {
            "SHUTDOWN" => VmEventKind::Shutdown,
            "RESET" => VmEventKind::Reset,
            "GUEST_PANICKED" | "GUEST_CRASHLOADED" => VmEventKind::Panicked,
            "BLOCK_IO_ERROR" => VmEventKind::DiskError,
            _ => VmEventKind::Other,
        };
        let told = |event: qmp::QmpEvent| VmEvent {
            at: event.at.saturating_duration_since(self.started),
            kind: known(&event.name),
            detail: if event.data.is_null() {
                event.name
            } else {
                format!("{} {}", event.name, event.data)
            },
        };
        self.qmp.events().into_iter().map(told).collect()
    }

    fn screenshot(&mut self, path: &Path) -> Result<bool> {
        if !self.display {
            return Ok(false);
        }
        // Into the private folder first: a reader of the run folder never sees half a picture.
        let picture = self.folder.path().join("screen.png");
        self.qmp
            .execute("screendump", &json!({"filename": picture, "format": "png"}), PATIENCE)?;
        std::fs::copy(&picture, path).map_err(|error| RunnerError::io("writing", path, error))?;
        Ok(true)
    }

    fn text_memory(&mut self) -> Result<Vec<u8>> {
        if !self.display {
            return Ok(Vec::new());
        }
        let copy = self.folder.path().join("text-screen");
        let wanted = json!({"val": TEXT_MEMORY.start, "size": TEXT_MEMORY.end - TEXT_MEMORY.start, "filename": copy});
        self.qmp.execute("pmemsave", &wanted, PATIENCE)?;
        std::fs::read(&copy).map_err(|error| RunnerError::io("reading", &copy, error))
    }

    fn disk_operations(&mut self) -> Option<u64> {
        let devices = self.qmp.execute("query-blockstats", &json!({}), PATIENCE).ok()?;
        let count = |device: &serde_json::Value| {
            ["rd_operations", "wr_operations"]
                .iter()
                .filter_map(|name| device["stats"][name].as_u64())
                .fold(0, u64::saturating_add)
        };
        Some(devices.as_array()?.iter().map(count).fold(0, u64::saturating_add))
    }

    fn firmware_log(&self) -> String {
        let bytes = std::fs::read(self.folder.path().join("firmware.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn press_enter(&mut self) -> Result<()> {
        // A guest that reads no serial line must not keep us from the keyboard.
        let _ = self.console.send(b"\r");
        let keys = json!({"keys": [{"type": "qcode", "data": "ret"}]});
        self.qmp.execute("send-key", &keys, PATIENCE).map(drop)
    }

    fn power_button(&mut self) -> Result<()> {
        self.qmp.execute("system_powerdown", &json!({}), PATIENCE).map(drop)
    }

    fn ended(&mut self) -> Option<Ended> {
        self.process.ended()
    }

    fn kill(&mut self) {
        // `quit` lets QEMU close its images; a hung one is killed.
        if self.process.ended().is_none() && self.qmp.execute("quit", &json!({}), Duration::from_secs(2)).is_ok() {
            self.process.wait(Duration::from_secs(3));
        }
        self.process.kill();
    }

    fn stats(&self) -> VmStats {
        self.process.stats()
    }
}

impl Drop for QemuVm {
    fn drop(&mut self) {
        self.kill();
        tracing::debug!(version = self.qmp.version(), "qemu ended");
    }
}

#[cfg(test)]
mod tests {
    use super::parse_version;

    #[test]
    fn versions_of_debian_and_proxmox_are_read() {
        assert_eq!(
            parse_version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2~bpo12+1)\n"),
            Some((10, "10.0.2".into()))
        );
        assert_eq!(
            parse_version("QEMU emulator version 9.2.0 (pve-qemu-kvm_9.2.0-5)"),
            Some((9, "9.2.0".into()))
        );
        assert_eq!(parse_version("something else"), None);
    }
}
