//! Evidence: what of a subject makes a check fire, in words.

use super::Subject;

/// Raised by a reader; nothing to look for here.
pub(super) fn noticed(_: &Subject<'_>) -> Vec<String> {
    Vec::new()
}

/// Living source keys that `wanted` picks, as `key = "value"`.
pub(super) fn keys(subject: &Subject<'_>, wanted: impl Fn(&str, &str) -> bool) -> Vec<String> {
    subject
        .living
        .iter()
        .filter(|(lower, key)| wanted(lower, key.value.trim()))
        .map(|(_, key)| {
            let value: String = key.value.chars().take(80).collect();
            format!("{} = \"{value}\"", key.key)
        })
        .collect()
}

pub(super) fn is_true(value: &str) -> bool {
    value.eq_ignore_ascii_case("true") || value == "1"
}

pub(super) fn when(condition: bool, evidence: impl FnOnce() -> String) -> Vec<String> {
    if condition { vec![evidence()] } else { Vec::new() }
}

/// Evidence for each disk whose header `wanted` picks.
pub(super) fn headers(
    subject: &Subject<'_>,
    wanted: impl Fn(&crate::source::header::DiskHeader) -> Option<String>,
) -> Vec<String> {
    subject
        .machine
        .disks
        .iter()
        .zip(subject.disks)
        .filter_map(|(disk, header)| wanted(header).map(|seen| format!("{} ({}): {seen}", disk.name(), disk.file)))
        .collect()
}

pub(super) fn disks(subject: &Subject<'_>, wanted: impl Fn(&crate::machine::Disk) -> bool) -> Vec<String> {
    subject
        .machine
        .disks
        .iter()
        .filter(|disk| wanted(disk))
        .map(|disk| format!("{}: {}", disk.name(), disk.file))
        .collect()
}

pub(super) fn controllers(subject: &Subject<'_>, wanted: impl Fn(&crate::machine::Controller) -> bool) -> Vec<String> {
    subject
        .machine
        .controllers
        .iter()
        .filter(|controller| wanted(controller))
        .map(|controller| format!("{}{}: {}", controller.bus.prefix(), controller.index, controller.model))
        .collect()
}

pub(super) fn nics(subject: &Subject<'_>, wanted: impl Fn(&crate::machine::Nic) -> bool) -> Vec<String> {
    subject
        .machine
        .nics
        .iter()
        .filter(|nic| wanted(nic))
        .map(|nic| {
            format!(
                "ethernet{}: model {}, MAC {}, network {}, slot {}",
                nic.index,
                nic.model.as_deref().unwrap_or("absent"),
                nic.mac.as_deref().unwrap_or("none"),
                nic.network.as_deref().unwrap_or("none"),
                nic.pci_slot.map_or("none".to_owned(), |slot| slot.to_string())
            )
        })
        .collect()
}
