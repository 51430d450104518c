//! The normalising pass: name spaces are resolved by URI, elements and attributes of OVF and CIM lose their prefix, VMware's
//! get `vmw-`, everything foreign goes. OVF 0.9's typed `Section` and `Content` become the elements of later versions.

use super::{MAX_DEPTH, MAX_DOCUMENT_BYTES, OvfError};
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::ResolveResult;
use quick_xml::reader::NsReader;
use std::fmt::Write as _;

/// What a name space means here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Space {
    Ovf,
    Cim,
    Vmware,
    Xsi,
    Unbound,
    Foreign,
}

fn space(resolved: &ResolveResult<'_>) -> Space {
    let ResolveResult::Bound(namespace) = resolved else {
        return match resolved {
            ResolveResult::Unbound => Space::Unbound,
            _ => Space::Foreign,
        };
    };
    let uri: &str = namespace.0;
    if uri.starts_with("http://schemas.dmtf.org/ovf/envelope/")
        || uri.starts_with("http://www.vmware.com/schema/ovf/1/envelope")
    {
        Space::Ovf
    } else if uri.contains("/wscim/1/cim-schema/2/CIM_") {
        Space::Cim
    } else if uri == "http://www.vmware.com/schema/ovf" {
        Space::Vmware
    } else if uri == "http://www.w3.org/2001/XMLSchema-instance" {
        Space::Xsi
    } else {
        Space::Foreign
    }
}

/// Attributes that are read. The others (`msgid`, versions, language) say nothing about a machine, and on an element that
/// is read as text they would be in the way.
const ATTRIBUTES: &[&str] = &[
    "id",
    "href",
    "size",
    "compression",
    "chunkSize",
    "diskId",
    "fileRef",
    "capacity",
    "capacityAllocationUnits",
    "format",
    "populatedSize",
    "parentRef",
    "name",
    "configuration",
    "default",
    "key",
    "value",
    "vmw-key",
    "vmw-value",
    "vmw-osType",
];

/// Whoever wrote the file, as far as it shows.
#[derive(Debug, Default)]
pub(super) struct Normal {
    /// The plain document.
    pub(super) text: String,
    /// A name space of VMware is used.
    pub(super) has_vmware: bool,
}

pub(super) fn normalise(document: &str) -> Result<Normal, OvfError> {
    if document.len() > MAX_DOCUMENT_BYTES {
        return Err(OvfError::Limit {
            what: "the document's length in bytes",
            limit: MAX_DOCUMENT_BYTES,
        });
    }
    let head: String = document
        .trim_start()
        .chars()
        .take(64)
        .collect::<String>()
        .to_ascii_lowercase();
    if head.starts_with("<html") || head.starts_with("<!doctype html") {
        return Err(OvfError::IsHtml);
    }
    let mut reader = NsReader::from_str(document);
    let mut normal = Normal::default();
    // For each open element its name as written out, or `None` where it is left out with all that is in it.
    let mut open: Vec<Option<String>> = Vec::new();
    let mut dropped = 0_usize;
    loop {
        let offset = reader.buffer_position();
        let malformed = |message: String| OvfError::Malformed { offset, message };
        let event = reader.read_event().map_err(|error| malformed(error.to_string()))?;
        match event {
            Event::Start(ref start) => {
                if open.len() >= MAX_DEPTH {
                    return Err(OvfError::Limit {
                        what: "the nesting",
                        limit: MAX_DEPTH,
                    });
                }
                let name = if dropped > 0 {
                    None
                } else {
                    begin(&reader, start, &mut normal).map_err(malformed)?
                };
                match &name {
                    Some(_) => normal.text.push('>'),
                    None => dropped += 1,
                }
                open.push(name);
            }
            Event::Empty(ref start) if dropped == 0 => {
                let written = begin(&reader, start, &mut normal).map_err(malformed)?;
                normal.text.push_str(written.map_or("", |_| "/>"));
            }
            Event::End(_) => match open.pop() {
                Some(Some(name)) => {
                    let _ = write!(normal.text, "</{name}>");
                }
                _ => dropped = dropped.saturating_sub(1),
            },
            Event::Text(text) if dropped == 0 && !open.is_empty() => normal.text.push_str(&text.xml10_content()),
            Event::CData(text) if dropped == 0 => {
                normal.text.push_str(&quick_xml::escape::escape(text.xml10_content()));
            }
            Event::GeneralRef(name) if dropped == 0 => {
                let name = name.xml10_content();
                if !name.starts_with('#') && !matches!(&*name, "amp" | "lt" | "gt" | "quot" | "apos") {
                    return Err(malformed(format!("unknown entity &{name};")));
                }
                let _ = write!(normal.text, "&{name};");
            }
            Event::DocType(_) => return Err(OvfError::Doctype),
            Event::Eof => break,
            _ => {}
        }
    }
    if !open.is_empty() {
        return Err(OvfError::Malformed {
            offset: reader.buffer_position(),
            message: "the document ends inside an element".to_owned(),
        });
    }
    Ok(normal)
}

/// Writes `<name attributes`, without the closing sign. `None`: the element is foreign, nothing was written.
fn begin(reader: &NsReader<&[u8]>, start: &BytesStart<'_>, normal: &mut Normal) -> Result<Option<String>, String> {
    let (resolved, local) = reader.resolver().resolve_element(start.name());
    let local: &str = local.into_inner();
    let mut name = match space(&resolved) {
        // OVF 0.9 leaves some elements without a name space.
        Space::Ovf | Space::Cim | Space::Unbound => local.to_owned(),
        Space::Vmware => {
            normal.has_vmware = true;
            format!("vmw-{local}")
        }
        Space::Xsi | Space::Foreign => return Ok(None),
    };
    let mut attributes = String::new();
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|error| error.to_string())?;
        let (resolved, local) = reader.resolver().resolve_attribute(attribute.key);
        let local: &str = local.into_inner();
        let value: &str = &attribute.value;
        let key = match space(&resolved) {
            Space::Ovf | Space::Unbound => local.to_owned(),
            Space::Vmware => {
                normal.has_vmware = true;
                format!("vmw-{local}")
            }
            Space::Xsi if local == "type" && matches!(name.as_str(), "Section" | "Content") => {
                let kind = value.rsplit(':').next().unwrap_or_default();
                name = kind.strip_suffix("_Type").unwrap_or(kind).to_owned();
                continue;
            }
            _ => continue,
        };
        if ATTRIBUTES.contains(&key.as_str()) {
            let _ = write!(attributes, " {key}=\"{}\"", value.replace('"', "&quot;"));
        }
    }
    if name == "InstanceId" {
        name = "InstanceID".to_owned();
    }
    if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c)) {
        return Ok(None);
    }
    let _ = write!(normal.text, "<{name}{attributes}");
    Ok(Some(name))
}
