//! A guest's fstab: its lines, the volumes that they mean, and mounting below the guest's root without following its links.

use crate::fixup::parse_disk_name;
use crate::volumes::Volume;
use reports::schema::MountFacts;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::{MountFlags, mount};
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// How every file system of a guest is mounted, read-only until it is to be changed.
pub(crate) const FLAGS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOATIME);
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

/// Mounts a file system of the kernel's own (`proc`, `tmpfs`) on a folder, which is made where it is missing.
pub(crate) fn mount_new(kind: &str, target: &str) -> io::Result<()> {
    std::fs::create_dir_all(target)?;
    mount(kind, target, kind, MountFlags::NOSUID, None::<&std::ffi::CStr>)
        .map_err(|error| io::Error::other(format!("mounting {target}: {error}")))
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

/// What a volume is known by whatever bus it is on.
type Tag = (&'static str, &'static str, fn(&Volume) -> Option<&str>);
const TAGS: [Tag; 4] = [
    ("UUID=", "/dev/disk/by-uuid/", |volume| volume.uuid.as_deref()),
    ("LABEL=", "/dev/disk/by-label/", |volume| volume.label.as_deref()),
    ("PARTUUID=", "/dev/disk/by-partuuid/", |volume| {
        volume.part_uuid.as_deref()
    }),
    ("PARTLABEL=", "/dev/disk/by-partlabel/", |volume| {
        volume.part_label.as_deref()
    }),
];

/// The volume that a first field means.
pub(crate) fn volume_of<'v>(spec: &str, volumes: &'v [Volume]) -> Option<&'v Volume> {
    for (tag, link, own) in TAGS {
        if let Some(wanted) = spec.strip_prefix(tag).or_else(|| spec.strip_prefix(link)) {
            let wanted = wanted.trim_matches('"');
            // UUIDs are numbers, whose letters mean the same in both cases; labels are texts.
            let same = |own: &str| own == wanted || tag.ends_with("UUID=") && own.eq_ignore_ascii_case(wanted);
            return volumes.iter().find(|volume| own(volume).is_some_and(same));
        }
    }
    let spec = spec.to_owned();
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

/// Mounts a volume read-only where a line of the guest's fstab wants it; returns where that is for us.
pub(crate) fn mount_inside(root: &Path, line: &MountFacts, volume: &Volume, kind: &str) -> io::Result<PathBuf> {
    let path = line.file.as_str();
    let target = open_inside(root, path, OFlags::PATH | OFlags::DIRECTORY)?;
    let place = format!("/proc/self/fd/{}", target.as_raw_fd());
    let real = std::fs::read_link(&place)?;
    let options = subvolume(kind, &line.options).map(CString::new).transpose()?;
    mount(
        volume.path(),
        place,
        kind,
        FLAGS | MountFlags::RDONLY,
        options.as_deref(),
    )?;
    Ok(real)
}

/// Which part of a btrfs is meant. Other options are the guest's wishes for its own work.
fn subvolume(kind: &str, options: &str) -> Option<String> {
    let chosen = |option: &&str| option.starts_with("subvol=") || option.starts_with("subvolid=");
    let found: Vec<&str> = options.split(',').filter(chosen).collect();
    (kind == "btrfs" && !found.is_empty()).then(|| found.join(","))
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
            label: Some(format!("{device}-label")),
            part_uuid: Some(format!("{uuid}-part")),
            part_label: Some(format!("{device} part")),
            state: None,
            errors: None,
            dynamic_disk: false,
        }
    }

    #[test]
    fn comments_are_left_out() {
        let found = lines("# comment\nUUID=1 / ext4 defaults 0 1\n\n");
        assert_eq!((found.len(), found[0].file.as_str()), (1, "/"));
    }

    #[test]
    fn only_the_subvolume_of_a_btrfs_is_taken_from_its_options() {
        let of = |kind, options| super::subvolume(kind, options);
        assert_eq!(
            of("btrfs", "noatime,subvol=/@/boot,ro").as_deref(),
            Some("subvol=/@/boot")
        );
        assert_eq!(of("btrfs", "defaults"), None);
        assert_eq!(of("ext4", "subvol=x"), None);
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
            ("LABEL=vda1-label", "vda1"),
            ("LABEL=\"vda1-label\"", "vda1"),
            ("/dev/disk/by-label/vda1-label", "vda1"),
            ("PARTUUID=ab-cd-PART", "vda1"),
            ("PARTLABEL=vda1 part", "vda1"),
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
        assert!(volume_of("LABEL=VDA1-LABEL", &volumes).is_none());
        assert!(volume_of("/dev/sdb1", &volumes).is_none() && volume_of("tmpfs", &volumes).is_none());
    }
}
