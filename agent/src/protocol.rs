//! Messages between the host and the agent. Each travels as the JSON head of a [`crate::frame`]; bulk data is the blob.
//!
//! The host asks, the agent answers with the same `id`; an answer may be preceded by any number of [`Answer::Output`]. The agent
//! speaks first, unasked, with [`Answer::Hello`] under id 0, and repeats it until the first request arrives: the host may attach late.

use reports::schema::BenchSizes;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Version of this protocol. Both sides refuse another one.
pub const VERSION: u32 = 6;
/// Name of the virtio-serial port.
pub const PORT_NAME: &str = "org.esxodus.agent.0";
/// Word on the kernel's command line: the agent's line is the second UART, and there is no port to wait for.
pub const UART_LINE: &str = "esxodus.line=uart";
/// Largest piece of a file in one message, in bytes.
pub const MAX_PIECE: u32 = 1 << 20;

/// What the guest's own tools may take in a fix-up, for all images together. One takes seconds natively and a minute or two under emulation.
pub const GUEST_TOOLS_TIME: Duration = Duration::from_secs(900);

/// How an appliance that found no Linux root says so.
pub const NO_ROOT: &str = "no Linux root file system was found on the disks";

/// What the agent is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// PID 1 of the appliance.
    Appliance,
    /// A service in a booted guest.
    Guest,
}

/// A NIC and the name that the guest's configuration knows it by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicName {
    /// `ens192`.
    pub name: String,
    /// MAC address with colons, lower case.
    pub mac: String,
    /// `eth0`: the name that kernels before predictable names gave it, by its place among the NICs.
    #[serde(default)]
    pub kernel_name: Option<String>,
}

/// Where a disk was at the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSlot {
    /// `scsi`, `sata`, `ide`, `nvme`.
    pub bus: String,
    /// Number of the controller on its bus.
    pub controller: u32,
    /// Unit on the controller.
    pub unit: u32,
}

/// What a fix-up is to do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FixupWish {
    /// The NICs with the names that they had at the source.
    pub nics: Vec<NicName>,
    /// The disks in the order in which they are attached, each with its place at the source.
    pub disks: Vec<DiskSlot>,
    /// Adds `console=ttyS0,115200` to the kernels' command lines.
    pub serial_console: bool,
    /// An initramfs that nothing can be put behind is made anew by the guest's own tool, which runs in the appliance.
    pub guest_tools: bool,
    /// Only say what would be changed.
    pub dry_run: bool,
}

/// A change to a file of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Path in the guest.
    pub path: String,
    /// Its text before, or what it was in words where it is no text; absent where there was no file.
    pub before: Option<String>,
    /// Its text after, `-> TARGET` for a link, or what it is in words.
    pub after: String,
    /// Why, in words.
    pub why: String,
    /// How to take it back.
    #[serde(default)]
    pub undo: Undo,
}

/// How a change is taken back.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "how")]
pub enum Undo {
    /// Write the text before; remove the file where there was none.
    #[default]
    Restore,
    /// Remove the file, and the folders that were made for it where nothing else is in them.
    Remove {
        /// Paths in the guest, innermost first.
        folders: Vec<String>,
    },
    /// Remove the file if it is still what was copied, and the folders that were made for it.
    RemoveCopy {
        /// Length in bytes.
        bytes: u64,
        /// CRC-32 of its content.
        crc32: u32,
        /// Paths in the guest, innermost first.
        folders: Vec<String>,
    },
    /// Put the file back that was kept, if what stands in its place is still what was made.
    PutBack {
        /// Where the file of before is, a path in the guest.
        kept: String,
        /// Length of what was made, in bytes.
        bytes: u64,
        /// CRC-32 of what was made.
        crc32: u32,
    },
    /// It can't be: another program made it, which keeps nothing of before.
    Never,
    /// Cut the file, which something was put behind.
    Truncate {
        /// Its length before, in bytes.
        bytes: u64,
        /// Its length after, in bytes.
        from: u64,
    },
}

/// What the host asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "ask")]
pub enum Request {
    /// Answered by [`Answer::Hello`]. Ends the agent's repeated greeting.
    Hello {
        /// The host's [`VERSION`].
        version: u32,
    },
    /// Answered by [`Answer::Pong`] with the same blob.
    Ping,
    /// Runs a program. Output is streamed, then [`Answer::Exit`].
    RunStep {
        /// Program and arguments; no shell.
        argv: Vec<String>,
        /// It is killed after so many milliseconds.
        deadline_ms: u64,
        /// At most so many bytes of output are sent; the rest is dropped and counted.
        max_output: u64,
    },
    /// Reads a piece of a file. Answered by [`Answer::Piece`].
    ReadFile {
        /// Absolute path.
        path: String,
        /// Byte offset.
        offset: u64,
        /// At most so many bytes, and at most [`MAX_PIECE`].
        length: u32,
    },
    /// Writes the blob at `offset`. Answered by [`Answer::Done`].
    WriteFile {
        /// Absolute path.
        path: String,
        /// Byte offset; 0 truncates.
        offset: u64,
        /// Permission bits for a new file.
        mode: u32,
    },
    /// Reads a piece of a regular file of the guest root found by `Inspect` (appliance); links are followed inside that root.
    /// Answered by [`Answer::Piece`].
    GuestFile {
        /// Absolute path in the guest.
        path: String,
        /// Byte offset.
        offset: u64,
        /// At most so many bytes, and at most [`MAX_PIECE`].
        length: u32,
    },
    /// Names in a folder of the guest root (appliance), answered by [`Answer::Facts`] with a list.
    GuestNames {
        /// Absolute path in the guest.
        path: String,
        /// At most so many.
        limit: u32,
    },
    /// What is on the disks (appliance), answered by [`Answer::Facts`].
    Inspect,
    /// Puts the agent into the guest root found by `Inspect` (appliance), answered by [`Answer::Facts`].
    Inject,
    /// Makes the guest root found by `Inspect` ready for KVM (appliance), answered by [`Answer::Facts`] with the changes.
    Fixup {
        /// What to do.
        wish: FixupWish,
    },
    /// Takes changes of a fix-up back, the last one first (appliance), answered by [`Answer::Facts`].
    Undo {
        /// The changes in the order in which they were made.
        changes: Vec<Change>,
        /// The volume whose root they were made in; the one that boots where it is not known.
        #[serde(default)]
        device: Option<String>,
        /// Only say what would be taken back.
        dry_run: bool,
    },
    /// Opens the LUKS volumes that the blob, a passphrase or key file, fits (appliance). Answered by [`Answer::Facts`] with the names.
    Unlock,
    /// How the running system is (guest), answered by [`Answer::Facts`].
    State,
    /// Runs the benchmark suite; progress as output, then [`Answer::Facts`] with the record.
    Bench {
        /// `quick` or `full`.
        suite: String,
        /// Wall time that the suite plans for in seconds; 0: the suite's own.
        #[serde(default)]
        budget_seconds: u64,
        /// It is killed after so many milliseconds.
        deadline_ms: u64,
        /// Only metrics whose id contains one of these, or starts with one that ends in `*`; empty: everything.
        #[serde(default)]
        only: Vec<String>,
        /// Folder on the disk to measure; `None`: `/var/tmp`.
        #[serde(default)]
        folder: Option<String>,
        /// Sizes of another record to take over.
        #[serde(default)]
        like: BenchSizes,
    },
    /// The guest's clock, answered by [`Answer::Time`].
    GetTime,
    /// Writes everything back and powers off; [`Answer::Done`] comes first.
    PowerOff,
}

/// Stream of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "answer")]
pub enum Answer {
    /// Here I am.
    Hello {
        /// The agent's [`VERSION`].
        version: u32,
        /// Program version.
        program: String,
        /// Role.
        role: Role,
        /// Seconds since the kernel started.
        uptime: f64,
    },
    /// To `Ping`; the blob is the request's.
    Pong,
    /// The blob is output of the running program.
    Output {
        /// Which stream.
        stream: Stream,
    },
    /// The program ended.
    Exit {
        /// Exit code; absent when it was killed.
        code: Option<i32>,
        /// Killed by its deadline.
        timed_out: bool,
        /// Output bytes that were dropped.
        dropped: u64,
    },
    /// The blob is the piece.
    Piece {
        /// Length of the whole file in bytes.
        total: u64,
    },
    /// Done.
    Done,
    /// Structured facts.
    Facts {
        /// Free-form.
        value: serde_json::Value,
    },
    /// The guest's clock.
    Time {
        /// Nanoseconds since 1970.
        unix_ns: u64,
        /// Seconds since the kernel started.
        uptime: f64,
    },
    /// It could not be done.
    Failed {
        /// Why, in words.
        message: String,
    },
}

/// A message with the number that ties answer to question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// Chosen by the host, never 0 for a request.
    pub id: u64,
    /// The message.
    pub body: T,
}
