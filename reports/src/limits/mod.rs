//! Documented limits of hypervisors and tools, each with the place where it is stated, and what of them a machine uses.
//!
//! Model: a [`Limit`] is keyed by product, version, scope and key. A number of one scope is never compared with a
//! number of another: the much-quoted pair "6128 GB and 576 CPUs" mixes one guest's memory with one host's CPUs.
//! Data lives in `reports/limits/*.toml` and is compiled in; [`parse`] reads further files of the same shape.
//!
//! Rules of enforcement ([`crate::schema::LimitEffect`]): `hard` limits of confidence A block, every other sourced limit
//! warns, and what the user stated (U) or what circulates without a source is printed and never enforced.

mod estate;
mod load;
mod model;
mod numbers;
mod usage;

pub use estate::EstateTally;
pub use load::{LimitsError, all, comparison, parse};
pub use model::{ComparisonRow, Confidence, Kind, Limit, Operator, Scope, Value};
pub use numbers::{HostNumbers, MachineNumbers, hosts_from_toml};
pub use usage::{guest_on_host, host_usage, usage};
