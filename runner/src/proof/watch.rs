//! Watches a booting guest: console, firmware, events and agent, until there is a verdict.

use super::evidence::Folder;
use super::life::Life;
use super::screen;
use super::signs::{self, Cause, Certainty, Failure, ORDER};
use crate::agent_client::{AgentClient, Listener};
use crate::engine::{Vm, VmEvent, VmEventKind};
use crate::{Result, RunnerError};
use agent::protocol::Request;
use reports::schema::Milestone;
use serde_json::Value;
use std::collections::HashSet;
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
/// The text screen is read so often.
const SCREEN_TICK: Duration = Duration::from_millis(700);
/// A first sector that does nothing for so long holds no boot loader: a real one speaks, reads or draws at once.
const DEAD_SECTOR: Duration = Duration::from_secs(30);
/// A failure that the inspection foresaw counts as come true when the system has waited for its root so long.
const FORESEEN_GRACE: Duration = Duration::from_secs(8);

/// How to watch.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    /// From the start to the verdict.
    pub(super) timeout: Duration,
    /// So long without a sign of life and the guest is hung.
    pub(super) silence: Duration,
    /// The agent is in the guest.
    pub(super) injected: bool,
    /// What the inspection says must fail, and then needs no long wait.
    pub(super) foreseen: Option<Failure>,
}

/// What is known so far.
pub(crate) struct Watch<'a> {
    pub(super) vm: Box<dyn Vm>,
    listener: Listener,
    pub(super) agent: Option<AgentClient>,
    pub(super) folder: &'a Folder,
    started: Instant,
    pub(super) wish: Wish,
    seen_lines: usize,
    firmware_seen: usize,
    pub(super) milestones: Vec<Milestone>,
    pub(super) likely: Option<Failure>,
    pub(super) failure: Option<Failure>,
    waits_since: Option<Instant>,
    /// A boot loader has said something itself; the firmware's word that it jumps to one is not that.
    loader_spoke: bool,
    /// Version of the kernel that was seen booting.
    pub(super) kernel: Option<String>,
    pub(super) events: Vec<VmEvent>,
    pub(super) guest: Option<Value>,
    /// The guest's clock minus this host's, in seconds, when the agent told it.
    pub(super) clock_offset: Option<f64>,
    pub(super) ended: Option<String>,
    /// Silent for so many seconds, where that ended the watch.
    pub(super) silent: Option<u64>,
    /// The text screen as last seen; empty where it is in graphics mode or there is none.
    pub(super) screen: Vec<String>,
    screen_read: Option<Instant>,
    screen_known: HashSet<String>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(mut vm: Box<dyn Vm>, folder: &'a Folder, wish: Wish) -> Self {
        let listener = Listener::new(vm.agent_lines());
        Self {
            vm,
            listener,
            agent: None,
            folder,
            started: Instant::now(),
            wish,
            seen_lines: 0,
            firmware_seen: 0,
            milestones: Vec::new(),
            likely: None,
            failure: None,
            waits_since: None,
            loader_spoke: false,
            kernel: None,
            events: Vec::new(),
            guest: None,
            clock_offset: None,
            ended: None,
            silent: None,
            screen: Vec::new(),
            screen_read: None,
            screen_known: HashSet::new(),
        }
    }

    /// The agent in the guest, once it has answered.
    pub(crate) fn agent(&mut self) -> Option<&mut AgentClient> {
        self.agent.as_mut()
    }

    pub(super) fn has(&self, name: &str) -> bool {
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
            Ok(true) => Some(self.folder.relative(&file)),
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
            self.loader_spoke |= name == "boot-loader" && !signs::jumps_to_loader(text);
            self.reach(name, at, text);
        }
        if let Some(version) = signs::kernel_version(text) {
            self.kernel.get_or_insert_with(|| version.to_owned());
        }
        if self.has("kernel") && signs::waits_for_root(text) {
            self.waits_since.get_or_insert_with(Instant::now);
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
        if !self.has("entered")
            && let Some(at) = self.vm.stages().and_then(|stages| stages.entered)
        {
            self.reach("entered", at, "the first processor entered the guest");
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
        if self.screen_read.is_none_or(|then| then.elapsed() >= SCREEN_TICK) {
            self.look_at_screen();
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
                    cause: Cause::Panic,
                    reason: "the guest reported a kernel panic".into(),
                    advice: "The screenshot may show its words; add console=ttyS0 to the guest's command line to have them in the log"
                        .into(),
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

    /// Has the guest left text mode? A loader that shows a picture needs no words.
    fn screen_draws(&self) -> bool {
        self.screen.is_empty() && !self.screen_known.is_empty()
    }

    /// Reads the text screen; lines that were not on it before count as the console's do.
    fn look_at_screen(&mut self) {
        self.screen_read = Some(Instant::now());
        // An engine that just ended is seen by the caller.
        let memory = self.vm.text_memory().unwrap_or_default();
        let Some(lines) = screen::lines(&memory) else {
            self.screen.clear();
            return;
        };
        let at = self.started.elapsed();
        for line in &lines {
            if self.screen_known.insert(line.clone()) {
                self.line(line, at);
            }
        }
        self.screen = lines;
    }

    /// Until the guest has proven itself, failed, ended, fallen silent, or the deadline has passed.
    pub(crate) fn until_decided(&mut self, cancel: &AtomicBool) -> Result<()> {
        let mut login = None;
        let mut life = Life::default();
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
            if self.agent.is_some() || self.ended.is_some() || self.started.elapsed() >= self.wish.timeout {
                return Ok(());
            }
            if let (Some(since), Some(foreseen)) = (self.waits_since, &self.wish.foreseen)
                && since.elapsed() >= FORESEEN_GRACE
                && !self.has("root-found")
            {
                self.failure.get_or_insert_with(|| foreseen.clone());
            }
            if self.failure.is_some() {
                std::thread::sleep(LAST_WORDS);
                self.look_at_screen();
                return self.look();
            }
            let quiet = life.quiet_for(self.vm.as_mut(), &self.screen, self.folder);
            if quiet >= DEAD_SECTOR
                && self.has("boot-loader")
                && !self.loader_spoke
                && !self.has("kernel")
                && !self.screen_draws()
            {
                self.failure = Some(signs::dead_sector(DEAD_SECTOR));
                return Ok(());
            }
            if quiet >= self.wish.silence {
                self.silent = Some(quiet.as_secs());
                return Ok(());
            }
            if self.has("login") {
                let since = *login.get_or_insert_with(Instant::now);
                if !self.wish.injected || since.elapsed() >= AGENT_GRACE {
                    return Ok(());
                }
            }
            std::thread::sleep(TICK);
        }
    }

    /// Asks the agent for the guest's state until its last unit is up, or patience ends.
    pub(crate) fn until_steady(&mut self, cancel: &AtomicBool) -> Result<()> {
        let until = Instant::now() + STEADY_GRACE;
        while let Some(agent) = self.agent.as_mut() {
            match agent.facts(Request::State, Duration::from_secs(60), cancel) {
                Ok(value) => {
                    let state = value["system_state"].as_str().unwrap_or("").to_owned();
                    self.clock_offset = value["unix_seconds"].as_f64().map(|guest| guest - unix_seconds());
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
        Ok(())
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
}

fn unix_seconds() -> f64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0.0, |now| now.as_secs_f64())
}
