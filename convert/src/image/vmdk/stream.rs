//! Front-to-back reading of streams.
