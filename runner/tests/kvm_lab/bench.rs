//! The own VMM beside QEMU's microvm, in turn and in one run of the lab: same kernel by PVH, same initrd, same command line.
//! The lab's times are no figures of KVM; their ratio is what counts.

use std::path::Path;

use serde_json::Value;

use crate::lab::{Case, Lab, find_program};

/// Rounds of boots, in turn.
const BOOTS: usize = 5;
/// Rounds of random reads, in turn.
const READS: usize = 3;
/// Ends a bench at level 1, in seconds.
const LIMIT: u32 = 600;
/// Guest memory in MiB; no other mapping of a monitor is that large.
const MEMORY: u32 = 256;
const OPTIONS: &str = "console=ttyS0 quiet panic=-1 action=bench";
const FIRMWARE: [&str; 3] = [
    "/usr/share/seabios/bios-microvm.bin",
    "/usr/share/qemu/pvh.bin",
    "/usr/share/qemu/linuxboot_dma.bin",
];

fn own() -> String {
    format!("/bin/vmm --kernel /vmlinux --memory {MEMORY} --deadline 60 --cmdline '{OPTIONS}' --no-rng")
}

fn qemu() -> String {
    format!(
        "/usr/bin/qemu-system-x86_64 -L /usr/share/qemu -M microvm,rtc=on -accel kvm -cpu host -m {MEMORY} \
         -nodefaults -no-user-config -display none -no-reboot -serial stdio -kernel /vmlinux -append '{OPTIONS}'"
    )
}

/// Runs both lines `rounds` times, in turn.
fn in_turn(rounds: usize, own: &str, qemu: &str) -> String {
    format!(
        "round=0
         while [ $round -lt {rounds} ]; do
             /bin/vmm measure own L2-UP {MEMORY} {own}
             /bin/vmm measure qemu L2-UP {MEMORY} {qemu}
             round=$((round + 1))
         done"
    )
}

fn boots() -> String {
    in_turn(
        BOOTS,
        &format!("{} --initrd /l2.gz", own()),
        &format!("{} -initrd /l2.gz", qemu()),
    )
}

fn reads() -> String {
    let disk = "-blockdev driver=file,node-name=f0,filename=/tmp/disk,cache.direct=off,aio=threads \
                -blockdev driver=raw,node-name=d0,file=f0 -device virtio-blk-device,drive=d0";
    let rounds = in_turn(
        READS,
        &format!("{} --initrd /tmp/tool.gz --disk raw:/tmp/disk", own()),
        &format!("{} -initrd /tmp/tool.gz {disk}", qemu()),
    );
    format!(
        "$B dd if=/dev/urandom of=/tmp/disk bs=1M count=64 2>/dev/null
         $B cat /l2.gz /l2-tool.gz >/tmp/tool.gz
         {rounds}"
    )
}

/// Middle of the samples.
fn median(mut samples: Vec<f64>) -> Option<f64> {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied()
}

/// What has to be reached.
#[derive(Debug, Clone, Copy)]
enum Aim {
    /// The own VMM's value by QEMU's of the same round, at most.
    RatioAtMost(f64),
    /// As above, at least.
    RatioAtLeast(f64),
    /// The own VMM's value alone, at most.
    OwnAtMost(f64),
}

impl Aim {
    fn reached(self, own: f64, ratio: f64) -> bool {
        match self {
            Self::RatioAtMost(limit) => ratio <= limit,
            Self::RatioAtLeast(limit) => ratio >= limit,
            Self::OwnAtMost(limit) => own <= limit,
        }
    }

    fn words(self) -> String {
        match self {
            Self::RatioAtMost(limit) => format!("ratio <= {limit}"),
            Self::RatioAtLeast(limit) => format!("ratio >= {limit}"),
            Self::OwnAtMost(limit) => format!("own <= {limit}"),
        }
    }
}

/// One figure of a record.
type Figure<'a> = &'a dyn Fn(&Value) -> Option<f64>;

/// Prints what was measured; gives the aims that were missed.
struct Table<'a> {
    records: &'a [Value],
    missed: Vec<String>,
}

impl Table<'_> {
    fn samples(&self, name: &str, figure: Figure<'_>) -> Vec<Option<f64>> {
        let of = self.records.iter().filter(|record| record["name"] == name);
        of.map(figure).collect()
    }

    fn row(&mut self, what: &str, unit: &str, aim: Aim, figure: Figure<'_>) {
        // Rounds are pairs: what slows the machine down for a while hits both of one round.
        let pairs: Vec<(f64, f64)> = self
            .samples("own", figure)
            .into_iter()
            .zip(self.samples("qemu", figure))
            .filter_map(|(own, qemu)| Some((own?, qemu?)))
            .collect();
        let (own, qemu): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
        println!("  samples of {what}: own {own:.3?}, QEMU {qemu:.3?}");
        let ratio = median(pairs.iter().map(|(own, qemu)| own / qemu).collect());
        let (Some(own), Some(qemu), Some(ratio)) = (median(own), median(qemu), ratio) else {
            self.missed.push(format!("{what}: no samples"));
            return;
        };
        let reached = aim.reached(own, ratio);
        println!(
            "{what:<32} {own:>10.3} {qemu:>10.3} {unit:<4} ratio {ratio:.2} (aim {}) {}",
            aim.words(),
            if reached { "reached" } else { "MISSED" }
        );
        if !reached {
            self.missed
                .push(format!("{what}: own {own:.3}, ratio {ratio:.2}, aim {}", aim.words()));
        }
    }
}

/// The rate that the guest printed for so many threads.
fn rate(record: &Value, threads: &str) -> Option<f64> {
    record["words"].as_array()?.iter().find_map(|line| {
        let (_, rest) = line.as_str()?.split_once("L2-READS ")?;
        let (count, rate) = rest.split_once(' ')?;
        (count == threads).then(|| rate.trim().parse().ok())?
    })
}

/// Runs the script in the lab and shows what it measured. `ESXODUS_BENCH_STRICT=1` makes a missed aim a failure.
fn bench(name: &'static str, rounds: usize, script: String, show: impl FnOnce(&mut Table<'_>)) {
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
        name,
        script,
        seconds: LIMIT,
    };
    let output = lab.run(&[case], 2).remove(name).unwrap_or_default().output;
    let records: Vec<Value> = output
        .lines()
        .filter_map(|line| serde_json::from_str(line.trim().strip_prefix("MEASURED ")?).ok())
        .collect();
    println!(
        "\nown VMM beside QEMU microvm, {rounds} rounds of both in turn; medians, the ratio's from the rounds' ratios; times of \
         the lab, only the ratio counts"
    );
    let mut table = Table {
        records: &records,
        missed: Vec::new(),
    };
    show(&mut table);
    // What KVM counted says where time goes.
    for name in ["own", "qemu"] {
        let last = records.iter().rev().find(|record| record["name"] == name);
        if let Some(counters) = last
            .map(|record| &record["counters"])
            .filter(|counters| !counters.is_null())
        {
            println!("  KVM's counters until init, {name}: {counters}");
        }
    }
    assert_eq!(records.len(), 2 * rounds, "rounds are missing:\n{output}");
    if std::env::var_os("ESXODUS_BENCH_STRICT").is_some_and(|strict| strict == "1") {
        assert!(table.missed.is_empty(), "missed: {:#?}", table.missed);
    }
}

#[test]
#[ignore = "a measurement of minutes: make bench-boot"]
fn boot_beside_qemu_microvm() {
    bench("bench-boot", BOOTS, boots(), |table| {
        for (what, field, aim) in [
            ("exec to guest entered", "entered", Aim::RatioAtMost(0.5)),
            ("exec to init", "init", Aim::RatioAtMost(0.8)),
        ] {
            table.row(what, "s", aim, &|record| record[field].as_f64());
        }
        table.row("resident beside guest memory", "MiB", Aim::OwnAtMost(10.0), &|record| {
            Some(record["beside_kib"].as_f64()? / 1024.0)
        });
    });
}

#[test]
#[ignore = "a measurement of minutes: make bench-boot"]
fn disk_beside_qemu_microvm() {
    bench("bench-disk", READS, reads(), |table| {
        for threads in ["1", "4"] {
            let what = format!("4k random reads, {threads} at once");
            table.row(&what, "/s", Aim::RatioAtLeast(1.0), &|record| rate(record, threads));
        }
    });
}
