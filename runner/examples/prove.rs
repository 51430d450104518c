//! Proves one BIOS Linux disk under TCG: `cargo run --example prove -- DISK qcow2|raw OUT [bench]`.

use esxodus_runner::engine::{AccelWish, DiskFormat, EngineWish, choose};
use esxodus_runner::proof::{ProveDisk, ProveRequest, prove};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, disk, format, out, rest @ ..] = args.as_slice() else {
        return Err("usage: prove DISK FORMAT OUT [bench]".into());
    };
    let machine = {
        let text = b"displayName = \"example\"\nguestOS = \"otherlinux-64\"\nmemSize = \"1024\"\n";
        convert::machine::from_vmx::build(&convert::vmx::parse(text)?, std::path::Path::new(disk))?.0
    };
    let choice = choose(
        EngineWish::Auto,
        AccelWish::Tcg,
        &esxodus_runner::probe::ProbeReport::default(),
    )?;
    let request = ProveRequest {
        machine,
        disks: vec![ProveDisk {
            path: disk.into(),
            format: if format == "raw" {
                DiskFormat::Raw
            } else {
                DiskFormat::Qcow2
            },
        }],
        out: out.into(),
        choice,
        timeout: Duration::from_secs(180),
        bench: rest.first().map(|_| reports::schema::Suite::Quick),
        bench_budget_seconds: None,
        inject_agent: true,
        bus: None,
        firmware: None,
        kernel: None,
    };
    let outcome = prove(&request, &convert::progress::Silent, &AtomicBool::new(false))?;
    println!("{}", serde_json::to_string_pretty(&outcome.record)?);
    println!("{}", serde_json::to_string_pretty(&outcome.inspection)?);
    println!("stages {:?} bench missing: {:?}", outcome.stages, outcome.bench_missing);
    Ok(())
}
