//! How fast an estate is assessed from files on disk, and with how much memory.
//!
//! `cargo run --release -p esxodus-convert --example assess_estate -- FOLDER 5000` makes the guests where FOLDER is empty,
//! assesses them three times, and prints each time with the peak of the resident memory.

use esxodus_convert::assess::{AssessOptions, assess};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("give a folder and a number of guests")?);
    let count: u32 = arguments
        .next()
        .and_then(|text| text.to_str()?.parse().ok())
        .unwrap_or(5000);
    std::fs::create_dir_all(&folder)?;
    if std::fs::read_dir(&folder)?.next().is_none() {
        for number in 0..count {
            guest(&folder, number)?;
        }
        println!("made {count} guests in {}", folder.display());
    }
    for _ in 0..3 {
        // Resets the peak (proc(5), clear_refs 5).
        std::fs::write("/proc/self/clear_refs", "5")?;
        let started = Instant::now();
        let report = assess(
            std::slice::from_ref(&folder),
            &AssessOptions::default(),
            "example",
            &mut |_, _| {},
            &AtomicBool::new(false),
        );
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "{} guests in {seconds:.3} s, peak {}, load {}",
            report.guests.len(),
            status("VmHWM")?,
            std::fs::read_to_string("/proc/loadavg")?.trim()
        );
    }
    Ok(())
}

fn status(key: &str) -> std::io::Result<String> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    Ok(line.unwrap_or_default().trim_start_matches(':').trim().to_owned())
}

/// A guest as ESXi writes it: some 90 keys, a disk with descriptor and sparse extent, sometimes a second disk, snapshots.
fn guest(folder: &Path, number: u32) -> std::io::Result<()> {
    let name = format!("vm{number:05}");
    let folder = folder.join(&name);
    std::fs::create_dir_all(&folder)?;
    let mut text = format!(
        ".encoding = \"UTF-8\"\nconfig.version = \"8\"\nvirtualHW.version = \"{}\"\nnvram = \"{name}.nvram\"\n\
         displayName = \"{name}\"\nguestOS = \"{}\"\nmemSize = \"{}\"\nnumvcpus = \"{}\"\ncpuid.coresPerSocket = \"2\"\n\
         uuid.bios = \"56 4d {:02x} {:02x} 56 78 9a bc-de f0 12 34 56 78 9a bc\"\nfirmware = \"{}\"\n\
         scsi0.present = \"TRUE\"\nscsi0.virtualDev = \"{}\"\nscsi0.pciSlotNumber = \"160\"\nsata0.present = \"TRUE\"\n\
         ethernet0.present = \"TRUE\"\nethernet0.virtualDev = \"vmxnet3\"\nethernet0.networkName = \"VLAN {}\"\n\
         ethernet0.addressType = \"vpx\"\nethernet0.generatedAddress = \"00:50:56:80:{:02x}:{:02x}\"\nethernet0.pciSlotNumber = \"192\"\n\
         floppy0.present = \"FALSE\"\nsata0:0.present = \"TRUE\"\nsata0:0.deviceType = \"cdrom-raw\"\nsata0:0.fileName = \"auto detect\"\n\
         tools.syncTime = \"FALSE\"\nsvga.present = \"TRUE\"\nhpet0.present = \"TRUE\"\nvmci0.present = \"TRUE\"\n",
        13 + number % 8,
        ["debian12-64", "windows2019srv-64", "centos7-64", "ubuntu-64"][usize::try_from(number % 4).unwrap_or(0)],
        1024 * (1 + number % 16),
        2 * (1 + number % 4),
        number >> 8 & 0xff,
        number & 0xff,
        if number.is_multiple_of(3) { "efi" } else { "bios" },
        if number.is_multiple_of(5) { "lsilogic" } else { "pvscsi" },
        100 + number / 25,
        number >> 8 & 0xff,
        number & 0xff,
    );
    for bridge in 0..8 {
        text += &format!(
            "pciBridge{bridge}.present = \"TRUE\"\npciBridge{bridge}.virtualDev = \"pcieRootPort\"\n\
             pciBridge{bridge}.functions = \"8\"\npciBridge{bridge}.pciSlotNumber = \"{}\"\n",
            17 + bridge
        );
    }
    for state in [
        "sched.cpu.units",
        "sched.mem.pin",
        "vmotion.checkpointFBSize",
        "monitor.phys_bits_used",
        "softPowerOff",
    ] {
        text += &format!("{state} = \"0\"\n");
    }
    for disk in 0..1 + number % 2 {
        let file = if disk == 0 {
            name.clone()
        } else {
            format!("{name}_{disk}")
        };
        text += &format!(
            "scsi0:{disk}.present = \"TRUE\"\nscsi0:{disk}.fileName = \"{file}.vmdk\"\nscsi0:{disk}.deviceType = \"scsi-hardDisk\"\n\
             sched.scsi0:{disk}.shares = \"normal\"\nsched.scsi0:{disk}.throughputCap = \"off\"\n"
        );
        std::fs::write(
            folder.join(format!("{file}.vmdk")),
            format!(
                "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"vmfs\"\nRW 83886080 VMFS \"{file}-flat.vmdk\"\n\
                 ddb.adapterType = \"lsilogic\"\nddb.uuid = \"60 00 C2 9a 00 00 00 00-00 00 00 00 00 00 00 01\"\n"
            ),
        )?;
        std::fs::File::create(folder.join(format!("{file}-flat.vmdk")))?.set_len(83_886_080 * 512)?;
    }
    std::fs::write(folder.join(format!("{name}.vmx")), text)?;
    std::fs::write(folder.join(format!("{name}.nvram")), "")?;
    std::fs::write(folder.join("vmware.log"), "log\n")
}
