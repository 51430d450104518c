//! What holds for every input: nothing panics, nothing is lost, nothing is unaccounted.

use crate::support::context;
use esxodus_convert::machine::{Machine, from_vmx};
use esxodus_convert::targets::{Target, write_all};
use esxodus_convert::{accounting, ovf, vmx};
use proptest::prelude::*;
use std::path::Path;

/// A value as VMware writes it: quotes, bars and line ends as escapes.
fn escaped(value: &str) -> String {
    value.chars().fold(String::new(), |text, c| match c {
        '"' | '|' | '\n' | '\r' => text + &format!("|{:02X}", u32::from(c)),
        c => text + &c.to_string(),
    })
}

/// A guest with settings that meet the readers' corners.
fn description() -> impl Strategy<Value = String> {
    let disks = prop::collection::vec(
        (
            prop::sample::select(vec!["scsi", "sata", "nvme", "ide"]),
            0_u32..4,
            0_u32..30,
            any::<bool>(),
        ),
        0..12,
    );
    let nics = prop::collection::vec((0_u32..10, any::<bool>(), 0_u32..2000), 0..6);
    (any::<String>(), 1_u32..300, 1_u32..40, 1_u64..2_000_000, any::<bool>(), disks, nics).prop_map(
        |(name, vcpus, cores, mib, efi, disks, nics)| {
            let mut text = format!(
                "displayName = \"{}\"\nnumvcpus = \"{vcpus}\"\ncpuid.coresPerSocket = \"{cores}\"\nmemSize = \"{mib}\"\n",
                escaped(&name)
            );
            if efi {
                text += "firmware = \"efi\"\n";
            }
            for (bus, controller, unit, present) in disks {
                text += &format!(
                    "{bus}{controller}:{unit}.present = \"{present}\"\n{bus}{controller}:{unit}.fileName = \"d.vmdk\"\n"
                );
            }
            for (index, connected, slot) in nics {
                text += &format!(
                    "ethernet{index}.present = \"TRUE\"\nethernet{index}.startConnected = \"{connected}\"\n\
                     ethernet{index}.pciSlotNumber = \"{slot}\"\n"
                );
            }
            text
        },
    )
}

fn built(text: &str) -> (vmx::VmxFile, Machine) {
    let file = vmx::parse(text.as_bytes()).expect("it is a VMX file");
    let (machine, _) = from_vmx::build(&file, Path::new("guest.vmx")).expect("its numbers are in range");
    (file, machine)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        if let Ok(file) = vmx::parse(&bytes) {
            let _ = from_vmx::build(&file, Path::new("guest.vmx"));
        }
        let _ = ovf::parse(&bytes);
    }

    #[test]
    fn values_come_back_as_they_were_written(values in prop::collection::vec(any::<String>(), 1..10)) {
        let text = values
            .iter()
            .enumerate()
            .fold(String::from(".encoding = \"UTF-8\"\n"), |text, (number, value)| {
                text + &format!("guestinfo.v{number} = \"{}\"\n", escaped(value))
            });
        // A NUL means a torn file, which is refused.
        prop_assume!(!text.contains('\0'));
        let file = vmx::parse(text.as_bytes()).expect("it is a VMX file");
        for (number, value) in values.iter().enumerate() {
            prop_assert_eq!(file.get(&format!("guestinfo.v{number}")), Some(value.as_str()));
        }
    }

    #[test]
    fn every_machine_survives_json_has_a_whole_topology_and_accounts_for_every_line(text in description()) {
        prop_assume!(!text.contains('\0'));
        let (file, machine) = built(&text);
        let json = serde_json::to_string(&machine).expect("serializes");
        prop_assert_eq!(&serde_json::from_str::<Machine>(&json).expect("reads back"), &machine);
        let cpu = &machine.cpu;
        prop_assert_eq!(cpu.sockets * cpu.cores_per_socket * cpu.threads, cpu.vcpus);
        let order: Vec<_> = machine.disks.iter().map(|disk| (disk.bus, disk.controller, disk.unit)).collect();
        prop_assert!(order.is_sorted());
        prop_assert_eq!(accounting::of_vmx(&file, &machine).keys.len(), file.entries().len());
    }

    #[test]
    fn every_machine_becomes_all_targets_or_says_what_is_too_much(text in description()) {
        prop_assume!(!text.contains('\0'));
        let (_, machine) = built(&text);
        let mut context = context(&machine, false);
        context.map = None;
        let out = tempfile::tempdir().expect("temporary folder");
        match write_all(&machine, &context, out.path(), &Target::ALL) {
            Ok(_) => {
                let yaml = std::fs::read_to_string(out.path().join("targets/kubevirt.yaml")).expect("written");
                prop_assert!(serde_yaml_ng::from_str::<serde_yaml_ng::Value>(&yaml).is_ok(), "{}", yaml);
            }
            Err(error) => prop_assert!(error.to_string().contains("at most"), "{}", error),
        }
    }
}
