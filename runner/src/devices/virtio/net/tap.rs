//! A tap device of the host (Linux `Documentation/networking/tuntap.rst`).
#![expect(unsafe_code, reason = "TUNSETIFF has no safe wrapper")]

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
};

use vmm_sys_util::ioctl::ioctl_with_ref;

/// `TUNSETIFF` of `linux/if_tun.h`.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;

/// An open tap device; whole Ethernet frames are read and written.
#[derive(Debug)]
pub struct Tap {
    pub(super) file: File,
}

/// The part of `struct ifreq` that TUNSETIFF reads, padded to its full size.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: u16,
    padding: [u8; 22],
}

impl Tap {
    /// Attaches to `name`, making it where it does not exist.
    ///
    /// # Errors
    /// A name of 16 bytes or more, or the system's (EPERM without CAP_NET_ADMIN, EBUSY where it is in use).
    pub fn open(name: &str) -> io::Result<Self> {
        let mut request = InterfaceRequest {
            name: [0; libc::IFNAMSIZ],
            flags: u16::try_from(libc::IFF_TAP | libc::IFF_NO_PI).expect("16-bit flags"),
            padding: [0; 22],
        };
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains('\0') {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "interface names have 1 to 15 bytes",
            ));
        }
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")?;
        // SAFETY: TUNSETIFF reads a `struct ifreq`; ours has its size (40 bytes) and layout, and lives over the call.
        if unsafe { ioctl_with_ref(&file, TUNSETIFF, &request) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { file })
    }
}
