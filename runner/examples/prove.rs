//! Proves one BIOS Linux disk under TCG: `cargo run --example prove -- DISK qcow2|raw OUT [bench]`.

use convert::machine::{
    CpuTopology, Firmware, FirmwareKind, GuestOs, Identity, MACHINE_SCHEMA, Machine, Memory, OsFamily, SourceKind, Tpm,
};
use esxodus_runner::engine::{AccelWish, DiskFormat, EngineWish, choose};
use esxodus_runner::proof::{ProveDisk, ProveRequest, prove};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, disk, format, out, rest @ ..] = args.as_slice() else {
        return Err("usage: prove DISK FORMAT OUT [bench]".into());
    };
    let machine = Machine {
        schema: MACHINE_SCHEMA,
        source_kind: SourceKind::Vmdk,
        source: PathBuf::from(disk),
        name: "example".into(),
        notes: String::new(),
        hw_version: None,
        identity: Identity::default(),
        os: GuestOs {
            declared: String::new(),
            family: OsFamily::Linux,
            is_64bit: true,
            title: "Linux".into(),
            pve_ostype: "l26".into(),
            osinfo_id: None,
        },
        firmware: Firmware {
            kind: FirmwareKind::Bios,
            secure_boot: false,
            tpm: Tpm::None,
            nvram: None,
        },
        cpu: CpuTopology {
            vcpus: 1,
            sockets: 1,
            cores_per_socket: 1,
            threads: 1,
            hot_add: false,
            nested: false,
            numa_vcpus_per_node: None,
            affinity: None,
            reservation_mhz: None,
            limit_mhz: None,
            shares: None,
        },
        memory: Memory {
            mib: 1024,
            hot_add: false,
            reservation_mib: None,
            limit_mib: None,
            shares: None,
        },
        controllers: Vec::new(),
        disks: Vec::new(),
        removable: Vec::new(),
        nics: Vec::new(),
        serial: Vec::new(),
        rtc_local: false,
        boot_order: Vec::new(),
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
