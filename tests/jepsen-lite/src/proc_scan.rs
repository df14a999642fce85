//! The kernel's own word on what runs: processes that carry a trial's mark in their environment.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nihilo_sim::checker::instance_bound::ProcessSample;
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinHandle;

use crate::clock::{self, boottime_ns};
use crate::instance_ledger::DIRECTORY_ENV;

/// A scan reads every process of the host; on two cores more often would be felt.
const EVERY: Duration = Duration::from_millis(500);
/// Samples kept: an hour of thirty instances.
const MAX_SAMPLES: usize = 250_000;

/// An instance's process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    pub instance: String,
    pub node: String,
}

/// Instances of the trial whose ledgers go to `ledger`.
pub fn instances(ledger: &Path) -> Vec<Process> {
    let mark = format!("{DIRECTORY_ENV}={}", ledger.display());
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| marked(pid, &mark)).collect()
}

/// Kills those that are `wanted`; what is not there any more is as wished.
pub fn kill(ledger: &Path, wanted: impl Fn(&Process) -> bool) {
    for process in instances(ledger).iter().filter(|process| wanted(process)) {
        let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

fn marked(pid: u32, mark: &str) -> Option<Process> {
    // A zombie has no environment any more, so it counts as gone.
    let bytes = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let mut variables = text.split_terminator('\0');
    if !variables.any(|variable| variable == mark) {
        return None;
    }
    let value = |name: &str| {
        let mut variables = text.split_terminator('\0');
        variables.find_map(|variable| Some(variable.strip_prefix(name)?.to_owned()))
    };
    Some(Process {
        pid,
        instance: value("NIHILO_INSTANCE=")?,
        node: value("NIHILO_NODE=")?,
    })
}

/// Looks again and again until dropped.
#[derive(Debug)]
pub struct Scan {
    samples: Arc<Mutex<Vec<ProcessSample>>>,
    task: JoinHandle<()>,
}

impl Scan {
    pub fn start(ledger: &Path) -> Self {
        let samples = Arc::new(Mutex::new(Vec::new()));
        let (kept, ledger) = (samples.clone(), ledger.to_owned());
        let task = tokio::spawn(async move {
            loop {
                let at_ns = boottime_ns();
                let seen = instances(&ledger).into_iter().map(|process| ProcessSample {
                    at_ns,
                    instance: process.instance,
                    pid: process.pid,
                });
                {
                    let mut kept: std::sync::MutexGuard<'_, Vec<_>> =
                        kept.lock().unwrap_or_else(PoisonError::into_inner);
                    kept.extend(seen);
                    kept.truncate(MAX_SAMPLES);
                }
                clock::pause(EVERY).await;
            }
        });
        Self { samples, task }
    }

    pub fn samples(&self) -> Vec<ProcessSample> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.clone()
    }

    pub fn forget(&self) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.clear();
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        self.task.abort();
    }
}
