//! `esxodus-agent`: PID 1 of the appliance, service in a guest, benchmark on any Linux. Static, no installation.
#![forbid(unsafe_code)]

mod appliance;
mod bench;
mod channel;
mod exec;
mod fixup;
mod fstab;
mod guest_files;
mod initramfs;
mod inject;
mod inspect;
mod kmod;
mod luks;
mod lvm;
mod modules;
mod partitions;
mod roots;
mod serve;
mod state;
mod volumes;
mod windows;

use std::process::ExitCode;

const USAGE: &str = "usage: esxodus-agent appliance | guest | bench [OPTIONS] | --version
  appliance   PID 1 of the esxodus appliance
  guest       service in a guest: answers the host on the virtio port org.esxodus.agent.0 or ttyS1
  bench       measures this machine; `bench --help` shows the options";

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    // The kernel starts /init without arguments that mean anything to us.
    if std::process::id() == 1 && std::env::args().next().is_some_and(|name| name.ends_with("/init")) {
        return appliance::main();
    }
    if args.is_empty() {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    let command = args.remove(0);
    match command.as_str() {
        "appliance" => appliance::main(),
        "guest" => serve::guest(),
        "bench" => bench::main(args.into_iter()),
        // Child of the appliance: works inside a guest root that it cannot leave.
        "in-root" => inspect::in_root(&args),
        "--version" => {
            println!("esxodus-agent {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        "--help" | "-h" => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("esxodus-agent: unknown command {command}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}
