//! Puts the agent into a guest root as a service that starts late. Runs inside that root.

use serde_json::{Value, json};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

const FOLDER: &str = "/.esxodus";
const BINARY: &str = "/.esxodus/esxodus-agent";

const UNIT: &str = "[Unit]
Description=esxodus agent (boot proof, on a throw-away overlay)
After=basic.target
[Service]
ExecStart=/.esxodus/esxodus-agent guest
Restart=on-failure
RestartSec=1
[Install]
WantedBy=multi-user.target
";

const SCRIPT: &str = "#!/bin/sh
### BEGIN INIT INFO
# Provides:          esxodus-agent
# Required-Start:    $local_fs
# Required-Stop:
# Default-Start:     2 3 4 5
# Default-Stop:
# Short-Description: esxodus agent (boot proof)
### END INIT INFO
case \"$1\" in start) /.esxodus/esxodus-agent guest </dev/null >/dev/null 2>&1 & ;; esac
exit 0
";

const OPENRC: &str = "#!/sbin/openrc-run
command=/.esxodus/esxodus-agent
command_args=guest
command_background=yes
pidfile=/run/esxodus-agent.pid
";

fn write(path: &str, content: &[u8], mode: u32, label: Option<&str>) -> io::Result<()> {
    let told = |error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"));
    fs::write(path, content).map_err(told)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(told)?;
    if let Some(label) = label {
        give_label(path, label);
    }
    Ok(())
}

fn give_label(path: &str, label: &str) {
    let value = format!("system_u:object_r:{label}:s0\0");
    // A file system without labels cannot be asked for them by the guest either.
    let _ = rustix::fs::setxattr(
        path,
        "security.selinux",
        value.as_bytes(),
        rustix::fs::XattrFlags::empty(),
    );
}

fn link(target: &str, path: &str) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => symlink(target, path),
    }
}

/// Writes `binary` and the service that fits the guest's init system.
pub(crate) fn inject(binary: &[u8]) -> io::Result<Value> {
    let selinux = Path::new("/etc/selinux/config").exists();
    let label = |label: &'static str| selinux.then_some(label);
    let here = |path: &str| fs::symlink_metadata(path).is_ok();
    fs::create_dir_all(FOLDER)?;
    if let Some(label) = label("bin_t") {
        // As /usr/bin is: every domain may look up a program in there.
        give_label(FOLDER, label);
    }
    write(BINARY, binary, 0o755, label("bin_t"))?;
    let service = if here("/lib/systemd/systemd") || here("/usr/lib/systemd/systemd") {
        let unit = "/etc/systemd/system/esxodus-agent.service";
        fs::create_dir_all("/etc/systemd/system/multi-user.target.wants")?;
        write(unit, UNIT.as_bytes(), 0o644, label("systemd_unit_file_t"))?;
        link(
            unit,
            "/etc/systemd/system/multi-user.target.wants/esxodus-agent.service",
        )?;
        unit
    } else if here("/sbin/openrc-run") {
        fs::create_dir_all("/etc/runlevels/default")?;
        write("/etc/init.d/esxodus-agent", OPENRC.as_bytes(), 0o755, None)?;
        link("/etc/init.d/esxodus-agent", "/etc/runlevels/default/esxodus-agent")?;
        "/etc/init.d/esxodus-agent"
    } else if here("/etc/init.d") {
        write(
            "/etc/init.d/esxodus-agent",
            SCRIPT.as_bytes(),
            0o755,
            label("initrc_exec_t"),
        )?;
        for level in 2..=5 {
            for base in ["/etc", "/etc/rc.d"] {
                let folder = format!("{base}/rc{level}.d");
                if Path::new(&folder).is_dir() {
                    link("/etc/init.d/esxodus-agent", &format!("{folder}/S99esxodus-agent"))?;
                }
            }
        }
        "/etc/init.d/esxodus-agent"
    } else {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "no init system known to us (systemd, OpenRC, sysvinit) is in this root",
        ));
    };
    rustix::fs::sync();
    Ok(json!({"binary": BINARY, "service": service, "bytes": binary.len()}))
}
