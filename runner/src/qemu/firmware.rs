//! Firmware from Debian's packages; UEFI variables are copied for each run.

use crate::engine::FirmwareSpec;
use crate::{Result, RunnerError};
use std::path::{Path, PathBuf};

/// Flash images of a UEFI run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flash {
    /// Read-only code.
    pub(crate) code: PathBuf,
    /// This run's own variables.
    pub(crate) vars: PathBuf,
    /// Needs SMM.
    pub(crate) secure: bool,
}

/// Pairs in order of preference: code, variables. Debian, then Fedora and Arch paths.
const PLAIN: [(&str, &str); 4] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    (
        "/usr/share/pve-edk2-firmware/OVMF_CODE_4M.fd",
        "/usr/share/pve-edk2-firmware/OVMF_VARS_4M.fd",
    ),
    (
        "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
        "/usr/share/edk2/x64/OVMF_VARS.4m.fd",
    ),
];
const SECURE: [(&str, &str); 2] = [
    (
        "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd",
        "/usr/share/OVMF/OVMF_VARS_4M.ms.fd",
    ),
    (
        "/usr/share/pve-edk2-firmware/OVMF_CODE_4M.secboot.fd",
        "/usr/share/pve-edk2-firmware/OVMF_VARS_4M.ms.fd",
    ),
];

/// Finds the images for `firmware` and copies the variables into `folder`; `None` for BIOS.
pub(crate) fn prepare(firmware: &FirmwareSpec, folder: &Path) -> Result<Option<Flash>> {
    let (pairs, secure): (&[(&str, &str)], bool) = match firmware {
        FirmwareSpec::Bios => return Ok(None),
        FirmwareSpec::Uefi { secure_boot: false } => (&PLAIN, false),
        FirmwareSpec::Uefi { secure_boot: true } => (&SECURE, true),
    };
    let found = pairs
        .iter()
        .find(|(code, vars)| Path::new(code).is_file() && Path::new(vars).is_file());
    let Some((code, template)) = found else {
        return Err(RunnerError::Missing {
            what: format!("UEFI firmware ({})", pairs[0].0),
            advice: "Install it: apt install ovmf".into(),
        });
    };
    let vars = folder.join("uefi-vars.fd");
    let content = std::fs::read(template).map_err(|error| RunnerError::io("reading", Path::new(template), error))?;
    std::fs::write(&vars, content).map_err(|error| RunnerError::io("writing", &vars, error))?;
    Ok(Some(Flash {
        code: PathBuf::from(code),
        vars,
        secure,
    }))
}
