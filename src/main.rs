//! `esxodus`: leave ESXi with proof. Starts, logs, returns the exit code; the work is in the libraries.
fn main() {}
