//! Which engine and accelerator, and why. The probe decides, never an engine's own fallback list.

use super::{DiskFormat, images};
use crate::probe::ProbeReport;
use crate::{Result, RunnerError};
use reports::schema::AcceleratorClass;
use std::path::PathBuf;

/// Which engine the user wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EngineWish {
    /// Whatever fits.
    #[default]
    Auto,
    /// The own VMM.
    Kvm,
    /// QEMU.
    Qemu,
}

/// Which accelerator the user wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AccelWish {
    /// Whatever fits.
    #[default]
    Auto,
    /// KVM.
    Kvm,
    /// Software emulation.
    Tcg,
}

/// Engine taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineKind {
    /// The own VMM.
    Kvm,
    /// QEMU.
    Qemu,
}

impl EngineKind {
    /// `kvm` or `qemu`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Qemu => "qemu",
        }
    }
}

/// Accelerator taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Accelerator {
    /// KVM.
    Kvm,
    /// QEMU's TCG.
    Tcg,
}

impl Accelerator {
    /// QEMU's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// What was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Engine.
    pub engine: EngineKind,
    /// Accelerator.
    pub accelerator: Accelerator,
    /// Class of the accelerator, for records.
    pub class: AcceleratorClass,
    /// Why, a sentence.
    pub reason: String,
}

/// Chooses for a guest that boots through firmware. `Auto` takes QEMU, with KVM where the probe found a complete one, else
/// with TCG: the own VMM has no firmware.
///
/// # Errors
/// KVM was asked for and cannot run stock guests here; the own VMM was asked for with TCG.
pub fn choose(engine: EngineWish, accel: AccelWish, probe: &ProbeReport) -> Result<Choice> {
    decide(engine, accel, probe, false)
}

/// As [`choose`], for a kernel that is entered directly and disks on virtio: `Auto` takes the own VMM where the probe found a
/// complete KVM, since it starts sooner and locks itself in.
///
/// # Errors
/// As [`choose`].
pub fn choose_direct(engine: EngineWish, accel: AccelWish, probe: &ProbeReport) -> Result<Choice> {
    decide(engine, accel, probe, true)
}

/// `choice`, or QEMU with the same accelerator where the own VMM cannot read one of the disks: it knows raw and qcow2 whose
/// headers name plain files. An overlay on a VMDK names its backing file with QEMU's options.
#[must_use]
pub fn fitting(choice: &Choice, disks: &[(PathBuf, DiskFormat)]) -> Choice {
    if choice.engine == EngineKind::Qemu {
        return choice.clone();
    }
    let unreadable = disks.iter().find_map(|(path, format)| match format {
        DiskFormat::Vmdk => Some(format!("{} is a VMDK", path.display())),
        format => images::other_files(path, *format).err().map(|error| error.to_string()),
    });
    match unreadable {
        None => choice.clone(),
        Some(why) => Choice {
            engine: EngineKind::Qemu,
            reason: format!("QEMU, since the own VMM cannot read a disk ({why}); {}", choice.reason),
            ..choice.clone()
        },
    }
}

fn decide(engine: EngineWish, accel: AccelWish, probe: &ProbeReport, direct: bool) -> Result<Choice> {
    let complete = matches!(probe.class, AcceleratorClass::Native | AcceleratorClass::Nested);
    if engine == EngineWish::Kvm && accel == AccelWish::Tcg {
        return Err(RunnerError::Unusable {
            what: "the own VMM runs on KVM only, and TCG was asked for".into(),
            advice: "Use --engine qemu for TCG".into(),
        });
    }
    if (engine == EngineWish::Kvm || accel == AccelWish::Kvm) && !complete {
        return Err(RunnerError::Unusable {
            what: format!(
                "KVM was asked for, and it cannot run stock guests on this host: {}",
                probe.sentence
            ),
            advice: "Use --engine qemu --accel tcg (slower, works everywhere)".into(),
        });
    }
    let own = match engine {
        EngineWish::Kvm => true,
        EngineWish::Qemu => false,
        EngineWish::Auto => direct && complete && accel != AccelWish::Tcg,
    };
    let kind = if own { EngineKind::Kvm } else { EngineKind::Qemu };
    let (accelerator, class, reason) = match accel {
        AccelWish::Tcg => (Accelerator::Tcg, AcceleratorClass::Tcg, "TCG was asked for".to_owned()),
        AccelWish::Kvm => (
            Accelerator::Kvm,
            probe.class,
            format!("KVM was asked for; {}", probe.sentence),
        ),
        AccelWish::Auto if complete => (
            Accelerator::Kvm,
            probe.class,
            format!("KVM can be trusted here: {}", probe.sentence),
        ),
        AccelWish::Auto => (
            Accelerator::Tcg,
            AcceleratorClass::Tcg,
            format!(
                "KVM cannot run stock guests here, so it is emulated: {}",
                probe.sentence
            ),
        ),
    };
    let reason = match (kind, engine) {
        (EngineKind::Kvm, EngineWish::Auto) => {
            format!("own VMM, since the kernel is entered directly; {reason}")
        }
        (EngineKind::Kvm, _) => format!("own VMM, as asked; {reason}"),
        (EngineKind::Qemu, _) => format!("QEMU; {reason}"),
    };
    Ok(Choice {
        engine: kind,
        accelerator,
        class,
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::{AccelWish, Accelerator, Choice, DiskFormat, EngineKind, EngineWish, choose, choose_direct, fitting};
    use crate::probe::ProbeReport;
    use reports::schema::AcceleratorClass;

    fn report(class: AcceleratorClass) -> ProbeReport {
        ProbeReport {
            class,
            sentence: "as measured".into(),
            ..ProbeReport::default()
        }
    }

    #[test]
    fn auto_takes_kvm_only_where_it_is_complete() {
        use AcceleratorClass::{Absent, Emulated, Native, Nested, Unfit};
        for (class, expected) in [
            (Native, Accelerator::Kvm),
            (Nested, Accelerator::Kvm),
            (Emulated, Accelerator::Tcg),
            (Unfit, Accelerator::Tcg),
            (Absent, Accelerator::Tcg),
        ] {
            let choice = choose(EngineWish::Auto, AccelWish::Auto, &report(class)).expect("auto always finds one");
            assert_eq!(
                (choice.engine, choice.accelerator),
                (EngineKind::Qemu, expected),
                "{class:?}"
            );
            assert!(choice.reason.contains("as measured"));
        }
    }

    #[test]
    fn a_kernel_entered_directly_gets_the_own_vmm_only_on_a_complete_kvm_and_unless_told_otherwise() {
        use AcceleratorClass::{Emulated, Native, Nested};
        for (engine, accel, class, expected) in [
            (EngineWish::Auto, AccelWish::Auto, Native, EngineKind::Kvm),
            (EngineWish::Auto, AccelWish::Auto, Nested, EngineKind::Kvm),
            (EngineWish::Auto, AccelWish::Auto, Emulated, EngineKind::Qemu),
            (EngineWish::Auto, AccelWish::Tcg, Native, EngineKind::Qemu),
            (EngineWish::Qemu, AccelWish::Auto, Native, EngineKind::Qemu),
        ] {
            let choice = choose_direct(engine, accel, &report(class)).expect("one of them always runs");
            assert_eq!(choice.engine, expected, "{engine:?} {accel:?} {class:?}");
        }
        let error = choose_direct(EngineWish::Kvm, AccelWish::Auto, &report(Emulated)).expect_err("unfit");
        assert!(error.to_string().contains("--engine qemu"), "{error}");
    }

    #[test]
    fn disks_that_the_own_vmm_cannot_read_get_qemu_with_the_same_accelerator() {
        let choice = choose_direct(EngineWish::Auto, AccelWish::Auto, &report(AcceleratorClass::Native)).expect("runs");
        let folder = tempfile::tempdir().expect("folder");
        let raw = folder.path().join("a.raw");
        std::fs::write(&raw, [0; 512]).expect("write");
        assert_eq!(fitting(&choice, &[(raw.clone(), DiskFormat::Raw)]), choice);
        for format in [DiskFormat::Vmdk, DiskFormat::Qcow2] {
            let Choice {
                engine,
                accelerator,
                reason,
                ..
            } = fitting(&choice, &[(raw.clone(), format)]);
            assert_eq!((engine, accelerator), (EngineKind::Qemu, Accelerator::Kvm));
            assert!(reason.contains("a.raw") && reason.contains("as measured"), "{reason}");
        }
    }

    #[test]
    fn kvm_asked_for_on_an_unfit_host_is_an_error_that_names_the_way_out() {
        let error = choose(EngineWish::Auto, AccelWish::Kvm, &report(AcceleratorClass::Unfit)).expect_err("unfit");
        assert!(error.to_string().contains("--accel tcg"), "{error}");
    }
}
