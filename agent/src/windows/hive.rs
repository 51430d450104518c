//! Values of an offline registry hive, read in place: a SOFTWARE hive may be larger than the appliance's memory allows.
//!
//! Format: Maxim Suhanov, "Windows registry file format specification" (cells, `nk`, `vk`, `lf`/`lh`/`li`/`ri` lists). Big data cells
//! (`db`) are not read: no value that is asked for has 16 KiB.

use std::io;

/// Offset of the first hive bin, to which cell offsets are relative.
const BASE: u64 = 0x1000;
const MAX_CELL: usize = 1 << 20;
/// Lists within lists.
const MAX_DEPTH: u8 = 4;

/// Reads so many bytes at an offset.
pub(super) type ReadAt<'r> = dyn FnMut(u64, usize) -> io::Result<Vec<u8>> + 'r;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Number(u32),
}

/// An opened hive.
pub(super) struct Hive<'r> {
    read: &'r mut ReadAt<'r>,
    root: u32,
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("damaged registry hive: {what}"))
}

fn u16_at(bytes: &[u8], at: usize) -> io::Result<u16> {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found
        .map(|word| u16::from_le_bytes(*word))
        .ok_or_else(|| damaged("a cell is cut"))
}

fn u32_at(bytes: &[u8], at: usize) -> io::Result<u32> {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found
        .map(|word| u32::from_le_bytes(*word))
        .ok_or_else(|| damaged("a cell is cut"))
}

fn utf16(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes
        .as_chunks::<2>()
        .0
        .iter()
        .map(|pair| u16::from_le_bytes(*pair))
        .collect();
    String::from_utf16_lossy(&units).trim_end_matches('\0').to_owned()
}

/// A name: one byte a character where `compressed`, else UTF-16.
fn name(bytes: &[u8], at: usize, length: u16, compressed: bool) -> io::Result<String> {
    let bytes = bytes
        .get(at..at + usize::from(length))
        .ok_or_else(|| damaged("a name is cut"))?;
    Ok(if compressed {
        bytes.iter().map(|&byte| char::from(byte)).collect()
    } else {
        utf16(bytes)
    })
}

impl<'r> Hive<'r> {
    pub(super) fn open(read: &'r mut ReadAt<'r>) -> io::Result<Self> {
        let header = read(0, 0x28)?;
        if !header.starts_with(b"regf") {
            return Err(damaged("no regf header"));
        }
        let root = u32_at(&header, 0x24)?;
        Ok(Self { read, root })
    }

    fn cell(&mut self, offset: u32) -> io::Result<Vec<u8>> {
        let at = BASE + u64::from(offset);
        let size = (self.read)(at, 4)?;
        let size = i32::from_le_bytes(*size.first_chunk().ok_or_else(|| damaged("a cell is cut"))?);
        // Cells in use have a negative size.
        let size = usize::try_from(size.checked_neg().ok_or_else(|| damaged("a size overflows"))?)
            .ok()
            .filter(|size| (4..=MAX_CELL).contains(size))
            .ok_or_else(|| damaged("a cell is free or too large"))?;
        (self.read)(at + 4, size - 4)
    }

    /// Offsets of the keys in a list.
    fn list(&mut self, offset: u32, depth: u8, into: &mut Vec<u32>) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(damaged("lists lie too deep"));
        }
        let cell = self.cell(offset)?;
        let count = usize::from(u16_at(&cell, 2)?);
        let width = match cell.get(..2) {
            Some(b"lf" | b"lh") => 8,
            Some(b"li" | b"ri") => 4,
            _ => return Err(damaged("an unknown list of keys")),
        };
        let is_index = cell.starts_with(b"ri");
        for index in 0..count {
            let entry = u32_at(&cell, 4 + index * width)?;
            if is_index {
                self.list(entry, depth + 1, into)?;
            } else {
                into.push(entry);
            }
        }
        Ok(())
    }

    fn child(&mut self, key: &[u8], wanted: &str) -> io::Result<Option<Vec<u8>>> {
        if u32_at(key, 0x14)? == 0 {
            return Ok(None);
        }
        let mut children = Vec::new();
        self.list(u32_at(key, 0x1c)?, 0, &mut children)?;
        for offset in children {
            let child = self.cell(offset)?;
            if child.starts_with(b"nk")
                && name(&child, 0x4c, u16_at(&child, 0x48)?, u16_at(&child, 2)? & 0x20 != 0)?
                    .eq_ignore_ascii_case(wanted)
            {
                return Ok(Some(child));
            }
        }
        Ok(None)
    }

    /// The key at a path with backslashes; `None` where there is none.
    pub(super) fn key(&mut self, path: &str) -> io::Result<Option<Vec<u8>>> {
        let mut key = self.cell(self.root)?;
        for part in path.split('\\') {
            match self.child(&key, part)? {
                Some(child) => key = child,
                None => return Ok(None),
            }
        }
        Ok(Some(key))
    }

    /// The keys below a path, each with its name; none where it is not there.
    pub(super) fn children(&mut self, path: &str) -> io::Result<Vec<(String, Vec<u8>)>> {
        let Some(key) = self.key(path)? else {
            return Ok(Vec::new());
        };
        if u32_at(&key, 0x14)? == 0 {
            return Ok(Vec::new());
        }
        let mut offsets = Vec::new();
        self.list(u32_at(&key, 0x1c)?, 0, &mut offsets)?;
        let mut found = Vec::new();
        for offset in offsets {
            let child = self.cell(offset)?;
            if child.starts_with(b"nk") {
                let compressed = u16_at(&child, 2)? & 0x20 != 0;
                found.push((name(&child, 0x4c, u16_at(&child, 0x48)?, compressed)?, child));
            }
        }
        Ok(found)
    }

    /// A number of the key at a path; `None` where there is none of this name.
    pub(super) fn number(&mut self, path: &str, wanted: &str) -> io::Result<Option<u32>> {
        let Some(key) = self.key(path)? else { return Ok(None) };
        Ok(match self.value(&key, wanted)? {
            Some(Value::Number(number)) => Some(number),
            _ => None,
        })
    }

    /// A text or number of a key; `None` where it has none of this name.
    pub(super) fn value(&mut self, key: &[u8], wanted: &str) -> io::Result<Option<Value>> {
        let count = u32_at(key, 0x24)?;
        if count == 0 {
            return Ok(None);
        }
        let list = self.cell(u32_at(key, 0x28)?)?;
        for index in 0..usize::try_from(count).map_err(io::Error::other)?.min(list.len() / 4) {
            let value = self.cell(u32_at(&list, index * 4)?)?;
            let found = name(&value, 0x14, u16_at(&value, 2)?, u16_at(&value, 0x10)? & 1 != 0)?;
            if !value.starts_with(b"vk") || !found.eq_ignore_ascii_case(wanted) {
                continue;
            }
            let size = u32_at(&value, 4)?;
            let inline = size & 0x8000_0000 != 0;
            let size = usize::try_from(size & 0x7fff_ffff).map_err(io::Error::other)?;
            let data = if inline {
                value.get(8..12).unwrap_or_default().to_vec()
            } else {
                self.cell(u32_at(&value, 8)?)?
            };
            let data = data.get(..size).ok_or_else(|| damaged("a value is cut"))?;
            return Ok(match u32_at(&value, 12)? {
                1 | 2 => Some(Value::Text(utf16(data))),
                4 => Some(Value::Number(u32_at(data, 0)?)),
                _ => None,
            });
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::{Hive, Value};
    use std::io::Write;
    use std::process::{Command, Stdio};

    /// A hive with nothing but a root key, as `regf` 1.3 describes it. Everything else is hivex's work.
    fn empty() -> Vec<u8> {
        let mut hive = vec![0_u8; 0x2000];
        let mut put = |at: usize, bytes: &[u8]| hive[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"regf");
        put(4, &1_u32.to_le_bytes());
        put(8, &1_u32.to_le_bytes());
        put(0x14, &1_u32.to_le_bytes());
        put(0x18, &3_u32.to_le_bytes());
        put(0x20, &1_u32.to_le_bytes());
        put(0x24, &0x20_u32.to_le_bytes());
        put(0x28, &0x1000_u32.to_le_bytes());
        put(0x2c, &1_u32.to_le_bytes());
        put(0x1000, b"hbin");
        put(0x1008, &0x1000_u32.to_le_bytes());
        // The root key, its security descriptor, and one free cell.
        put(0x1020, &(-0x58_i32).to_le_bytes());
        put(0x1024, b"nk");
        put(0x1026, &0x2c_u16.to_le_bytes());
        for at in [0x1034, 0x1040, 0x1044, 0x104c, 0x1054] {
            put(at, &u32::MAX.to_le_bytes());
        }
        put(0x1050, &0x78_u32.to_le_bytes());
        put(0x106c, &4_u16.to_le_bytes());
        put(0x1070, b"ROOT");
        put(0x1078, &(-0x30_i32).to_le_bytes());
        put(0x107c, b"sk");
        put(0x1080, &0x78_u32.to_le_bytes());
        put(0x1084, &0x78_u32.to_le_bytes());
        put(0x1088, &1_u32.to_le_bytes());
        put(0x108c, &0x14_u32.to_le_bytes());
        put(0x1090, &[1, 0, 0, 0x80]);
        put(0x10a8, &(0x1000_i32 - 0xa8).to_le_bytes());
        let sum = hive[..0x1fc]
            .chunks(4)
            .fold(0_u32, |sum, word| sum ^ u32::from_le_bytes(word.try_into().unwrap()));
        hive[0x1fc..0x200].copy_from_slice(&sum.to_le_bytes());
        hive
    }

    #[test]
    fn values_that_hivex_wrote_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("SOFTWARE");
        std::fs::write(&path, empty()).unwrap();
        let script = "add Microsoft\ncd Microsoft\nadd Windows\nadd Windows NT\ncd Windows NT\nadd CurrentVersion\ncd CurrentVersion\nsetval 2\nProductName\nstring:Windows Server 2022 Standard\nCurrentMajorVersionNumber\ndword:10\ncommit\n";
        let started = Command::new("hivexsh")
            .arg("-w")
            .arg(&path)
            .stdin(Stdio::piped())
            .output_with(script);
        let Some(output) = started else {
            eprintln!("SKIP: hivexsh (libhivex-bin) is not installed");
            return;
        };
        assert!(output.status.success(), "{output:?}");
        let bytes = std::fs::read(&path).unwrap();
        let mut read = |offset: u64, length: usize| {
            let at = usize::try_from(offset).unwrap();
            Ok(bytes
                .get(at..at + length)
                .ok_or(std::io::ErrorKind::UnexpectedEof)?
                .to_vec())
        };
        let mut hive = Hive::open(&mut read).unwrap();
        let key = hive
            .key("microsoft\\Windows NT\\CurrentVersion")
            .unwrap()
            .expect("the key");
        assert_eq!(
            hive.value(&key, "productname").unwrap(),
            Some(Value::Text("Windows Server 2022 Standard".into()))
        );
        assert_eq!(
            hive.value(&key, "CurrentMajorVersionNumber").unwrap(),
            Some(Value::Number(10))
        );
        assert_eq!(hive.value(&key, "absent").unwrap(), None);
        assert!(hive.key("Microsoft\\absent").unwrap().is_none());
    }

    #[test]
    fn damaged_hives_are_errors_and_never_panics() {
        let whole = empty();
        for at in (0..0x1100).step_by(3) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            let mut read = |offset: u64, length: usize| {
                let from = usize::try_from(offset).unwrap();
                Ok(bytes
                    .get(from..from + length)
                    .ok_or(std::io::ErrorKind::UnexpectedEof)?
                    .to_vec())
            };
            if let Ok(mut hive) = Hive::open(&mut read) {
                let _ = hive.key("Microsoft");
            }
        }
    }

    trait OutputWith {
        fn output_with(&mut self, input: &str) -> Option<std::process::Output>;
    }

    impl OutputWith for Command {
        fn output_with(&mut self, input: &str) -> Option<std::process::Output> {
            let mut child = self.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().ok()?;
            child.stdin.take()?.write_all(input.as_bytes()).ok()?;
            child.wait_with_output().ok()
        }
    }
}
