//! Durable writes: what a database's commit waits for.

use super::BLOCK;
use super::requests::{PATTERNS, Pattern, Requests};
use super::target::{Shared, Target};
use crate::harness::{Clock, Halt, Kernel, Scale};
use crate::stats::Prng;
use crate::sys::mapping::{Mapping, Pages};
use crate::workloads::engine::Stamp;
use crate::workloads::{Built, Context, Definition, Planned};
use reports::schema::Better;
use std::os::unix::fs::FileExt as _;
use std::rc::Rc;
use std::sync::atomic::Ordering;

pub(super) fn plan<'a>(shared: &Shared) -> Planned<'a> {
    let definition = Definition {
        id: "disk.write-fdatasync".to_owned(),
        name: "Durable write (4 KiB + fdatasync)".to_owned(),
        unit: "us",
        better: Better::Lower,
        measures: "one 4 KiB write and fdatasync, one after the other: what a database's commit waits for",
        pitfalls: "a hypervisor's cache mode `unsafe`, or storage with a battery, answers before the data is safe",
        reference: "fio --rw=write --bs=4k --fdatasync=1",
    };
    let shared = Rc::clone(shared);
    let build = move |context: &Context<'a>| {
        let target = Target::of(&shared, context)?;
        let mut buffer = Mapping::new(BLOCK, Pages::Small).map_err(|error| Halt::failed("mmap", error))?;
        Prng::new(3).fill(buffer.bytes());
        let mut stamp = Stamp::new(0);
        let mut requests = Requests::new(
            Pattern {
                reads: 0,
                random: false,
                ..PATTERNS[3]
            },
            target.bytes,
        );
        let cancel = context.cancel;
        let how = target.how.replace(&format!(", {}", target.engine.name()), "");
        let kernel: Kernel<'a> = Box::new(move |iterations, recorder| {
            let failed = |error| Halt::failed("durable write failed", error);
            let start = Clock::now();
            for _ in 0..iterations {
                if cancel.load(Ordering::Relaxed) {
                    return Err(Halt::Cancelled);
                }
                stamp.mark(buffer.bytes());
                let began = Clock::now();
                target
                    .file
                    .write_all_at(buffer.bytes(), requests.next().1)
                    .map_err(failed)?;
                target.file.sync_data().map_err(failed)?;
                recorder.record(began.elapsed());
            }
            Ok(start.elapsed())
        });
        Ok(Built {
            kernel,
            scale: Scale::MedianLatency(1e-3),
            method: format!("pwrite of 4 KiB and fdatasync in turn, {how}"),
        })
    };
    Planned {
        definition,
        weight: 1.3,
        build: Box::new(build),
    }
}
