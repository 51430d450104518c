//! A guest's fstab: its lines, the volumes that they mean, and mounting below the guest's root without following its links.

use crate::fixup::parse_disk_name;
use crate::volumes::Volume;
use reports::schema::MountFacts;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::{MountFlags, mount};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

const MAX_TEXT: u64 = 256 << 10;

/// Lines without comments.
pub(crate) fn lines(text: &str) -> Vec<MountFacts> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let field = |index: usize| fields.get(index).copied().unwrap_or("").to_owned();
            MountFacts {
                spec: field(0),
                file: field(1),
                kind: field(2),
                options: field(3),
            }
        })
        .collect()
}

/// Opens a path of the guest from outside its root; links are followed as the guest would.
fn open_inside(root: &Path, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let folder = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::fs::openat2(
        folder,
        path,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT,
    )?)
}

/// The fstab of the root; `None` where it has none.
pub(crate) fn of_root(root: &Path) -> Option<Vec<MountFacts>> {
    let file = File::from(open_inside(root, "/etc/fstab", OFlags::RDONLY | OFlags::NONBLOCK).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    file.take(MAX_TEXT).read_to_end(&mut text).ok()?;
    Some(lines(&String::from_utf8_lossy(&text)))
}

/// The volume that a first field means.
pub(crate) fn volume_of<'v>(spec: &str, volumes: &'v [Volume]) -> Option<&'v Volume> {
    let spec = spec
        .strip_prefix("/dev/disk/by-uuid/")
        .map_or_else(|| spec.to_owned(), |uuid| format!("UUID={uuid}"));
    if let Some(uuid) = spec.strip_prefix("UUID=") {
        let uuid = uuid.trim_matches('"');
        return volumes
            .iter()
            .find(|volume| volume.uuid.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(uuid)));
    }
    if let Some((disk, partition)) = parse_disk_name(&spec) {
        return volumes
            .iter()
            .find(|volume| (volume.disk, volume.partition) == (Some(disk), partition));
    }
    let name = match spec.strip_prefix("/dev/mapper/") {
        Some(name) => name.to_owned(),
        // A dash in a group's or volume's name is doubled by the device mapper.
        None => {
            let (group, name) = spec.strip_prefix("/dev/")?.split_once('/')?;
            format!("{}-{}", group.replace('-', "--"), name.replace('-', "--"))
        }
    };
    volumes
        .iter()
        .find(|volume| volume.node.starts_with("dm-") && volume.device == name)
}

/// Mounts a volume at a path of the guest; returns where that is for us.
pub(crate) fn mount_inside(root: &Path, path: &str, volume: &Volume, kind: &str) -> io::Result<PathBuf> {
    let target = open_inside(root, path, OFlags::PATH | OFlags::DIRECTORY)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    let place = format!("/proc/self/fd/{}", target.as_raw_fd());
    let real = std::fs::read_link(&place)?;
    mount(volume.path(), place, kind, flags, None::<&std::ffi::CStr>)?;
    Ok(real)
}

#[cfg(test)]
mod tests {
    use super::{lines, volume_of};
    use crate::volumes::Volume;

    fn volume(device: &str, node: &str, disk: Option<u32>, partition: Option<u32>, uuid: &str) -> Volume {
        Volume {
            device: device.into(),
            node: node.into(),
            bytes: 1,
            content: Some("ext4"),
            partition,
            disk,
            uuid: Some(uuid.into()),
            state: None,
        }
    }

    #[test]
    fn comments_are_left_out() {
        let found = lines("# comment\nUUID=1 / ext4 defaults 0 1\n\n");
        assert_eq!((found.len(), found[0].file.as_str()), (1, "/"));
    }

    #[test]
    fn first_fields_of_all_kinds_find_their_volume() {
        let volumes = [
            volume("vda1", "vda1", Some(0), Some(1), "AB-CD"),
            volume("vg--a-root", "dm-0", None, None, "22"),
        ];
        for (spec, device) in [
            ("UUID=ab-cd", "vda1"),
            ("/dev/disk/by-uuid/AB-CD", "vda1"),
            ("/dev/sda1", "vda1"),
            ("/dev/mapper/vg--a-root", "vg--a-root"),
            ("/dev/vg-a/root", "vg--a-root"),
        ] {
            assert_eq!(
                volume_of(spec, &volumes).map(|found| found.device.as_str()),
                Some(device),
                "{spec}"
            );
        }
        assert!(volume_of("/dev/sdb1", &volumes).is_none() && volume_of("tmpfs", &volumes).is_none());
    }
}
