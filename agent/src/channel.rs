//! The line to the host: a virtio-serial port, else the second UART in raw mode.

use esxodus_agent::protocol::{PORT_NAME, UART_LINE};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Opens the line. The virtio port is waited for, since its driver may load late; then the UART is taken, or at once where the
/// kernel's command line says so.
pub(crate) fn open(patience: Duration) -> io::Result<File> {
    if fs::read_to_string("/proc/cmdline").is_ok_and(|line| line.split_whitespace().any(|word| word == UART_LINE)) {
        return uart(Path::new("/dev/ttyS1"));
    }
    let until = Instant::now() + patience;
    loop {
        if let Some(file) = virtio_port().and_then(|path| OpenOptions::new().read(true).write(true).open(path).ok()) {
            return Ok(file);
        }
        if Instant::now() >= until {
            return uart(Path::new("/dev/ttyS1"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn virtio_port() -> Option<PathBuf> {
    let entries = fs::read_dir("/sys/class/virtio-ports").ok()?;
    entries.flatten().find_map(|entry| {
        let name = fs::read_to_string(entry.path().join("name")).ok()?;
        (name.trim() == PORT_NAME).then(|| Path::new("/dev").join(entry.file_name()))
    })
}

fn uart(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut settings = tcgetattr(&file)?;
    settings.make_raw();
    settings.set_speed(115_200)?;
    tcsetattr(&file, OptionalActions::Now, &settings)?;
    Ok(file)
}
