//! What the registry says of services, new disks and the installation of drivers.

use super::hive::{Hive, Value};
use reports::schema::SCANNER_SERVICES;
use std::collections::BTreeMap;
use std::io;

/// Services that a move has to know of; a star stands for the rest of a name. What each means is the checks' to say.
const KNOWN: [&str; 20] = [
    // Drivers of Red Hat's virtio-win.
    "viostor",
    "vioscsi",
    "netkvm",
    // Clusters, directories, databases: their owners have to take part.
    "clussvc",
    "ntds",
    "mssqlserver",
    "mssql$*",
    "msexchangeis",
    "oracleservice*",
    "postgresql*",
    "mysql*",
    "mariadb*",
    "mongodb*",
    // Licences that hang on UUID, MAC or serial.
    "flexnet licensing service*",
    "hasplms",
    "codemeter.exe",
    "sentinelprotectionserver",
    "lmgrd*",
    // Snapshots.
    "vss",
    "vmvss",
];

/// Key of the configuration that the next start uses.
pub(super) fn control_set(hive: &mut Hive<'_>) -> io::Result<String> {
    Ok(format!(
        "ControlSet{:03}",
        hive.number("Select", "Current")?.unwrap_or(1)
    ))
}

fn is_known(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    KNOWN
        .iter()
        .chain(&SCANNER_SERVICES)
        .any(|known| match known.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == *known,
        })
}

/// The services of [`KNOWN`] and scanners that are there, and how each starts (`SERVICE_BOOT_START` to `SERVICE_DISABLED`, winsvc.h).
pub(super) fn list(hive: &mut Hive<'_>, set: &str) -> io::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for (name, key) in hive.children(&format!("{set}\\Services"))? {
        if !is_known(&name) {
            continue;
        }
        let start = match hive.value(&key, "Start")? {
            Some(Value::Number(0)) => "boot",
            Some(Value::Number(1)) => "system",
            Some(Value::Number(2)) => "auto",
            Some(Value::Number(3)) => "manual",
            Some(Value::Number(4)) => "disabled",
            _ => continue,
        };
        found.insert(name, start.to_owned());
    }
    Ok(found)
}

/// What becomes of disks on a bus that Windows has not seen (`VDS_SAN_POLICY`, vds.h).
pub(super) fn san_policy(hive: &mut Hive<'_>, set: &str) -> io::Result<Option<u32>> {
    hive.number(&format!("{set}\\Services\\partmgr\\Parameters"), "SanPolicy")
}

/// Group policies that forbid the installation of drivers (DeviceInstallation.admx).
pub(super) fn driver_policies(hive: &mut Hive<'_>) -> io::Result<Vec<String>> {
    let path = "Policies\\Microsoft\\Windows\\DeviceInstall\\Restrictions";
    let mut found = Vec::new();
    for name in [
        "DenyUnspecified",
        "DenyDeviceIDs",
        "DenyDeviceClasses",
        "DenyInstanceIDs",
    ] {
        if hive.number(path, name)?.is_some_and(|value| value != 0) {
            found.push(name.to_owned());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::is_known;

    #[test]
    fn services_are_known_by_name_whatever_their_case_and_by_the_beginning_of_a_name() {
        for name in ["MSSQL$ERP", "OracleServiceORCL", "VioStor", "ClusSvc"] {
            assert!(is_known(name), "{name}");
        }
        for name in ["MSSQL", "Spooler", "viostor2", "NTDSx"] {
            assert!(!is_known(name), "{name}");
        }
    }
}
