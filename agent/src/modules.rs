//! Loads kernel modules of the appliance. The initramfs lists them in dependency order, one file per group.

use std::fs;
use std::io;
use std::path::Path;

/// Loads the group; what is loaded already or built in is fine.
pub(crate) fn load(group: &str) -> io::Result<()> {
    let list = match fs::read_to_string(format!("/modules/{group}.list")) {
        Ok(list) => list,
        // Everything of the group is built into this kernel.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for name in list.lines().filter(|line| !line.is_empty()) {
        let image = fs::read(Path::new("/modules").join(name))?;
        match rustix::system::init_module(&image, c"") {
            // ENODEV: an accelerated cipher on a CPU without the instructions; the plain one serves.
            Ok(()) | Err(rustix::io::Errno::EXIST | rustix::io::Errno::NODEV) => {}
            Err(error) => return Err(io::Error::other(format!("module {name}: {error}"))),
        }
    }
    Ok(())
}
