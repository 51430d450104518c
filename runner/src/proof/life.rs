//! Signs of life: whether a guest that says nothing still does something.

use super::evidence::Folder;
use crate::engine::Vm;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

/// The engine is asked so often.
const TICK: Duration = Duration::from_secs(1);
/// A picture is taken and compared only when everything else has been still for so long, and then so often.
const PICTURE_TICK: Duration = Duration::from_secs(10);

/// When something last changed.
#[derive(Debug)]
pub(super) struct Life {
    marks: (u64, usize, u64, Option<u64>),
    picture: Option<u64>,
    since: Instant,
    asked: Option<Instant>,
    pictured: Option<Instant>,
}

impl Default for Life {
    fn default() -> Self {
        Self {
            marks: (0, 0, 0, None),
            picture: None,
            since: Instant::now(),
            asked: None,
            pictured: None,
        }
    }
}

fn digest(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl Life {
    /// How long nothing has changed: console, firmware's messages, text screen, disk accesses and, in graphics mode, the picture (on a
    /// text screen a cursor blinks for ever).
    pub(super) fn quiet_for(&mut self, vm: &mut dyn Vm, screen: &[String], folder: &Folder) -> Duration {
        if self.asked.is_some_and(|then| then.elapsed() < TICK) {
            return self.since.elapsed();
        }
        self.asked = Some(Instant::now());
        let marks = (
            vm.console().bytes(),
            vm.firmware_log().len(),
            digest(screen),
            vm.disk_operations(),
        );
        if marks != self.marks {
            self.marks = marks;
            self.since = Instant::now();
        } else if screen.is_empty()
            && self.since.elapsed() >= PICTURE_TICK
            && self.pictured.is_none_or(|then| then.elapsed() >= PICTURE_TICK)
        {
            self.pictured = Some(Instant::now());
            let file = folder.file("now.png");
            if matches!(vm.screenshot(&file), Ok(true)) {
                let picture = std::fs::read(&file).ok().map(digest);
                if self.picture.is_some() && picture != self.picture {
                    self.since = Instant::now();
                }
                self.picture = picture;
                let _ = std::fs::remove_file(&file);
            }
        }
        self.since.elapsed()
    }
}
