//! The index of a tar file: where each member's bytes lie, so that disks are read in place.
//!
//! Knows ustar, GNU (long names, base-256 sizes) and pax (path, size). Sparse members and everything that isn't a regular
//! file or a folder are refused.

use super::OvfError;
use std::io::{Read, Seek, SeekFrom};

/// A regular file in the package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Offset of its bytes in the package.
    pub offset: u64,
    /// Their number.
    pub bytes: u64,
}

const BLOCK: u64 = 512;
const MAX_MEMBERS: usize = 100_000;
const MAX_EXTENDED: u64 = 1 << 20;

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

/// An octal or base-256 number.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let mut value: u64 = u64::from(field[0] & 0x7f);
        for byte in &field[1..] {
            value = value.checked_mul(256)?.checked_add(u64::from(*byte))?;
        }
        return Some(value);
    }
    let digits = text(field);
    let digits = digits.trim();
    if digits.is_empty() {
        Some(0)
    } else {
        u64::from_str_radix(digits, 8).ok()
    }
}

/// `length key=value\n` records.
fn pax(records: &[u8]) -> Vec<(String, String)> {
    let mut rest = records;
    let mut found = Vec::new();
    while let Some(space) = rest.iter().position(|byte| *byte == b' ') {
        let Some(length) = std::str::from_utf8(&rest[..space])
            .ok()
            .and_then(|digits| digits.parse::<usize>().ok())
        else {
            break;
        };
        if length <= space + 1 || length > rest.len() {
            break;
        }
        let record = String::from_utf8_lossy(&rest[space + 1..length]);
        if let Some((key, value)) = record.trim_end_matches('\n').split_once('=') {
            found.push((key.to_owned(), value.to_owned()));
        }
        rest = &rest[length..];
    }
    found
}

/// A name that stays inside the package.
fn check_name(name: &str) -> Result<(), OvfError> {
    let inside = std::path::Path::new(name)
        .components()
        .all(|part| matches!(part, std::path::Component::Normal(_) | std::path::Component::CurDir));
    if inside {
        Ok(())
    } else {
        Err(OvfError::Member {
            name: name.to_owned(),
            why: "leads out of the package",
        })
    }
}

/// Indexes the tar file behind `reader`.
///
/// # Errors
/// [`OvfError::Tar`]: no tar, or cut. [`OvfError::Member`]: a link, a device, a name that leads out, the same name twice.
pub fn index<R: Read + Seek>(reader: &mut R) -> Result<Vec<Member>, OvfError> {
    let io = |doing| move |source| OvfError::Io { doing, source };
    let end = reader.seek(SeekFrom::End(0)).map_err(io("seeking"))?;
    let mut members: Vec<Member> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let mut at: u64 = 0;
    let (mut long_name, mut long_size): (Option<String>, Option<u64>) = (None, None);
    while at < end {
        let damaged = |message: &str| OvfError::Tar {
            offset: at,
            message: message.to_owned(),
        };
        let mut header = [0; 512];
        reader.seek(SeekFrom::Start(at)).map_err(io("seeking"))?;
        reader
            .read_exact(&mut header)
            .map_err(|_| damaged("the file ends inside a header"))?;
        if header.iter().all(|byte| *byte == 0) {
            break;
        }
        let sum: u64 = header
            .iter()
            .enumerate()
            .map(|(place, byte)| {
                if (148..156).contains(&place) {
                    32
                } else {
                    u64::from(*byte)
                }
            })
            .sum();
        if number(&header[148..156]) != Some(sum) {
            return Err(damaged(if at == 0 {
                "not a tar file"
            } else {
                "the checksum of a header is wrong"
            }));
        }
        let bytes = number(&header[124..136]).ok_or_else(|| damaged("a size can't be read"))?;
        let kind = header[156];
        let bytes = if matches!(kind, b'0' | 0 | b'7') {
            long_size.take().unwrap_or(bytes)
        } else {
            bytes
        };
        let data = at + BLOCK;
        let next = bytes
            .div_ceil(BLOCK)
            .checked_mul(BLOCK)
            .and_then(|padded| data.checked_add(padded))
            .ok_or_else(|| damaged("a size is impossible"))?;
        if data.saturating_add(bytes) > end {
            return Err(damaged("the file ends inside a member: it was cut"));
        }
        let mut extended = || -> Result<Vec<u8>, OvfError> {
            if bytes > MAX_EXTENDED {
                return Err(damaged("an extended header is too long"));
            }
            let mut record = vec![0; usize::try_from(bytes).map_err(|_| damaged("a size is impossible"))?];
            reader.seek(SeekFrom::Start(data)).map_err(io("seeking"))?;
            reader.read_exact(&mut record).map_err(io("reading"))?;
            Ok(record)
        };
        match kind {
            b'L' => long_name = Some(text(&extended()?)),
            b'K' => {}
            b'x' => {
                for (key, value) in pax(&extended()?) {
                    match key.as_str() {
                        "path" => long_name = Some(value),
                        "size" => long_size = value.parse().ok(),
                        _ if key.starts_with("GNU.sparse") => {
                            return Err(damaged("a sparse member; make the package anew without --sparse"));
                        }
                        _ => {}
                    }
                }
            }
            b'g' => {}
            b'0' | 0 | b'7' => {
                let prefix = if &header[257..262] == b"ustar" && header[263] != b' ' {
                    text(&header[345..500])
                } else {
                    String::new()
                };
                let short = text(&header[..100]);
                let name = long_name.take().unwrap_or(if prefix.is_empty() {
                    short
                } else {
                    format!("{prefix}/{short}")
                });
                check_name(&name)?;
                let name = name.strip_prefix("./").unwrap_or(&name).to_owned();
                if !seen.insert(name.clone()) {
                    return Err(OvfError::Member {
                        name,
                        why: "is there twice",
                    });
                }
                if members.len() == MAX_MEMBERS {
                    return Err(OvfError::Limit {
                        what: "the number of members",
                        limit: MAX_MEMBERS,
                    });
                }
                members.push(Member {
                    name,
                    offset: data,
                    bytes,
                });
            }
            b'5' => long_name = None,
            b'S' => return Err(damaged("a sparse member; make the package anew without --sparse")),
            _ => {
                return Err(OvfError::Member {
                    name: text(&header[..100]),
                    why: "is a link or a device",
                });
            }
        }
        at = next;
    }
    Ok(members)
}
