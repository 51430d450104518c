//! From what was seen to the verdict, and the evidence written out.

use super::diagnosis;
use super::request::Hardware;
use super::signs::{Cause, Failure, ORDER};
use super::watch::Watch;
use crate::Result;
use reports::schema::{DeepFacts, Evidence, Milestone, ProofVerdict};
use serde_json::{Value, json};

/// More than that between the guest's clock and the host's is told: an RTC in local time is hours away, a slow answer is not.
const CLOCK_TOLERANCE: f64 = 10.0;

/// What became of one boot.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) verdict: ProofVerdict,
    pub(super) reason: String,
    pub(super) advice: Vec<String>,
    pub(super) cause: Option<Cause>,
    /// No word, no change of the screen and no request to a disk came any more.
    pub(super) silent: bool,
    pub(super) milestones: Vec<Milestone>,
    pub(super) guest: Option<Value>,
    pub(super) evidence: Vec<Evidence>,
}

impl Watch<'_> {
    /// Writes the evidence and decides.
    pub(super) fn conclude(
        mut self,
        hardware: &Hardware,
        deep: Option<&DeepFacts>,
        graphical: bool,
    ) -> Result<Outcome> {
        let mut evidence = Vec::new();
        let mut keep = |kind: &str, file: String| {
            evidence.push(Evidence {
                kind: kind.to_owned(),
                file,
            });
        };
        let failed = self.failure.is_some() || (self.agent.is_none() && !self.has("login"));
        if failed && matches!(self.vm.screenshot(&self.folder.file("last.png")), Ok(true)) {
            keep("screenshot", self.folder.relative("last.png"));
        }
        self.events.extend(self.vm.events());
        self.vm.kill();
        let console = std::fs::read(self.vm.console().log()).unwrap_or_default();
        keep("console", self.folder.write("console.log", &console)?);
        let timed: String = self
            .vm
            .console()
            .lines(0)
            .iter()
            .map(|line| format!("{:10.3} {}\n", line.at.as_secs_f64(), line.text))
            .collect();
        keep(
            "console-times",
            self.folder.write("console-times.log", timed.as_bytes())?,
        );
        if !self.screen.is_empty() {
            let text = self.screen.join("\n") + "\n";
            keep("screen-text", self.folder.write("screen.txt", text.as_bytes())?);
        }
        let firmware = self.vm.firmware_log();
        if !firmware.is_empty() {
            keep("firmware", self.folder.write("firmware.log", firmware.as_bytes())?);
        }
        let events: Vec<Value> = self
            .events
            .iter()
            .map(|event| json!({"at_ms": u64::try_from(event.at.as_millis()).unwrap_or(u64::MAX), "event": event.detail}))
            .collect();
        keep(
            "events",
            self.folder.write("events.json", json!(events).to_string().as_bytes())?,
        );
        if let Some(guest) = &self.guest {
            let text = serde_json::to_vec_pretty(guest).unwrap_or_default();
            keep("guest-state", self.folder.write("guest.json", &text)?);
        }
        for milestone in &self.milestones {
            if let Some(file) = &milestone.screenshot {
                keep("screenshot", file.clone());
            }
        }
        self.milestones.sort_by_key(|milestone| milestone.at_ms);
        let kernel = self.kernel.clone();
        for failure in [&mut self.failure, &mut self.likely] {
            *failure = failure
                .take()
                .map(|failure| diagnosis::explain(failure, deep, hardware.bus, kernel.as_deref()));
        }
        let (verdict, reason, advice, cause) = self.decide(deep, graphical);
        Ok(Outcome {
            verdict,
            reason,
            advice,
            cause,
            silent: self.silent.is_some(),
            milestones: self.milestones,
            guest: self.guest,
            evidence,
        })
    }

    fn decide(&self, deep: Option<&DeepFacts>, graphical: bool) -> (ProofVerdict, String, Vec<String>, Option<Cause>) {
        let seconds = |name: &str| {
            let found = self.milestones.iter().find(|milestone| milestone.name == name);
            found.map_or(0, |milestone| milestone.at_ms / 1000)
        };
        let failed = |failure: &Failure, more: &str| {
            let reason = format!("{}{more}", failure.reason);
            (
                ProofVerdict::Failed,
                reason,
                vec![failure.advice.clone()],
                Some(failure.cause),
            )
        };
        if self.agent.is_some() {
            let guest = self.guest.as_ref();
            let state = guest
                .and_then(|guest| guest["system_state"].as_str())
                .unwrap_or("unknown");
            let reason = format!(
                "the agent answered from inside after {} s; system state: {state}",
                seconds("agent")
            );
            let told = guest
                .map(|guest| remarks(guest, deep, self.clock_offset))
                .unwrap_or_default();
            return (ProofVerdict::Proven, reason, told, None);
        }
        if let Some(failure) = &self.failure {
            return failed(failure, "");
        }
        if self.has("login") {
            let reason = format!("it reached a login prompt after {} s", seconds("login"));
            return (ProofVerdict::Proven, reason, Vec::new(), None);
        }
        let still = self
            .silent
            .map(|seconds| format!("nothing more came for {seconds} s (console, screen, disk)"));
        if let Some(failure) = &self.likely {
            return failed(failure, &still.map(|still| format!("; {still}")).unwrap_or_default());
        }
        let furthest = ORDER.iter().rev().find(|name| self.has(name));
        if let Some(detail) = &self.ended {
            let reason = format!(
                "the guest or its engine ended before it was up ({detail}); furthest milestone: {}",
                furthest.unwrap_or(&"none")
            );
            let advice = "Look at console.log and events.json of the evidence: a reset in a loop ends the run";
            return (ProofVerdict::Failed, reason, vec![advice.to_owned()], None);
        }
        let limit = self.wish.timeout.as_secs();
        let after = furthest.map_or("nothing was seen".to_owned(), |name| {
            format!("the last milestone was {name}")
        });
        let how = match still {
            Some(still) => format!("{still}, {after}{}", self.last_words()),
            None => format!("{after} within {limit} s"),
        };
        let started = ["init", "root-found"].iter().any(|name| self.has(name));
        if started {
            let reason = format!("it started, but neither a login prompt nor the agent was seen: {how}");
            let advice = "Look at the last screenshot, and try a longer --timeout";
            (ProofVerdict::BootedUnconfirmed, reason, vec![advice.to_owned()], None)
        } else if graphical && self.screen.is_empty() && self.has("boot-loader") {
            let reason =
                format!("its screen is in graphics mode and nobody can tell from outside what it shows: {how}");
            let advice = "Look at the last screenshot: a login screen there means that it works";
            (ProofVerdict::BootedUnconfirmed, reason, vec![advice.to_owned()], None)
        } else {
            let word = if self.silent.is_some() {
                "it hangs"
            } else {
                "deadline: it hangs"
            };
            let advice = "Look at the last screenshot: a guest without a serial console shows its words there only";
            (
                ProofVerdict::Failed,
                format!("{word}, {how}"),
                vec![advice.to_owned()],
                None,
            )
        }
    }

    /// `; last words: "…"`, from the console, else from the screen.
    fn last_words(&self) -> String {
        let console = self.vm.console();
        let partial = console.partial().text;
        let line = Some(partial)
            .filter(|text| !text.trim().is_empty())
            .or_else(|| console.lines(0).pop().map(|line| line.text))
            .or_else(|| self.screen.last().cloned());
        line.map_or(String::new(), |line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let line: String = words.join(" ").chars().take(160).collect();
            format!("; last words: \"{line}\"")
        })
    }
}

fn strings(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// What is not as it should be in a guest that came up.
fn remarks(guest: &Value, deep: Option<&DeepFacts>, clock_offset: Option<f64>) -> Vec<String> {
    let mut told = Vec::new();
    let failed = strings(&guest["failed_units"]);
    if !failed.is_empty() {
        told.push(format!("failed units: {}", failed.join(", ")));
    }
    let missing = strings(&guest["missing_mounts"]);
    if !missing.is_empty() {
        told.push(format!("fstab names mounts that are not there: {}", missing.join(", ")));
    }
    if guest["swap_missing"] == true {
        told.push("fstab names swap, and none is in use".to_owned());
    }
    let vmware = strings(&guest["vmware_programs"]);
    if !vmware.is_empty() {
        told.push(format!(
            "programs of VMware Tools run: {}: `esxodus fixup` disables them",
            vmware.join(", ")
        ));
    }
    let nics: Vec<&str> = guest["nics"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|nic| nic["name"].as_str())
        .collect();
    for (name, file) in deep
        .into_iter()
        .flat_map(|deep| &deep.systems)
        .flat_map(|system| &system.interfaces)
    {
        // Names that the kernel or udev give to hardware; a bond or bridge is made by its own configuration.
        let hardware = ["ens", "eno", "enp", "enx", "eth"]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        if hardware && !nics.is_empty() && !nics.contains(&name.as_str()) {
            told.push(format!(
                "{file} names {name}, and no NIC is called so ({}): run `esxodus fixup`",
                nics.join(", ")
            ));
        }
    }
    if let Some(offset) = clock_offset.filter(|offset| offset.abs() > CLOCK_TOLERANCE) {
        told.push(format!(
            "the guest's clock is {offset:+.0} s from this host's: check whether it expects the RTC in local time"
        ));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::remarks;
    use serde_json::json;

    #[test]
    fn what_is_wrong_inside_is_told_and_nothing_else() {
        let deep = json!({"systems": [{"interfaces": {"ens192": "/etc/network/interfaces", "br0": "/etc/network/interfaces"}}]});
        let deep = serde_json::from_value(deep).expect("facts");
        let good =
            json!({"failed_units": [], "missing_mounts": [], "nics": [{"name": "ens192"}], "swap_missing": false});
        let told = remarks(&good, Some(&deep), Some(-0.4));
        assert!(told.is_empty(), "{told:?}");
        let bad = json!({"failed_units": ["a.service"], "missing_mounts": ["/srv"], "nics": [{"name": "enp1s0"}],
                         "swap_missing": true, "vmware_programs": ["vmtoolsd"]});
        let told = remarks(&bad, Some(&deep), Some(7200.2)).join("\n");
        for word in ["a.service", "/srv", "ens192", "enp1s0", "swap", "vmtoolsd", "+7200 s"] {
            assert!(told.contains(word), "{told}");
        }
    }
}
