//! Logical volumes, by the `lvm` program that the host's package brought into the appliance.

use crate::{exec, modules};
use std::io;
use std::path::Path;
use std::time::Duration;

const PROGRAM: &str = "/usr/sbin/lvm";
/// No udev runs here: the program makes its own device nodes and waits for nobody. The file of allowed devices is the guest's matter.
const CONFIG: &str = "devices{use_devicesfile=0 external_device_info_source=\"none\" obtain_device_list_from_udev=0} \
activation{udev_sync=0 udev_rules=0 monitoring=0} backup{backup=0 archive=0} global{use_lvmlockd=0 thin_check_executable=\"\" cache_check_executable=\"\"} report{output_format=\"basic\"}";

/// Makes all logical volumes of the attached disks available.
///
/// # Errors
/// The program or its module is missing, or it says no (in its words).
pub(crate) fn activate() -> io::Result<()> {
    if !Path::new(PROGRAM).exists() {
        return Err(io::Error::other(
            "the appliance was built without LVM's tools: apt install lvm2 on the host",
        ));
    }
    modules::load("dm")?;
    exec::checked(
        &[
            PROGRAM,
            "vgchange",
            "--activate",
            "y",
            "--activationmode",
            "partial",
            "--ignoremonitoring",
            "--config",
            CONFIG,
        ],
        Duration::from_secs(60),
    )
}
