//! What parent and monitor process say to each other: one JSON document a packet, descriptors beside the first one.

use crate::arch::Topology;
use crate::devices::MachineEvent;
use crate::kvm::config::{DiskConfig, Transport};
use crate::kvm::{ExitReason, Stages};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, send, sendmsg, socketpair,
};
use rustix::time::{ClockId, clock_gettime};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

/// Largest packet, in bytes. An order with dozens of disks has a few kilobytes.
const PACKET: usize = 128 << 10;
/// Most descriptors beside one packet.
pub(super) const DESCRIPTORS: usize = 16;

/// A network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Card {
    pub(super) mac: [u8; 6],
    /// A stream socket is behind it; else nothing.
    pub(super) stream: bool,
}

/// The machine to run. Its console is the first descriptor beside it; its agent line, where there is one, the second; then come the
/// sockets of its network cards.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) kernel: PathBuf,
    pub(super) initrd: Option<PathBuf>,
    pub(super) cmdline: String,
    pub(super) topology: Topology,
    pub(super) memory_bytes: u64,
    pub(super) hugepages: bool,
    pub(super) transport: Transport,
    pub(super) disks: Vec<DiskConfig>,
    pub(super) cards: Vec<Card>,
    pub(super) agent: bool,
    pub(super) sandbox: bool,
    /// When the monitor was started, on the clock that all processes share (see [`uptime`]).
    pub(super) spawned: Duration,
}

/// Time on the system's monotonic clock, which parent and monitor share.
pub(super) fn uptime() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// What the monitor tells.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Told {
    /// The guest runs.
    Started,
    /// It cannot be started, and why.
    Failed(String),
    /// A device told the machine something, so long after the monitor was started.
    Event(MachineEvent, Duration),
    /// The disks have served so many requests.
    Disk(u64),
    /// The guest ended.
    Ended {
        /// Switched off or reset by itself, or stopped by us.
        clean: bool,
        /// In words.
        detail: String,
        /// When it reached what.
        stages: Stages,
    },
}

/// What the monitor is told.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Command {
    /// Press the power button.
    PowerButton,
    /// End the guest; its disks are flushed and closed.
    Stop,
}

impl Told {
    pub(super) fn ended(reason: &ExitReason, stages: Stages, close_errors: &[String]) -> Self {
        let mut detail = reason.to_string();
        for error in close_errors {
            detail.push_str("; ");
            detail.push_str(error);
        }
        let clean = matches!(
            reason,
            ExitReason::PoweredOff | ExitReason::Reset { .. } | ExitReason::Stopped
        );
        Self::Ended {
            clean: clean && close_errors.is_empty(),
            detail,
            stages,
        }
    }
}

/// Two ends of a line that keeps packets apart.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

fn text(packet: &impl Serialize) -> io::Result<Vec<u8>> {
    let bytes = serde_json::to_vec(packet)?;
    if bytes.len() > PACKET {
        return Err(io::Error::other("a packet for the monitor is too large"));
    }
    Ok(bytes)
}

/// Sends one packet.
pub(super) fn tell(line: impl AsFd, packet: &impl Serialize) -> io::Result<()> {
    send(line, &text(packet)?, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Sends one packet unless the line is full; for threads that must not wait.
pub(super) fn tell_now(line: impl AsFd, packet: &impl Serialize) -> io::Result<()> {
    send(line, &text(packet)?, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
    Ok(())
}

/// Sends one packet with descriptors.
pub(super) fn tell_with(line: impl AsFd, packet: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for one packet"));
    }
    let bytes = text(packet)?;
    sendmsg(line, &[IoSlice::new(&bytes)], &mut beside, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next packet with its descriptors; `None` at the end of the line.
pub(super) fn hear<T: DeserializeOwned>(line: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; PACKET];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let count = loop {
        match recvmsg(&line, &mut [IoSliceMut::new(&mut bytes)], &mut beside, flags) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?.bytes,
        }
    };
    if count == 0 {
        return Ok(None);
    }
    let mut descriptors = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            descriptors.extend(fds);
        }
    }
    Ok(Some((serde_json::from_slice(&bytes[..count])?, descriptors)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    #[test]
    fn packets_keep_their_borders_and_descriptors_arrive_usable() {
        let (ours, theirs) = pair().expect("socketpair");
        let (mut here, there) = UnixStream::pair().expect("socketpair");
        tell_with(&ours, &Command::PowerButton, &[there.as_fd()]).expect("sent");
        tell(&ours, &Command::Stop).expect("sent");
        drop((ours, there));
        let (first, mut fds) = hear::<Command>(&theirs).expect("readable").expect("a packet");
        assert!(matches!(first, Command::PowerButton));
        let mut stream = UnixStream::from(fds.pop().expect("one descriptor"));
        stream.write_all(b"x").expect("write");
        let mut byte = [0];
        here.read_exact(&mut byte).expect("read");
        let (second, fds) = hear::<Command>(&theirs).expect("readable").expect("a packet");
        assert!(matches!(second, Command::Stop) && fds.is_empty());
        assert!(hear::<Command>(&theirs).expect("readable").is_none());
    }
}
