//! Which of several roots the guest boots from: a second system, a copy of an old one, or a rescue system may lie beside it.

use crate::fstab;
use crate::volumes::Volume;
use serde::Deserialize;

/// What a root tells of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Signs {
    /// Roots that its boot entries name.
    entries: Vec<String>,
    /// First field of its fstab's own line for `/`.
    fstab: Option<String>,
    /// Kernels in its `/boot`.
    kernels: usize,
}

impl Signs {
    /// How much speaks for the root on `device`. Its boot entries say most: a copy of a root keeps the entries of what it was copied from.
    fn weight(&self, device: &str, volumes: &[Volume]) -> u8 {
        let own = |spec: &str| fstab::volume_of(spec, volumes).is_some_and(|volume| volume.device == device);
        u8::from(self.entries.iter().any(|entry| own(entry))) * 4
            + u8::from(self.fstab.as_deref().is_some_and(own)) * 2
            + u8::from(self.kernels > 0)
    }
}

/// Index of the root, and in words which others there are. Where nothing tells them apart it is the one on the first disk.
pub(crate) fn choose(devices: &[&str], signs: &[Signs], volumes: &[Volume]) -> (usize, String) {
    let disk = |device: &str| {
        let volume = volumes.iter().find(|volume| volume.device == device);
        volume.map_or((true, None), |volume| (volume.disk.is_none(), volume.disk))
    };
    let weights: Vec<u8> = devices
        .iter()
        .zip(signs)
        .map(|(device, signs)| signs.weight(device, volumes))
        .collect();
    let most = weights.iter().copied().max().unwrap_or_default();
    let best = (0..devices.len()).filter(|&index| weights[index] == most);
    let chosen = best
        .clone()
        .min_by_key(|&index| disk(devices[index]))
        .unwrap_or_default();
    let others: Vec<&str> = devices
        .iter()
        .enumerate()
        .filter(|(index, _)| *index != chosen)
        .map(|(_, device)| *device)
        .collect();
    let why = if best.count() > 1 {
        "nothing else tells them apart, so it is the one on the first disk".to_owned()
    } else {
        "its boot entries and its fstab say so".to_owned()
    };
    let words = format!(
        "several roots were found: {} is taken ({why}), {} left alone",
        devices.get(chosen).copied().unwrap_or_default(),
        others.join(", ")
    );
    (chosen, words)
}

#[cfg(test)]
mod tests {
    use super::{Signs, choose};
    use crate::volumes::Volume;

    fn volume(device: &str, node: &str, disk: Option<u32>, uuid: &str) -> Volume {
        Volume {
            device: device.into(),
            node: node.into(),
            bytes: 1,
            content: Some("ext4"),
            partition: Some(1),
            disk,
            uuid: Some(uuid.into()),
            label: None,
            part_uuid: None,
            part_label: None,
            state: None,
            errors: None,
            dynamic_disk: false,
        }
    }

    fn signs(entries: &[&str], fstab: &str, kernels: usize) -> Signs {
        Signs {
            entries: entries.iter().map(|entry| (*entry).to_owned()).collect(),
            fstab: Some(fstab.to_owned()),
            kernels,
        }
    }

    #[test]
    fn the_root_that_its_own_boot_entries_name_is_taken_whatever_its_place_in_the_list() {
        // dm-0 is listed before vda1, as the kernel's names sort.
        let volumes = [
            volume("backup-root", "dm-0", None, "AA"),
            volume("vda1", "vda1", Some(0), "BB"),
        ];
        let devices = ["backup-root", "vda1"];
        // The backup is a copy of the root: its entries and fstab name the original.
        let copied = signs(&["UUID=BB"], "UUID=BB", 1);
        let (chosen, words) = choose(&devices, &[copied.clone(), copied], &volumes);
        assert_eq!(chosen, 1);
        assert!(
            words.contains("vda1 is taken") && words.contains("backup-root left alone"),
            "{words}"
        );
        let lvm = signs(&["/dev/mapper/backup-root"], "/dev/mapper/backup-root", 1);
        let (chosen, _) = choose(&devices, &[lvm, signs(&[], "LABEL=x", 0)], &volumes);
        assert_eq!(chosen, 0);
    }

    #[test]
    fn where_nothing_tells_roots_apart_the_first_disk_wins() {
        let volumes = [
            volume("vg-root", "dm-0", None, "AA"),
            volume("vda1", "vda1", Some(0), "BB"),
            volume("vdb1", "vdb1", Some(1), "CC"),
        ];
        let none = vec![Signs::default(); 3];
        let (chosen, words) = choose(&["vg-root", "vdb1", "vda1"], &none, &volumes);
        assert_eq!(chosen, 2);
        assert!(
            words.contains("first disk") && words.contains("vg-root, vdb1"),
            "{words}"
        );
    }
}
