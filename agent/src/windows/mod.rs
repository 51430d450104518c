//! Windows on an NTFS volume: which one, and whether it was shut down. Read by the `ntfs` crate from the block device; nothing is mounted.

mod hive;
mod services;

use hive::{Hive, Value};
use ntfs::indexes::NtfsFileNameIndex;
use ntfs::{Ntfs, NtfsFile, NtfsReadSeek};
use reports::schema::{SystemFacts, SystemKind};
use std::fs::File;
use std::io::{self, SeekFrom};
use std::path::Path;

/// What was found on a volume.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) system: Option<SystemFacts>,
    /// `hibernated` or `dirty`.
    pub(crate) state: Option<&'static str>,
}

fn told(error: ntfs::NtfsError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

/// The file at a path; `None` where a part of it is not there.
fn file<'n>(ntfs: &'n Ntfs, device: &mut File, path: &[&str]) -> io::Result<Option<NtfsFile<'n>>> {
    let mut at = ntfs.root_directory(device).map_err(told)?;
    for part in path {
        let next = {
            let index = at.directory_index(device).map_err(told)?;
            let mut finder = index.finder();
            let Some(entry) = NtfsFileNameIndex::find(&mut finder, ntfs, device, part) else {
                return Ok(None);
            };
            entry.map_err(told)?.to_file(ntfs, device).map_err(told)?
        };
        at = next;
    }
    Ok(Some(at))
}

/// Bytes of a file's content.
fn read(file: &NtfsFile<'_>, device: &mut File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let item = file.data(device, "").ok_or(io::ErrorKind::NotFound)?.map_err(told)?;
    let attribute = item.to_attribute().map_err(told)?;
    let mut value = attribute.value(device).map_err(told)?;
    value.seek(device, SeekFrom::Start(offset)).map_err(told)?;
    let mut bytes = vec![0; length];
    value.read_exact(device, &mut bytes).map_err(told)?;
    Ok(bytes)
}

/// Looks at the NTFS volume on `path`.
///
/// # Errors
/// The file system is damaged.
pub(crate) fn look(path: &Path) -> io::Result<Found> {
    let mut device = File::open(path)?;
    let mut ntfs = Ntfs::new(&mut device).map_err(told)?;
    ntfs.read_upcase_table(&mut device).map_err(told)?;
    let mut found = Found::default();
    let information = ntfs.volume_info(&mut device).map_err(told)?;
    if information
        .flags()
        .contains(ntfs::structured_values::NtfsVolumeFlags::IS_DIRTY)
    {
        found.state = Some("dirty");
    }
    // The first bytes of a memory image that waits to be resumed (ntfs-3g, `libntfs-3g/volume.c`). Fast Startup leaves one as well.
    if let Some(image) = file(&ntfs, &mut device, &["hiberfil.sys"])?
        && let Ok(magic) = read(&image, &mut device, 0, 4)
        && magic.eq_ignore_ascii_case(b"hibr")
    {
        found.state = Some("hibernated");
    }
    let Some(software) = file(&ntfs, &mut device, &["Windows", "System32", "config", "SOFTWARE"])? else {
        return Ok(found);
    };
    let mut system = SystemFacts {
        kind: SystemKind::Windows,
        id: "windows".to_owned(),
        name: "Windows".to_owned(),
        ..SystemFacts::default()
    };
    let mut fast = None;
    if let Some(hive) = file(&ntfs, &mut device, &["Windows", "System32", "config", "SYSTEM"])? {
        let mut read_at = |offset: u64, length: usize| read(&hive, &mut device, offset, length);
        let mut hive = Hive::open(&mut read_at)?;
        let set = services::control_set(&mut hive)?;
        fast = fast_startup(&mut hive, &set)?;
        system.services = services::list(&mut hive, &set)?;
        system.san_policy = services::san_policy(&mut hive, &set)?;
    }
    if found.state == Some("hibernated") {
        // The image of a shutdown with Fast Startup looks like one of hibernation: the setting tells what the last shutdown may have been.
        let (state, words) = match fast {
            Some(true) => (
                "fast-startup",
                "hibernated, or shut down with Fast Startup, which is switched on",
            ),
            Some(false) => ("hibernated", "hibernated; Fast Startup is switched off"),
            None => ("hibernated", "hibernated, or shut down with Fast Startup"),
        };
        found.state = Some(state);
        system.hibernation = Some(format!("hiberfil.sys waits to be resumed: {words}"));
    }
    if file(&ntfs, &mut device, &["bootmgr"])?.is_some() {
        system.boot_loader = Some("bootmgr".to_owned());
    }
    if file(&ntfs, &mut device, &["Program Files", "VMware", "VMware Tools"])?.is_some() {
        system.vmware_tools = Some("C:\\Program Files\\VMware\\VMware Tools".to_owned());
    }
    let mut read_at = |offset: u64, length: usize| read(&software, &mut device, offset, length);
    let mut hive = Hive::open(&mut read_at)?;
    version(&mut hive, &mut system)?;
    system.driver_policies = services::driver_policies(&mut hive)?;
    found.system = Some(system);
    Ok(found)
}

/// Is Fast Startup switched on? `None` where the hive does not say.
fn fast_startup(hive: &mut Hive<'_>, set: &str) -> io::Result<Option<bool>> {
    let path = format!("{set}\\Control\\Session Manager\\Power");
    Ok(hive.number(&path, "HiberbootEnabled")?.map(|value| value != 0))
}

fn version(hive: &mut Hive<'_>, system: &mut SystemFacts) -> io::Result<()> {
    let Some(key) = hive.key("Microsoft\\Windows NT\\CurrentVersion")? else {
        return Ok(());
    };
    let mut text = |name: &str| -> io::Result<Option<String>> {
        Ok(hive.value(&key, name)?.map(|value| match value {
            Value::Text(text) => text,
            Value::Number(number) => number.to_string(),
        }))
    };
    if let Some(name) = text("ProductName")? {
        system.name = name;
    }
    // Windows 10 and later keep 6.3 in CurrentVersion for old programs.
    let version = match (text("CurrentMajorVersionNumber")?, text("CurrentMinorVersionNumber")?) {
        (Some(major), Some(minor)) => Some(format!("{major}.{minor}")),
        _ => text("CurrentVersion")?,
    };
    let build = text("CurrentBuild")?;
    system.version = [version, build].into_iter().flatten().collect::<Vec<_>>().join(".");
    Ok(())
}
