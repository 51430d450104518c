//! From a description to a machine to four targets, each compared with an oracle that isn't ours.

#[cfg(test)]
mod assess;
#[cfg(test)]
mod checks;
#[cfg(test)]
mod docs;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod inside;
#[cfg(test)]
mod libvirt;
#[cfg(test)]
mod mapping;
#[cfg(test)]
mod packages;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod regressions;
#[cfg(test)]
mod support;
#[cfg(test)]
mod targets;
#[cfg(test)]
mod written;
