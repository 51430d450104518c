//! From figures to a class.

use reports::schema::AcceleratorClass;
use serde::{Deserialize, Serialize};

/// What the probe found. All figures are of this host and boot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// Class: native, nested, emulated, unfit or absent.
    pub class: AcceleratorClass,
    /// The verdict in words.
    pub sentence: String,
    /// What to do about it, where there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// What was measured; absent where `/dev/kvm` cannot be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figures: Option<Figures>,
    /// Seconds that the probe took.
    pub seconds: f64,
    /// From the cache of this boot.
    #[serde(default)]
    pub cached: bool,
}

impl Default for ProbeReport {
    fn default() -> Self {
        Self {
            class: AcceleratorClass::Unknown,
            sentence: "not probed".into(),
            advice: None,
            figures: None,
            seconds: 0.0,
            cached: false,
        }
    }
}

/// Raw figures.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Figures {
    /// Instructions per second at CPL 0 in long mode.
    pub kernel_insn_per_s: f64,
    /// Instructions per second at CPL 3; absent where the guest could not get there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_insn_per_s: Option<f64>,
    /// Instructions that were refused at CPL 0: `cmpxchg16b`, `int3`, `xrstor`, `sse-add`.
    pub refused: Vec<String>,
    /// Nanoseconds of one exit to user space (port output), median.
    pub exit_ns: u64,
    /// `KVM_GET_API_VERSION`.
    pub api_version: i32,
    /// Most vCPUs of one VM.
    pub max_vcpus: u64,
    /// Memory slots of one VM.
    pub memory_slots: u64,
    /// Module and hypervisor hints, not decided by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
}

/// Above this ratio of user-mode to kernel-mode speed, kernel mode is interpreted.
const INTERPRETED_RATIO: f64 = 20.0;
/// From this cost of one exit on, the virtualisation is itself emulated or nested.
const NESTED_EXIT_NS: u64 = 20_000;

fn rate(per_second: f64) -> String {
    if per_second >= 1e9 {
        format!("{:.1} G", per_second / 1e9)
    } else {
        format!("{:.1} M", per_second / 1e6)
    }
}

const USE_TCG: &str = "Stock guests run in QEMU with TCG here (chosen by itself); native KVM needs a host with VT-x or AMD-V, \
                       or nested virtualisation switched on below";

/// The verdict. Opcodes and the ratio decide; the cost of an exit only grades what is complete.
pub(crate) fn classify(figures: Figures) -> ProbeReport {
    let speed = format!(
        "kernel mode {}insn/s, user mode {}, exit {:.1} us",
        rate(figures.kernel_insn_per_s),
        figures
            .user_insn_per_s
            .map_or("not reached".to_owned(), |user| format!("{}insn/s", rate(user))),
        std::time::Duration::from_nanos(figures.exit_ns).as_secs_f64() * 1e6,
    );
    let refused = figures.refused.join(", ");
    let ratio = figures
        .user_insn_per_s
        .map(|user| user / figures.kernel_insn_per_s.max(1.0));
    let (class, sentence) = match ratio {
        Some(ratio) if ratio > INTERPRETED_RATIO => {
            let opcodes = if refused.is_empty() {
                String::new()
            } else {
                format!(", and it refuses {refused}")
            };
            (
                AcceleratorClass::Emulated,
                format!("/dev/kvm interprets guest kernels, {ratio:.0} times slower than user mode{opcodes} ({speed})"),
            )
        }
        _ if !refused.is_empty() => (
            AcceleratorClass::Unfit,
            format!("/dev/kvm refuses instructions that stock kernels use: {refused} ({speed})"),
        ),
        None => (
            AcceleratorClass::Unfit,
            format!("/dev/kvm does not bring a guest to user mode ({speed})"),
        ),
        Some(_) if figures.exit_ns >= NESTED_EXIT_NS => (
            AcceleratorClass::Nested,
            format!("/dev/kvm is complete, and runs under emulation or nested ({speed})"),
        ),
        Some(_) => (
            AcceleratorClass::Native,
            format!("/dev/kvm is hardware virtualisation, complete and fast ({speed})"),
        ),
    };
    let advice = match class {
        AcceleratorClass::Native => None,
        AcceleratorClass::Nested => {
            Some("Functional tests are valid, figures are marked and compared only with their like".to_owned())
        }
        _ => Some(USE_TCG.to_owned()),
    };
    ProbeReport {
        class,
        sentence,
        advice,
        figures: Some(figures),
        ..ProbeReport::default()
    }
}

/// `/dev/kvm` opens and the payload did not get to its end.
pub(crate) fn unfit(reason: String) -> ProbeReport {
    ProbeReport {
        class: AcceleratorClass::Unfit,
        sentence: format!("/dev/kvm opens and cannot run the probe: {reason}"),
        advice: Some(USE_TCG.to_owned()),
        ..ProbeReport::default()
    }
}

/// `/dev/kvm` does not open.
pub(crate) fn absent(error: std::io::Error, exists: bool) -> ProbeReport {
    let (sentence, advice) = match (error.kind(), exists) {
        (std::io::ErrorKind::PermissionDenied, _) => (
            "/dev/kvm is there and this user may not open it".to_owned(),
            "Join its group and log in again: sudo usermod -aG kvm \"$USER\"".to_owned(),
        ),
        (_, false) => (
            "there is no /dev/kvm".to_owned(),
            "Switch virtualisation on in the firmware (or nested virtualisation in the hypervisor below) and load kvm_intel or kvm_amd".to_owned(),
        ),
        (_, true) => (format!("/dev/kvm cannot be opened: {error}"), USE_TCG.to_owned()),
    };
    ProbeReport {
        class: AcceleratorClass::Absent,
        sentence,
        advice: Some(advice),
        ..ProbeReport::default()
    }
}

#[cfg(test)]
mod tests {
    use super::{Figures, absent, classify};
    use reports::schema::AcceleratorClass;

    fn figures(kernel: f64, user: f64, exit_ns: u64, refused: &[&str]) -> Figures {
        Figures {
            kernel_insn_per_s: kernel,
            user_insn_per_s: Some(user),
            refused: refused.iter().map(|&name| name.to_owned()).collect(),
            exit_ns,
            ..Figures::default()
        }
    }

    #[test]
    fn recorded_hosts_are_told_apart() {
        let cases = [
            (
                "page-table VM",
                figures(0.42e6, 4.5e9, 12_500, &["cmpxchg16b", "int3", "xrstor", "sse-add"]),
                AcceleratorClass::Emulated,
            ),
            (
                "page-table VM, slow end",
                figures(0.94e6, 1.6e9, 29_000, &[]),
                AcceleratorClass::Emulated,
            ),
            (
                "nested lab on a busy host",
                figures(215e6, 120e6, 550_000, &[]),
                AcceleratorClass::Nested,
            ),
            (
                "nested lab, calm",
                figures(113e6, 138e6, 240_000, &[]),
                AcceleratorClass::Nested,
            ),
            ("metal", figures(4e9, 4e9, 1_000, &[]), AcceleratorClass::Native),
            (
                "complete speed, one opcode missing",
                figures(1e9, 1e9, 1_000, &["xrstor"]),
                AcceleratorClass::Unfit,
            ),
        ];
        for (name, figures, expected) in cases {
            let report = classify(figures);
            assert_eq!(report.class, expected, "{name}: {}", report.sentence);
        }
    }

    #[test]
    fn a_refused_opcode_is_named() {
        let report = classify(figures(1e9, 1e9, 1_000, &["cmpxchg16b"]));
        assert!(report.sentence.contains("cmpxchg16b"), "{}", report.sentence);
    }

    #[test]
    fn a_missing_device_and_a_missing_permission_have_their_own_advice() {
        let missing = absent(std::io::ErrorKind::NotFound.into(), false);
        let denied = absent(std::io::ErrorKind::PermissionDenied.into(), true);
        assert_eq!(
            (missing.class, denied.class),
            (AcceleratorClass::Absent, AcceleratorClass::Absent)
        );
        assert!(denied.advice.expect("advice").contains("usermod"));
        assert!(missing.advice.expect("advice").contains("kvm_amd"));
    }
}
