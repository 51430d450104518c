//! Why a VMX file is refused as a whole.

/// A VMX file that is refused. Lines that merely make no sense are skipped with a notice instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VmxError {
    /// A disk was handed over in place of the description.
    #[error("this is a VMDK disk, not a VMX file. Name the .vmx beside it, or open the disk itself")]
    IsVmdk,
    /// NUL bytes.
    #[error("NUL byte at offset {offset}: the file is torn or not a VMX file. Copy it again")]
    Nul {
        /// Where, in bytes.
        offset: usize,
    },
    /// A limit against hostile input was passed.
    #[error("{what} is {found}, above the limit of {limit}; a real VMX file is a few KiB")]
    Limit {
        /// What was counted.
        what: &'static str,
        /// How much there is.
        found: usize,
        /// How much is accepted.
        limit: usize,
    },
    /// Two different files for one disk.
    #[error(
        "{key} is given twice with different values: \"{first}\" on line {first_line} and \"{second}\" on line {second_line}. \
         Which disk is meant cannot be known: remove one line"
    )]
    ConflictingDisk {
        /// The key.
        key: String,
        /// Its first value.
        first: String,
        /// Line of the first, from 1.
        first_line: u32,
        /// Its second value.
        second: String,
        /// Line of the second, from 1.
        second_line: u32,
    },
    /// A number that decides what the guest is can't be read.
    #[error("line {line}: {key} = \"{value}\" is not a whole number in {allowed}. Correct the line")]
    BadNumber {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// Line, from 1.
        line: u32,
        /// What would be accepted.
        allowed: &'static str,
    },
    /// No entry at all.
    #[error("no `key = \"value\"` line found: this is not a VMX file")]
    Empty,
}
