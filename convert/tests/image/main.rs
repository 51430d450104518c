//! The disk readers against real samples, independent readers, hostile and mutated images.

#[cfg(test)]
mod chains;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod mutation;
#[cfg(test)]
mod qemu;
#[cfg(test)]
mod samples;
