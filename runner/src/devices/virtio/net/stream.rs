//! A stream socket with a 4-byte big-endian length before each frame: what `passt` and QEMU's `-netdev stream` speak.
//!
//! The other side is an unprivileged process of the same user; still, a length that no frame has ends the connection.

use std::{
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, RawFd},
        unix::net::UnixStream,
    },
    sync::{Mutex, PoisonError},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{FRAME, NetBackend};

/// Bytes of the length before a frame.
const LENGTH: usize = 4;
/// How long the rest of a frame may take that is partly sent. Half a frame on the wire would garble all that follow.
const PATIENCE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// The socket and the frame that is arriving.
#[derive(Debug)]
pub struct Stream {
    socket: UnixStream,
    arriving: Mutex<Vec<u8>>,
    sending: Mutex<()>,
}

impl Stream {
    /// Speaks through `socket`.
    ///
    /// # Errors
    /// The system's.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            arriving: Mutex::default(),
            sending: Mutex::default(),
        })
    }

    /// Reads until `arriving` has `wanted` bytes.
    fn fill(&self, arriving: &mut Vec<u8>, wanted: usize) -> io::Result<()> {
        while arriving.len() < wanted {
            let have = arriving.len();
            arriving.resize(wanted, 0);
            let result = (&self.socket).read(&mut arriving[have..]);
            arriving.truncate(have + *result.as_ref().unwrap_or(&0));
            match result {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn broken(&self, error: io::Error) -> io::Error {
        // The next receive sees the end and the card stops to ask.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        error
    }
}

impl NetBackend for Stream {
    fn receive(&self, frame: &mut [u8]) -> io::Result<usize> {
        let mut arriving = self.arriving.lock().unwrap_or_else(PoisonError::into_inner);
        self.fill(&mut arriving, LENGTH)?;
        let head: [u8; LENGTH] = arriving[..LENGTH].try_into().expect("four bytes");
        let length = usize::try_from(u32::from_be_bytes(head)).unwrap_or(usize::MAX);
        if length == 0 || length > frame.len() {
            return Err(self.broken(io::ErrorKind::UnexpectedEof.into()));
        }
        self.fill(&mut arriving, LENGTH + length)?;
        frame[..length].copy_from_slice(&arriving[LENGTH..]);
        arriving.clear();
        Ok(length)
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        debug_assert!(frame.len() <= FRAME, "the card cuts frames");
        let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
        let bytes = [&length.to_be_bytes(), frame].concat();
        let _one_at_a_time = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sent = 0;
        while sent < bytes.len() {
            match (&self.socket).write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nothing sent yet: the frame is lost, as on a full wire.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && sent == 0 => return Err(error),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut writable = [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::OUT)];
                    if poll(&mut writable, Some(&PATIENCE)).unwrap_or(0) == 0 {
                        return Err(self.broken(error));
                    }
                }
                Err(error) => return Err(self.broken(error)),
            }
        }
        Ok(())
    }

    fn descriptor(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UnixStream, Stream) {
        let (theirs, ours) = UnixStream::pair().expect("socketpair");
        (theirs, Stream::new(ours).expect("nonblocking"))
    }

    #[test]
    fn frames_that_arrive_in_pieces_are_put_together() {
        let (mut theirs, stream) = pair();
        let mut frame = [0; FRAME];
        let sent = [0, 0, 0, 5, b'h', b'e', b'l', b'l', b'o', 0, 0, 0, 1, b'x'];
        for byte in &sent[..8] {
            let waiting = stream.receive(&mut frame).expect_err("not whole yet");
            assert_eq!(waiting.kind(), io::ErrorKind::WouldBlock);
            theirs.write_all(&[*byte]).expect("write");
        }
        theirs.write_all(&sent[8..]).expect("write");
        assert_eq!(stream.receive(&mut frame).expect("whole"), 5);
        assert_eq!(&frame[..5], b"hello");
        assert_eq!(stream.receive(&mut frame).expect("whole"), 1);
    }

    #[test]
    fn sent_frames_carry_their_length_and_an_impossible_length_ends_the_connection() {
        let (mut theirs, stream) = pair();
        stream.send(b"abc").expect("room");
        let mut bytes = [0; 7];
        theirs.read_exact(&mut bytes).expect("arrives");
        assert_eq!(&bytes, b"\0\0\0\x03abc");
        theirs.write_all(&[0xff; 4]).expect("write");
        let mut frame = [0; FRAME];
        assert_eq!(
            stream.receive(&mut frame).expect_err("too long").kind(),
            io::ErrorKind::UnexpectedEof
        );
        assert!(stream.send(b"abc").is_err(), "closed");
    }

    #[test]
    fn a_full_socket_loses_whole_frames_only() {
        let (mut theirs, stream) = pair();
        let frame = [7; 9000];
        let mut sent: usize = 0;
        while sent < 10_000 && stream.send(&frame).is_ok() {
            sent += 1;
        }
        drop(stream);
        let mut all = Vec::new();
        theirs.read_to_end(&mut all).expect("read");
        assert_eq!(all.len() % (frame.len() + LENGTH), 0);
    }

    #[test]
    fn passt_answers_an_arp_request() {
        use std::time::{Duration, Instant};
        let folder = tempfile::tempdir().expect("folder");
        let (_passt, socket) = match crate::engine::Passt::start(folder.path(), 0) {
            Ok(started) => started,
            Err(error) => {
                println!("SKIP: {error}");
                return;
            }
        };
        let end = Instant::now() + Duration::from_secs(20);
        let stream = Stream::new(socket).expect("nonblocking");
        let mac = [0x52, 0x54, 0, 0, 0, 1];
        // Ethernet, IPv4, request: who has 10.9.8.7?
        let arp = [0, 1, 8, 0, 6, 4, 0, 1];
        let request = [
            [0xff; 6].as_slice(),
            &mac,
            &[8, 6],
            &arp,
            &mac,
            &[0; 10],
            &[10, 9, 8, 7],
        ]
        .concat();
        stream.send(&request).expect("room");
        let mut frame = [0; FRAME];
        let length = loop {
            match stream.receive(&mut frame) {
                Ok(length) => break length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) => panic!("no answer: {error}"),
            }
        };
        assert_eq!(frame[..6], mac, "to us");
        assert_eq!(frame[20..22], [0, 2], "an answer");
        assert_eq!(frame[28..32], [10, 9, 8, 7]);
        assert!(length >= 42);
    }
}
