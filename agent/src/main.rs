//! `esxodus-agent`: PID 1 of the appliance, service in a guest, benchmark on any Linux. Static, no installation.
mod bench;
fn main() -> std::process::ExitCode {
    bench::main(std::env::args().skip(2))
}
