//! Connects a UART with the host: a unix socket that one client at a time uses, or a plain input such as the terminal.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::{UnixListener, UnixStream},
    },
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use vmm_sys_util::{
    epoll::{ControlOperation, Epoll, EpollEvent, EventSet},
    eventfd::EventFd,
};

use super::Uart;

/// The host side of a UART.
#[derive(Debug)]
pub enum Peer {
    /// Clients connect here, one at a time.
    Listener(UnixListener),
    /// One connected client.
    Stream(UnixStream),
}

/// How long a client may refuse to read before it is dropped.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// Output that is kept for a client that has not connected yet, in bytes.
const BACKLOG: usize = 64 << 10;

#[derive(Debug, Default)]
struct Client {
    stream: Option<UnixStream>,
    backlog: Vec<u8>,
}

impl Client {
    fn attach(&mut self, mut stream: UnixStream) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        stream.write_all(&self.backlog)?;
        self.backlog.clear();
        self.stream = Some(stream);
        Ok(())
    }
}

/// The writer behind the UART: to the client, or into a bounded backlog until one connects.
#[derive(Debug, Clone, Default)]
pub struct ChannelOutput(Arc<Mutex<Client>>);

impl ChannelOutput {
    /// The writer to a connected client.
    ///
    /// # Errors
    /// The system's, where the socket takes no time limit.
    pub fn attached(stream: UnixStream) -> io::Result<Self> {
        let output = Self::default();
        output.lock().attach(stream)?;
        Ok(output)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Client> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for ChannelOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut client = self.lock();
        let delivered = match &mut client.stream {
            Some(stream) => stream.write_all(bytes).is_ok(),
            None => {
                let room = BACKLOG.saturating_sub(client.backlog.len());
                client.backlog.extend(bytes.iter().take(room));
                true
            }
        };
        if !delivered {
            client.stream = None;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What carries host bytes to the guest, before its thread runs: a sandbox that binds threads one by one has to be closed first.
pub struct Prepared {
    name: String,
    run: Box<dyn FnOnce(&EventFd) + Send>,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The thread that carries host bytes to the guest.
#[derive(Debug)]
pub struct Input {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Prepared {
    fn new(name: &str, run: impl FnOnce(&EventFd) + Send + 'static) -> Self {
        Self {
            name: name.to_owned(),
            run: Box::new(run),
        }
    }

    /// Serves `peer`: host bytes go to `uart`, guest bytes through `output`.
    pub fn serve(name: &str, peer: Peer, uart: Uart, output: ChannelOutput) -> Self {
        Self::new(name, move |stop| match peer {
            Peer::Stream(stream) => {
                if let Ok(clone) = stream.try_clone()
                    && output.lock().attach(clone).is_ok()
                {
                    let _ = pump(stop, &stream, &stream, &uart);
                }
            }
            Peer::Listener(listener) => {
                while readable(stop, &[listener.as_raw_fd()]).is_ok_and(|ready| ready == Wake::Ready) {
                    let Ok((stream, _)) = listener.accept() else {
                        continue;
                    };
                    if let Ok(clone) = stream.try_clone()
                        && output.lock().attach(clone).is_ok()
                    {
                        let ended = pump(stop, &stream, &stream, &uart);
                        output.lock().stream = None;
                        if matches!(ended, Ok(Wake::Stop)) {
                            return;
                        }
                    }
                }
            }
        })
    }

    /// Carries `input` (a terminal, a pipe) to `uart` until it ends.
    pub fn from_reader<R: Read + AsRawFd + Send + 'static>(name: &str, input: R, uart: Uart) -> Self {
        Self::new(name, move |stop| {
            let fd = input.as_raw_fd();
            let _ = pump_from(stop, fd, input, &uart);
        })
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// Where eventfd or thread cannot be made.
    pub fn start(self) -> io::Result<Input> {
        let stop = Arc::new(EventFd::new(libc::EFD_NONBLOCK)?);
        let theirs = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name(self.name)
            .spawn(move || (self.run)(&theirs))?;
        Ok(Input {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Wake {
    Ready,
    Stop,
}

/// Waits until one of `fds` is readable or `stop` is set.
fn readable(stop: &EventFd, fds: &[RawFd]) -> io::Result<Wake> {
    let epoll = Epoll::new()?;
    let add = |fd: RawFd, token| {
        epoll.ctl(
            ControlOperation::Add,
            fd,
            EpollEvent::new(EventSet::IN | EventSet::READ_HANG_UP, token),
        )
    };
    add(stop.as_raw_fd(), 0)?;
    for &fd in fds {
        add(fd, 1)?;
    }
    let mut events = [EpollEvent::default(); 4];
    loop {
        match epoll.wait(-1, &mut events) {
            Ok(count) => {
                let stopped = events.iter().take(count).any(|event| event.data() == 0);
                return Ok(if stopped { Wake::Stop } else { Wake::Ready });
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn pump(stop: &EventFd, fd: &UnixStream, input: &UnixStream, uart: &Uart) -> io::Result<Wake> {
    pump_from(stop, fd.as_raw_fd(), input, uart)
}

/// Copies until the input ends (`Ready`) or `stop` is set (`Stop`).
fn pump_from(stop: &EventFd, fd: RawFd, mut input: impl Read, uart: &Uart) -> io::Result<Wake> {
    let mut buffer = [0; 64];
    loop {
        if readable(stop, &[fd])? == Wake::Stop {
            return Ok(Wake::Stop);
        }
        let count = input.read(&mut buffer)?;
        if count == 0 {
            return Ok(Wake::Ready);
        }
        let mut pending = &buffer[..count];
        loop {
            let taken = uart.send(pending);
            pending = &pending[taken..];
            if pending.is_empty() {
                break;
            }
            // Refused in loopback mode too, where no "drained" comes: look again after a while.
            match wait_drained(stop, uart)? {
                Wake::Stop => return Ok(Wake::Stop),
                Wake::Ready => {}
            }
        }
    }
}

fn wait_drained(stop: &EventFd, uart: &Uart) -> io::Result<Wake> {
    const RETRY_MS: i32 = 20;
    let epoll = Epoll::new()?;
    for (token, fd) in [(0, stop.as_raw_fd()), (1, uart.drained().as_raw_fd())] {
        epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, token))?;
    }
    let mut events = [EpollEvent::default(); 2];
    let count = match epoll.wait(RETRY_MS, &mut events) {
        Ok(count) => count,
        Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
        Err(error) => return Err(error),
    };
    let _ = uart.drained().read();
    let stopped = events.iter().take(count).any(|event| event.data() == 0);
    Ok(if stopped { Wake::Stop } else { Wake::Ready })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::BusDevice as _;

    #[test]
    fn a_client_gets_the_backlog_and_its_bytes_reach_the_guest() {
        let (host, vmm) = UnixStream::pair().expect("socketpair");
        let output = ChannelOutput::default();
        let line = EventFd::new(libc::EFD_NONBLOCK).expect("eventfd");
        let mut uart = Uart::new(line, Box::new(output.clone())).expect("uart");
        for byte in b"early" {
            uart.write(0, &[*byte]);
        }
        let input = Prepared::serve("t", Peer::Stream(vmm), uart.clone(), output);
        let input = input.start().expect("thread");
        let mut host = host;
        host.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
        let mut text = [0; 5];
        host.read_exact(&mut text).expect("backlog arrives");
        assert_eq!(&text, b"early");
        let sent: Vec<u8> = (0..200).collect();
        host.write_all(&sent).expect("send");
        let mut got = Vec::new();
        while got.len() < sent.len() {
            let mut status = [0];
            uart.read(5, &mut status);
            if status[0] & 1 == 1 {
                let mut byte = [0];
                uart.read(0, &mut byte);
                got.push(byte[0]);
            } else {
                thread::yield_now();
            }
        }
        assert_eq!(got, sent);
        drop(input);
    }

    #[test]
    fn a_client_that_does_not_read_is_dropped_and_the_guest_goes_on() {
        let (host, vmm) = UnixStream::pair().expect("socketpair");
        let mut output = ChannelOutput::attached(vmm).expect("attached");
        let piece = vec![b'x'; 64 << 10];
        // More than a socket holds.
        for _ in 0..64 {
            output.write_all(&piece).expect("never fails");
        }
        assert!(output.lock().stream.is_none());
        drop(host);
    }
}
