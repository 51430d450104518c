//! The chain over the libraries: the run folder, and the steps that fill it.
//!
//! It lives in the root package because only this package may depend on all the others.

mod folder;

pub(crate) use folder::RunFolder;
