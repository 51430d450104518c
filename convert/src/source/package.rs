//! OVF folders and OVA packages.

use super::open::{finish, folder_of, place, read_limited};
use super::{DiskPlace, ImportError, ImportOptions, Imported};
use super::{certificate, unpack};
use crate::machine::from_ovf::{self, Choice};
use crate::machine::{Notice, SourceKind};
use crate::ovf::{self, FileEntry, MAX_DOCUMENT_BYTES, OvfError, manifest, tar};
use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Files up to this size are compared with the manifest at import; larger ones by [`verify_manifest`] or while copying.
const VERIFY_AT_IMPORT: u64 = 16 << 20;

fn wrap(path: &Path) -> impl Fn(OvfError) -> ImportError + '_ {
    move |source| ImportError::Ovf {
        path: path.to_owned(),
        source,
    }
}

fn io<'a>(path: &'a Path, doing: &'static str) -> impl Fn(std::io::Error) -> ImportError + 'a {
    move |source| ImportError::Io {
        path: path.to_owned(),
        doing,
        source,
    }
}

/// Where the files of a package lie.
enum Files<'a> {
    Folder(&'a Path),
    Tar(&'a Path, &'a [tar::Member]),
}

impl Files<'_> {
    /// Path, offset and length of a file; `None` where it isn't there.
    fn find(&self, name: &str, options: &ImportOptions) -> Option<(PathBuf, u64, u64)> {
        match self {
            Self::Folder(folder) => match super::gate::resolve(folder, name, options) {
                super::gate::Passed::File(place) => {
                    let bytes = std::fs::metadata(&place.path).ok()?.len();
                    Some((place.path, 0, bytes))
                }
                _ => None,
            },
            Self::Tar(path, members) => {
                let name = name.strip_prefix("./").unwrap_or(name);
                let member = members.iter().find(|member| member.name == name)?;
                Some(((*path).to_owned(), member.offset, member.bytes))
            }
        }
    }
}

pub(super) fn open_ovf(path: &Path, options: &ImportOptions) -> Result<Imported, ImportError> {
    let document = read_limited(path, MAX_DOCUMENT_BYTES)?;
    let folder = folder_of(path);
    let mut notices = Vec::new();
    let files = Files::Folder(&folder);
    let stem = path.with_extension("mf");
    if stem.is_file() {
        let text = read_limited(&stem, MAX_DOCUMENT_BYTES)?;
        check_manifest(&String::from_utf8_lossy(&text), &files, options, &mut notices);
    }
    let signature = path.with_extension("cert");
    if signature.is_file() {
        let text = read_limited(&signature, MAX_DOCUMENT_BYTES)?;
        notices.push(Notice::new(
            "ova.certificate",
            format!("{}: {}", signature.display(), certificate::describe(&text)),
        ));
    }
    assemble(&document, path, SourceKind::Ovf, &files, notices, options, None)
}

pub(super) fn open_ova(path: &Path, options: &ImportOptions) -> Result<Imported, ImportError> {
    let mut file = File::open(path).map_err(io(path, "opening"))?;
    let mut magic = [0; 6];
    let length = file.read(&mut magic).map_err(io(path, "reading"))?;
    let mut notices = Vec::new();
    file.seek(SeekFrom::Start(0)).map_err(io(path, "reading"))?;
    let Some(container) = unpack::Container::of(&magic[..length]) else {
        return open_tar(path, path, notices, options);
    };
    let folder = tempfile::tempdir().map_err(io(path, "making a temporary folder"))?;
    let plain = folder.path().join("package.tar");
    let (bytes, members) = container
        .unpack(file, &plain)
        .map_err(io(path, "unpacking the package"))?;
    notices.push(Notice::new(
        "ova.needs-extracting",
        format!(
            "the package is in {}; {bytes} bytes of temporary space",
            container.name()
        ),
    ));
    let mut imported = match members {
        Some(members) => open_members(path, &plain, &members, notices, options)?,
        None => open_tar(path, &plain, notices, options)?,
    };
    imported.temporary.push(folder);
    Ok(imported)
}

/// `shown` is the path that the user gave, `real` the tar file.
fn open_tar(shown: &Path, real: &Path, notices: Vec<Notice>, options: &ImportOptions) -> Result<Imported, ImportError> {
    let mut file = File::open(real).map_err(io(real, "opening"))?;
    let members = tar::index(&mut file).map_err(wrap(shown))?;
    open_members(shown, real, &members, notices, options)
}

/// `real` holds the bytes of all `members`.
fn open_members(
    shown: &Path,
    real: &Path,
    members: &[tar::Member],
    mut notices: Vec<Notice>,
    options: &ImportOptions,
) -> Result<Imported, ImportError> {
    let mut file = File::open(real).map_err(io(real, "opening"))?;
    let with = |extension: &str| -> Vec<&tar::Member> {
        members
            .iter()
            .filter(|member| member.name.to_ascii_lowercase().ends_with(extension))
            // macOS' tar adds `._name.ovf` beside the real one.
            .filter(|member| !member.name.rsplit('/').next().unwrap_or_default().starts_with("._"))
            .collect()
    };
    let descriptions = with(".ovf");
    let [description] = descriptions.as_slice() else {
        let names = descriptions.iter().map(|member| member.name.clone()).collect();
        return Err(wrap(shown)(OvfError::Descriptions(names)));
    };
    let mut read = |member: &tar::Member| -> Result<Vec<u8>, ImportError> {
        let limit = u64::try_from(MAX_DOCUMENT_BYTES).unwrap_or(u64::MAX);
        if member.bytes > limit {
            return Err(wrap(shown)(OvfError::Limit {
                what: "the description's length in bytes",
                limit: MAX_DOCUMENT_BYTES,
            }));
        }
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(member.offset)).map_err(io(real, "reading"))?;
        (&mut file)
            .take(member.bytes)
            .read_to_end(&mut bytes)
            .map_err(io(real, "reading"))?;
        Ok(bytes)
    };
    let document = read(description)?;
    let files = Files::Tar(real, members);
    for member in with(".mf") {
        let text = read(member)?;
        check_manifest(&String::from_utf8_lossy(&text), &files, options, &mut notices);
    }
    for member in with(".cert") {
        let text = read(member)?;
        notices.push(Notice::new(
            "ova.certificate",
            format!("{}: {}", member.name, certificate::describe(&text)),
        ));
    }
    assemble(&document, shown, SourceKind::Ova, &files, notices, options, Some(real))
}

/// Compares small files with the manifest.
fn check_manifest(text: &str, files: &Files<'_>, options: &ImportOptions, notices: &mut Vec<Notice>) {
    if options.skip_manifest {
        return;
    }
    let never = AtomicBool::new(false);
    for line in manifest::parse(text) {
        match files.find(&line.name, options) {
            None => notices.push(Notice::new("ova.manifest-file-missing", line.name)),
            Some((_, _, bytes)) if bytes > VERIFY_AT_IMPORT => {}
            Some(place) => {
                if let Ok(Some(sum)) = digest(&place, line.algorithm, &never)
                    && sum != line.hex
                {
                    notices.push(Notice::new(
                        "ova.manifest-mismatch",
                        format!("{}: {sum}, the manifest says {}", line.name, line.hex),
                    ));
                }
            }
        }
    }
}

fn digest(
    (path, offset, bytes): &(PathBuf, u64, u64),
    algorithm: manifest::Algorithm,
    cancel: &AtomicBool,
) -> Result<Option<String>, OvfError> {
    let failed = |doing| move |source| OvfError::Io { doing, source };
    let mut file = File::open(path).map_err(failed("opening"))?;
    file.seek(SeekFrom::Start(*offset)).map_err(failed("seeking"))?;
    manifest::digest(&mut file.take(*bytes), algorithm, cancel)
}

/// Reads every file of an OVA or OVF and compares it with the manifest. Each pair is a file and whether it is good; an
/// empty list means that there is no manifest. Stops early where `cancel` is set.
///
/// # Errors
/// [`ImportError`]: the package can't be read.
pub fn verify_manifest(path: &Path, cancel: &AtomicBool) -> Result<Vec<(String, bool)>, ImportError> {
    let options = ImportOptions::default();
    let folder = folder_of(path);
    let (text, members);
    let files = if path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("ovf"))
    {
        let manifest = path.with_extension("mf");
        if !manifest.is_file() {
            return Ok(Vec::new());
        }
        text = read_limited(&manifest, MAX_DOCUMENT_BYTES)?;
        Files::Folder(&folder)
    } else {
        let mut file = File::open(path).map_err(io(path, "opening"))?;
        members = tar::index(&mut file).map_err(wrap(path))?;
        let Some(manifest) = members
            .iter()
            .find(|member| member.name.to_ascii_lowercase().ends_with(".mf"))
        else {
            return Ok(Vec::new());
        };
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(manifest.offset))
            .map_err(io(path, "reading"))?;
        let limit = u64::try_from(MAX_DOCUMENT_BYTES).unwrap_or(u64::MAX);
        file.take(manifest.bytes.min(limit))
            .read_to_end(&mut bytes)
            .map_err(io(path, "reading"))?;
        text = bytes;
        Files::Tar(path, &members)
    };
    let mut results = Vec::new();
    for line in manifest::parse(&String::from_utf8_lossy(&text)) {
        let good = match files.find(&line.name, &options) {
            None => false,
            Some(place) => match digest(&place, line.algorithm, cancel).map_err(wrap(path))? {
                Some(sum) => sum == line.hex,
                None => break,
            },
        };
        results.push((line.name, good));
    }
    Ok(results)
}

fn assemble(
    document: &[u8],
    path: &Path,
    kind: SourceKind,
    files: &Files<'_>,
    mut notices: Vec<Notice>,
    options: &ImportOptions,
    tar: Option<&Path>,
) -> Result<Imported, ImportError> {
    let envelope = ovf::parse(document).map_err(wrap(path))?;
    let choice = Choice {
        system: options.system.as_deref(),
        deployment: options.deployment.as_deref(),
        kind,
    };
    let built = from_ovf::build(&envelope, choice, path).map_err(wrap(path))?;
    notices.extend(built.notices);
    let folder = folder_of(path);
    let mut temporary: Option<tempfile::TempDir> = None;
    let mut disks = Vec::new();
    for (disk, file) in built.machine.disks.iter().zip(&built.files) {
        let Some(file) = file else {
            disks.push(DiskPlace::default());
            continue;
        };
        let mut found = disk_place(&disk.name(), file, files, &folder, tar, options, &mut notices);
        match file.compression.as_deref().unwrap_or_default() {
            "" | "identity" => {}
            packed @ ("gzip" | "xz") if found.path.is_file() => {
                if temporary.is_none() {
                    temporary = Some(tempfile::tempdir().map_err(io(path, "making a temporary folder"))?);
                }
                let target = temporary
                    .as_ref()
                    .expect("it was just made")
                    .path()
                    .join(format!("disk{}.vmdk", disks.len()));
                let bytes = unpack::disk(&found, packed, &target).map_err(io(path, "unpacking a disk"))?;
                notices.push(Notice::new(
                    "ova.needs-extracting",
                    format!("{}: {bytes} bytes of temporary space", file.href),
                ));
                found = DiskPlace {
                    path: target,
                    ..DiskPlace::default()
                };
            }
            "gzip" | "xz" => {}
            other => {
                return Err(wrap(path)(OvfError::Compression {
                    href: file.href.clone(),
                    compression: other.to_owned(),
                }));
            }
        }
        disks.push(found);
    }
    let mut imported = finish(built.machine, built.accounting, notices, folder, disks, options);
    imported.temporary = temporary.into_iter().collect();
    Ok(imported)
}

/// Where a file of the package lies: in the folder, in the tar, or in pieces.
fn disk_place(
    disk: &str,
    file: &FileEntry,
    files: &Files<'_>,
    folder: &Path,
    tar: Option<&Path>,
    options: &ImportOptions,
    notices: &mut Vec<Notice>,
) -> DiskPlace {
    let size: Option<u64> = file.size.as_deref().and_then(|size| size.trim().parse().ok());
    let chunk: Option<u64> = file
        .chunk_size
        .as_deref()
        .and_then(|size| size.trim().parse().ok())
        .filter(|size| *size > 0);
    if let Some(chunk) = chunk {
        let chunks: Vec<(PathBuf, u64, u64)> = (0_u32..)
            .map_while(|number| files.find(&format!("{}.{number:09}", file.href), options))
            .collect();
        if !chunks.is_empty() {
            let sum: u64 = chunks.iter().map(|(_, _, bytes)| *bytes).fold(0, u64::saturating_add);
            let full = chunks[..chunks.len() - 1].iter().all(|(_, _, bytes)| *bytes == chunk);
            if !full || size.is_some_and(|size| size != sum) {
                notices.push(Notice::new(
                    "ova.chunks",
                    format!(
                        "{disk}: {} pieces of {}, {sum} bytes together, {size:?} stated",
                        chunks.len(),
                        file.href
                    ),
                ));
            }
            return DiskPlace {
                path: chunks[0].0.clone(),
                window: None,
                chunks,
            };
        }
    }
    let Some(tar) = tar else {
        let place = place(folder, disk, &file.href, options, notices);
        if let (Some(size), Ok(meta)) = (size, std::fs::metadata(&place.path))
            && meta.len() != size
        {
            notices.push(Notice::new(
                "ova.file-size",
                format!("{}: {} bytes, {size} stated", file.href, meta.len()),
            ));
        }
        return place;
    };
    if file.href.contains("://") || file.href.starts_with('/') || file.href.split('/').any(|part| part == "..") {
        notices.push(Notice::new(
            "disk.path-outside",
            format!("{disk}: {}: leads out of the package", file.href),
        ));
        return DiskPlace::default();
    }
    match files.find(&file.href, options) {
        Some((_, offset, bytes)) => {
            if size.is_some_and(|size| size != bytes) {
                notices.push(Notice::new(
                    "ova.file-size",
                    format!("{}: {bytes} bytes, {} stated", file.href, size.unwrap_or(0)),
                ));
            }
            DiskPlace {
                path: tar.to_owned(),
                window: Some((offset, bytes)),
                chunks: Vec::new(),
            }
        }
        None => {
            notices.push(Notice::new(
                "disk.file-missing",
                format!("{disk}: {} is not in the package", file.href),
            ));
            DiskPlace::default()
        }
    }
}
