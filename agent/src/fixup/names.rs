//! Names of disks that follow the bus or the order of disks, and the volume that such a name meant at the source.

use esxodus_agent::protocol::DiskSlot;
use serde::{Deserialize, Serialize};

/// A volume as its content is known by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct VolumeId {
    /// Index of the disk in the machine.
    pub(crate) disk: Option<u32>,
    pub(crate) partition: Option<u32>,
    pub(crate) content: Option<String>,
    pub(crate) uuid: Option<String>,
    /// The root that is worked in lies on it.
    pub(crate) is_root: bool,
}

/// Disk and partition that a name of the old bus meant.
pub(crate) fn parse(name: &str) -> Option<(u32, Option<u32>)> {
    let rest = name.strip_prefix("/dev/")?;
    let number = |digits: &str| -> Option<Option<u32>> {
        if digits.is_empty() {
            Some(None)
        } else {
            digits.parse().ok().filter(|&number| number > 0).map(Some)
        }
    };
    if let Some(rest) = rest.strip_prefix("nvme") {
        let (disk, rest) = rest.split_once('n')?;
        let (space, partition) = rest.split_once('p').unwrap_or((rest, ""));
        return if space == "1" {
            Some((disk.parse().ok()?, number(partition)?))
        } else {
            None
        };
    }
    let letters = ["sd", "hd", "vd", "xvd"]
        .iter()
        .find_map(|prefix| rest.strip_prefix(prefix))?;
    let end = letters.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(letters.len());
    let (letters, digits) = letters.split_at(end);
    if letters.is_empty() || letters.len() > 2 {
        return None;
    }
    // sda is 0, sdz 25, sdaa 26.
    let disk = letters
        .bytes()
        .fold(0_u32, |value, letter| value * 26 + u32::from(letter - b'a') + 1)
        - 1;
    Some((disk, number(digits)?))
}

/// Names below `/dev/disk/by-path` and `by-id` follow the bus as well. With one disk there is no doubt which one is meant; else the unit
/// tells, where one controller of the kind holds disks: a second one differs by its PCI address only, which the source does not tell.
pub(crate) fn parse_link(name: &str, disks: u32, slots: &[DiskSlot]) -> Option<(u32, Option<u32>)> {
    let rest = name
        .strip_prefix("/dev/disk/by-path/")
        .or_else(|| name.strip_prefix("/dev/disk/by-id/"))?;
    if rest.starts_with("dm-") || rest.starts_with("lvm-") || rest.starts_with("md-") {
        return None;
    }
    let (whole, partition) = match rest.rsplit_once("-part") {
        Some((whole, digits)) => (whole, Some(digits.parse().ok()?)),
        None => (rest, None),
    };
    if disks == 1 {
        return Some((0, partition));
    }
    let (buses, unit): (&[&str], u32) = if let Some((_, address)) = whole.rsplit_once("-scsi-") {
        // `pci-0000:03:00.0-scsi-0:0:1:0`: host, channel, target, LUN; VMware's unit is the target.
        (&["scsi"], address.split(':').nth(2)?.parse().ok()?)
    } else if let Some((_, port)) = whole.rsplit_once("-ata-") {
        let port: u32 = port.split('.').next()?.parse().ok()?;
        (&["sata", "ide"], port.checked_sub(1)?)
    } else {
        return None;
    };
    let mut on_bus = slots
        .iter()
        .zip(0_u32..)
        .filter(|(slot, _)| buses.contains(&slot.bus.as_str()));
    let (first, _) = on_bus.clone().next()?;
    // An IDE channel has two places; which one the port means depends on the controller.
    let alone = on_bus
        .clone()
        .all(|(slot, _)| (&slot.bus, slot.controller) == (&first.bus, first.controller));
    if !alone || first.bus == "ide" {
        return None;
    }
    let (_, index) = on_bus.find(|(slot, _)| slot.unit == unit)?;
    Some((index, partition))
}

/// Is this a name that another bus changes?
pub(crate) fn follows_bus(name: &str) -> bool {
    parse(name).is_some() || name.starts_with("/dev/disk/by-path/") || name.starts_with("/dev/disk/by-id/")
}

/// Finds out which volume a name of the old bus means.
pub(crate) struct Resolver<'v> {
    volumes: &'v [VolumeId],
    disks: u32,
    slots: &'v [DiskSlot],
}

impl<'v> Resolver<'v> {
    /// `slots`: where the disks were at the source, in their order; empty where it is not known.
    pub(crate) fn new(volumes: &'v [VolumeId], slots: &'v [DiskSlot]) -> Self {
        let last = volumes.iter().filter_map(|volume| volume.disk).max();
        Self {
            volumes,
            disks: last.map_or(0, |last| last + 1),
            slots,
        }
    }

    fn find(&self, name: &str) -> Result<&'v VolumeId, String> {
        let (disk, partition) = parse(name)
            .or_else(|| parse_link(name, self.disks, self.slots))
            .ok_or_else(|| "which disk it means cannot be told".to_owned())?;
        let found = self
            .volumes
            .iter()
            .find(|volume| volume.disk == Some(disk) && volume.partition == partition);
        found.ok_or_else(|| "there is no such partition".to_owned())
    }

    /// `UUID=…` for the name, where content and expectation agree.
    pub(crate) fn uuid(&self, name: &str, expected: &str, must_be_root: bool) -> Result<String, String> {
        let volume = self.find(name)?;
        let content = volume.content.as_deref().unwrap_or("nothing known");
        let same = match expected {
            "auto" | "" => true,
            "ext2" | "ext3" | "ext4" => content == "ext4",
            "msdos" | "vfat" => content == "vfat",
            "ntfs" | "ntfs-3g" | "ntfs3" => content == "ntfs",
            other => content == other,
        };
        if !same {
            return Err(format!(
                "the partition in its place holds {content}, not {expected}: the disks are in another order"
            ));
        }
        if must_be_root && !volume.is_root {
            return Err("the root lies elsewhere: the disks are in another order".to_owned());
        }
        let uuid = volume
            .uuid
            .as_ref()
            .ok_or_else(|| "its content has no UUID".to_owned())?;
        Ok(format!("UUID={uuid}"))
    }
}

#[cfg(test)]
mod tests {
    use super::{DiskSlot, parse, parse_link};

    #[test]
    fn names_of_all_buses_are_understood_and_others_are_not() {
        assert_eq!(parse("/dev/sda1"), Some((0, Some(1))));
        assert_eq!(parse("/dev/hdc"), Some((2, None)));
        assert_eq!(parse("/dev/sdaa12"), Some((26, Some(12))));
        assert_eq!(parse("/dev/nvme1n1p2"), Some((1, Some(2))));
        for name in [
            "/dev/mapper/vg-root",
            "/dev/sda0",
            "/dev/sd",
            "/dev/sr0",
            "UUID=1",
            "/dev/md0",
            "/dev/sda1x",
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
    }

    fn slots(places: &[(&str, u32, u32)]) -> Vec<DiskSlot> {
        let slot = |&(bus, controller, unit): &(&str, u32, u32)| DiskSlot {
            bus: bus.to_owned(),
            controller,
            unit,
        };
        places.iter().map(slot).collect()
    }

    #[test]
    fn a_place_on_the_bus_means_the_disk_on_that_unit_or_nothing() {
        let by_path = |rest: &str| format!("/dev/disk/by-path/pci-0000:03:00.0-{rest}");
        let one = slots(&[("scsi", 0, 0), ("scsi", 0, 3), ("scsi", 0, 8), ("sata", 0, 1)]);
        for (name, meant) in [
            (by_path("scsi-0:0:0:0-part2"), Some((0, Some(2)))),
            (by_path("scsi-0:0:3:0"), Some((1, None))),
            (by_path("scsi-0:0:8:0-part1"), Some((2, Some(1)))),
            (by_path("scsi-0:0:1:0"), None),
            (by_path("ata-2.0-part3"), Some((3, Some(3)))),
            (by_path("nvme-1"), None),
            ("/dev/disk/by-id/wwn-0x6000c29f-part1".to_owned(), None),
        ] {
            assert_eq!(parse_link(&name, 4, &one), meant, "{name}");
        }
        let two = slots(&[("scsi", 0, 0), ("scsi", 1, 0)]);
        assert_eq!(parse_link(&by_path("scsi-0:0:0:0"), 2, &two), None, "two controllers");
        assert_eq!(parse_link(&by_path("scsi-0:0:0:0"), 2, &[]), None, "nothing is known");
        assert_eq!(
            parse_link("/dev/disk/by-id/wwn-0x6000c29f-part1", 1, &[]),
            Some((0, Some(1)))
        );
        assert_eq!(parse_link("/dev/disk/by-id/dm-name-vg-root", 1, &[]), None);
    }
}
