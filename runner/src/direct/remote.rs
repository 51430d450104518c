//! The guest's own root as the appliance has it mounted: for XFS, btrfs and logical volumes, which the host does not read.

use super::files::Files;
use crate::appliance::Appliance;
use crate::{Result, RunnerError};
use reports::schema::DeepFacts;
use std::cell::RefCell;
use std::io::Write;
use std::sync::atomic::AtomicBool;

/// The first Linux root, with what its fstab mounts below `/boot`.
pub(super) struct GuestRoot<'a> {
    // Reading asks, and asking changes the line's state.
    appliance: RefCell<&'a mut Appliance>,
    cancel: &'a AtomicBool,
    place: String,
    uuid: String,
}

impl<'a> GuestRoot<'a> {
    /// Looks at the disks; `None` where there is no Linux root.
    pub(super) fn open(appliance: &'a mut Appliance, cancel: &'a AtomicBool) -> Result<Option<Self>> {
        let value = appliance.inspect(cancel)?;
        let facts: DeepFacts = serde_json::from_value(value["deep"].clone())
            .map_err(|error| RunnerError::Agent(format!("its facts about the guest: {error}")))?;
        let Some(device) = value["roots"][0]["device"].as_str() else {
            return Ok(None);
        };
        let volume = facts.volumes.iter().find(|volume| volume.device == device);
        let content = volume.and_then(|volume| volume.content.as_deref()).unwrap_or("root");
        Ok(Some(Self {
            place: format!("{content} on {device}, read in the appliance"),
            uuid: volume.and_then(|volume| volume.uuid.clone()).unwrap_or_default(),
            appliance: RefCell::new(appliance),
            cancel,
        }))
    }
}

impl Files for GuestRoot<'_> {
    fn place(&self) -> &str {
        &self.place
    }

    fn uuid(&self) -> &str {
        &self.uuid
    }

    fn is_file(&self, path: &str) -> bool {
        self.appliance.borrow_mut().guest_file(path, 0, 0, self.cancel).is_ok()
    }

    fn stream(&self, path: &str, limit: u64, out: &mut dyn Write) -> std::result::Result<u64, String> {
        let mut total: u64 = 0;
        loop {
            let piece = self
                .appliance
                .borrow_mut()
                .guest_file(path, total, u32::MAX, self.cancel)
                .map_err(|error| error.to_string())?;
            if piece.is_empty() {
                return Ok(total);
            }
            // Counted, not believed from the inode.
            total = total.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
            if total > limit {
                return Err(format!("larger than {limit} bytes"));
            }
            out.write_all(&piece).map_err(|error| error.to_string())?;
        }
    }

    fn names(&self, folder: &str, limit: usize) -> Vec<String> {
        let names = self.appliance.borrow_mut().guest_names(folder, limit, self.cancel);
        names.unwrap_or_default()
    }
}
