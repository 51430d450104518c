//! Running the binary, the oracle, and small fixtures.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The binary under test.
pub(crate) fn esxodus() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_esxodus"));
    command.env_remove("ESXODUS_LOG").env("NO_COLOR", "1");
    command
}

/// Runs it to the end.
#[track_caller]
pub(crate) fn run(args: &[&str]) -> Output {
    esxodus().args(args).output().unwrap()
}

/// Runs it and wants exit code `code`; shows both streams when it isn't.
#[track_caller]
pub(crate) fn run_expecting(code: i32, args: &[&str]) -> (String, String) {
    let output = run(args);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(
        output.status.code(),
        Some(code),
        "esxodus {args:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}"
    );
    (stdout, stderr)
}

/// Runs it with `--json`, wants exit code `code` and one JSON document.
#[track_caller]
pub(crate) fn json_expecting(code: i32, args: &[&str]) -> serde_json::Value {
    let mut with_json = args.to_vec();
    with_json.push("--json");
    let (stdout, stderr) = run_expecting(code, &with_json);
    serde_json::from_str(&stdout)
        .unwrap_or_else(|error| panic!("{args:?}: {error}\n--- stdout\n{stdout}\n--- stderr\n{stderr}"))
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs another program and wants success.
#[track_caller]
pub(crate) fn tool(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {args:?}\n{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Prints why a test does not run. The caller returns.
pub(crate) fn skip(reason: &str) {
    println!("SKIP: {reason}");
}

/// A path as text.
pub(crate) fn s(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Repeatable bytes that look like data: some compressible, some not, some zero.
pub(crate) fn disk_bytes(mib: usize) -> Vec<u8> {
    let mut bytes = vec![0_u8; mib << 20];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for (index, chunk) in bytes.chunks_mut(65_536).enumerate() {
        match index % 5 {
            0 | 3 => {}
            1 => chunk
                .iter_mut()
                .enumerate()
                .for_each(|(i, b)| *b = u8::try_from((i / 7 + index) % 251).unwrap()),
            2 => chunk.chunks_mut(8).for_each(|word| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
            }),
            _ => chunk[..4096].fill(0xa5),
        }
    }
    bytes
}

/// A raw file of `mib` MiB and a VMDK of `subformat` made from it by qemu-img: (raw, vmdk).
pub(crate) fn vmdk(folder: &Path, name: &str, subformat: &str, mib: usize) -> (PathBuf, PathBuf) {
    let raw = folder.join(format!("{name}.raw"));
    std::fs::write(&raw, disk_bytes(mib)).unwrap();
    let vmdk = folder.join(format!("{name}.vmdk"));
    tool(
        "qemu-img",
        &[
            "convert",
            "-O",
            "vmdk",
            "-o",
            &format!("subformat={subformat}"),
            s(&raw),
            s(&vmdk),
        ],
    );
    (raw, vmdk)
}

/// A VMX with the disks on one lsilogic controller and one vmxnet3 NIC.
pub(crate) fn vmx(folder: &Path, name: &str, disks: &[&str]) -> PathBuf {
    let mut text = format!(
        ".encoding = \"UTF-8\"\nconfig.version = \"8\"\nvirtualHW.version = \"14\"\ndisplayName = \"{name}\"\n\
         guestOS = \"debian12-64\"\nmemSize = \"512\"\nnumvcpus = \"1\"\nscsi0.present = \"TRUE\"\n\
         scsi0.virtualDev = \"lsilogic\"\nethernet0.present = \"TRUE\"\nethernet0.virtualDev = \"vmxnet3\"\n\
         ethernet0.addressType = \"static\"\nethernet0.address = \"00:50:56:11:22:33\"\nethernet0.networkName = \"VM Network\"\n"
    );
    for (unit, disk) in disks.iter().enumerate() {
        text.push_str(&format!(
            "scsi0:{unit}.present = \"TRUE\"\nscsi0:{unit}.fileName = \"{disk}\"\n"
        ));
    }
    let path = folder.join(format!("{name}.vmx"));
    std::fs::write(&path, text).unwrap();
    path
}

/// Every file under `folder`, relative, sorted.
pub(crate) fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(current) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&current) else {
            continue;
        };
        for entry in entries.flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path().strip_prefix(folder).unwrap().display().to_string());
            }
        }
    }
    found.sort();
    found
}
