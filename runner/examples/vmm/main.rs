//! Runs one Linux guest on the own VMM; used by the nested lab and for trying things out.
//!
//! The last line on standard output is `VMM-EXIT {json}`: why the guest ended and when it reached its boot stages.
//! Exit code 0 = the guest powered off, 3 = it ended otherwise, 2 = it could not be started.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    process::ExitCode,
    str::FromStr,
    thread,
    time::Duration,
};

use esxodus_runner::{
    arch::Topology,
    boot::LinuxBoot,
    kvm::{
        AgentChannel, DiskConfig, ExitReason, NetConfig, SerialInput, SerialOutput, Transport, Uplink, Vmm, VmmConfig,
        config::{CacheMode, DiskFormat},
        engine::{MONITOR, serve},
    },
};

mod by_engine;
mod measure;

type Failure = Box<dyn std::error::Error>;

const USAGE: &str = "vmm --kernel FILE [--initrd FILE] [--cmdline TEXT] [--memory MIB] [--cpus N | --topology S,C,T]
    [--disk raw:FILE | qcow2:FILE[,backing=FILE]…[,ro][,unsafe][,queues=N][,serial=S]]… [--tap NAME[,MAC]]… [--stream SOCKET]…
    [--agent SOCKET] [--console FILE|stdin|none] [--marker TEXT] [--deadline SECONDS] [--no-rng] [--no-sandbox]
    [--power-button-after SECONDS] [--agent-echo] [--pci] [--hugepages] [--by-engine [--user-net]]
    [--until-marker]

--by-engine runs the same guest as the engine does, in a process of its own: console and agent over sockets.";

struct Options {
    config: VmmConfig,
    sandbox: bool,
    power_button: Option<Duration>,
    echo: Option<UnixStream>,
    by_engine: bool,
    /// A card with the host's network behind it; with `by_engine`.
    user_net: bool,
    until_marker: bool,
}

fn parse() -> Result<Options, Failure> {
    let mut config = VmmConfig::new(LinuxBoot {
        kernel: PathBuf::new(),
        initrd: None,
        cmdline: "console=ttyS0".into(),
    });
    let mut sandbox = true;
    let mut power_button = None;
    let mut echo = None;
    let (mut by_engine, mut user_net, mut until_marker) = (false, false, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{name} needs a value"));
        match name.as_str() {
            "--kernel" => config.boot.kernel = value()?.into(),
            "--initrd" => config.boot.initrd = Some(value()?.into()),
            "--cmdline" => config.boot.cmdline = value()?,
            "--memory" => config.memory_bytes = number::<u64>(&value()?)? << 20,
            "--cpus" => config.topology = Topology::flat(number(&value()?)?),
            "--topology" => config.topology = topology(&value()?)?,
            "--disk" => config.disks.push(disk(&value()?)?),
            "--tap" => {
                let index = config.nets.len();
                config.nets.push(net(&value()?, index)?);
            }
            "--until-marker" => until_marker = true,
            "--by-engine" => by_engine = true,
            "--user-net" => user_net = true,
            "--pci" => config.transport = Transport::Pci,
            "--hugepages" => config.hugepages = true,
            "--stream" => {
                let index = u8::try_from(config.nets.len())?;
                config.nets.push(NetConfig {
                    uplink: Uplink::Stream(UnixStream::connect(value()?)?),
                    mac: [0x52, 0x54, 0, 0, 0, index],
                });
            }
            "--agent" => {
                config.agent = Some(AgentChannel::Listener(UnixListener::bind(value()?)?));
            }
            "--agent-echo" => {
                let (ours, theirs) = UnixStream::pair()?;
                config.agent = Some(AgentChannel::Stream(theirs));
                echo = Some(ours);
            }
            "--console" => match value()?.as_str() {
                "stdin" => config.console_input = SerialInput::Stdin,
                "none" => config.console = SerialOutput::Discard,
                path => config.console = SerialOutput::File(File::create(path)?),
            },
            "--marker" => config.marker = Some(value()?),
            "--deadline" => config.deadline = Some(Duration::from_secs(number(&value()?)?)),
            "--power-button-after" => {
                power_button = Some(Duration::from_secs(number(&value()?)?));
            }
            "--no-rng" => config.rng = false,
            "--no-sandbox" => sandbox = false,
            "--help" => return Err(USAGE.into()),
            _ => return Err(format!("unknown argument {name}\n{USAGE}").into()),
        }
    }
    Ok(Options {
        config,
        sandbox,
        power_button,
        echo,
        by_engine,
        user_net,
        until_marker,
    })
}

fn number<T: FromStr>(text: &str) -> Result<T, Failure> {
    text.parse().map_err(|_| format!("{text:?} is not a number").into())
}

fn topology(text: &str) -> Result<Topology, Failure> {
    let parts = text.split(',').map(number).collect::<Result<Vec<u32>, _>>()?;
    match parts[..] {
        [sockets, cores, threads] => Ok(Topology {
            sockets,
            cores,
            threads,
        }),
        _ => Err("a topology is SOCKETS,CORES,THREADS".into()),
    }
}

fn disk(text: &str) -> Result<DiskConfig, Failure> {
    let (format, rest) = text.split_once(':').ok_or("a disk is FORMAT:FILE")?;
    let format = match format {
        "raw" => DiskFormat::Raw,
        "qcow2" => DiskFormat::Qcow2,
        _ => return Err(format!("disk format {format:?}: raw or qcow2").into()),
    };
    let mut parts = rest.split(',');
    let mut disk = DiskConfig::new(parts.next().unwrap_or_default(), format);
    for part in parts {
        match part.split_once('=') {
            None if part == "ro" => disk.read_only = true,
            None if part == "unsafe" => disk.cache = CacheMode::Unsafe,
            Some(("backing", file)) => disk.backing.push(file.into()),
            Some(("queues", count)) => disk.queues = number(count)?,
            Some(("serial", serial)) => disk.serial = serial.into(),
            _ => return Err(format!("disk option {part:?}").into()),
        }
    }
    Ok(disk)
}

fn net(text: &str, index: usize) -> Result<NetConfig, Failure> {
    let (tap, mac) = text.split_once(',').unwrap_or((text, ""));
    let mut bytes = [0x52, 0x54, 0, 0, 0, u8::try_from(index)?];
    if !mac.is_empty() {
        let parts = mac
            .split(':')
            .map(|part| u8::from_str_radix(part, 16))
            .collect::<Result<Vec<_>, _>>()?;
        bytes = parts.try_into().map_err(|_| "a MAC address has six bytes")?;
    }
    Ok(NetConfig {
        uplink: Uplink::Tap(tap.into()),
        mac: bytes,
    })
}

/// Waits for the guest's READY on ttyS1, sends every byte value and more, and compares what comes back.
fn check_echo(mut channel: UnixStream) -> io::Result<String> {
    channel.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut ready = [0; 6];
    channel.read_exact(&mut ready)?;
    let sent: Vec<u8> = (0..=u8::MAX).chain(0..44).collect();
    channel.write_all(&sent)?;
    let mut got = vec![0; sent.len()];
    channel.read_exact(&mut got)?;
    Ok(if ready == *b"READY\n" && got == sent {
        "same".into()
    } else {
        format!("different: {ready:?} {got:?}")
    })
}

fn run() -> Result<ExitReason, Failure> {
    let options = parse()?;
    if options.by_engine {
        return by_engine::run(options);
    }
    let vmm = Vmm::new(options.config)?;
    let vm = if options.sandbox {
        vmm.start_sandboxed()?
    } else {
        vmm.start()?
    };
    let echo = options.echo.map(|channel| thread::spawn(move || check_echo(channel)));
    if let Some(after) = options.power_button {
        // Counted from the marker: only then the guest listens.
        while vm.stages().marker.is_none() && vm.wait_timeout(Duration::from_millis(50)).is_none() {}
        if vm.wait_timeout(after).is_none() {
            vm.press_power_button();
        }
    }
    if options.until_marker {
        while vm.stages().marker.is_none() && vm.wait_timeout(Duration::from_millis(50)).is_none() {}
        vm.stop();
    }
    let report = vm.wait();
    if let Some(echo) = echo {
        let answer = echo.join().map_err(|_| "the echo check panicked")?;
        println!("\nAGENT-ECHO {}", answer.unwrap_or_else(|error| error.to_string()));
    }
    println!("\nVMM-EXIT {}", serde_json::to_string(&report)?);
    Ok(report.reason)
}

/// A part of the program that runs in place of the machine.
type Helper = fn(&[String]) -> Result<(), Failure>;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(MONITOR) {
        return match serve() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(3),
            Err(error) => {
                eprintln!("{MONITOR}: {error}");
                ExitCode::from(2)
            }
        };
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let helper: Option<Helper> = match arguments.first().map(String::as_str) {
        Some("measure") => Some(measure::program),
        Some("randread") => Some(measure::random_reads),
        _ => None,
    };
    if let Some(helper) = helper {
        return match helper(&arguments[1..]) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("vmm: {error}");
                ExitCode::from(2)
            }
        };
    }
    match run() {
        Ok(ExitReason::PoweredOff) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(3),
        Err(error) => {
            eprintln!("vmm: {error}");
            ExitCode::from(2)
        }
    }
}
