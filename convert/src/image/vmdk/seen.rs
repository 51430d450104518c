//! Which grains of a stream have come, in bounded memory.

use std::collections::BTreeMap;

/// Stretches kept. An ascending stream needs none of them, one that several threads wrote few.
const MAX_RANGES: usize = 1 << 20;

/// What is known of a grain that comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    /// It is new.
    First,
    /// It was there.
    Again,
    /// It is not above all others, and which those are was too much to keep.
    Unknown,
}

/// The grain numbers met so far, as ranges. A number above all others is new whatever is kept.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    ranges: BTreeMap<u64, u64>,
    highest: Option<u64>,
    forgotten: bool,
}

impl Seen {
    /// Adds a grain.
    pub(crate) fn insert(&mut self, value: u64) -> Came {
        let above = self.highest.is_none_or(|highest| highest < value);
        if above {
            self.highest = Some(value);
        }
        if self.forgotten {
            return if above { Came::First } else { Came::Unknown };
        }
        let before = self
            .ranges
            .range(..=value)
            .next_back()
            .map(|(start, end)| (*start, *end));
        if before.is_some_and(|(_, end)| value < end) {
            return Came::Again;
        }
        let start = before
            .filter(|(_, end)| *end == value)
            .map_or(value, |(start, _)| start);
        let end = self.ranges.remove(&(value + 1)).unwrap_or(value + 1);
        self.ranges.insert(start, end);
        if self.ranges.len() > MAX_RANGES {
            self.ranges = BTreeMap::new();
            self.forgotten = true;
        }
        Came::First
    }

    #[cfg(test)]
    fn ranges(&self) -> Vec<(u64, u64)> {
        self.ranges.iter().map(|(start, end)| (*start, *end)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_enters_the_ranges_once_and_neighbours_merge() {
        let mut seen = Seen::default();
        for value in [5, 7, 6, 1, 0] {
            assert_eq!(seen.insert(value), Came::First, "{value}");
        }
        for value in [5, 7, 6, 1, 0] {
            assert_eq!(seen.insert(value), Came::Again, "{value}");
        }
        assert_eq!(seen.ranges(), [(0, 2), (5, 8)]);
    }

    #[test]
    fn a_scattered_ascending_stream_is_followed_without_keeping_where_it_was() {
        let mut seen = Seen::default();
        let most = u64::try_from(MAX_RANGES).expect("small");
        for value in 0..most + 10 {
            assert_eq!(seen.insert(value * 2), Came::First, "{value}");
        }
        assert!(seen.ranges().is_empty(), "nothing is kept");
        assert_eq!(seen.insert(4), Came::Unknown);
        assert_eq!(seen.insert(1 << 40), Came::First);
    }
}
