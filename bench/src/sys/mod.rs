//! The only unsafe code of the crate: memory mappings, I/O engines of the kernel, fork, one instruction, a chain of loads.

pub(crate) mod aio;
pub(crate) mod cycle;
pub(crate) mod divide;
pub(crate) mod fork;
pub(crate) mod mapping;
pub(crate) mod uring;
