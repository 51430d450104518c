//! Watches a booting guest: console, firmware, events and agent, until there is a verdict.

use super::evidence::Folder;
use super::signs::{self, Certainty, Failure, ORDER};
use crate::agent_client::{AgentClient, Listener};
use crate::engine::{Vm, VmEvent, VmEventKind};
use crate::{Result, RunnerError};
use agent::protocol::Request;
use reports::schema::{Evidence, Milestone, ProofRecord, ProofVerdict};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(50);
/// After the login prompt, so long is waited for the agent that was put in.
const AGENT_GRACE: Duration = Duration::from_secs(30);
/// After the agent's hello, so long is waited for the last units.
const STEADY_GRACE: Duration = Duration::from_secs(60);
/// A boot menu that stands still so long gets an Enter.
const MENU_PATIENCE: Duration = Duration::from_secs(5);
/// After a failure is certain, its last lines are still taken.
const LAST_WORDS: Duration = Duration::from_millis(700);

/// What is known so far.
pub(crate) struct Watch<'a> {
    vm: Box<dyn Vm>,
    listener: Listener,
    agent: Option<AgentClient>,
    folder: &'a Folder,
    started: Instant,
    timeout: Duration,
    injected: bool,
    seen_lines: usize,
    firmware_seen: usize,
    milestones: Vec<Milestone>,
    likely: Option<Failure>,
    failure: Option<Failure>,
    events: Vec<VmEvent>,
    guest: Option<Value>,
    ended: Option<String>,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(mut vm: Box<dyn Vm>, folder: &'a Folder, timeout: Duration, injected: bool) -> Self {
        let listener = Listener::new(vm.agent_lines());
        Self {
            vm,
            listener,
            agent: None,
            folder,
            started: Instant::now(),
            timeout,
            injected,
            seen_lines: 0,
            firmware_seen: 0,
            milestones: Vec::new(),
            likely: None,
            failure: None,
            events: Vec::new(),
            guest: None,
            ended: None,
        }
    }

    /// The agent in the guest, once it has answered.
    pub(crate) fn agent(&mut self) -> Option<&mut AgentClient> {
        self.agent.as_mut()
    }

    fn has(&self, name: &str) -> bool {
        self.milestones.iter().any(|milestone| milestone.name == name)
    }

    fn reach(&mut self, name: &str, at: Duration, seen: &str) {
        if self.has(name) {
            return;
        }
        // A boot loader's words in a running system's log are no boot loader.
        let rank = |name: &str| ORDER.iter().position(|known| *known == name);
        if self.milestones.iter().any(|reached| rank(&reached.name) > rank(name))
            && ["firmware", "boot-loader", "kernel"].contains(&name)
        {
            return;
        }
        let file = format!("{name}.png");
        let screenshot = match self.vm.screenshot(&self.folder.file(&file)) {
            Ok(true) => Some(Folder::relative(&file)),
            _ => None,
        };
        let at_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(milestone = name, at_ms, "{seen}");
        let words: Vec<&str> = seen.split_whitespace().collect();
        let seen: String = words.join(" ").chars().take(200).collect();
        self.milestones.push(Milestone {
            name: name.to_owned(),
            at_ms,
            seen,
            screenshot,
        });
    }

    fn line(&mut self, text: &str, at: Duration) {
        if let Some(name) = signs::milestone(text) {
            self.reach(name, at, text);
        }
        if let Some(found) = signs::failure(text) {
            match found.certainty {
                // The first is the cause, the next ones follow from it.
                Certainty::Final => {
                    self.failure.get_or_insert(found);
                }
                Certainty::Likely => {
                    self.likely.get_or_insert(found);
                }
            }
        }
    }

    /// Takes what is new.
    fn look(&mut self) -> Result<()> {
        let log = self.vm.firmware_log();
        let whole = log.rfind('\n').map_or(0, |at| at + 1);
        if whole > self.firmware_seen {
            let new = log.get(self.firmware_seen..whole).unwrap_or_default().to_owned();
            self.firmware_seen = whole;
            let at = self.started.elapsed();
            new.lines().for_each(|text| self.line(text, at));
        }
        let lines = self.vm.console().lines(self.seen_lines);
        self.seen_lines += lines.len();
        for line in lines {
            self.line(&line.text, line.at);
        }
        let partial = self.vm.console().partial();
        if !partial.text.is_empty() {
            self.line(&partial.text, partial.at);
        }
        for event in self.vm.events() {
            if event.kind == VmEventKind::Panicked && self.failure.is_none() {
                // Give the console a moment to bring the kernel's own words.
                std::thread::sleep(LAST_WORDS);
                for line in self.vm.console().lines(self.seen_lines) {
                    self.seen_lines += 1;
                    self.line(&line.text, line.at);
                }
                self.failure.get_or_insert(Failure {
                    certainty: Certainty::Final,
                    reason: "the guest reported a kernel panic".into(),
                    advice: "The screenshot may show its words; add console=ttyS0 to the guest's command line to have them in the log",
                });
            }
            self.events.push(event);
        }
        if self.agent.is_none()
            && let Some(agent) = self.listener.poll()?
        {
            let at = self.started.elapsed();
            let seen = format!(
                "agent {} answers from inside, {:.1} s after the kernel's start",
                agent.program, agent.uptime
            );
            self.agent = Some(agent);
            self.reach("agent", at, &seen);
        }
        if self.ended.is_none()
            && let Some(ended) = self.vm.ended()
        {
            self.ended = Some(ended.detail);
        }
        Ok(())
    }

    /// Until the guest has proven itself, failed, ended, or the deadline has passed.
    pub(crate) fn until_decided(&mut self, cancel: &AtomicBool) -> Result<()> {
        let mut login = None;
        let (mut bytes, mut quiet_since, mut pressed) = (0, Instant::now(), false);
        loop {
            self.look()?;
            if bytes != self.vm.console().bytes() {
                bytes = self.vm.console().bytes();
                quiet_since = Instant::now();
            }
            if !pressed && self.has("boot-loader") && !self.has("kernel") && quiet_since.elapsed() >= MENU_PATIENCE {
                pressed = true;
                self.vm.press_enter()?;
                let detail = format!(
                    "boot loader silent for {} s: Enter was pressed",
                    MENU_PATIENCE.as_secs()
                );
                self.events.push(VmEvent {
                    at: self.started.elapsed(),
                    kind: VmEventKind::Other,
                    detail,
                });
            }
            if cancel.load(Ordering::Relaxed) {
                return Err(RunnerError::Cancelled);
            }
            if self.agent.is_some() || self.ended.is_some() || self.started.elapsed() >= self.timeout {
                return Ok(());
            }
            if self.failure.is_some() {
                std::thread::sleep(LAST_WORDS);
                return self.look();
            }
            if self.has("login") {
                let since = *login.get_or_insert_with(Instant::now);
                if !self.injected || since.elapsed() >= AGENT_GRACE {
                    return Ok(());
                }
            }
            std::thread::sleep(TICK);
        }
    }

    /// Asks the agent for the guest's state until its last unit is up, or patience ends.
    pub(crate) fn until_steady(&mut self, cancel: &AtomicBool) -> Result<Option<Value>> {
        let until = Instant::now() + STEADY_GRACE;
        while let Some(agent) = self.agent.as_mut() {
            match agent.facts(Request::State, Duration::from_secs(60), cancel) {
                Ok(value) => {
                    let state = value["system_state"].as_str().unwrap_or("").to_owned();
                    self.guest = Some(value);
                    if state == "running" || state == "degraded" {
                        let at = self.started.elapsed();
                        self.reach("steady", at, &format!("system state {state}"));
                        break;
                    }
                    // Not systemd: nothing tells when it is done.
                    if !["starting", "initializing"].contains(&state.as_str()) {
                        break;
                    }
                }
                Err(RunnerError::Cancelled) => return Err(RunnerError::Cancelled),
                Err(error) => {
                    tracing::warn!("the agent's state: {error}");
                    break;
                }
            }
            if Instant::now() >= until {
                break;
            }
            self.look()?;
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(self.guest.clone())
    }

    /// Asks the guest to power off and takes whatever it still says.
    pub(crate) fn power_off(&mut self, cancel: &AtomicBool) -> Result<()> {
        if self.ended.is_some() {
            return Ok(());
        }
        let asked = match self.agent.as_mut() {
            Some(agent) => agent
                .ask(Request::PowerOff, &[], Duration::from_secs(20), cancel, &mut |_, _| {})
                .is_ok(),
            None => self.has("login") && self.vm.power_button().is_ok(),
        };
        let until = Instant::now() + Duration::from_secs(if asked { 30 } else { 0 });
        while Instant::now() < until {
            if cancel.load(Ordering::Relaxed) {
                return Err(RunnerError::Cancelled);
            }
            if self.vm.ended().is_some() {
                let at = self.started.elapsed();
                self.reach("powered-off", at, "the guest shut itself down when asked");
                break;
            }
            std::thread::sleep(TICK);
        }
        Ok(())
    }

    /// Writes the evidence and decides.
    pub(crate) fn conclude(mut self, record: &mut ProofRecord, notes: &[String]) -> Result<()> {
        let failed = self.failure.is_some() || (self.agent.is_none() && !self.has("login"));
        if failed && matches!(self.vm.screenshot(&self.folder.file("last.png")), Ok(true)) {
            record.evidence.push(Evidence {
                kind: "screenshot".into(),
                file: Folder::relative("last.png"),
            });
        }
        self.events.extend(self.vm.events());
        self.vm.kill();
        let console = std::fs::read(self.vm.console().log()).unwrap_or_default();
        record.evidence.push(Evidence {
            kind: "console".into(),
            file: self.folder.write("console.log", &console)?,
        });
        let timed: String = self
            .vm
            .console()
            .lines(0)
            .iter()
            .map(|line| format!("{:10.3} {}\n", line.at.as_secs_f64(), line.text))
            .collect();
        record.evidence.push(Evidence {
            kind: "console-times".into(),
            file: self.folder.write("console-times.log", timed.as_bytes())?,
        });
        let firmware = self.vm.firmware_log();
        if !firmware.is_empty() {
            record.evidence.push(Evidence {
                kind: "firmware".into(),
                file: self.folder.write("firmware.log", firmware.as_bytes())?,
            });
        }
        let events: Vec<Value> = self
            .events
            .iter()
            .map(|event| json!({"at_ms": u64::try_from(event.at.as_millis()).unwrap_or(u64::MAX), "event": event.detail}))
            .collect();
        record.evidence.push(Evidence {
            kind: "events".into(),
            file: self.folder.write("events.json", json!(events).to_string().as_bytes())?,
        });
        if let Some(guest) = &self.guest {
            let text = serde_json::to_vec_pretty(guest).unwrap_or_default();
            record.evidence.push(Evidence {
                kind: "guest-state".into(),
                file: self.folder.write("guest.json", &text)?,
            });
        }
        for milestone in &self.milestones {
            if let Some(file) = &milestone.screenshot {
                record.evidence.push(Evidence {
                    kind: "screenshot".into(),
                    file: file.clone(),
                });
            }
        }
        self.milestones.sort_by_key(|milestone| milestone.at_ms);
        self.decide(record, notes);
        record.milestones = self.milestones;
        Ok(())
    }

    fn decide(&self, record: &mut ProofRecord, notes: &[String]) {
        let seconds = |name: &str| {
            let found = self.milestones.iter().find(|milestone| milestone.name == name);
            found.map_or(0, |milestone| milestone.at_ms / 1000)
        };
        let furthest = ORDER.iter().rev().find(|name| self.has(name));
        if self.agent.is_some() {
            record.verdict = ProofVerdict::Proven;
            let state = self
                .guest
                .as_ref()
                .and_then(|guest| guest["system_state"].as_str())
                .unwrap_or("unknown");
            record.reason = format!(
                "the agent answered from inside after {} s; system state: {state}",
                seconds("agent")
            );
            if let Some(failed) = self
                .guest
                .as_ref()
                .and_then(|guest| guest["failed_units"].as_array())
                .filter(|failed| !failed.is_empty())
            {
                let names: Vec<&str> = failed.iter().filter_map(Value::as_str).collect();
                record.advice.push(format!("failed units: {}", names.join(", ")));
            }
        } else if let Some(failure) = &self.failure {
            record.verdict = ProofVerdict::Failed;
            record.reason = failure.reason.clone();
            record.advice.push(failure.advice.to_owned());
        } else if self.has("login") {
            record.verdict = ProofVerdict::Proven;
            record.reason = format!("it reached a login prompt after {} s", seconds("login"));
        } else if let Some(failure) = &self.likely {
            record.verdict = ProofVerdict::Failed;
            record.reason = failure.reason.clone();
            record.advice.push(failure.advice.to_owned());
        } else if let Some(detail) = &self.ended {
            record.verdict = ProofVerdict::Failed;
            record.reason = format!(
                "the guest or its engine ended before it was up ({detail}); furthest milestone: {}",
                furthest.unwrap_or(&"none")
            );
            record
                .advice
                .push("Look at proof/console.log and proof/events.json: a reset in a loop ends the run".into());
        } else {
            let limit = self.timeout.as_secs();
            if ["init", "root-found"].iter().any(|name| self.has(name)) {
                record.verdict = ProofVerdict::BootedUnconfirmed;
                record.reason = format!(
                    "it reached {} and neither a login prompt nor the agent was seen in {limit} s",
                    furthest.unwrap_or(&"none")
                );
                record
                    .advice
                    .push("Look at the last screenshot, and try a longer --timeout".into());
            } else {
                record.verdict = ProofVerdict::Failed;
                let after = furthest.map_or("nothing was seen".to_owned(), |name| {
                    format!("the last milestone was {name}")
                });
                record.reason = format!("deadline: it hangs, {after} within {limit} s");
                record.advice.push(
                    "Look at the last screenshot: a guest without a serial console shows its words there only".into(),
                );
            }
        }
        record.advice.extend(notes.iter().cloned());
    }
}
