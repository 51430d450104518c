//! Two agents on two ends of a real link: a veth pair into a network namespace, with a token bucket that sets its rate.
//! The oracle is the rate that was set, and iperf3 over the same link.
#![cfg(test)]

use reports::schema::BenchRecord;
use std::process::{Child, Command, Stdio};

/// The link; both ends go with it.
struct Link {
    namespace: String,
    near: String,
    /// Of the far end.
    address: String,
}

fn quietly(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

impl Link {
    /// A pair of interfaces, the near one in this namespace; both shaped to `megabits` a second. `None` without the rights
    /// or tools, and the reason is printed.
    fn shaped(megabits: u32) -> Option<Self> {
        let id = std::process::id();
        let subnet = id % 200;
        let link = Self {
            namespace: format!("esxn{id}"),
            near: format!("esxv{id}"),
            address: format!("198.18.{subnet}.2"),
        };
        let (near_address, far_address) = (format!("198.18.{subnet}.1/24"), format!("{}/24", link.address));
        let (space, near) = (link.namespace.as_str(), link.near.as_str());
        let rate = format!("{megabits}mbit");
        let shape = |device: &str| {
            let words = "root tbf burst 32kb latency 40ms rate";
            let mut words: Vec<String> = words.split(' ').map(str::to_owned).collect();
            words.insert(0, device.to_owned());
            words.push(rate.clone());
            words
        };
        let steps: Vec<(&str, Vec<String>)> = vec![
            (
                "ip",
                format!("netns add {space}").split(' ').map(str::to_owned).collect(),
            ),
            (
                "ip",
                format!("link add {near} type veth peer name far netns {space}")
                    .split(' ')
                    .map(str::to_owned)
                    .collect(),
            ),
            (
                "ip",
                ["addr", "add", &near_address, "dev", near].map(str::to_owned).to_vec(),
            ),
            ("ip", ["link", "set", near, "up"].map(str::to_owned).to_vec()),
            (
                "ip",
                ["-n", space, "addr", "add", &far_address, "dev", "far"]
                    .map(str::to_owned)
                    .to_vec(),
            ),
            (
                "ip",
                ["-n", space, "link", "set", "far", "up"].map(str::to_owned).to_vec(),
            ),
            (
                "tc",
                [
                    vec!["qdisc".to_owned(), "add".to_owned(), "dev".to_owned()],
                    shape(near),
                ]
                .concat(),
            ),
            (
                "tc",
                [
                    ["-n", space, "qdisc", "add", "dev"].map(str::to_owned).to_vec(),
                    shape("far"),
                ]
                .concat(),
            ),
        ];
        for (program, arguments) in &steps {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            if !quietly(program, &arguments) {
                println!(
                    "SKIP: cannot make a network namespace with a shaped link ({program} {})",
                    arguments.join(" ")
                );
                return None;
            }
        }
        Some(link)
    }

    /// A program at the far end; it is ended with the value.
    fn far(&self, program: &str, arguments: &[&str]) -> Far {
        let child = Command::new("ip")
            .args(["netns", "exec", &self.namespace, program])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Far(child.expect("ip was there a moment ago"))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        quietly("ip", &["link", "del", &self.near]);
        quietly("ip", &["netns", "del", &self.namespace]);
    }
}

/// `ip netns exec` becomes the program, so that its process is the program's.
struct Far(Child);

impl Drop for Far {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn measured(peer: &str) -> BenchRecord {
    let output = Command::new(env!("CARGO_BIN_EXE_esxodus-agent"))
        .args(["bench", "--only", "net.*", "--budget", "12", "--peer", peer])
        .output()
        .expect("the agent starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("a record")
}

/// Megabytes a second that iperf3 sees, `None` without it.
fn iperf(link: &Link) -> Option<f64> {
    if !quietly("iperf3", &["--version"]) {
        println!("SKIP: no iperf3 to compare with");
        return None;
    }
    let _server = link.far("iperf3", &["-s"]);
    for _ in 0..50 {
        let output = Command::new("iperf3")
            .args(["-J", "-t", "3", "-c", &link.address])
            .output()
            .ok()?;
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if let Some(bits) = value["end"]["sum_received"]["bits_per_second"].as_f64() {
            return Some(bits / 8e6);
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("iperf3 did not answer");
}

#[test]
fn a_link_of_80_megabits_is_measured_as_such_in_both_directions_and_as_iperf3_sees_it() {
    const MEGABITS: u32 = 80;
    let Some(link) = Link::shaped(MEGABITS) else { return };
    let _server = link.far(env!("CARGO_BIN_EXE_esxodus-agent"), &["bench", "--serve", "7077"]);
    let peer = format!("{}:7077", link.address);
    for _ in 0..100 {
        if std::net::TcpStream::connect(&peer).is_ok() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let record = measured(&peer);
    let median = |id: &str| {
        let found = record.metrics.iter().find(|metric| metric.id == id);
        found.map_or_else(
            || panic!("{id} is missing: {:?}", record.skipped),
            |metric| metric.summary.median,
        )
    };
    // TCP's payload is 1448 of 1514 bytes that the token bucket counts. More cannot come through; a loaded machine may
    // bring less, but not a third.
    let full = f64::from(MEGABITS) / 8.0 * 1448.0 / 1514.0;
    for id in ["net.stream", "net.stream.back"] {
        let share = median(id) / full;
        assert!((0.67..1.05).contains(&share), "{id}: {} MB/s of {full}", median(id));
    }
    assert!(median("net.rr") > 0.0);
    if let Some(theirs) = iperf(&link) {
        let ratio = median("net.stream") / theirs;
        println!(
            "agent {:.3} MB/s, iperf3 {theirs:.3} MB/s, ratio {ratio:.3}",
            median("net.stream")
        );
        assert!((0.8..1.25).contains(&ratio), "agent : iperf3 = {ratio}");
    }
}

#[test]
fn an_agent_that_is_not_there_is_a_skip_that_names_it() {
    let record = measured("127.0.0.1:1");
    assert!(record.metrics.is_empty());
    assert!(
        record
            .skipped
            .iter()
            .all(|skipped| skipped.reason.contains("127.0.0.1:1")),
        "{:?}",
        record.skipped
    );
}
