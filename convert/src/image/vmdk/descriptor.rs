//! The descriptor: the small text that says what a disk is made of, parsed once into a typed model.
//!
//! Specification: VMware *Virtual Disk Format 5.0*, "The Descriptor File". Keys and access words are not case-sensitive,
//! section titles are comments, unknown keys are kept. Of two equal keys the first counts.

use std::collections::BTreeMap;
use std::path::Path;

use encoding_rs::Encoding;

use crate::image::bytes::{MAX_DISK, SECTOR};
use crate::image::gate::Name;
use crate::image::{ImageError, ImageErrorKind};

/// Longest text accepted, in bytes.
pub const MAX_TEXT: u64 = 1 << 20;
/// Most extents accepted.
pub const MAX_EXTENTS: usize = 4096;
/// `parentCID` of a disk without parent.
pub const NO_PARENT: u32 = 0xffff_ffff;
/// `CID` or `parentCID` that stands for `ddb.longContentID`, as vCloud Director writes it.
pub const LONG_CONTENT_ID: u32 = 0xffff_fffe;

/// What the guest may do with an extent. All occupy their sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `RW`
    ReadWrite,
    /// `RDONLY`, as every exported stream says.
    ReadOnly,
    /// `NOACCESS`: reads as zeros.
    None,
}

/// The type word of an extent line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentType {
    /// `FLAT`
    Flat,
    /// `SPARSE`
    Sparse,
    /// `ZERO`: no file.
    Zero,
    /// `VMFS`: flat on a datastore.
    Vmfs,
    /// `VMFSSPARSE`: COWD.
    VmfsSparse,
    /// `VMFSRDM`: a pointer to a LUN.
    VmfsRdm,
    /// `VMFSRAW`: a device.
    VmfsRaw,
    /// `SESPARSE`
    SeSparse,
    /// `VSANSPARSE`: an object on vSAN.
    VsanSparse,
}

impl ExtentType {
    /// Whether the extent has grains; which kind of them the file's first bytes say.
    #[must_use]
    pub fn is_sparse(self) -> bool {
        matches!(self, Self::Sparse | Self::VmfsSparse | Self::SeSparse)
    }

    const ALL: [Self; 9] = [
        Self::Flat,
        Self::Sparse,
        Self::Zero,
        Self::Vmfs,
        Self::VmfsSparse,
        Self::VmfsRdm,
        Self::VmfsRaw,
        Self::SeSparse,
        Self::VsanSparse,
    ];

    /// As extent lines write it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Flat => "FLAT",
            Self::Sparse => "SPARSE",
            Self::Zero => "ZERO",
            Self::Vmfs => "VMFS",
            Self::VmfsSparse => "VMFSSPARSE",
            Self::VmfsRdm => "VMFSRDM",
            Self::VmfsRaw => "VMFSRAW",
            Self::SeSparse => "SESPARSE",
            Self::VsanSparse => "VSANSPARSE",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.word().eq_ignore_ascii_case(word))
    }
}

/// One extent line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtentLine {
    /// What the guest may do.
    pub access: Access,
    /// Length in sectors.
    pub sectors: u64,
    /// Type word.
    pub kind: ExtentType,
    /// File name; `ZERO` has none.
    pub file: Option<Name>,
    /// Where the extent begins in the file, in sectors; flat data only.
    pub offset: u64,
    /// Line number in the text, from 1.
    pub line: usize,
}

/// A parsed descriptor.
#[derive(Debug, Clone)]
pub struct Descriptor {
    /// `version`: 1, 2 or 3.
    pub version: u32,
    /// The encoding that names were decoded with.
    pub encoding: &'static str,
    /// Content id.
    pub cid: Option<u32>,
    /// Content id of the parent; [`NO_PARENT`] without one.
    pub parent_cid: u32,
    /// `createType` as written: a label, never used to decide anything.
    pub create_type: String,
    /// Where the parent was.
    pub parent_hint: Option<Name>,
    /// The extents, in disk order, at least one.
    pub extents: Vec<ExtentLine>,
    /// Header keys, lower case, decoded.
    pub header: BTreeMap<String, String>,
    /// `ddb.` keys, lower case, decoded.
    pub ddb: BTreeMap<String, String>,
    /// Oddities.
    pub notes: Vec<String>,
}

/// Whether a file that begins with these bytes is a descriptor: its first non-blank line is a comment or `version=`.
#[must_use]
pub fn looks_like_descriptor(start: &[u8]) -> bool {
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
    if start.first() == Some(&b'#') {
        return true;
    }
    start.get(..7).is_some_and(|word| word.eq_ignore_ascii_case(b"version"))
        && start[7..].trim_ascii_start().first() == Some(&b'=')
}

impl Descriptor {
    /// Parses the text found in `path` from byte `base` on; NUL padding ends it.
    ///
    /// # Errors
    /// What contradicts the grammar, with the line; limits; encrypted disks, which are refused.
    pub fn parse(path: &Path, base: u64, bytes: &[u8]) -> Result<Self, ImageError> {
        Parser { path, base }.parse(bytes)
    }

    /// Whether the disk has a parent, by `parentCID` or by VirtualBox's `ddb.uuid.parent`.
    #[must_use]
    pub fn has_parent(&self) -> bool {
        self.parent_cid != NO_PARENT || self.uuid("uuid.parent").is_some()
    }

    /// The digits of a UUID of the disk data base (`key` without `ddb.`), lower case; `None` for no UUID and for zeros.
    pub(crate) fn uuid(&self, key: &str) -> Option<String> {
        let text = self.ddb.get(key)?;
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        digits
            .chars()
            .any(|digit| digit != '0')
            .then(|| digits.to_ascii_lowercase())
    }

    /// Sum of the extents in sectors; the parser checked that it doesn't overflow as bytes.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.extents.iter().map(|extent| extent.sectors).sum()
    }
}

/// Without the zero bytes at both ends.
fn trim_zeros(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(start, |last| last + 1);
    &bytes[start..end]
}

struct Parser<'a> {
    path: &'a Path,
    base: u64,
}

impl Parser<'_> {
    fn error(&self, kind: ImageErrorKind, line: usize, message: impl Into<String>) -> ImageError {
        ImageError::new(kind, self.path, format!("descriptor line {line}: {}", message.into())).at(self.base)
    }

    fn parse(&self, bytes: &[u8]) -> Result<Descriptor, ImageError> {
        let text = &bytes[..bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len())];
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        if u64::try_from(text.len()).is_ok_and(|length| length > MAX_TEXT) {
            return Err(self.error(
                ImageErrorKind::Limit,
                1,
                format!("{} bytes of text, at most {MAX_TEXT} are read", text.len()),
            ));
        }
        let mut notes = Vec::new();
        // A writer that shortens a text in place leaves its last bytes behind the NUL: QEMU's vmdk_write_cid prints
        // the CID without leading zeros, so that one new CID in 256 makes the text two digits shorter.
        let behind = bytes
            .iter()
            .position(|byte| *byte == 0)
            .map_or(&[][..], |nul| &bytes[nul..]);
        let behind = trim_zeros(behind);
        if !behind.is_empty() && !text.ends_with(behind) {
            notes.push(format!(
                "{}: text behind the first NUL of the descriptor is ignored",
                self.path.display()
            ));
        }
        let mut raw = Vec::new();
        let mut lines = Vec::new();
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || line[0] == b'#' {
                continue;
            }
            if let Some(access) = access_word(line) {
                lines.push((index + 1, access, line));
                continue;
            }
            match line.iter().position(|byte| *byte == b'=') {
                Some(at) => {
                    let key = String::from_utf8_lossy(line[..at].trim_ascii()).to_ascii_lowercase();
                    raw.push((index + 1, key, unquote(line[at + 1..].trim_ascii())));
                }
                None => notes.push(format!(
                    "{}: descriptor line {} is not understood and ignored",
                    self.path.display(),
                    index + 1
                )),
            }
        }
        let encoding = self.encoding(&raw, &mut notes);
        let (mut header, mut ddb) = (BTreeMap::new(), BTreeMap::new());
        let mut hint = None;
        for (line, key, value) in &raw {
            let decoded = encoding.decode_without_bom_handling(value).0.into_owned();
            let (map, short) = match key.strip_prefix("ddb.") {
                Some(short) => (&mut ddb, short),
                None => (&mut header, key.as_str()),
            };
            if map.contains_key(short) {
                notes.push(format!(
                    "{}: descriptor line {line} repeats {key:?}; the first one counts",
                    self.path.display()
                ));
                continue;
            }
            if key == "parentfilenamehint" && !value.is_empty() {
                hint = Some(Name {
                    text: decoded.clone(),
                    raw: value.to_vec(),
                });
            }
            map.insert(short.to_owned(), decoded);
        }
        self.refuse_encrypted(&header, &ddb)?;
        let extents = self.extents(&lines, encoding)?;
        let number = |key: &str| -> Result<Option<u32>, ImageError> {
            let Some(value) = header.get(key).map(|value| value.trim()) else {
                return Ok(None);
            };
            let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_hexdigit());
            u32::from_str_radix(value, 16)
                .ok()
                .filter(|_| digits)
                .map(Some)
                .ok_or_else(|| {
                    let line = raw.iter().find(|(_, name, _)| name == key).map_or(0, |found| found.0);
                    self.error(
                        ImageErrorKind::Damaged,
                        line,
                        format!("{key} is {value:?}, up to eight hexadecimal digits are allowed"),
                    )
                })
        };
        let (cid, parent_cid) = (number("cid")?, number("parentcid")?);
        let version = header
            .get("version")
            .and_then(|value| value.trim().parse().ok())
            .unwrap_or(1);
        if !(1..=3).contains(&version) {
            notes.push(format!(
                "{}: descriptor version {version} is unknown, read as 1",
                self.path.display()
            ));
        }
        if header.contains_key("changetrackpath") {
            notes.push(format!(
                "{}: changed block tracking is on; its file is not part of the disk and is ignored",
                self.path.display()
            ));
        }
        Ok(Descriptor {
            version,
            encoding: encoding.name(),
            cid,
            parent_cid: parent_cid.unwrap_or(NO_PARENT),
            create_type: header.get("createtype").cloned().unwrap_or_default(),
            parent_hint: hint,
            extents,
            header,
            ddb,
            notes,
        })
    }

    fn encoding(&self, raw: &[(usize, String, &[u8])], notes: &mut Vec<String>) -> &'static Encoding {
        let Some((_, _, label)) = raw
            .iter()
            .find(|(_, key, _)| key == "encoding" || key == "ddb.encoding")
        else {
            return encoding_rs::UTF_8;
        };
        // The WHATWG labels already mean cp932 by Shift_JIS, cp936 by GBK and cp950 by Big5, as VMware does.
        Encoding::for_label(label)
            .or_else(|| Encoding::for_label(&label.replace_cp()))
            .unwrap_or_else(|| {
                let label = String::from_utf8_lossy(label).into_owned();
                notes.push(format!(
                    "{}: encoding {label:?} is unknown, names are read as UTF-8",
                    self.path.display()
                ));
                encoding_rs::UTF_8
            })
    }

    fn refuse_encrypted(
        &self,
        header: &BTreeMap<String, String>,
        ddb: &BTreeMap<String, String>,
    ) -> Result<(), ImageError> {
        let filters = ddb
            .get("iofilters")
            .is_some_and(|filters| filters.to_ascii_lowercase().contains("vmwarevmcrypt"));
        let found = ["encryptionkeys", "keyid", "encryption.keysafe", "encryption.data"]
            .iter()
            .find(|key| header.contains_key(**key));
        if found.is_none() && !filters {
            return Ok(());
        }
        let found = found.map_or("ddb.iofilters = vmwarevmcrypt", |key| *key);
        Err(ImageError::new(
            ImageErrorKind::Unsupported,
            self.path,
            format!("the disk is encrypted ({found})"),
        )
        .at(self.base)
        .advise("Decrypt it at the source (change the storage policy, or export it there), then convert the result"))
    }

    fn extents(
        &self,
        lines: &[(usize, Access, &[u8])],
        encoding: &'static Encoding,
    ) -> Result<Vec<ExtentLine>, ImageError> {
        if lines.len() > MAX_EXTENTS {
            return Err(self.error(
                ImageErrorKind::Limit,
                1,
                format!("{} extents, at most {MAX_EXTENTS} are accepted", lines.len()),
            ));
        }
        let mut extents = Vec::with_capacity(lines.len());
        let mut total = 0_u64;
        for (number, access, line) in lines {
            let extent = self.extent(*number, *access, line, encoding)?;
            total = total
                .checked_add(extent.sectors)
                .filter(|total| *total <= MAX_DISK / SECTOR)
                .ok_or_else(|| {
                    let text = format!(
                        "{total} sectors and {} more are above 1 PiB; ESXi's largest disk has 62 TB",
                        extent.sectors
                    );
                    self.error(ImageErrorKind::Limit, *number, text)
                })?;
            extents.push(extent);
        }
        if total == 0 {
            return Err(self.error(
                ImageErrorKind::Damaged,
                1,
                "there is no extent line, so the disk would be empty",
            ));
        }
        Ok(extents)
    }

    fn extent(
        &self,
        number: usize,
        access: Access,
        line: &[u8],
        encoding: &'static Encoding,
    ) -> Result<ExtentLine, ImageError> {
        let bad = |message: String| self.error(ImageErrorKind::Damaged, number, message);
        let mut rest = skip_word(line).1;
        let mut word = || {
            let (word, tail) = skip_word(rest);
            rest = tail;
            String::from_utf8_lossy(word).into_owned()
        };
        let sectors =
            decimal(&word()).ok_or_else(|| bad("the extent's length is not a decimal number of sectors".into()))?;
        let kind = word();
        let kind = ExtentType::parse(&kind).ok_or_else(|| {
            bad(format!("extent type {kind:?} is unknown; known are FLAT SPARSE ZERO VMFS VMFSSPARSE VMFSRDM VMFSRAW SESPARSE VSANSPARSE"))
        })?;
        let (name, tail): (&[u8], &[u8]) = if rest.first() == Some(&b'"') {
            match rest.iter().rposition(|byte| *byte == b'"') {
                Some(last) if last > 0 => (&rest[1..last], &rest[last + 1..]),
                _ => return Err(bad("the file name has no closing quote".into())),
            }
        } else {
            skip_word(rest)
        };
        let offset = skip_word(tail.trim_ascii()).0;
        let offset = if offset.is_empty() {
            0
        } else {
            decimal(&String::from_utf8_lossy(offset))
                .ok_or_else(|| bad("the extent's offset is not a decimal number of sectors".into()))?
        };
        let file = (!name.is_empty()).then(|| Name {
            text: encoding.decode_without_bom_handling(name).0.into_owned(),
            raw: name.to_vec(),
        });
        if file.is_none() && kind != ExtentType::Zero {
            return Err(bad("the extent names no file".into()));
        }
        Ok(ExtentLine {
            access,
            sectors,
            kind,
            file,
            offset,
            line: number,
        })
    }
}

/// `cp1252` and the like, which WHATWG spells `windows-1252`.
trait CodePage {
    fn replace_cp(&self) -> Vec<u8>;
}

impl CodePage for [u8] {
    fn replace_cp(&self) -> Vec<u8> {
        let lower = self.to_ascii_lowercase();
        match lower.as_slice() {
            b"cp932" => b"shift_jis".to_vec(),
            b"cp936" => b"gbk".to_vec(),
            b"cp950" => b"big5".to_vec(),
            b"cp949" => b"euc-kr".to_vec(),
            _ => [b"windows-", lower.strip_prefix(b"cp").unwrap_or(&lower)].concat(),
        }
    }
}

fn access_word(line: &[u8]) -> Option<Access> {
    let (word, rest) = skip_word(line);
    if rest.is_empty() || rest[0] == b'=' {
        return None;
    }
    match word.to_ascii_uppercase().as_slice() {
        b"RW" => Some(Access::ReadWrite),
        b"RDONLY" => Some(Access::ReadOnly),
        b"NOACCESS" => Some(Access::None),
        _ => None,
    }
}

/// The first word, and what follows its blanks.
fn skip_word(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(u8::is_ascii_whitespace).unwrap_or(text.len());
    (&text[..end], text[end..].trim_ascii_start())
}

fn unquote(value: &[u8]) -> &[u8] {
    value
        .strip_prefix(b"\"")
        .map_or(value, |inner| inner.strip_suffix(b"\"").unwrap_or(inner))
}

fn decimal(word: &str) -> Option<u64> {
    if word.is_empty() || !word.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    word.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> Result<Descriptor, ImageError> {
        Descriptor::parse(Path::new("d.vmdk"), 0, text)
    }

    #[test]
    fn lower_case_lines_tabs_and_crlf_parse() {
        let disk = parse(b"# Disk DescriptorFile\r\nversion=1 \r\nCREATETYPE = \"Custom\"\r\nparentcid=ffffffff\r\nCID=12ab34cd\r\nrw\t2048 flat \"a b\"c.vmdk\" 7\r\nNOACCESS 5 ZERO\r\n")
            .expect("parses");
        assert_eq!(disk.cid, Some(0x12ab_34cd));
        assert_eq!(disk.create_type, "Custom");
        assert_eq!(disk.extents.len(), 2);
        assert_eq!(
            disk.extents[0].file.as_ref().map(|name| name.text.as_str()),
            Some("a b\"c.vmdk")
        );
        assert_eq!(disk.extents[0].offset, 7);
        assert_eq!(disk.extents[1].access, Access::None);
        assert_eq!(disk.sectors(), 2053);
        assert!(!disk.has_parent());
    }

    #[test]
    fn names_are_decoded_with_the_declared_encoding_and_keep_their_bytes() {
        let cases: [(&str, &[u8], &str); 4] = [
            ("GBK", b"\xb4\xc5\xc5\xcc.vmdk", "磁盘.vmdk"),
            ("Shift_JIS", b"\x83\x66\x83\x42.vmdk", "ディ.vmdk"),
            ("Big5", b"\xba\xcf\xba\xd0.vmdk", "磁碟.vmdk"),
            ("cp1252", b"caf\xe9.vmdk", "café.vmdk"),
        ];
        for (label, raw, text) in cases {
            let mut bytes = format!("version=1\nddb.encoding = \"{label}\"\nRW 1 FLAT \"").into_bytes();
            bytes.extend_from_slice(raw);
            bytes.extend_from_slice(b"\" 0\n");
            let disk = parse(&bytes).expect(label);
            let name = disk.extents[0].file.clone().expect("named");
            assert_eq!(name.text, text, "{label}");
            assert_eq!(name.raw, raw, "{label}");
        }
    }

    #[test]
    fn only_foreign_text_behind_the_nul_is_noted() {
        let text = b"version=1\nCID=12ab34cd\nRW 8 ZERO\nddb.toolsVersion = \"2147483647\"\n";
        // What QEMU leaves where the new CID has three digits less: the NUL and the last two bytes of the old text.
        let leftover = [text, &b"\0\"\n"[..], &[0; 64]].concat();
        assert_eq!(parse(&leftover).expect("parses").notes, Vec::<String>::new());
        let foreign = [text, &b"\0RW 9 ZERO\n"[..], &[0; 64]].concat();
        let notes = parse(&foreign).expect("parses").notes;
        assert!(
            notes.len() == 1 && notes[0].contains("behind the first NUL"),
            "{notes:?}"
        );
    }

    #[test]
    fn hostile_texts_are_refused_with_their_line() {
        let many = format!("version=1\n{}", "RW 1 ZERO\n".repeat(100_000));
        let endless = vec![b'#'; 2 << 20];
        let cases: [(&[u8], ImageErrorKind, &str); 12] = [
            (b"version=1\n", ImageErrorKind::Damaged, "no extent line"),
            (b"version=1\nRW 0 ZERO\n", ImageErrorKind::Damaged, "no extent line"),
            (b"version=1\nRW -5 FLAT \"a\" 0\n", ImageErrorKind::Damaged, "line 2"),
            (b"version=1\nRW 0x10 FLAT \"a\" 0\n", ImageErrorKind::Damaged, "line 2"),
            (
                b"version=1\nRW 18446744073709551615 ZERO\n",
                ImageErrorKind::Limit,
                "1 PiB",
            ),
            (
                b"version=1\nRW 2199023255552 ZERO\nRW 1 ZERO\n",
                ImageErrorKind::Limit,
                "1 PiB",
            ),
            (
                b"version=1\nRW 5 FLAT \"a 0\n",
                ImageErrorKind::Damaged,
                "closing quote",
            ),
            (b"version=1\nRW 5 PIPE \"a\"\n", ImageErrorKind::Damaged, "unknown"),
            (b"version=1\nRW 5 FLAT\n", ImageErrorKind::Damaged, "names no file"),
            (
                b"version=1\nCID=zz\nRW 5 ZERO\n",
                ImageErrorKind::Damaged,
                "hexadecimal",
            ),
            (many.as_bytes(), ImageErrorKind::Limit, "4096"),
            (&endless, ImageErrorKind::Limit, "1048576"),
        ];
        for (text, kind, words) in cases {
            let error = parse(text).expect_err(words);
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn a_disk_of_1_pib_is_the_largest() {
        let disk = parse(b"version=1\nRW 2199023255552 ZERO\n").expect("parses");
        assert_eq!(disk.sectors() * 512, 1 << 50);
    }

    #[test]
    fn parent_cid_is_not_taken_for_cid_and_the_first_of_two_keys_counts() {
        let disk = parse(b"version=1\nparentCID=11111111\nCID=22222222\nCID=33333333\nRW 1 ZERO\n").expect("parses");
        assert_eq!((disk.cid, disk.parent_cid), (Some(0x2222_2222), 0x1111_1111));
        assert_eq!(disk.notes.len(), 1);
    }

    #[test]
    fn encrypted_disks_are_refused_by_name() {
        for line in [
            "encryptionKeys=\"vmware:key/list\"",
            "ddb.iofilters = \"vmwarevmcrypt\"",
        ] {
            let error = parse(format!("version=1\n{line}\nRW 1 ZERO\n").as_bytes()).expect_err(line);
            assert_eq!(error.kind, ImageErrorKind::Unsupported);
            assert!(error.to_string().contains("encrypted"), "{error}");
        }
    }
}
