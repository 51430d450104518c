//! The copy pipeline and the qcow2 writer, compared with independent readers.

extern crate esxodus_convert as convert;

#[cfg(test)]
#[path = "copy/content.rs"]
mod content;
#[cfg(test)]
#[path = "copy/failures.rs"]
mod failures;
#[cfg(test)]
#[path = "copy/resume.rs"]
mod resume;
#[cfg(test)]
#[path = "copy/sharing.rs"]
mod sharing;
#[cfg(test)]
#[path = "copy/sources.rs"]
mod sources;
#[cfg(test)]
#[path = "copy/support.rs"]
mod support;
#[cfg(test)]
#[path = "copy/verification.rs"]
mod verification;
