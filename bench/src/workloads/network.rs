//! TCP stream and request/response against another agent that serves.
//!
//! Protocol: the client sends one byte, `S` (it sends a stream, the server answers each 1 MiB with one byte) or `R` (every byte
//! comes back). No authentication: the server reads and discards; run it only while measuring.

use super::{Built, Context, Definition, Planned};
use crate::harness::{Clock, Halt, Kernel, Scale};
use reports::schema::Better;
use std::io::{ErrorKind, Read as _, Result, Write as _};
use std::net::{TcpListener, TcpStream, ToSocketAddrs as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const CHUNK: usize = 1 << 20;

/// No answer for this long ends a measurement.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn plan<'a>(_context: &Context<'a>) -> Vec<Planned<'a>> {
    vec![stream(), request_response()]
}

fn connect(context: &Context<'_>, mode: u8) -> std::result::Result<TcpStream, Halt> {
    let peer = context.peer.as_deref();
    let peer = peer.ok_or_else(|| {
        Halt::Skip("needs an agent on the other side: bench --serve PORT there, --peer HOST:PORT here".to_owned())
    })?;
    let opened = || -> Result<TcpStream> {
        let address = peer.to_socket_addrs()?.next().ok_or(ErrorKind::AddrNotAvailable)?;
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&[mode])?;
        Ok(stream)
    };
    opened().map_err(|error| Halt::failed(&format!("cannot reach the agent at {peer}"), error))
}

fn stream<'a>() -> Planned<'a> {
    let definition = Definition {
        id: "net.stream".to_owned(),
        name: "TCP stream".to_owned(),
        unit: "MB/s",
        better: Better::Higher,
        measures: "bandwidth of one TCP connection from here to the other agent",
        pitfalls: "one connection uses one queue of a virtual NIC; offloads of host and guest decide",
        reference: "iperf3 -c",
    };
    let build = |context: &Context<'a>| {
        let mut stream = connect(context, b'S')?;
        let cancel = context.cancel;
        let data = vec![0x5a_u8; CHUNK];
        let kernel: Kernel<'a> = Box::new(move |iterations, _| {
            let failed = |error| Halt::failed("the connection broke", error);
            // At most 4 chunks without an answer: their data is in flight, not in a buffer that hides the network.
            const WINDOW: u64 = 4;
            let start = Clock::now();
            let mut answer = [0];
            for sent in 0..iterations {
                if cancel.load(Ordering::Relaxed) {
                    return Err(Halt::Cancelled);
                }
                stream.write_all(&data).map_err(failed)?;
                if sent >= WINDOW {
                    stream.read_exact(&mut answer).map_err(failed)?;
                }
            }
            for _ in 0..iterations.min(WINDOW) {
                stream.read_exact(&mut answer).map_err(failed)?;
            }
            Ok(start.elapsed())
        });
        let method = "one TCP connection, 1 MiB writes, each acknowledged by the other agent, 4 in flight".to_owned();
        Ok(Built {
            kernel,
            scale: Scale::Rate(CHUNK as f64 / 1e6),
            method,
        })
    };
    Planned {
        definition,
        weight: 1.5,
        build: Box::new(build),
    }
}

fn request_response<'a>() -> Planned<'a> {
    let definition = Definition {
        id: "net.rr".to_owned(),
        name: "TCP request and response, 1 byte".to_owned(),
        unit: "us",
        better: Better::Lower,
        measures: "round trip of one byte over TCP with TCP_NODELAY",
        pitfalls: "closed loop; interrupt moderation and idle states on both sides dominate",
        reference: "netperf -t TCP_RR",
    };
    let build = |context: &Context<'a>| {
        let mut stream = connect(context, b'R')?;
        let cancel = context.cancel;
        let kernel: Kernel<'a> = Box::new(move |iterations, recorder| {
            let failed = |error| Halt::failed("the connection broke", error);
            let start = Clock::now();
            let mut byte = [7];
            for _ in 0..iterations {
                if cancel.load(Ordering::Relaxed) {
                    return Err(Halt::Cancelled);
                }
                let began = Clock::now();
                stream.write_all(&byte).map_err(failed)?;
                stream.read_exact(&mut byte).map_err(failed)?;
                recorder.record(began.elapsed());
            }
            Ok(start.elapsed())
        });
        let method = "1 byte there and back on one TCP connection with TCP_NODELAY, closed loop".to_owned();
        Ok(Built {
            kernel,
            scale: Scale::MedianLatency(1e-3),
            method,
        })
    };
    Planned {
        definition,
        weight: 1.5,
        build: Box::new(build),
    }
}

/// Serves clients on all addresses of this machine, several at a time, until `cancel` is set. Port 0 is refused by no one:
/// the kernel then picks a port that nobody knows, so give one.
///
/// # Errors
/// Where the port cannot be had.
pub fn serve(port: u16, cancel: &AtomicBool) -> Result<()> {
    serve_on(&TcpListener::bind(("0.0.0.0", port))?, cancel)
}

fn serve_on(listener: &TcpListener, cancel: &AtomicBool) -> Result<()> {
    listener.set_nonblocking(true)?;
    std::thread::scope(|scope| {
        while !cancel.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((stream, _)) => {
                    // A client that breaks off ends only its own thread.
                    scope.spawn(move || answer(stream, cancel));
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    })
}

fn answer(mut stream: TcpStream, cancel: &AtomicBool) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut buffer = vec![0; CHUNK];
    let mut mode = None;
    let mut received = 0_usize;
    while !cancel.load(Ordering::Relaxed) {
        let want = if mode.is_some() { CHUNK } else { 1 };
        let got = match stream.read(&mut buffer[..want]) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                continue;
            }
            Err(error) => return Err(error),
        };
        match mode {
            None => mode = Some(buffer[0]),
            Some(b'R') => stream.write_all(&buffer[..got])?,
            Some(b'S') => {
                received += got;
                while received >= CHUNK {
                    received -= CHUNK;
                    stream.write_all(&[1])?;
                }
            }
            Some(_) => break,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::serve_on;
    use crate::{SuiteOptions, run_suite};
    use reports::schema::Suite;
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn two_agents_measure_bandwidth_and_round_trip() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| serve_on(&listener, &stop));
            let mut options = SuiteOptions::new(Suite::Quick, std::env::temp_dir());
            options.only = Some(vec!["net.*".to_owned()]);
            options.budget_seconds = Some(1.0);
            options.peer = Some(address.to_string());
            let record = run_suite(&options, &|_, _, _| (), &AtomicBool::new(false));
            stop.store(true, Ordering::Relaxed);
            let record = record.expect("it runs");
            assert_eq!(record.metrics.len(), 2, "{:?}", record.skipped);
            assert!(record.metrics.iter().all(|metric| metric.summary.median > 0.0));
            assert!(!record.metrics[1].percentiles.is_empty());
        });
    }
}
