//! Bytes to entries: encoding, lines, quotes, escapes.

use super::{Entry, MAX_ENTRIES, MAX_FILE_BYTES, MAX_LINE_BYTES, VmxError, VmxFile};
use crate::machine::Notice;
use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};
use std::collections::HashMap;

/// Reads a VMX file.
///
/// Key names compare without case, the first of equal keys wins, `|XX` escapes are decoded, `.encoding` may stand on any
/// line and names any charset of the WHATWG encoding standard. Lines that make no sense are skipped with a notice.
///
/// # Errors
/// [`VmxError`]: not a VMX file, above the limits, or two different files for one disk.
pub fn parse(bytes: &[u8]) -> Result<VmxFile, VmxError> {
    let limit = |what, found, limit| Err(VmxError::Limit { what, found, limit });
    if bytes.len() > MAX_FILE_BYTES {
        return limit("the file's length in bytes", bytes.len(), MAX_FILE_BYTES);
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if bytes.starts_with(b"KDMV") || bytes.starts_with(b"COWD") || bytes.starts_with(b"# Disk DescriptorFile") {
        return Err(VmxError::IsVmdk);
    }
    if let Some(offset) = bytes.iter().position(|byte| *byte == 0) {
        return Err(VmxError::Nul { offset });
    }
    let mut notices = Vec::new();
    let encoding = declared_encoding(bytes, &mut notices);
    let mut entries: Vec<Entry> = Vec::new();
    let mut first: HashMap<String, usize> = HashMap::new();
    for (number, raw) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if raw.len() > MAX_LINE_BYTES {
            return limit("a line's length in bytes", raw.len(), MAX_LINE_BYTES);
        }
        let line = u32::try_from(number + 1).unwrap_or(u32::MAX);
        let text = decode(raw, encoding, line, &mut notices);
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let Some((key, quoted)) = split(text, line, &mut notices) else {
            let shown: String = text.chars().take(120).collect();
            notices.push(Notice::new("vmx.unparsable-line", format!("line {line}: {shown}")));
            continue;
        };
        let value = unescape(quoted, encoding, line, &mut notices);
        if entries.len() == MAX_ENTRIES {
            return limit("the number of entries", MAX_ENTRIES + 1, MAX_ENTRIES);
        }
        let lower = key.to_ascii_lowercase();
        let shadowed = if let Some(earlier) = first.get(&lower) {
            let winner = &entries[*earlier];
            if winner.value != value {
                if lower.ends_with(".filename") && lower.contains(':') {
                    return Err(VmxError::ConflictingDisk {
                        key: winner.key.clone(),
                        first: winner.value.clone(),
                        first_line: winner.line,
                        second: value,
                        second_line: line,
                    });
                }
                notices.push(Notice::new(
                    "vmx.duplicate-key",
                    format!(
                        "{key}: \"{}\" (line {}) is used, \"{value}\" (line {line}) is not",
                        winner.value, winner.line
                    ),
                ));
            }
            true
        } else {
            first.insert(lower.clone(), entries.len());
            false
        };
        entries.push(Entry {
            key: key.to_owned(),
            lower,
            value,
            line,
            shadowed,
        });
    }
    if entries.is_empty() {
        return Err(VmxError::Empty);
    }
    Ok(VmxFile::new(entries, notices))
}

/// The charset that `.encoding` names, wherever it stands. `None`: none, UTF-8, or one that we don't know.
fn declared_encoding(bytes: &[u8], notices: &mut Vec<Notice>) -> Option<&'static Encoding> {
    let label = bytes.split(|byte| *byte == b'\n').find_map(|line| {
        let line = line.trim_ascii_start();
        let rest = line
            .get(..9)
            .filter(|key| key.eq_ignore_ascii_case(b".encoding"))
            .map(|_| &line[9..])?;
        let rest = rest.trim_ascii_start().strip_prefix(b"=")?.trim_ascii();
        let quote = |byte: &u8| *byte == b'"' || *byte == b'\'';
        let start = rest.iter().position(|byte| !quote(byte)).unwrap_or(rest.len());
        let end = rest[start..].iter().position(quote).map_or(rest.len(), |at| start + at);
        Some(rest[start..end].trim_ascii().to_vec())
    })?;
    // VMware writes `GBK` and `Shift_JIS`, which are labels of the standard; `windows-932` and the like are not.
    let alias: &[u8] = match label.to_ascii_lowercase().as_slice() {
        b"windows-932" | b"cp932" => b"shift_jis",
        b"windows-936" | b"cp936" => b"gbk",
        b"windows-949" | b"cp949" => b"euc-kr",
        b"windows-950" | b"cp950" => b"big5",
        _ => &label,
    };
    match Encoding::for_label(alias) {
        Some(encoding) if encoding == UTF_8 => None,
        Some(encoding) => Some(encoding),
        None => {
            if !bytes.is_ascii() {
                notices.push(Notice::new(
                    "vmx.encoding-unsupported",
                    format!(".encoding = \"{}\"", String::from_utf8_lossy(&label)),
                ));
            }
            None
        }
    }
}

fn decode<'a>(
    raw: &'a [u8],
    encoding: Option<&'static Encoding>,
    line: u32,
    notices: &mut Vec<Notice>,
) -> std::borrow::Cow<'a, str> {
    if let Some(encoding) = encoding {
        let (text, broken) = encoding.decode_without_bom_handling(raw);
        if !broken {
            return text;
        }
        // Tools that edit the file write UTF-8 whatever its first line says.
        let (text, how) = match std::str::from_utf8(raw) {
            Ok(utf8) => (utf8.into(), "read as UTF-8"),
            Err(_) => (text, "what is no character is replaced"),
        };
        notices.push(Notice::new(
            "vmx.encoding-guess",
            format!("line {line} is not {}, {how}: {}", encoding.name(), text.trim()),
        ));
        return text;
    }
    if let Ok(text) = std::str::from_utf8(raw) {
        return text.into();
    }
    let text = WINDOWS_1252.decode_without_bom_handling(raw).0;
    notices.push(Notice::new(
        "vmx.encoding-guess",
        format!("line {line} is not UTF-8, read as windows-1252: {}", text.trim()),
    ));
    text
}

/// `key = "value" # comment` into key and the text between the quotes. `None`: the line makes no sense.
fn split<'a>(text: &'a str, line: u32, notices: &mut Vec<Notice>) -> Option<(&'a str, &'a str)> {
    let (key, rest) = text.split_once('=')?;
    let (key, rest) = (key.trim(), rest.trim_start());
    if key.is_empty() || key.contains(|c: char| c.is_whitespace() || c == '"' || c == '\'' || c == '#') {
        return None;
    }
    let Some(quote) = rest.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
        let value = rest.find(" #").map_or(rest, |at| &rest[..at]).trim();
        let value = if value.starts_with('#') { "" } else { value };
        notices.push(Notice::new(
            "vmx.unquoted-value",
            format!("line {line}: {key} = {value}"),
        ));
        return Some((key, value));
    };
    let inner = &rest[1..];
    let harmless = |tail: &str| {
        let tail = tail.trim_start();
        tail.is_empty() || tail.starts_with('#')
    };
    let near = inner.find(quote)?;
    if harmless(&inner[near + 1..]) {
        return Some((key, &inner[..near]));
    }
    let far = inner.rfind(quote).filter(|far| *far > near)?;
    if !harmless(&inner[far + 1..]) {
        return None;
    }
    notices.push(Notice::new(
        "vmx.raw-quote",
        format!("line {line}: {key} holds an unescaped quote: {}", &inner[..far]),
    ));
    Some((key, &inner[..far]))
}

fn unescape(quoted: &str, encoding: Option<&'static Encoding>, line: u32, notices: &mut Vec<Notice>) -> String {
    if !quoted.contains('|') {
        return quoted.to_owned();
    }
    // Pieces: literal text, and runs of escaped bytes, since a run may hold one character in several bytes.
    let mut pieces: Vec<Result<&str, Vec<u8>>> = Vec::new();
    let mut rest = quoted;
    while let Some(at) = rest.find('|') {
        if at > 0 {
            pieces.push(Ok(&rest[..at]));
        }
        let digits = rest
            .get(at + 1..at + 3)
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            match pieces.last_mut() {
                Some(Err(run)) => run.push(byte),
                _ => pieces.push(Err(vec![byte])),
            }
            rest = &rest[at + 3..];
        } else {
            notices.push(Notice::new("vmx.malformed-escape", format!("line {line}: {quoted}")));
            pieces.push(Ok(&rest[at..=at]));
            rest = &rest[at + 1..];
        }
    }
    pieces.push(Ok(rest));
    let mut value = String::with_capacity(quoted.len());
    for piece in pieces {
        match piece {
            Ok(text) => value.push_str(text),
            Err(run) => match std::str::from_utf8(&run) {
                Ok(text) => value.push_str(text),
                Err(_) => {
                    let charset = encoding.unwrap_or(WINDOWS_1252);
                    value.push_str(&charset.decode_without_bom_handling(&run).0);
                    notices.push(Notice::new(
                        "vmx.encoding-guess",
                        format!("line {line}: escaped bytes read as {}: {quoted}", charset.name()),
                    ));
                }
            },
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::{VmxError, parse};
    use proptest::prelude::*;

    fn value(text: &[u8], key: &str) -> Option<String> {
        parse(text).ok()?.get(key).map(str::to_owned)
    }

    #[test]
    fn each_case_of_the_behaviour_matrix_reads_as_decided() {
        let cases: &[(&[u8], &str, Option<&str>)] = &[
            (b"MeMsIzE=\"1\"", "memSize", Some("1")),
            (b"\t a \t=\t \"1\" \t\r\n", "a", Some("1")),
            (b"\xef\xbb\xbfa = \"1\"", "a", Some("1")),
            (b"a = '1024'", "a", Some("1024")),
            (b"a = 1024 # x", "a", Some("1024")),
            (b"a = \"1\" # it's \"quoted\"", "a", Some("1")),
            (b"b = \"1\"\na = \"1\" junk", "a", None),
            (b"b = \"1\"\na \"1\"", "a", None),
            (b"b = \"1\"\na = \"x\\\n y\"", "a", None),
            (b"a = \"say \"hi\" now\"", "a", Some("say \"hi\" now")),
            (b"a = \"C:\\x\"", "a", Some("C:\\x")),
            (b"a = \"|22|7C|7c\"", "a", Some("\"||")),
            (b"a = \"x|2\"", "a", Some("x|2")),
            (b"a = \"caf|c3|a9\"", "a", Some("caf\u{e9}")),
            (b"a = \"caf|e9\"", "a", Some("caf\u{e9}")),
            (b"a = \"caf\xe9\"", "a", Some("caf\u{e9}")),
            (b"a = \"\x83e\"\n.encoding = \"Shift_JIS\"", "a", Some("\u{30c6}")),
            (b".encoding = \"GBK\"\na = \"\xd6\xd0\"", "a", Some("\u{4e2d}")),
            (b".encoding = \"windows-1252\"\na = \"\x80\"", "a", Some("\u{20ac}")),
            (b"a = \"1\"\nA = \"2\"", "a", Some("1")),
            (b"a = \"1\"\na.b = \"2\"", "a", Some("1")),
            (b"#!/usr/bin/vmware\n\n# x\na = \"\"", "a", Some("")),
        ];
        for (text, key, expected) in cases {
            // A trail byte of Shift_JIS may be `|` or `e`: bytes are converted before they are taken apart.
            assert_eq!(value(text, key).as_deref(), *expected, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn what_is_odd_leaves_a_notice_with_its_line() {
        let cases: &[(&[u8], &str)] = &[
            (b"a = \"1\"\nno sense", "vmx.unparsable-line"),
            (b"a = \"1\"\nA = \"2\"", "vmx.duplicate-key"),
            (b"x = \"\"\na = 1", "vmx.unquoted-value"),
            (b"x = \"\"\na = \"b\"c\"", "vmx.raw-quote"),
            (b"x = \"\"\na = \"|zz\"", "vmx.malformed-escape"),
            (b"x = \"\"\na = \"\xff\"", "vmx.encoding-guess"),
            (b".encoding = \"klingon\"\na = \"\xff\"", "vmx.encoding-unsupported"),
            (b".encoding = \"GBK\"\na = \"\xff\"", "vmx.encoding-guess"),
        ];
        for (text, id) in cases {
            let file = parse(text).expect("readable");
            let notice = file.notices.iter().find(|notice| notice.id == *id).expect(id);
            assert!(
                notice.evidence.contains("line 2") || *id == "vmx.encoding-unsupported",
                "{notice:?}"
            );
        }
        assert!(parse(b"a = \"1\"\na = \"1\"").expect("readable").notices.is_empty());
    }

    #[test]
    fn utf8_under_another_declared_charset_is_read_as_utf8_and_said() {
        let file = parse(".encoding = \"Shift_JIS\"\na = \"caf\u{e9}\u{2713}\"".as_bytes()).expect("readable");
        assert_eq!(file.get("a"), Some("caf\u{e9}\u{2713}"));
        assert_eq!(file.notices.len(), 1);
        assert!(
            file.notices[0]
                .evidence
                .contains("line 2 is not Shift_JIS, read as UTF-8")
        );
        let file = parse(b".encoding = \"Shift_JIS\"\na = \"x\xff\"").expect("readable");
        assert_eq!(file.get("a"), Some("x\u{fffd}"));
        assert!(file.notices[0].evidence.contains("replaced"));
    }

    #[test]
    fn what_is_no_vmx_is_refused() {
        assert_eq!(parse(b"KDMV\x01\0").expect_err("disk"), VmxError::IsVmdk);
        assert_eq!(parse(b"# Disk DescriptorFile\n").expect_err("disk"), VmxError::IsVmdk);
        assert_eq!(parse(b"a = \"\0\"").expect_err("torn"), VmxError::Nul { offset: 5 });
        assert_eq!(parse(b"# nothing\n").expect_err("empty"), VmxError::Empty);
        assert!(matches!(parse(&vec![b'a'; 5 << 20]), Err(VmxError::Limit { .. })));
        assert!(matches!(
            parse(b"scsi0:0.fileName = \"a\"\nSCSI0:0.filename = \"b\""),
            Err(VmxError::ConflictingDisk { second_line: 2, .. })
        ));
    }

    #[test]
    fn present_false_takes_the_whole_name_space_and_a_controller_takes_its_disks() {
        let file = parse(
            b"scsi0.present = \"FALSE\"\nscsi0:1.fileName = \"x\"\nide0:0.present = \"false\"\nIDE0:0.fileName = \"y\"\nide0:1.a = \"z\"",
        )
        .expect("readable");
        assert_eq!(file.get("scsi0:1.fileName"), None);
        assert_eq!(file.get("ide0:0.fileName"), None);
        assert_eq!(file.get("ide0:1.a"), Some("z"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_but_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn text_that_looks_like_a_vmx_never_panics(text in "([a-z:.0-9]{0,8}[ =\"'|#\\\\éß]{0,6}[a-z0-9|\"]{0,8}\r?\n){0,12}") {
            if let Ok(file) = parse(text.as_bytes()) {
                for entry in file.entries() {
                    prop_assert!(file.entry(&entry.key.to_ascii_uppercase()).is_some());
                }
            }
        }

        #[test]
        fn any_value_survives_escaping(value in "[^\0\r\n]{0,40}") {
            let escaped: String = value.bytes().map(|byte| format!("|{byte:02x}")).collect();
            let file = parse(format!("k = \"{escaped}\"").as_bytes()).expect("readable");
            prop_assert_eq!(file.get("K"), Some(value.as_str()));
        }
    }
}
