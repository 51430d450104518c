//! Integration tests of the measuring library, one module an area.

#[cfg(test)]
mod comparing;
#[cfg(test)]
mod documentation;
#[cfg(test)]
mod measuring;
#[cfg(test)]
mod statistics;
