//! The copy pipeline and the qcow2 writer, compared with independent readers.

extern crate esxodus_convert as convert;

#[cfg(test)]
#[path = "copy/content.rs"]
mod content;
#[cfg(test)]
#[path = "copy/failures.rs"]
mod failures;
#[cfg(test)]
#[expect(dead_code, reason = "shared with the tests of the readers, which use all of it")]
#[path = "image/fixtures.rs"]
mod fixtures;
#[cfg(test)]
#[path = "copy/joined.rs"]
mod joined;
#[cfg(test)]
#[path = "copy/limits.rs"]
mod limits;
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
