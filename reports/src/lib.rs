//! Owns what esxodus *says*: the records every step writes, the documented limits, and how both are rendered for people.
//! Owns no measuring, no disks and no guests: it depends on none of our crates, so a record can be read anywhere.
#![forbid(unsafe_code)]

#[cfg(feature = "render")]
pub mod limits;
#[cfg(feature = "render")]
pub mod render;
pub mod schema;
#[cfg(any(test, feature = "test-utils"))]
pub mod test_utils;
