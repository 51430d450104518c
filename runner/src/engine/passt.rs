//! `passt` behind a network card of the own VMM: the host's network for a guest, without any right on the host.
//!
//! It is a process of the same user that speaks TCP, UDP and ICMP for the guest with plain sockets. The frames go over one stream socket
//! ([`crate::devices::virtio::net`]), which it gets as its standard input, so that nothing has to lie in the file system.

use super::Process;
use crate::{Result, RunnerError};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

const NAME: &str = "passt";
/// A passt that refuses says so within this; one that works says nothing.
const REFUSAL: Duration = Duration::from_millis(150);

/// One running passt. It ends when the guest's end of the socket is closed, or with this.
#[derive(Debug)]
pub(crate) struct Passt(Process);

impl Passt {
    /// Starts it for the card of this number; what it writes goes to a file in `folder`. Returns the guest's end beside it.
    ///
    /// # Errors
    /// It is not installed, or refuses: a host without a network, or one that allows no user name spaces.
    pub(crate) fn start(folder: &Path, index: usize) -> Result<(Self, UnixStream)> {
        let failed = |error| RunnerError::io("talking to", Path::new(NAME), error);
        let (guest, host) = UnixStream::pair().map_err(failed)?;
        let log = folder.join(format!("passt-{index}.log"));
        // --fd serves the one connection that is there, in the foreground and until it ends.
        let process = Process::start(
            NAME,
            ["--foreground", "--quiet", "--fd", "0"],
            Stdio::from(OwnedFd::from(host)),
            &log,
        )
        .map_err(|error| RunnerError::Missing {
            what: format!("passt, which carries a guest's network ({error})"),
            advice: "Install the package passt, or use --net none".into(),
        })?;
        process.wait(REFUSAL);
        if let Some(ended) = process.ended() {
            return Err(RunnerError::Engine {
                engine: NAME.into(),
                message: format!("it ended at once: {}", ended.detail),
            });
        }
        Ok((Self(process), guest))
    }
}

impl Drop for Passt {
    fn drop(&mut self) {
        self.0.kill();
    }
}
