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
mod fuzz;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod labels;
#[cfg(test)]
mod mutants;
#[cfg(test)]
mod mutation;
#[cfg(test)]
mod parents;
#[cfg(test)]
mod qemu;
#[cfg(test)]
mod qemu_map;
#[cfg(test)]
mod samples;
