//! Integration tests of the binary: one program, a module an area. They call `esxodus` as a user does and compare with
//! independent tools. A test that cannot run here prints `SKIP: reason` and passes.

#[cfg(test)]
mod chain;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod convert;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod hands_on;
#[cfg(test)]
mod house;
#[cfg(test)]
mod interrupt;
#[cfg(test)]
mod kills;
#[cfg(test)]
mod measure;
#[cfg(test)]
mod piped;
#[cfg(test)]
mod prove;
#[cfg(test)]
mod reach;
#[cfg(test)]
mod util;
