//! Owns what host and agent share: the protocol (frames, messages, versions) and the archive format of an initramfs.
//! Owns no I/O policy and no workloads: the host side lives in `runner`, the measuring in `bench`.
#![forbid(unsafe_code)]

pub mod cpio;
pub mod frame;
pub mod protocol;
