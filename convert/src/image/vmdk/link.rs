//! What a chain is made of: links, and the extents in them.

use std::path::PathBuf;

use crate::image::ImageError;
use crate::image::bytes::{le32, le64};
use crate::image::gate::Place;
use crate::image::segments::Segments;

use super::context::{Context, Window};
use super::cowd::{self, CowdExtent};
use super::descriptor::{Descriptor, looks_like_descriptor};
use super::flat::FlatExtent;
use super::header;
use super::sesparse::{self, SeSparseExtent};
use super::sparse::HostedExtent;

/// What a file is, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sniffed {
    Hosted,
    Cowd,
    SeSparse,
    Descriptor,
    Unfinished,
    ChangeTracking,
    Qcow2,
    Other,
}

/// Tells what a file is.
pub(crate) fn sniff(head: &[u8]) -> Sniffed {
    if head.len() >= 8 {
        match le32(head, 0) {
            header::MAGIC => return Sniffed::Hosted,
            header::MAGIC_UNFINISHED => return Sniffed::Unfinished,
            cowd::MAGIC => return Sniffed::Cowd,
            0xf619_72a2 => return Sniffed::ChangeTracking,
            0xfb49_4651 => return Sniffed::Qcow2,
            _ => {}
        }
        if le64(head, 0) == sesparse::MAGIC {
            return Sniffed::SeSparse;
        }
    }
    if looks_like_descriptor(head) {
        Sniffed::Descriptor
    } else {
        Sniffed::Other
    }
}

/// One descriptor with its extents.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) path: PathBuf,
    /// `None` for a raw image.
    pub(crate) descriptor: Option<Descriptor>,
    pub(crate) extents: Vec<Extent>,
    /// Guest bytes.
    pub(crate) bytes: u64,
    /// Where its descriptor lies; `None` inside an archive.
    pub(super) place: Option<Place>,
}

/// An extent at its place in the link.
#[derive(Debug)]
pub(crate) struct Extent {
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) body: Body,
}

/// What an extent is.
#[derive(Debug)]
pub(crate) enum Body {
    Zero,
    Flat(FlatExtent),
    Hosted(Box<HostedExtent>),
    Cowd(CowdExtent),
    SeSparse(SeSparseExtent),
}

impl Body {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Zero => "zero",
            Self::Flat(_) => "flat",
            Self::Hosted(hosted) => hosted.kind(),
            Self::Cowd(_) => "COWD",
            Self::SeSparse(_) => "seSparse",
        }
    }

    /// Guest bytes by the extent's own header, where it has one.
    pub(super) fn capacity(&self) -> Option<u64> {
        match self {
            Self::Zero | Self::Flat(_) => None,
            Self::Hosted(hosted) => Some(hosted.capacity()),
            Self::Cowd(cowd) => Some(cowd.capacity()),
            Self::SeSparse(sesparse) => Some(sesparse.capacity()),
        }
    }
}

impl Link {
    /// The segments of `[start, end)`, which lies inside the link.
    pub(crate) fn map(&self, context: Context<'_>, start: u64, end: u64) -> Result<Segments, ImageError> {
        let mut out = Segments::default();
        let first = self
            .extents
            .partition_point(|extent| extent.start + extent.length <= start);
        for extent in &self.extents[first..] {
            if extent.start >= end {
                break;
            }
            let window = Window {
                base: extent.start,
                start: start.max(extent.start) - extent.start,
                end: (end - extent.start).min(extent.length),
                extent: extent.length,
            };
            match &extent.body {
                Body::Zero => out.push(
                    window.base + window.start,
                    window.end - window.start,
                    Some(crate::image::map::RunSource::Zero),
                ),
                Body::Flat(flat) => flat.map(context, window, &mut out),
                Body::Hosted(hosted) => hosted.map(context, window, &mut out)?,
                Body::Cowd(cowd) => cowd.map(context, window, &mut out)?,
                Body::SeSparse(sesparse) => sesparse.map(context, window, &mut out)?,
            }
        }
        Ok(out)
    }
}
