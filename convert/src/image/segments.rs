//! What one link of a chain knows about a stretch of the disk, before the links below have been asked.

use super::map::{Run, RunSource};

/// A stretch with one source; `None` means absent here, ask the parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Guest offset in bytes.
    pub(crate) offset: u64,
    /// Bytes, never 0.
    pub(crate) length: u64,
    /// Where its bytes come from.
    pub(crate) source: Option<RunSource>,
}

/// Ascending segments without gaps; neighbours are joined where their sources continue each other.
#[derive(Debug, Default)]
pub(crate) struct Segments(pub(crate) Vec<Segment>);

impl Segments {
    /// Appends; ignores an empty length.
    pub(crate) fn push(&mut self, offset: u64, length: u64, source: Option<RunSource>) {
        if length == 0 {
            return;
        }
        if let Some(last) = self.0.last_mut() {
            let joins = match (last.source, source) {
                (None, None)
                | (Some(RunSource::Hole), Some(RunSource::Hole))
                | (Some(RunSource::Zero), Some(RunSource::Zero)) => true,
                (Some(RunSource::Raw { file: a, offset: at }), Some(RunSource::Raw { file: b, offset: next })) => {
                    a == b && at.checked_add(last.length) == Some(next)
                }
                _ => false,
            };
            if joins && last.offset + last.length == offset {
                last.length += length;
                return;
            }
        }
        self.0.push(Segment { offset, length, source });
    }

    /// Fills what is absent here with what `lower` has. `lower` may cover less: what it doesn't reach stays absent.
    pub(crate) fn over(self, lower: &Segments) -> Segments {
        let mut out = Segments(Vec::with_capacity(self.0.len()));
        let mut at = 0;
        for segment in self.0 {
            if segment.source.is_some() {
                out.push(segment.offset, segment.length, segment.source);
                continue;
            }
            let end = segment.offset + segment.length;
            let mut position = segment.offset;
            while at < lower.0.len() && lower.0[at].offset + lower.0[at].length <= position {
                at += 1;
            }
            let mut index = at;
            while position < end {
                let Some(below) = lower.0.get(index) else { break };
                if below.offset >= end {
                    break;
                }
                if below.offset > position {
                    out.push(position, below.offset - position, None);
                    position = below.offset;
                }
                let stop = end.min(below.offset + below.length);
                out.push(
                    position,
                    stop - position,
                    advance(below.source, position - below.offset),
                );
                position = stop;
                index += 1;
            }
            out.push(position, end - position, None);
        }
        out
    }

    /// The hull of what is absent: first and last byte + 1.
    pub(crate) fn absent(&self) -> Option<(u64, u64)> {
        let first = self.0.iter().find(|segment| segment.source.is_none())?;
        let last = self.0.iter().rev().find(|segment| segment.source.is_none())?;
        Some((first.offset, last.offset + last.length))
    }

    /// The finished map: what nobody has is a hole.
    pub(crate) fn into_runs(self) -> Vec<Run> {
        let mut joined = Segments(Vec::with_capacity(self.0.len()));
        for segment in self.0 {
            joined.push(
                segment.offset,
                segment.length,
                Some(segment.source.unwrap_or(RunSource::Hole)),
            );
        }
        joined
            .0
            .into_iter()
            .filter_map(|segment| {
                segment.source.map(|source| Run {
                    offset: segment.offset,
                    length: segment.length,
                    source,
                })
            })
            .collect()
    }
}

/// The source of the bytes `by` further on. A compressed grain stays the grain it is.
pub(crate) fn advance(source: Option<RunSource>, by: u64) -> Option<RunSource> {
    match source {
        Some(RunSource::Raw { file, offset }) => Some(RunSource::Raw {
            file,
            offset: offset + by,
        }),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_stretch_takes_exactly_what_the_parent_has_there() {
        let mut upper = Segments::default();
        upper.push(0, 10, None);
        upper.push(10, 10, Some(RunSource::Zero));
        upper.push(20, 20, None);
        let mut lower = Segments::default();
        lower.push(0, 30, Some(RunSource::Raw { file: 0, offset: 100 }));
        let runs = upper.over(&lower).into_runs();
        let wanted = [
            Run {
                offset: 0,
                length: 10,
                source: RunSource::Raw { file: 0, offset: 100 },
            },
            Run {
                offset: 10,
                length: 10,
                source: RunSource::Zero,
            },
            Run {
                offset: 20,
                length: 10,
                source: RunSource::Raw { file: 0, offset: 120 },
            },
            Run {
                offset: 30,
                length: 10,
                source: RunSource::Hole,
            },
        ];
        assert_eq!(runs, wanted);
    }

    #[test]
    fn a_long_parent_segment_serves_several_gaps() {
        let mut upper = Segments::default();
        for at in 0..4 {
            upper.push(at * 10, 5, None);
            upper.push(at * 10 + 5, 5, Some(RunSource::Zero));
        }
        let mut lower = Segments::default();
        lower.push(0, 40, Some(RunSource::Raw { file: 1, offset: 0 }));
        let runs = upper.over(&lower).into_runs();
        assert_eq!(runs.len(), 8);
        assert_eq!(runs[6].source, RunSource::Raw { file: 1, offset: 30 });
    }
}
