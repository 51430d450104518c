//! Keeps a compromised monitor away from the host: Landlock takes the file system and the network, seccomp all system
//! calls but those that a running machine makes. Files, sockets and devices that were opened before stay usable.
//!
//! Both act on the whole rest of the process' life, so they are for a process that runs one machine and then ends.
//! Landlock binds the calling thread and the threads it starts later; seccomp binds all threads.

pub mod filter;

use std::path::PathBuf;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, Scope,
    path_beneath_rules,
};

use super::{VmHandle, Vmm, VmmError};

/// Newest Landlock interface that is asked for; older kernels give what they have.
const LANDLOCK: ABI = ABI::V6;

/// Why the sandbox could not be closed.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Landlock refused a rule.
    #[error("Landlock: {0}")]
    Landlock(#[from] landlock::RulesetError),
    /// The filter cannot be compiled.
    #[error("seccomp filter: {0}")]
    Filter(#[from] seccompiler::BackendError),
    /// The filter cannot be installed.
    #[error("installing the seccomp filter: {0}")]
    Install(#[from] seccompiler::Error),
}

/// How far Landlock reaches on this kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileAccess {
    /// All of the asked-for restrictions hold.
    Restricted,
    /// The kernel knows only some of them.
    Partly,
    /// The kernel has no Landlock; seccomp alone keeps from opening files.
    Unrestricted,
}

/// Takes file system and TCP access, signals to other processes and abstract sockets from this thread and those it starts,
/// except for `paths` (read and write).
///
/// # Errors
/// See [`SandboxError`].
pub fn restrict_files(paths: &[PathBuf]) -> Result<FileAccess, SandboxError> {
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?
        .add_rules(path_beneath_rules(paths, AccessFs::from_all(LANDLOCK)))?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => FileAccess::Restricted,
        RulesetStatus::PartiallyEnforced => FileAccess::Partly,
        RulesetStatus::NotEnforced => FileAccess::Unrestricted,
    })
}

/// Closes the sandbox around the whole process: no file but `paths`, no system call that a machine does not need.
///
/// # Errors
/// See [`SandboxError`].
pub fn enter(paths: &[PathBuf]) -> Result<FileAccess, SandboxError> {
    let access = restrict_files(paths)?;
    filter::install()?;
    Ok(access)
}

impl Vmm {
    /// As [`Vmm::start`], with the sandbox closed before the guest's first instruction. The process cannot open
    /// anything afterwards.
    ///
    /// # Errors
    /// See [`VmmError`].
    pub fn start_sandboxed(self) -> Result<VmHandle, VmmError> {
        // First Landlock, so that all threads inherit it (there are none yet); then threads; then seccomp over all of them.
        restrict_files(&[])?;
        self.start_after(|| Ok(filter::install()?))
    }
}
