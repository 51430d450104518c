//! Where a disk's bytes live: a raw file or block device, or a qcow2 image with its backing chain (through `imago`).

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
};

use imago::{
    FormatAccess, FormatDriverBuilder, Storage, StorageOpenOptions, format::gate::ImplicitOpenGate, qcow2::Qcow2,
};
use rustix::fs::{FallocateFlags, fallocate};

/// A disk image. Offsets and lengths are in bytes and inside the disk; callers check that. Calls come from several
/// threads.
pub trait BlockBackend: Send + Sync + std::fmt::Debug {
    /// Size of the disk in bytes.
    fn size(&self) -> u64;
    /// Fills `buffer`.
    ///
    /// # Errors
    /// The system's or the format's.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Writes all of `buffer`.
    ///
    /// # Errors
    /// The system's or the format's.
    fn write(&self, offset: u64, buffer: &[u8]) -> io::Result<()>;
    /// Makes all finished writes durable, as far as the cache mode asks for it.
    ///
    /// # Errors
    /// The system's or the format's.
    fn flush(&self) -> io::Result<()>;
    /// The content is of no interest any more; a hint.
    ///
    /// # Errors
    /// The system's or the format's.
    fn discard(&self, offset: u64, length: u64) -> io::Result<()>;
    /// The range reads as zeroes afterwards; `unmap` allows to free its space.
    ///
    /// # Errors
    /// The system's or the format's.
    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()>;
}

/// A raw file or block device.
#[derive(Debug)]
pub struct RawFile {
    file: File,
    size: u64,
    durable: bool,
}

impl RawFile {
    /// Opens `path`. A last partial sector is not part of the disk.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path, read_only: bool, durable: bool) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(!read_only).open(path)?;
        // Seeking gives the size of block devices too.
        let size = io::Seek::seek(&mut file, io::SeekFrom::End(0))? & !511;
        Ok(Self { file, size, durable })
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        static ZEROES: [u8; 64 << 10] = [0; 64 << 10];
        let (mut offset, mut left) = (offset, length);
        while left > 0 {
            let piece = usize::try_from(left).map_or(ZEROES.len(), |left| left.min(ZEROES.len()));
            self.file.write_all_at(&ZEROES[..piece], offset)?;
            let piece = u64::try_from(piece).expect("64 KiB at most");
            (offset, left) = (offset + piece, left - piece);
        }
        Ok(())
    }
}

impl BlockBackend for RawFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write(&self, offset: u64, buffer: &[u8]) -> io::Result<()> {
        self.file.write_all_at(buffer, offset)
    }

    fn flush(&self) -> io::Result<()> {
        if self.durable { self.file.sync_data() } else { Ok(()) }
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, flags, offset, length) {
            // A hint: where the file system cannot, nothing is lost.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            other => Ok(other?),
        }
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        let flags = if unmap {
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE
        } else {
            FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE
        };
        match fallocate(&self.file, flags, offset, length) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => self.zero(offset, length),
            Err(error) => Err(error.into()),
        }
    }
}

/// A qcow2 image, opened with its backing chain. Only the image itself is written.
pub struct Qcow2File {
    // Reads and writes share it; discards may invalidate mappings and need it alone.
    image: RwLock<FormatAccess<imago::file::File>>,
    size: u64,
    durable: bool,
}

impl std::fmt::Debug for Qcow2File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Qcow2File")
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// Lets an image open only files that the caller named.
#[derive(Debug, Clone)]
struct AllowList(Vec<PathBuf>);

impl AllowList {
    fn check(&self, path: Option<&Path>) -> io::Result<()> {
        let path = path.ok_or_else(|| io::Error::other("an image refers to something that is not a file"))?;
        let resolved = path.canonicalize()?;
        if self.0.contains(&resolved) {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "the image refers to {}, which was not named as one of its backing files",
                path.display()
            ),
        ))
    }
}

impl<S: Storage + 'static> ImplicitOpenGate<S> for AllowList {
    fn open_format<F: FormatDriverBuilder<S>>(&mut self, builder: F) -> io::Result<FormatAccess<S>> {
        self.check(builder.get_image_path().as_deref())?;
        Ok(FormatAccess::new(builder.open(self.clone())?))
    }

    fn open_storage(&mut self, builder: StorageOpenOptions) -> io::Result<S> {
        self.check(builder.get_filename())?;
        S::open(builder)
    }
}

impl Qcow2File {
    /// Opens `path`; its header may refer to the files of `backing` and to no others.
    ///
    /// # Errors
    /// The system's or the format's.
    pub fn open(path: &Path, backing: &[PathBuf], read_only: bool, durable: bool) -> io::Result<Self> {
        let mut allowed = vec![path.canonicalize()?];
        for file in backing {
            allowed.push(file.canonicalize()?);
        }
        let image = Qcow2::<imago::file::File>::builder_path(path)
            .write(!read_only)
            .open(AllowList(allowed))?;
        let image = FormatAccess::new(image);
        let size = image.size() & !511;
        Ok(Self {
            image: RwLock::new(image),
            size,
            durable,
        })
    }

    fn shared(&self) -> std::sync::RwLockReadGuard<'_, FormatAccess<imago::file::File>> {
        self.image.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlockBackend for Qcow2File {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.shared().read(buffer, offset)
    }

    fn write(&self, offset: u64, buffer: &[u8]) -> io::Result<()> {
        self.shared().write(buffer, offset)
    }

    fn flush(&self) -> io::Result<()> {
        let image = self.shared();
        image.flush()?;
        if self.durable {
            image.sync()?;
        }
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        let mut image = self.image.write().unwrap_or_else(PoisonError::into_inner);
        match image.discard_to_any(offset, length) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            other => other,
        }
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        if unmap {
            let mut image = self.image.write().unwrap_or_else(PoisonError::into_inner);
            image.discard_to_zero(offset, length)
        } else {
            self.shared().write_zeroes(offset, length)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn an_image_opens_the_backing_file_that_was_named_and_no_other() {
        let folder = tempfile::tempdir().expect("folder");
        let (secret, image) = (folder.path().join("secret"), folder.path().join("image.qcow2"));
        std::fs::write(&secret, [7; 4096]).expect("write");
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .args([&secret, &image])
            .output();
        if !made.is_ok_and(|made| made.status.success()) {
            println!("SKIP: qemu-img is not installed");
            return;
        }
        let error = Qcow2File::open(&image, &[], true, false).expect_err("not named");
        assert!(error.to_string().contains("not named"), "{error}");
        let disk = Qcow2File::open(&image, std::slice::from_ref(&secret), true, false).expect("named");
        let mut bytes = [0; 512];
        disk.read(0, &mut bytes).expect("readable");
        assert_eq!(bytes, [7; 512]);
    }

    #[test]
    fn zeroes_are_written_where_holes_cannot_be_made_and_a_last_partial_sector_is_no_part_of_the_disk() {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), vec![0xaa; (128 << 10) + 100]).expect("write");
        let disk = RawFile::open(file.path(), false, false).expect("opens");
        assert_eq!(disk.size(), 128 << 10);
        // The way of file systems without holes, and both of the others.
        disk.zero(512, 70 << 10).expect("written");
        disk.write_zeroes(100 << 10, 512, true).expect("a hole or zeroes");
        disk.write_zeroes(110 << 10, 512, false).expect("a range or zeroes");
        let bytes = std::fs::read(file.path()).expect("readable");
        let zero = |at: usize| bytes[at] == 0;
        assert!(!zero(511) && zero(512) && zero((70 << 10) + 511) && !zero((70 << 10) + 512));
        assert!(zero(100 << 10) && zero(110 << 10) && !zero((110 << 10) + 512));
        assert_eq!(bytes.len(), (128 << 10) + 100, "the file keeps its length");
    }
}
