//! Files of the guest's root, read through the appliance.

use super::Appliance;
use crate::{Result, RunnerError};
use agent::protocol::{Answer, Request};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// For a piece of a file, under emulation on a slow host.
const PATIENCE: Duration = Duration::from_secs(60);

impl Appliance {
    /// A piece of a regular file of the first Linux root, at most [`agent::protocol::MAX_PIECE`] bytes; empty at its end. Links
    /// are followed inside that root.
    ///
    /// # Errors
    /// No Linux root was found, there is no such file, and as [`crate::agent_client::AgentClient::ask`].
    pub fn guest_file(&mut self, path: &str, offset: u64, length: u32, cancel: &AtomicBool) -> Result<Vec<u8>> {
        let request = Request::GuestFile {
            path: path.to_owned(),
            offset,
            length,
        };
        match self.agent.ask(request, &[], PATIENCE, cancel, &mut |_, _| {})? {
            (Answer::Piece { .. }, bytes) => Ok(bytes),
            (other, _) => Err(RunnerError::Agent(format!(
                "{path} was to be read, it answered {other:?}"
            ))),
        }
    }

    /// At most `limit` names in a folder of the first Linux root.
    ///
    /// # Errors
    /// As [`Appliance::guest_file`].
    pub fn guest_names(&mut self, folder: &str, limit: usize, cancel: &AtomicBool) -> Result<Vec<String>> {
        let request = Request::GuestNames {
            path: folder.to_owned(),
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        };
        let value = self.agent.facts(request, PATIENCE, cancel)?;
        serde_json::from_value(value).map_err(|error| RunnerError::Agent(format!("names in {folder}: {error}")))
    }
}
