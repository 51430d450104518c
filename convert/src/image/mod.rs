//! Disk images: one folder a format, one trait for whatever can be mapped and read.

mod error;
pub mod map;
pub mod qcow2;

pub use error::{ImageError, ImageErrorKind};
