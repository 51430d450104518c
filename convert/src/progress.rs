//! How long work tells how far it is, without knowing who shows it.

/// Receives progress. Calls come from several threads.
pub trait Progress: Send + Sync {
    /// A piece of work named `what` begins; `total` bytes are to be handled.
    fn begin(&self, what: &str, total: u64);
    /// `bytes` more of `what` are done.
    fn advance(&self, what: &str, bytes: u64);
    /// `what` is finished.
    fn end(&self, what: &str);
}

/// Shows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _what: &str, _total: u64) {}
    fn advance(&self, _what: &str, _bytes: u64) {}
    fn end(&self, _what: &str) {}
}
