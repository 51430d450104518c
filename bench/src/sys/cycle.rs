//! Loads that wait for one another, as `p = *p`. An index instead of an address would add the CPU's time for scaling it, a cycle in four.
#![expect(unsafe_code, reason = "reads by addresses that lie in memory")]

use super::mapping::Mapping;

/// A mapping whose lines each hold the address of the next one of a cycle.
#[derive(Debug)]
pub(crate) struct Cycle {
    area: Mapping,
    /// Address of the line that is read next.
    at: usize,
}

impl Cycle {
    /// From an area in which word `line` × `words` of every line holds the number of a word that begins a line, as one cycle.
    /// `None`: a number is none of those.
    pub(crate) fn new(mut area: Mapping, words: usize) -> Option<Self> {
        let memory = area.words();
        let (base, count) = (memory.as_mut_ptr().expose_provenance(), memory.len());
        if count == 0 || words == 0 || count % words != 0 {
            return None;
        }
        for line in (0..count).step_by(words) {
            let next = usize::try_from(memory[line])
                .ok()
                .filter(|&next| next < count && next % words == 0)?;
            memory[line] = (base + next * size_of::<u64>()) as u64;
        }
        Some(Self { area, at: base })
    }

    /// Follows so many addresses; returns the last, so that no load can be left out.
    pub(crate) fn follow(&mut self, loads: u64) -> usize {
        let mut at = self.at;
        for _ in 0..loads {
            // SAFETY: `at` is the address of a line's first word: it starts as the first line's, and `new` checked that every line's
            // first word holds such an address. The words are aligned, initialised, and nobody else can reach them: the area is this
            // value's own, and it is borrowed here. Its provenance was exposed in `new`.
            at = unsafe { std::ptr::with_exposed_provenance::<usize>(at).read() };
        }
        self.at = at;
        at
    }

    /// As [`Mapping::huge_bytes`].
    pub(crate) fn huge_bytes(&self) -> Option<u64> {
        self.area.huge_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::Cycle;
    use crate::sys::mapping::{Mapping, Pages};

    #[test]
    fn it_comes_back_after_as_many_loads_as_there_are_lines_and_not_before() {
        let mut area = Mapping::new(10 * 64, Pages::Small).expect("memory");
        let words = area.words();
        for line in 0..10 {
            words[line * 8] = ((line + 3) % 10 * 8) as u64;
        }
        let mut cycle = Cycle::new(area, 8).expect("a cycle");
        let first = cycle.at;
        let back: Vec<u64> = (1..=20).filter(|_| cycle.follow(1) == first).collect();
        assert_eq!(back, [10, 20]);
        assert_eq!(cycle.follow(30), first);
    }

    #[test]
    fn a_number_that_begins_no_line_is_refused() {
        for wrong in [80_u64, 4, u64::MAX] {
            let mut area = Mapping::new(10 * 64, Pages::Small).expect("memory");
            area.words()[8] = wrong;
            assert!(Cycle::new(area, 8).is_none(), "{wrong}");
        }
    }
}
