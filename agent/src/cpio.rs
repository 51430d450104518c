//! Reads and writes cpio archives in the `newc` format (Linux Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! Written for initramfs images: the appliance's own, and those of guests, which are a stranger's bytes.

use std::io::{self, Read};

/// An archive under construction.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const CHARACTER: u32 = 0o020_000;
const LINK: u32 = 0o120_000;
const KIND: u32 = 0o170_000;
const TRAILER: &str = "TRAILER!!!";
const HEADER: u64 = 110;
/// `PATH_MAX` of Linux: the kernel skips entries with longer names.
const MAX_NAME: u32 = 4096;

impl Archive {
    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.inode += 1;
        let size = u32::try_from(content.len()).expect("a file in an initramfs is far below 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("our names are short");
        let fields = [
            self.inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    /// Adds a folder.
    pub fn folder(&mut self, name: &str) {
        self.entry(name, DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// Adds a file.
    ///
    /// # Panics
    /// `content` has 4 GiB or more.
    pub fn file(&mut self, name: &str, permissions: u32, content: &[u8]) {
        self.entry(name, FILE | permissions, (0, 0), content);
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, name: &str, target: &str) {
        self.entry(name, LINK | 0o777, (0, 0), target.as_bytes());
    }

    /// Adds a character device.
    pub fn character(&mut self, name: &str, major: u32, minor: u32) {
        self.entry(name, CHARACTER | 0o600, (major, minor), &[]);
    }

    /// Ends the archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.entry(TRAILER, 0, (0, 0), &[]);
        while !self.bytes.len().is_multiple_of(512) {
            self.bytes.push(0);
        }
        self.bytes
    }
}

/// What a header says of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Path without leading `/` or `./`.
    pub name: String,
    /// Type and permission bits as `stat` gives them.
    pub mode: u32,
    /// Length of a file's content or of a link's target, in bytes.
    pub size: u32,
}

impl Header {
    /// Is it a folder?
    #[must_use]
    pub fn is_folder(&self) -> bool {
        self.mode & KIND == DIRECTORY
    }

    /// Is it a symbolic link?
    #[must_use]
    pub fn is_link(&self) -> bool {
        self.mode & KIND == LINK
    }
}

/// Does a `newc` (or `crc`) header start here?
#[must_use]
pub fn starts(bytes: &[u8]) -> bool {
    bytes.starts_with(b"070701") || bytes.starts_with(b"070702")
}

/// Reads a stream of archives; keeps nothing of them.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    /// Bytes consumed of the current archive.
    at: u64,
    /// Content of the current entry that was not asked for.
    left: u64,
    /// First byte of an archive that follows another one.
    pushed_back: Option<u8>,
}

impl<R: Read> Reader<R> {
    /// Reads from `from`, which stands at a header.
    pub fn new(from: R) -> Self {
        Self {
            from,
            at: 0,
            left: 0,
            pushed_back: None,
        }
    }

    fn damaged(&self, what: &str) -> io::Error {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("damaged cpio archive at byte {}: {what}", self.at),
        )
    }

    fn take(&mut self, count: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if count == 0 {
            return Ok(bytes);
        }
        bytes.extend(self.pushed_back.take());
        let rest = count - bytes.len() as u64;
        (&mut self.from).take(rest).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != count {
            return Err(self.damaged("it is cut"));
        }
        self.at += count;
        Ok(bytes)
    }

    fn align(&mut self) -> io::Result<()> {
        let pad = self.at.wrapping_neg() % 4;
        self.take(pad).map(drop)
    }

    /// The next entry; `None` at the archive's trailer.
    ///
    /// # Errors
    /// A header that is none, a name that is no text, a cut archive, and read errors.
    pub fn next_entry(&mut self) -> io::Result<Option<Header>> {
        let rest = std::mem::take(&mut self.left);
        let skipped = io::copy(&mut (&mut self.from).take(rest), &mut io::sink())?;
        self.at += skipped;
        if skipped != rest {
            return Err(self.damaged("it is cut"));
        }
        self.align()?;
        let header = self.take(HEADER)?;
        if !starts(&header) {
            return Err(self.damaged("no header where one should be"));
        }
        let field = |index: usize| {
            std::str::from_utf8(&header[6 + index * 8..14 + index * 8])
                .ok()
                .and_then(|text| u32::from_str_radix(text, 16).ok())
                .ok_or_else(|| self.damaged("a field is no number"))
        };
        let (mode, size, name_size) = (field(1)?, field(6)?, field(11)?);
        if name_size == 0 || name_size > MAX_NAME {
            return Err(self.damaged("a name is empty or too long"));
        }
        let mut name = self.take(name_size.into())?;
        name.pop();
        self.align()?;
        let name = String::from_utf8(name).map_err(|_| self.damaged("a name is no UTF-8"))?;
        self.left = size.into();
        if name == TRAILER {
            return Ok(None);
        }
        let name = name.trim_start_matches("./").trim_start_matches('/').to_owned();
        Ok(Some(Header { name, mode, size }))
    }

    /// Content of the entry that was just given.
    ///
    /// # Errors
    /// It is longer than `most` bytes, or cut.
    pub fn content(&mut self, most: u32) -> io::Result<Vec<u8>> {
        if self.left > most.into() {
            return Err(self.damaged("a file is longer than it may be"));
        }
        let length = std::mem::take(&mut self.left);
        self.take(length)
    }

    /// After a trailer: skips zeros and says whether another archive follows in the same stream.
    ///
    /// # Errors
    /// Something else follows, and read errors.
    pub fn next_archive(&mut self) -> io::Result<bool> {
        let mut byte = [0];
        loop {
            if self.from.read(&mut byte)? == 0 {
                return Ok(false);
            }
            match byte[0] {
                0 => self.at += 1,
                b'0' => {
                    // Paddings count from the archive's own start.
                    self.at = 0;
                    self.pushed_back = Some(b'0');
                    return Ok(true);
                }
                _ => return Err(self.damaged("junk after the archive")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Archive, Reader};
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn cpio_reads_what_we_write() {
        if Command::new("cpio").arg("--version").output().is_err() {
            eprintln!("SKIP: cpio is not installed");
            return;
        }
        let mut archive = Archive::default();
        archive.folder("dev");
        archive.character("dev/console", 5, 1);
        archive.file("init", 0o755, b"#!/bin/sh\n");
        let mut child = Command::new("cpio")
            .args(["-itv", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cpio starts");
        child
            .stdin
            .take()
            .expect("piped")
            .write_all(&archive.finish())
            .expect("cpio reads all");
        let listing = String::from_utf8(child.wait_with_output().expect("cpio ends").stdout).expect("text");
        let lines: Vec<&str> = listing.lines().collect();
        assert_eq!(lines.len(), 3, "{listing}");
        assert!(
            lines[0].starts_with("drwxr-xr-x") && lines[1].starts_with("crw-------"),
            "{listing}"
        );
        assert!(
            lines[2].starts_with("-rwxr-xr-x") && lines[2].contains(" 10 "),
            "{listing}"
        );
    }

    fn all(bytes: &[u8]) -> std::io::Result<Vec<(String, bool, Vec<u8>)>> {
        let (mut reader, mut seen) = (Reader::new(bytes), Vec::new());
        loop {
            while let Some(header) = reader.next_entry()? {
                let content = reader.content(1000)?;
                seen.push((header.name.clone(), header.is_folder(), content));
            }
            if !reader.next_archive()? {
                return Ok(seen);
            }
        }
    }

    fn sample() -> Vec<u8> {
        let mut archive = Archive::default();
        archive.folder("lib");
        archive.file("lib/a.ko", 0o644, b"abcde");
        archive.link("usr", "lib");
        archive.finish()
    }

    #[test]
    fn what_was_written_is_read_back_archive_after_archive() {
        let expected = [
            ("lib".to_owned(), true, Vec::new()),
            ("lib/a.ko".to_owned(), false, b"abcde".to_vec()),
            ("usr".to_owned(), false, b"lib".to_vec()),
        ];
        let mut bytes = sample();
        bytes.extend(sample());
        assert_eq!(all(&bytes).expect("whole"), [expected.clone(), expected].concat());
    }

    #[test]
    fn damaged_archives_are_refused() {
        let bytes = sample();
        let end = bytes.iter().rposition(|&byte| byte != 0).expect("a trailer") + 1;
        for length in 1..end {
            assert!(all(&bytes[..length]).is_err(), "cut at {length}");
        }
        let mut junk = bytes.clone();
        junk.extend(b"junk");
        assert!(all(&junk).unwrap_err().to_string().contains("junk"));
        let mut huge = bytes;
        huge[54..62].copy_from_slice(b"FFFFFFFF");
        assert!(all(&huge).is_err());
    }
}
