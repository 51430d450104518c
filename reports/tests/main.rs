//! The crate from outside: what the renderers write, read back by independent parsers and a real browser.

#[cfg(test)]
mod browser;
#[cfg(test)]
mod estate;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod palette;
#[cfg(test)]
mod render;
#[cfg(test)]
mod schema;
