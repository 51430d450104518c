//! `esxodus inspect --map`: the extent map, written run by run, since a large disk has millions.

use convert::image::map::DiskSource;
use convert::image::summary::{JsonRun, for_each_run};
use convert::image::{ImageError, ImageErrorKind};
use serde::ser::{Error as _, SerializeSeq as _};
use serde::{Serialize, Serializer};
use std::cell::RefCell;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// The map of a disk.
pub(super) struct Map<'a> {
    pub(super) name: String,
    pub(super) source: &'a dyn DiskSource,
    pub(super) cancel: &'a AtomicBool,
}

/// Ends the walk because of an error that the caller holds.
fn stop() -> ImageError {
    ImageError::new(ImageErrorKind::Io, Path::new(""), "the map cannot be written")
}

impl Serialize for Map<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut runs = serializer.serialize_seq(None)?;
        let failed = RefCell::new(None);
        let walked = for_each_run(self.source, self.cancel, |run| {
            runs.serialize_element(&JsonRun::new(self.source, run))
                .map_err(|error| {
                    *failed.borrow_mut() = Some(error);
                    stop()
                })
        });
        if let Some(error) = failed.into_inner() {
            return Err(error);
        }
        walked.map_err(S::Error::custom)?;
        runs.end()
    }
}

impl Map<'_> {
    /// A line for each run.
    pub(super) fn write(&self, out: &mut impl Write) -> anyhow::Result<()> {
        writeln!(out, "\nmap of {} (offset, length, kind, where)", self.name)?;
        let mut failed = None;
        let walked = for_each_run(self.source, self.cancel, |run| {
            let run = JsonRun::new(self.source, run);
            let place = match (&run.file, run.file_offset) {
                (Some(file), Some(offset)) => format!("{} at {offset}", file.display()),
                _ => String::new(),
            };
            writeln!(out, "{:>16} {:>14} {:<5} {place}", run.offset, run.length, run.kind).map_err(|error| {
                failed = Some(error);
                stop()
            })
        });
        if let Some(error) = failed {
            return Err(error.into());
        }
        Ok(walked?)
    }
}
