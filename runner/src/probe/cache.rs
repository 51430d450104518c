//! The probe's answer, kept for this boot, this kernel and this version of the program.

use super::ProbeReport;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Key {
    boot_id: String,
    kernel: String,
    program: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    key: Key,
    report: ProbeReport,
}

fn key() -> Option<Key> {
    let line = |path: &str| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    Some(Key {
        boot_id: line("/proc/sys/kernel/random/boot_id")?,
        kernel: line("/proc/sys/kernel/version")
            .zip(line("/proc/sys/kernel/osrelease"))
            .map(|(version, release)| format!("{release} {version}"))?,
        program: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

fn path() -> PathBuf {
    crate::appliance::cache_dir().join("probe.json")
}

fn matching(text: &str, key: &Key) -> Option<ProbeReport> {
    let entry: Entry = serde_json::from_str(text).ok()?;
    (entry.key == *key).then_some(ProbeReport {
        cached: true,
        ..entry.report
    })
}

/// This boot's answer.
pub(super) fn load() -> Option<ProbeReport> {
    // A device that went away, or a permission that was lost, since.
    std::fs::File::options()
        .read(true)
        .write(true)
        .open(super::DEVICE)
        .ok()?;
    matching(&std::fs::read_to_string(path()).ok()?, &key()?)
}

/// Keeps it. A cache that cannot be written only costs the next probe.
pub(super) fn store(report: &ProbeReport) {
    let Some(key) = key() else { return };
    let path = path();
    let Ok(text) = serde_json::to_vec_pretty(&Entry {
        key,
        report: report.clone(),
    }) else {
        return;
    };
    let Some(folder) = path.parent() else { return };
    if std::fs::create_dir_all(folder).is_ok()
        && let Ok(mut file) = tempfile::NamedTempFile::new_in(folder)
        && std::io::Write::write_all(&mut file, &text).is_ok()
    {
        let _ = file.persist(&path);
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, Key, ProbeReport, matching};

    #[test]
    fn the_answer_of_another_boot_or_kernel_is_not_trusted() {
        let key = |boot: &str, kernel: &str| Key {
            boot_id: boot.into(),
            kernel: kernel.into(),
            program: "1".into(),
        };
        let text = serde_json::to_string(&Entry {
            key: key("a", "6.1"),
            report: ProbeReport::default(),
        })
        .expect("plain data");
        assert!(matching(&text, &key("a", "6.1")).is_some_and(|report| report.cached));
        assert_eq!(matching(&text, &key("b", "6.1")), None);
        assert_eq!(matching(&text, &key("a", "6.2")), None);
        assert_eq!(matching("{}", &key("a", "6.1")), None);
    }
}
