//! Disk images: one folder a format, one trait for whatever can be mapped and read.

mod error;
pub mod map;

pub use error::{ImageError, ImageErrorKind};
