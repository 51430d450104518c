//! The boot loader where firmware looks that has no boot entries: VMware's NVRAM, which named it, does not move.
//!
//! UEFI specification 2.10, 3.5.1.1: `\EFI\BOOT\BOOTX64.EFI` on the EFI system partition. Debian, for one, does not put a loader there
//! (`grub-install --force-extra-removable` does, and what is copied here is what it copies).

use super::plan::Plan;

/// Where distributions mount the EFI system partition.
const PLACES: [&str; 3] = ["/boot/efi", "/efi", "/boot"];
/// What must stay free on the partition: updates write new loaders beside the old ones.
const RESERVE: u64 = 1 << 20;

/// A name in a folder, whatever its case: FAT has none, and another file system that the tests use has.
fn named(plan: &Plan, folder: &str, wanted: &str) -> Option<String> {
    let names = plan.names(folder);
    let found = names.iter().find(|name| name.eq_ignore_ascii_case(wanted))?;
    Some(format!("{folder}/{found}"))
}

/// Plans it for every EFI system partition that is mounted.
pub(crate) fn plan(plan: &mut Plan) {
    for place in PLACES {
        if let Some(efi) = named(plan, place, "EFI") {
            on_partition(plan, &efi);
        }
    }
}

fn on_partition(plan: &mut Plan, efi: &str) {
    let fallback = named(plan, efi, "BOOT").unwrap_or_else(|| format!("{efi}/BOOT"));
    if named(plan, &fallback, "BOOTX64.EFI").is_some() {
        return;
    }
    let Some((folder, loaders)) = installed(plan, efi) else {
        plan.note(format!(
            "{efi}: no boot loader that is known; firmware without boot entries starts none"
        ));
        return;
    };
    let bytes = |path: &String| std::fs::metadata(plan.place(path)).map_or(0, |file| file.len());
    let needed: u64 = loaders.iter().map(|(from, _)| bytes(from)).sum();
    let free = rustix::fs::statvfs(plan.place(efi)).map_or(0, |space| space.f_bavail.saturating_mul(space.f_frsize));
    if free < needed.saturating_add(RESERVE) {
        plan.note(format!(
            "{fallback}/BOOTX64.EFI could not be added: {free} bytes are free, {needed} are needed"
        ));
        return;
    }
    for (from, name) in loaders {
        let why = if name == "BOOTX64.EFI" {
            format!("firmware without VMware's boot entries starts this, and {folder} is not looked into")
        } else {
            "started by the loader beside it".to_owned()
        };
        plan.copy(&from, &format!("{fallback}/{name}"), why);
    }
}

/// The folder of the installed loader, and what goes where. A shim starts the `grubx64.efi` that lies beside it, and `mmx64.efi` where a key
/// is to be enrolled; without Secure Boot's shim GRUB or systemd-boot is started itself.
fn installed(plan: &Plan, efi: &str) -> Option<(String, Vec<(String, &'static str)>)> {
    let vendors: Vec<String> = plan
        .names(efi)
        .into_iter()
        .filter(|name| !["boot", "microsoft"].contains(&name.to_ascii_lowercase().as_str()))
        .map(|name| format!("{efi}/{name}"))
        .collect();
    let with_shim = vendors.iter().find_map(|folder| {
        let shim = named(plan, folder, "shimx64.efi")?;
        let grub = named(plan, folder, "grubx64.efi")?;
        let mut loaders = vec![(shim, "BOOTX64.EFI"), (grub, "grubx64.efi")];
        loaders.extend(named(plan, folder, "mmx64.efi").map(|manager| (manager, "mmx64.efi")));
        Some((folder.clone(), loaders))
    });
    with_shim.or_else(|| {
        vendors.iter().find_map(|folder| {
            let loader = ["grubx64.efi", "systemd-bootx64.efi"]
                .iter()
                .find_map(|name| named(plan, folder, name))?;
            Some((folder.clone(), vec![(loader, "BOOTX64.EFI")]))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Plan, undo};
    use std::fs;
    use std::path::Path;

    fn partition(root: &Path, files: &[&str]) {
        for file in files {
            let path = root.join("boot/efi/EFI").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("\0\u{ff}binary {file}")).unwrap();
        }
    }

    fn copied(files: &[&str]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        partition(dir.path(), files);
        let mut plan = Plan::new(dir.path());
        super::plan(&mut plan);
        plan.changes().into_iter().map(|change| change.path).collect()
    }

    #[test]
    fn a_shim_is_copied_with_what_it_starts_and_other_loaders_alone() {
        assert_eq!(
            copied(&[
                "debian/shimx64.efi",
                "debian/grubx64.efi",
                "debian/mmx64.efi",
                "debian/fbx64.efi"
            ]),
            [
                "/boot/efi/EFI/BOOT/BOOTX64.EFI",
                "/boot/efi/EFI/BOOT/grubx64.efi",
                "/boot/efi/EFI/BOOT/mmx64.efi"
            ]
        );
        assert_eq!(copied(&["arch/grubx64.efi"]), ["/boot/efi/EFI/BOOT/BOOTX64.EFI"]);
        assert_eq!(
            copied(&["systemd/systemd-bootx64.efi"]),
            ["/boot/efi/EFI/BOOT/BOOTX64.EFI"]
        );
    }

    #[test]
    fn a_loader_that_is_there_stays_and_windows_is_not_taken_for_one_of_linux() {
        assert_eq!(copied(&["debian/grubx64.efi", "Boot/bootx64.efi"]), [""; 0]);
        assert_eq!(copied(&["Microsoft/Boot/bootmgfw.efi"]), [""; 0]);
        assert_eq!(copied(&[]), [""; 0]);
    }

    #[test]
    fn the_copy_has_every_byte_and_is_taken_back_unless_somebody_changed_it() {
        let dir = tempfile::tempdir().unwrap();
        partition(dir.path(), &["debian/grubx64.efi"]);
        let (from, to) = (
            dir.path().join("boot/efi/EFI/debian/grubx64.efi"),
            dir.path().join("boot/efi/EFI/BOOT/BOOTX64.EFI"),
        );
        let fixed = || {
            let mut plan = Plan::new(dir.path());
            super::plan(&mut plan);
            plan.apply().unwrap();
            plan.changes()
        };
        let changes = fixed();
        assert_eq!(fs::read(&from).unwrap(), fs::read(&to).unwrap());
        assert!(fixed().is_empty(), "a second time nothing is left to do");
        let (done, notes) = undo(dir.path(), &changes, false).unwrap();
        assert_eq!((done.len(), notes.len(), to.exists()), (1, 0, false));
        assert!(!dir.path().join("boot/efi/EFI/BOOT").exists(), "made for the copy");
        let changes = fixed();
        fs::write(&to, "\0\u{ff}binary debian/grubx65.efi").unwrap();
        let (done, notes) = undo(dir.path(), &changes, false).unwrap();
        assert_eq!((done.len(), notes.len(), to.exists()), (0, 1, true));
    }
}
