//! Owns everything about the *source* and the files made from it: VMX, OVF, OVA, VMDK in; qcow2, raw and machine definitions out.
//! Owns no guests and no measuring: it starts no program and asks no kernel for a virtual machine.
#![forbid(unsafe_code)]

pub mod accounting;
pub mod assess;
pub mod copy;
pub mod image;
pub mod machine;
pub mod ovf;
pub mod preflight;
pub mod progress;
pub mod source;
pub mod targets;
pub mod vmx;
