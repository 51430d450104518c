//! The disk readers against real samples, independent readers, hostile and mutated images.

#[cfg(test)]
extern crate esxodus_convert as convert;

#[cfg(test)]
mod chains;
#[cfg(test)]
mod corpus;
#[cfg(test)]
mod embedded;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod mutation;
#[cfg(test)]
mod parents;
#[cfg(test)]
mod qemu;
#[cfg(test)]
mod samples;
