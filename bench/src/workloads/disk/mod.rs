//! Direct I/O on a preallocated file of incompressible data: patterns of requests in closed loops, at a fixed rate, and one
//! durable write after the other.

mod closed;
mod durable;
mod rate;
mod requests;
mod target;

use super::{Context, Planned};
use std::cell::RefCell;
use std::rc::Rc;
use target::Shared;

/// Direct I/O wants this alignment at most.
const BLOCK: usize = 4096;

pub(super) fn plan<'a>(_context: &Context<'a>) -> Vec<Planned<'a>> {
    let shared: Shared = Rc::new(RefCell::new(None));
    let mut planned = Vec::new();
    for pattern in requests::PATTERNS {
        for depth in if pattern.random { [1, 32] } else { [1, 8] } {
            planned.push(closed::plan(pattern, depth, &shared));
        }
    }
    planned.push(rate::plan(&shared));
    planned.push(durable::plan(&shared));
    // Filling the file is in the share of the first.
    if let Some(first) = planned.first_mut() {
        first.weight = 4.0;
    }
    planned
}
