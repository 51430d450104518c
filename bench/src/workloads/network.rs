//! TCP stream and request/response against another agent that serves.
//!
//! Protocol: the client sends one byte, `S` (it sends a stream, the server answers each 1 MiB with one byte), `D` (the server
//! sends 1 MiB for each further byte) or `R` (every byte comes back). No authentication: the server reads and discards, and
//! sends no data of its machine; run it only while measuring.

use super::{Built, Context, Definition, Planned};
use crate::harness::{Clock, Halt, Kernel, Scale};
use reports::schema::Better;
use std::io::{ErrorKind, Read as _, Result, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const CHUNK: usize = 1 << 20;

/// No answer for this long ends a measurement.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn plan<'a>(_context: &Context<'a>) -> Vec<Planned<'a>> {
    vec![stream(Way::There), stream(Way::Back), request_response()]
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

/// Which way a stream's data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    There,
    Back,
}

/// Chunks asked for or not yet acknowledged: enough to keep a link busy, too few to hide it behind buffers.
const WINDOW: u64 = 4;

fn stream<'a>(way: Way) -> Planned<'a> {
    let (id, name, measures, reference) = match way {
        Way::There => (
            "net.stream",
            "TCP stream, sending",
            "bandwidth of one TCP connection from here to the other agent",
            "iperf3 -c",
        ),
        Way::Back => (
            "net.stream.back",
            "TCP stream, receiving",
            "bandwidth of one TCP connection from the other agent to here",
            "iperf3 -c -R",
        ),
    };
    let definition = Definition {
        id: id.to_owned(),
        name: name.to_owned(),
        unit: "MB/s",
        better: Better::Higher,
        measures,
        pitfalls: "one connection uses one queue of a virtual NIC; offloads of host and guest decide; payload is counted, so \
                   that a full link shows 5 % less than its rate",
        reference,
    };
    let build = move |context: &Context<'a>| {
        let stream = connect(context, if way == Way::There { b'S' } else { b'D' })?;
        let cancel = context.cancel;
        let mut data = vec![0x5a_u8; CHUNK];
        let kernel: Kernel<'a> = Box::new(move |iterations, _| {
            let moved = match way {
                Way::There => send(&stream, &data, iterations, cancel),
                Way::Back => fetch(&stream, &mut data, iterations, cancel),
            };
            if cancel.load(Ordering::Relaxed) {
                return Err(Halt::Cancelled);
            }
            moved.map_err(|error| Halt::failed("the connection broke", error))
        });
        let method = match way {
            Way::There => "one TCP connection, 1 MiB writes, each acknowledged by the other agent, 4 in flight",
            Way::Back => "one TCP connection, 1 MiB asked for by a byte each, 4 in flight",
        };
        Ok(Built {
            kernel,
            scale: Scale::Rate(CHUNK as f64 / 1e6),
            method: method.to_owned(),
        })
    };
    Planned {
        definition,
        weight: 1.5,
        build: Box::new(build),
    }
}

/// Sends `chunks`; at most [`WINDOW`] of them without an answer: their data is in flight, not in a buffer that hides the
/// network. Ends early where `cancel` is set.
fn send(mut stream: &TcpStream, data: &[u8], chunks: u64, cancel: &AtomicBool) -> Result<Duration> {
    let start = Clock::now();
    let mut answer = [0];
    for sent in 0..chunks {
        if cancel.load(Ordering::Relaxed) {
            return Ok(start.elapsed());
        }
        stream.write_all(data)?;
        if sent >= WINDOW {
            stream.read_exact(&mut answer)?;
        }
    }
    for _ in 0..chunks.min(WINDOW) {
        stream.read_exact(&mut answer)?;
    }
    Ok(start.elapsed())
}

/// Asks for `chunks`, at most [`WINDOW`] ahead, and reads them.
fn fetch(mut stream: &TcpStream, buffer: &mut [u8], chunks: u64, cancel: &AtomicBool) -> Result<Duration> {
    let start = Clock::now();
    for _ in 0..chunks.min(WINDOW) {
        stream.write_all(&[1])?;
    }
    for got in 0..chunks {
        if cancel.load(Ordering::Relaxed) {
            return Ok(start.elapsed());
        }
        stream.read_exact(buffer)?;
        if got + WINDOW < chunks {
            stream.write_all(&[1])?;
        }
    }
    Ok(start.elapsed())
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

/// Serves clients on all addresses of this machine, IPv6 too where there is any, several at a time, until `cancel` is set.
/// Port 0 is refused by no one: the kernel then picks a port that nobody knows, so give one.
///
/// # Errors
/// Where the port cannot be had.
pub fn serve(port: u16, cancel: &AtomicBool) -> Result<()> {
    // A socket on `::` takes IPv4 as well, unless net.ipv6.bindv6only is set; without IPv6 in the kernel there is none.
    let both = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port));
    serve_on(
        &both.or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))?,
        cancel,
    )
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
    let (mut buffer, chunk) = (vec![0; CHUNK], vec![0x5a; CHUNK]);
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
            Some(b'D') => {
                for _ in 0..got {
                    stream.write_all(&chunk)?;
                }
            }
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
    fn two_agents_measure_bandwidth_in_both_directions_and_the_round_trip() {
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
            let ids: Vec<&str> = record.metrics.iter().map(|metric| metric.id.as_str()).collect();
            assert_eq!(ids, ["net.stream", "net.stream.back", "net.rr"], "{:?}", record.skipped);
            assert!(record.metrics.iter().all(|metric| metric.summary.median > 0.0));
            assert!(!record.metrics[2].percentiles.is_empty());
        });
    }
}
