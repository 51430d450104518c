//! The only unsafe code of the crate: memory mappings, I/O engines of the kernel, fork.

pub(crate) mod aio;
pub(crate) mod fork;
pub(crate) mod mapping;
pub(crate) mod uring;
