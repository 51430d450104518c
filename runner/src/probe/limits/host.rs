//! Memory of the kernel and this process's open files.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A line of /proc/meminfo in bytes.
pub(super) fn meminfo(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    field(&text, name)
}

fn field(text: &str, name: &str) -> Option<u64> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value
        .trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

/// The kernel's own memory, and what is available to all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) kernel: u64,
    pub(super) available: u64,
}

impl Memory {
    pub(super) fn now() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let parts = [
            "SUnreclaim",
            "KernelStack",
            "PageTables",
            "SecPageTables",
            "VmallocUsed",
            "Percpu",
        ];
        Self {
            kernel: parts.iter().filter_map(|name| field(text, name)).sum(),
            available: field(text, "MemAvailable").unwrap_or(0),
        }
    }

    /// What was taken since `earlier`.
    pub(super) fn taken_since(self, earlier: Self) -> u64 {
        let kernel = self.kernel.saturating_sub(earlier.kernel);
        kernel.max(earlier.available.saturating_sub(self.available))
    }
}

/// The soft limit of open files raised to the hard one, for as long as this lives.
#[derive(Debug)]
pub(super) struct FileLimit {
    before: Rlimit,
    raised: Option<u64>,
}

impl FileLimit {
    pub(super) fn raise() -> Self {
        let before = getrlimit(Resource::Nofile);
        let wanted = Rlimit {
            current: before.maximum,
            maximum: before.maximum,
        };
        // Refused: then the series end earlier and say why.
        let _ = setrlimit(Resource::Nofile, wanted);
        Self {
            raised: getrlimit(Resource::Nofile).current,
            before,
        }
    }

    pub(super) fn limit(&self) -> String {
        self.raised
            .map_or_else(|| "without limit".to_owned(), |limit| limit.to_string())
    }
}

impl Drop for FileLimit {
    fn drop(&mut self) {
        let _ = setrlimit(Resource::Nofile, self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::Memory;

    #[test]
    fn what_is_taken_is_the_greater_of_the_kernels_growth_and_the_fall_of_available_memory() {
        let at = |slab: u64, available: u64| {
            Memory::parse(&format!(
                "MemAvailable: {available} kB\nSlab: 9 kB\nSUnreclaim: {slab} kB\nPageTables: 10 kB\n"
            ))
        };
        assert_eq!(at(10, 100).kernel, 20 << 10);
        assert_eq!(at(50, 90).taken_since(at(10, 100)), 40 << 10);
        assert_eq!(at(10, 40).taken_since(at(10, 100)), 60 << 10);
        assert_eq!(at(0, 200).taken_since(at(10, 100)), 0);
    }
}
