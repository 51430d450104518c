//! Work on several threads, pinned where allowed.

use crate::harness::Clock;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::sync::Barrier;
use std::time::Duration;

/// CPUs that this process may run on, in ascending order; never empty.
pub(crate) fn usable_cpus() -> Vec<usize> {
    let found: Vec<usize> = sched_getaffinity(None)
        .map(|set| (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
        .unwrap_or_default();
    if found.is_empty() { vec![0] } else { found }
}

/// Binds the calling thread. A refusal (seccomp, cpuset) is tolerated: the thread then runs anywhere.
pub(crate) fn pin(cpu: usize) -> bool {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).is_ok()
}

/// Runs `work(thread)` on `threads` new threads that start together, and returns the time from the first start to the last
/// end. Thread `i` is pinned to `cpus[i]` where there is more than one thread and a CPU for each.
pub fn run_threads(threads: usize, cpus: &[usize], work: impl Fn(usize) + Sync) -> Duration {
    let barrier = Barrier::new(threads);
    let spans: Vec<(Clock, Clock)> = std::thread::scope(|scope| {
        let spawn = |thread: usize| {
            let (barrier, work) = (&barrier, &work);
            scope.spawn(move || {
                if threads > 1
                    && threads <= cpus.len()
                    && let Some(&cpu) = cpus.get(thread)
                {
                    pin(cpu);
                }
                barrier.wait();
                let start = Clock::now();
                work(thread);
                (start, Clock::now())
            })
        };
        let handles: Vec<_> = (0..threads).map(spawn).collect();
        handles.into_iter().filter_map(|handle| handle.join().ok()).collect()
    });
    let first = spans.iter().map(|span| span.0).min();
    let last = spans.iter().map(|span| span.1).max();
    first
        .zip(last)
        .map_or(Duration::ZERO, |(first, last)| last.since(first))
}

#[cfg(test)]
mod tests {
    use super::{run_threads, usable_cpus};
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_thread_runs_once_and_the_time_is_positive() {
        let sum = AtomicUsize::new(0);
        let elapsed = run_threads(3, &usable_cpus(), |thread| {
            sum.fetch_add(thread + 1, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 6);
        assert!(!elapsed.is_zero());
    }
}
