//! What is measured: one file a family. A workload is a [`Definition`] (what it means, for people) and a function that
//! builds its kernel when its turn comes.

mod aes;
mod cpu;
mod crypto;
mod disk;
pub(crate) mod engine;
mod hypervisor;
mod kernel;
mod memory;
mod network;
mod parser;
mod sha256;
mod threads;

use crate::harness::{Halt, Kernel, Scale};
use reports::schema::{BenchSizes, Better, Suite};
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

pub use cpu::{float, integer, sieve};
pub use network::serve;
pub use parser::parse_text;
pub use threads::run_threads;
pub(crate) use threads::usable_cpus;

/// What a metric means.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// Stable id: `cpu.integer.single`.
    pub id: String,
    /// For people.
    pub name: String,
    /// Unit of the samples.
    pub unit: &'static str,
    /// Direction.
    pub better: Better,
    /// What it measures.
    pub measures: &'static str,
    /// What it is easily mistaken for, and what disturbs it.
    pub pitfalls: &'static str,
    /// The tool whose figure it should agree with.
    pub reference: &'static str,
}

/// A kernel that is ready to be sampled.
pub(crate) struct Built<'a> {
    pub(crate) kernel: Kernel<'a>,
    pub(crate) scale: Scale,
    /// How it is measured; compared literally before two records are compared, so that it holds nothing calibrated.
    pub(crate) method: String,
}

/// Builds a kernel.
pub(crate) type Build<'a> = Box<dyn FnOnce(&Context<'a>) -> Result<Built<'a>, Halt> + 'a>;

/// A workload in the plan of a run.
pub(crate) struct Planned<'a> {
    pub(crate) definition: Definition,
    /// Its part of the budget against the others.
    pub(crate) weight: f64,
    pub(crate) build: Build<'a>,
}

/// What workloads may use.
#[derive(Debug, Clone)]
pub(crate) struct Context<'a> {
    pub(crate) cancel: &'a AtomicBool,
    /// CPUs that this process may run on.
    pub(crate) cpus: Vec<usize>,
    /// Threads of the `all` variants.
    pub(crate) threads: usize,
    /// Memory that may be used, in bytes.
    pub(crate) memory_bytes: u64,
    pub(crate) last_level_cache_bytes: u64,
    /// Folder on the disk to test.
    pub(crate) folder: PathBuf,
    pub(crate) disk_budget_bytes: u64,
    pub(crate) suite: Suite,
    /// `HOST:PORT` of the agent on the other side.
    pub(crate) peer: Option<String>,
    /// Time that this workload may take, set for each.
    pub(crate) share: Duration,
    /// Sizes of another record to take, whatever they cost.
    pub(crate) like: BenchSizes,
    /// Sizes that were taken.
    pub(crate) sizes: Rc<RefCell<BenchSizes>>,
}

/// All workloads in the order in which they run.
pub(crate) fn plan<'a>(context: &Context<'a>) -> Vec<Planned<'a>> {
    let mut all = cpu::plan(context);
    all.extend(crypto::plan(context));
    all.extend(kernel::plan(context));
    all.extend(hypervisor::plan(context));
    all.extend(memory::plan(context));
    all.extend(disk::plan(context));
    all.extend(network::plan(context));
    all
}
