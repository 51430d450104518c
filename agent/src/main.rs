//! `esxodus-agent`: PID 1 of the appliance, service in a guest, benchmark on any Linux. Static, no installation.

fn main() {}
