//! The own VMM beside QEMU's microvm, in turn and in one run of the lab: same kernel by PVH, same initrd, same command line.
//! The lab's times are no figures of KVM; their ratio is what counts.

use std::path::Path;

use crate::lab::{Case, Lab, find_program};

/// Rounds of both, in turn.
const ROUNDS: usize = 5;
/// Guest memory in MiB; no other mapping of a monitor is that large.
const MEMORY: u32 = 256;
const OPTIONS: &str = "console=ttyS0 quiet panic=-1 action=bench";
const FIRMWARE: [&str; 3] = [
    "/usr/share/seabios/bios-microvm.bin",
    "/usr/share/qemu/pvh.bin",
    "/usr/share/qemu/linuxboot_dma.bin",
];

fn script() -> String {
    let own = format!("/bin/vmm --kernel /vmlinux --memory {MEMORY} --deadline 60 --cmdline '{OPTIONS}' --no-rng");
    let qemu = format!(
        "/usr/bin/qemu-system-x86_64 -L /usr/share/qemu -M microvm,rtc=on -accel kvm -cpu host -m {MEMORY} \
         -nodefaults -no-user-config -display none -no-reboot -serial stdio -kernel /vmlinux -append '{OPTIONS}'"
    );
    let disk = "-blockdev driver=file,node-name=f0,filename=/tmp/disk,cache.direct=off,aio=threads \
                -blockdev driver=raw,node-name=d0,file=f0 -device virtio-blk-device,drive=d0";
    format!(
        "$B dd if=/dev/urandom of=/tmp/disk bs=1M count=64 2>/dev/null
         $B cat /l2.gz /l2-tool.gz >/tmp/tool.gz
         round=0
         while [ $round -lt {ROUNDS} ]; do
             /bin/vmm measure own L2-UP {MEMORY} {own} --initrd /l2.gz
             /bin/vmm measure qemu L2-UP {MEMORY} {qemu} -initrd /l2.gz
             round=$((round + 1))
         done
         round=0
         while [ $round -lt 3 ]; do
             /bin/vmm measure own-disk L2-UP {MEMORY} {own} --initrd /tmp/tool.gz --disk raw:/tmp/disk
             /bin/vmm measure qemu-disk L2-UP {MEMORY} {qemu} -initrd /tmp/tool.gz {disk}
             round=$((round + 1))
         done"
    )
}

/// Middle of the samples.
fn median(mut samples: Vec<f64>) -> Option<f64> {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied()
}

/// What was measured under a name, as a field of the record says.
fn samples(records: &[serde_json::Value], name: &str, field: impl Fn(&serde_json::Value) -> Option<f64>) -> Vec<f64> {
    records
        .iter()
        .filter(|record| record["name"] == name)
        .filter_map(field)
        .collect()
}

/// The rate that the guest printed for so many threads.
fn reads(record: &serde_json::Value, threads: &str) -> Option<f64> {
    record["words"].as_array()?.iter().find_map(|line| {
        let (_, rest) = line.as_str()?.split_once("L2-READS ")?;
        let (count, rate) = rest.split_once(' ')?;
        (count == threads).then(|| rate.trim().parse().ok())?
    })
}

#[test]
#[ignore = "a measurement of minutes: make bench-boot"]
fn boot_and_disk_beside_qemu_microvm() {
    let mut lab = match Lab::new() {
        Ok(lab) => lab,
        Err(reason) => {
            println!("SKIP: {reason}");
            return;
        }
    };
    lab.add_program(&find_program("qemu-system-x86_64").expect("checked by the lab"));
    for file in FIRMWARE {
        if !Path::new(file).exists() {
            println!("SKIP: {file} is missing");
            return;
        }
        // SeaBIOS beside QEMU's own files, where -L looks.
        let name = Path::new(file).file_name().expect("a file").to_string_lossy();
        lab.add(file, &format!("usr/share/qemu/{name}"));
    }
    let case = Case {
        name: "bench",
        script: script(),
        seconds: 420,
    };
    let results = lab.run(&[case], 2);
    let output = &results["bench"].output;
    let records: Vec<serde_json::Value> = output
        .lines()
        .filter_map(|line| serde_json::from_str(line.trim().strip_prefix("MEASURED ")?).ok())
        .collect();
    let seconds = |field: &'static str| move |record: &serde_json::Value| record[field].as_f64();
    println!(
        "\nown VMM beside QEMU microvm, {ROUNDS} boots each in turn, medians; times of the lab, only the ratio counts"
    );
    let mut missing = Vec::new();
    let mut row = |what: &str, unit: &str, own: Vec<f64>, qemu: Vec<f64>, aim: &str| {
        println!("  samples of {what}: own {own:.3?}, QEMU {qemu:.3?}");
        match (median(own), median(qemu)) {
            (Some(own), Some(qemu)) => {
                println!(
                    "{what:<32} {own:>10.3} {qemu:>10.3} {unit:<4} ratio {:.2} (aim {aim})",
                    own / qemu
                );
            }
            _ => missing.push(what.to_owned()),
        }
    };
    for (what, field, aim) in [
        ("exec to guest entered", "entered", "<= 0.5"),
        ("exec to init", "init", "<= 0.8"),
    ] {
        let of = |name: &str| samples(&records, name, seconds(field));
        row(what, "s", of("own"), of("qemu"), aim);
    }
    let beside = |name: &str| samples(&records, name, |record| Some(record["beside_kib"].as_f64()? / 1024.0));
    row(
        "resident beside guest memory",
        "MiB",
        beside("own"),
        beside("qemu"),
        "own <= 10 MiB",
    );
    for threads in ["1", "4"] {
        let of = |name: &str| samples(&records, name, |record| reads(record, threads));
        let what = format!("4k random reads, {threads} at once");
        row(&what, "/s", of("own-disk"), of("qemu-disk"), ">= 1.0");
    }
    assert!(missing.is_empty(), "no samples of {missing:?}:\n{output}");
}
