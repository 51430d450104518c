//! Measuring and comparing through the binary: records that are taken, refused and compared; a real LXC container.

use crate::util::{esxodus, json_expecting, run_expecting, s, skip, text};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A metric with a summary that fits its samples (median and quartiles of 12 values by interpolation).
fn metric(id: &str, centre: f64) -> Value {
    let samples: Vec<f64> = (0..12).map(|at| centre * (1.0 + 0.001 * f64::from(at))).collect();
    let at = |position: f64| centre * (1.0 + 0.001 * position);
    json!({
        "id": id, "name": id, "unit": "MB/s", "better": "higher", "samples": samples,
        "summary": { "n": 12, "median": at(5.5), "mean": at(5.5), "min": at(0.0), "max": at(11.0), "q1": at(2.75),
                     "q3": at(8.25), "ci_low": at(3.0), "ci_high": at(8.0) },
        "method": "made for a test", "stopped": "count"
    })
}

fn record(created: &str, speed: f64) -> Value {
    json!({
        "schema": 1, "tool": "esxodus-bench 0.1.0", "created": created, "label": created, "place": "guest",
        "accelerator": "native", "suite": "quick",
        "host": { "cpu_model": "CPU A", "cpus_online": 2, "cpus_usable": 2, "memory_bytes": 1_u64 << 30 },
        "noise": { "steal_cpu_seconds": 0.0, "foreign_cpu_seconds": 0.0, "wall_seconds": 10.0, "noisy": false },
        "metrics": [metric("cpu.fast", 1000.0), metric("cpu.slow", 1000.0 * speed)]
    })
}

fn write(folder: &Path, name: &str, record: &Value) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, record.to_string()).unwrap();
    path
}

#[test]
fn a_regression_above_the_bar_ends_with_1_and_one_below_with_0() {
    let dir = tempfile::tempdir().unwrap();
    let base = write(dir.path(), "a.json", &record("2026-01-01T00:00:00Z", 1.0));
    let worse = write(dir.path(), "b.json", &record("2026-01-02T00:00:00Z", 0.8));
    let found = json_expecting(1, &["compare", s(&base), s(&worse), "--fail-on-regression", "10"]);
    assert_eq!(found["metrics"][1]["verdict"], "worse");
    let (_, stderr) = run_expecting(1, &["compare", s(&base), s(&worse), "--fail-on-regression", "10"]);
    assert!(stderr.contains("1 metrics are worse by more than 10 %"), "{stderr}");
    run_expecting(0, &["compare", s(&base), s(&worse), "--fail-on-regression", "25"]);
    run_expecting(0, &["compare", s(&base), s(&worse)]);
}

#[test]
fn what_cannot_be_compared_is_refused_with_2_and_forced_only_with_a_loud_mark() {
    let dir = tempfile::tempdir().unwrap();
    let mut esxi = record("2026-01-01T00:00:00Z", 1.0);
    esxi["accelerator"] = json!("esxi");
    let base = write(dir.path(), "esxi.json", &esxi);
    type Change = fn(&mut Value);
    let changes: [(Change, &str); 3] = [
        (|r| r["accelerator"] = json!("tcg"), "accelerators differ"),
        (|r| r["host"]["cpu_model"] = json!("CPU B"), "CPU models differ"),
        (|r| r["host"]["cpus_usable"] = json!(4), "usable CPUs differ"),
    ];
    for (change, words) in changes {
        let mut other = esxi.clone();
        change(&mut other);
        let other = write(dir.path(), "other.json", &other);
        let (stdout, stderr) = run_expecting(2, &["compare", s(&base), s(&other)]);
        assert!(stdout.is_empty() && stderr.contains(words), "{stderr}");
        let (stdout, stderr) = run_expecting(0, &["compare", s(&base), s(&other), "--force"]);
        assert!(
            stdout.contains("NOT COMPARABLE, forced") && stdout.contains(words),
            "{stdout}"
        );
        assert!(stderr.contains("WARNING") && stderr.contains(words), "{stderr}");
        let forced = json_expecting(0, &["compare", s(&base), s(&other), "--force"]);
        assert_eq!(forced["comparability"]["kind"], "forced");
    }
}

#[test]
fn a_trend_orders_runs_by_time_and_says_where_they_are_not_alike() {
    let dir = tempfile::tempdir().unwrap();
    let mut odd = record("2026-01-03T00:00:00Z", 0.5);
    odd["metrics"][0]["method"] = json!("measured otherwise");
    let files = [
        write(dir.path(), "c.json", &odd),
        write(dir.path(), "a.json", &record("2026-01-01T00:00:00Z", 1.0)),
        write(dir.path(), "b.json", &record("2026-01-02T00:00:00Z", 0.75)),
    ];
    let arguments = ["compare", "--trend", s(&files[0]), s(&files[1]), s(&files[2])];
    let found = json_expecting(0, &arguments);
    let slow = &found["trends"][1];
    let labels: Vec<&str> = slow["points"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["label"].as_str().unwrap())
        .collect();
    assert_eq!(
        labels,
        ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"]
    );
    assert_eq!((&slow["id"], &slow["like"]), (&json!("cpu.slow"), &json!(true)));
    assert!((slow["ratio"].as_f64().unwrap() - 0.5).abs() < 1e-9);
    assert_eq!(found["trends"][0]["like"], false);
    let (stdout, _) = run_expecting(0, &arguments);
    assert!(stdout.contains("NOT ALIKE"), "{stdout}");
    run_expecting(2, &["compare", "--trend", s(&files[0])]);
    run_expecting(2, &["compare", s(&files[0]), s(&files[1]), s(&files[2])]);
}

#[test]
fn import_takes_a_record_and_refuses_other_newer_and_edited_files() {
    let dir = tempfile::tempdir().unwrap();
    let good = record("2026-01-01T00:00:00Z", 1.0);
    let file = write(dir.path(), "good.json", &good);
    let out = dir.path().join("out.json");
    run_expecting(0, &["bench", "--import", s(&file), "-o", s(&out)]);
    let taken: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    assert_eq!(taken["place"], "imported");
    assert_eq!(taken["metrics"], good["metrics"]);
    let mut newer = good.clone();
    newer["schema"] = json!(99);
    let mut edited = good.clone();
    edited["metrics"][0]["samples"][3] = json!(7.0);
    let mut short = good.clone();
    short["metrics"][1]["summary"]["n"] = json!(11);
    for (value, words) in [
        (newer, "it has schema 99"),
        (edited, "does not hold together"),
        (short, "counts 11 samples, there are 12"),
        (json!({"fio version": "fio-3.33"}), "fio's output"),
    ] {
        let file = write(dir.path(), "bad.json", &value);
        let (_, stderr) = run_expecting(2, &["bench", "--import", s(&file)]);
        assert!(stderr.contains(words) && stderr.contains("bad.json"), "{stderr}");
        run_expecting(2, &["compare", s(&file), s(&file)]);
    }
}

#[test]
fn limits_are_probed_on_this_hosts_kvm() {
    let Ok(_) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") else {
        return skip("/dev/kvm cannot be used");
    };
    let found = json_expecting(0, &["limits", "--probe", "--probe-seconds", "4"]);
    let keys: Vec<&str> = found["series"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["key"].as_str().unwrap())
        .collect();
    // Memory goes last, with the time that the others left.
    assert_eq!(keys, ["vcpus", "memory-slots", "virtio-queues", "memory"]);
    let vcpus = &found["series"][0];
    assert!(vcpus["accepted"].as_u64().unwrap() >= 1 && !vcpus["curve"].as_array().unwrap().is_empty());
    assert!(
        vcpus["documented"]
            .as_array()
            .unwrap()
            .iter()
            .all(|limit| limit["source"].is_string())
    );
    assert!(found["capabilities"]["max_vcpus"].as_u64().unwrap() >= 1);
}

/// Runs it to the end or until the deadline, then kills it.
fn bounded(command: &mut Command, seconds: u64) -> Option<Output> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while child.try_wait().ok()?.is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child.wait_with_output().ok()
}

/// A busybox container of its own folder, stopped and removed when dropped.
struct Container {
    folder: tempfile::TempDir,
}

impl Container {
    const NAME: &str = "esxodus-test";

    fn tool(&self, tool: &str) -> Command {
        let mut command = Command::new(tool);
        command.arg("-P").arg(self.folder.path()).args(["-n", Self::NAME]);
        command
    }

    fn start() -> Result<Self, String> {
        // Beside the build's files: on a disk, where direct I/O works, and not in memory.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(|error| error.to_string())?;
        let container = Self { folder };
        let done = |what: &str, output: Option<Output>| match output {
            Some(output) if output.status.success() => Ok(()),
            Some(output) => Err(format!("{what}: {}", text(&output.stderr).trim())),
            None => Err(format!("{what} is not installed")),
        };
        done(
            "lxc-create",
            bounded(container.tool("lxc-create").args(["-t", "busybox"]), 60),
        )?;
        let config = container.folder.path().join(Self::NAME).join("config");
        let text = std::fs::read_to_string(&config).map_err(|error| error.to_string())?;
        // Neither the bridge nor AppArmor need be there.
        let mut lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with("lxc.net.") && !line.starts_with("lxc.apparmor."))
            .collect();
        lines.push("lxc.net.0.type = empty\n");
        std::fs::write(&config, lines.join("\n")).map_err(|error| error.to_string())?;
        done("lxc-start", bounded(&mut container.tool("lxc-start"), 60))?;
        Ok(container)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        bounded(self.tool("lxc-stop").args(["-k", "-t", "20"]), 40);
        bounded(self.tool("lxc-destroy").arg("-f"), 40);
    }
}

#[test]
fn a_real_container_is_measured_and_set_beside_the_host_in_turn() {
    if !Path::new(env!("CARGO_BIN_EXE_esxodus"))
        .ancestors()
        .nth(2)
        .is_some_and(|target| target.join("x86_64-unknown-linux-gnu/release/esxodus-agent").is_file())
        && std::env::var_os("ESXODUS_AGENT").is_none()
    {
        return skip("the static agent is not built: 'make build'");
    }
    let container = match Container::start() {
        Ok(container) => container,
        Err(why) => return skip(&format!("no LXC container can be run here: {why}")),
    };
    let place = format!("lxc:{}", Container::NAME);
    let path = container.folder.path().to_owned();
    let bench = |more: &[&str]| {
        let mut command = esxodus();
        command
            .args(["bench", "--in", &place, "--lxc-path", s(&path), "--json"])
            .args(more);
        let output = bounded(&mut command, 300).unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let record = bench(&["--budget", "8"]);
    assert_eq!(record["place"], "lxc");
    assert_eq!(record["host"]["container"], "lxc");
    let ids: Vec<&str> = record["metrics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["id"].as_str().unwrap())
        .collect();
    for family in [
        "cpu.integer.single",
        "kernel.fork-exec",
        "memory.copy.single",
        "disk.randread-4k.qd1",
    ] {
        assert!(ids.contains(&family), "{family} is missing: {:?}", record["skipped"]);
    }
    let left = path.join(Container::NAME).join("rootfs/tmp");
    assert_eq!(
        std::fs::read_dir(&left).unwrap().count(),
        0,
        "something was left in {}",
        left.display()
    );

    // Containers run on the host's kernel and CPU: nothing stands against comparing.
    let only = [
        "--against-host",
        "--rounds",
        "5",
        "--budget",
        "20",
        "--only",
        "cpu.integer.single",
        "--only",
        "kernel.getppid",
    ];
    let comparison = bench(&only);
    assert_ne!(comparison["comparability"]["kind"], "forced");
    let compared = comparison["metrics"].as_array().unwrap().len() + comparison["left_out"].as_array().unwrap().len();
    assert!(compared >= 2, "{comparison}");
}
