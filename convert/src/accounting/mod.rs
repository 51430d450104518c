//! Key accounting: each key of the source ends in exactly one class, so that nothing is lost in silence.

pub(crate) mod table;
mod values;

pub use values::{ABSENT, DEFAULT};

use crate::machine::Machine;
use crate::targets::TargetContext;
use crate::targets::plan::{Plan, Target};
use crate::vmx::VmxFile;
use reports::schema::{AccountedKey, Accounting, KeyClass};
use std::collections::BTreeMap;

/// Accounts for every line of `file`, in its order; what the keys become on the targets is [`fill_targets`]' to say.
#[must_use]
pub fn of_vmx(file: &VmxFile, machine: &Machine) -> Accounting {
    let mut keys = Vec::with_capacity(file.entries().len());
    for entry in file.entries() {
        let (class, why) = if entry.shadowed {
            let same = file
                .entry(&entry.lower)
                .is_some_and(|winner| winner.value == entry.value);
            if same {
                (KeyClass::DroppedHarmless, "repeats an earlier line")
            } else {
                (KeyClass::DroppedWarning, "an earlier line with the same key wins")
            }
        } else if file.is_removed(&entry.lower) {
            (
                KeyClass::DroppedHarmless,
                "left over from a device with present = FALSE",
            )
        } else {
            table::classify(&entry.lower, &entry.value, machine)
        };
        keys.push(AccountedKey {
            key: entry.key.clone(),
            value: entry.value.clone(),
            line: Some(entry.line),
            class,
            why: why.to_owned(),
            same_as: None,
            targets: BTreeMap::new(),
        });
    }
    Accounting { keys }
}

/// Writes into each mapped or approximated key what it becomes on each of the targets that `plans` are for. The value stands in
/// that target's file, or is in parentheses and says why nothing does. Call it again when targets are written: the map, and what is
/// known of the guest's drivers, decide.
pub fn fill_targets(accounting: &mut Accounting, machine: &Machine, context: &TargetContext, plans: &[Plan]) {
    for key in &mut accounting.keys {
        key.targets.clear();
        if !matches!(key.class, KeyClass::Mapped | KeyClass::Approximated) {
            continue;
        }
        let name = key.same_as.as_ref().unwrap_or(&key.key).to_ascii_lowercase();
        for plan in plans {
            let writing = values::Writing { machine, context, plan };
            key.targets.insert(plan.target.name().to_owned(), writing.value(&name));
        }
    }
}

/// The same for what all targets would be without a map, and as long as nothing is known of the guest's drivers.
pub(crate) fn fill_defaults(accounting: &mut Accounting, machine: &Machine) {
    let plans: Vec<Plan> = Target::ALL
        .iter()
        .map(|target| Plan::new(machine, *target, false))
        .collect();
    fill_targets(accounting, machine, &TargetContext::default(), &plans);
}
