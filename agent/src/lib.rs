//! Owns the protocol between the host and the agent in a guest: frames, messages, versions.
//! Owns no I/O policy and no workloads: the host side lives in `runner`, the measuring in `bench`.
#![forbid(unsafe_code)]

pub mod frame;
pub mod protocol;
