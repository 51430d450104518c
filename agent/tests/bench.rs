//! `esxodus-agent bench` as a user starts and stops it.
#![cfg(test)]

mod stopping {
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    fn start(folder: &Path, arguments: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_esxodus-agent"))
            .arg("bench")
            .args(["--folder", folder.to_str().expect("text"), "--disk-budget", "32"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the agent starts")
    }

    fn end(child: &mut Child) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait().expect("a child") {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        child.kill().expect("a child");
        panic!("the agent did not end");
    }

    fn signal(child: &Child, name: &str) {
        let status = Command::new("kill")
            .args([&format!("-{name}"), &child.id().to_string()])
            .status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{name}");
    }

    #[test]
    fn a_signal_ends_a_run_with_130_without_a_record_and_without_a_file() {
        for name in ["INT", "TERM", "HUP"] {
            let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder");
            let mut child = start(folder.path(), &["--only", "disk.*", "--budget", "300"]);
            std::thread::sleep(Duration::from_millis(700));
            signal(&child, name);
            assert_eq!(end(&mut child), Some(130), "SIG{name}");
            let output = child.wait_with_output().expect("it ended");
            assert!(output.stdout.is_empty());
            assert!(String::from_utf8_lossy(&output.stderr).contains("cancelled"));
            assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 0);
        }
    }

    #[test]
    fn a_short_run_writes_one_record_and_ends_with_0() {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder");
        let child = start(folder.path(), &["--only", "kernel.getppid", "--budget", "0.5"]);
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(0));
        let record: reports::schema::BenchRecord = serde_json::from_slice(&output.stdout).expect("a record");
        assert_eq!(record.metrics.len(), 1);
    }
}
