//! Encrypted volumes, opened with the user's key by the `cryptsetup` program that the host's package brought into the appliance.
//! The key stays in the appliance's memory.

use crate::volumes::Volume;
use crate::{exec, modules};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

const PROGRAM: &str = "/usr/sbin/cryptsetup";
const KEY: &str = "/run/key";

/// Opens every volume that the key fits; returns the names of those opened, and what the program said of the others.
///
/// # Errors
/// The program or a module is missing.
pub(crate) fn unlock(volumes: &[Volume], key: &[u8]) -> io::Result<(Vec<String>, Vec<String>)> {
    if !Path::new(PROGRAM).exists() {
        return Err(io::Error::other(
            "the appliance was built without cryptsetup: apt install cryptsetup-bin on the host",
        ));
    }
    modules::load("dm")?;
    modules::load("luks")?;
    fs::create_dir_all("/run/cryptsetup")?;
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(KEY)?
        .write_all(key)?;
    let (mut opened, mut refused) = (Vec::new(), Vec::new());
    for volume in volumes.iter().filter(|volume| volume.content == Some("luks")) {
        let (path, name) = (volume.path(), format!("luks-{}", volume.device));
        let argv = [
            PROGRAM,
            "open",
            "--type",
            "luks",
            "--key-file",
            KEY,
            &path.to_string_lossy(),
            &name,
        ];
        match exec::checked(&argv, Duration::from_secs(120)) {
            Ok(()) => opened.push(name),
            Err(error) => refused.push(format!("{}: {error}", volume.device)),
        }
    }
    fs::remove_file(KEY)?;
    Ok((opened, refused))
}
