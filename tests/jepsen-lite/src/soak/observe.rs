//! What is seen from outside while a soak runs: who leads, what the nodes use, how it goes.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nihilo_client::Client;
use serde::Serialize;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::clock::pause;
use crate::tally::Tally;
use crate::trial::Trial;

const LOOK_EVERY: Duration = Duration::from_millis(250);
const LOOK_LIMIT: Duration = Duration::from_secs(1);
const TELL_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Observed {
    pub(super) n_leader_changes: u64,
    /// Elections, won or not.
    pub(super) last_term: u64,
    /// At the end of each window.
    pub(super) usage: Vec<Usage>,
    #[serde(skip)]
    leader: Option<(u64, u64)>,
}

/// What the nodes use, all together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Usage {
    pub(super) rss_kib: u64,
    pub(super) n_threads: u64,
    pub(super) n_fds: u64,
    pub(super) disk_kib: u64,
}

/// Stop when dropped.
#[derive(Debug)]
pub(super) struct Observers {
    observed: Arc<Mutex<Observed>>,
    tasks: [JoinHandle<()>; 2],
}

impl Observers {
    pub(super) fn start(trial: &Trial, tally: &Arc<Tally>, end: Instant) -> anyhow::Result<Self> {
        let observed = Arc::new(Mutex::new(Observed::default()));
        let client = trial.admin()?.with_timeout(LOOK_LIMIT);
        let leaders = tokio::spawn(leaders(client, observed.clone()));
        let progress = tokio::spawn(progress(tally.clone(), observed.clone(), end));
        Ok(Self {
            observed,
            tasks: [leaders, progress],
        })
    }

    pub(super) fn window_over(&self, trial: &Trial) {
        let mut usage = Usage::default();
        for node in &trial.cluster.nodes {
            if let Some(pid) = node.pid() {
                usage.add(pid, &node.config.data_dir);
            }
        }
        self.locked().usage.push(usage);
    }

    pub(super) fn taken(&self) -> Observed {
        self.locked().clone()
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Observed> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Observers {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn leaders(client: Client, observed: Arc<Mutex<Observed>>) {
    loop {
        if let Ok(status) = client.cluster_status().await {
            let mut observed = observed.lock().unwrap_or_else(PoisonError::into_inner);
            observed.last_term = observed.last_term.max(status.term);
            let now = (status.term, status.leader);
            if status.leader != 0 && observed.leader.is_none_or(|before| now > before) {
                observed.n_leader_changes += u64::from(observed.leader.is_some());
                observed.leader = Some(now);
            }
        }
        pause(LOOK_EVERY).await;
    }
}

async fn progress(tally: Arc<Tally>, observed: Arc<Mutex<Observed>>, end: Instant) {
    let started = Instant::now();
    loop {
        pause(TELL_EVERY).await;
        let (n_leader_changes, age) = {
            let observed = observed.lock().unwrap_or_else(PoisonError::into_inner);
            (observed.n_leader_changes, started.elapsed().as_secs())
        };
        let left = end.saturating_duration_since(Instant::now()).as_secs();
        let (n_acked, n_faults) = (tally.n_acked(), tally.n_faults());
        eprintln!(
            "   … {age} s, {left} s to go: {n_acked} writes acknowledged, {n_faults} faults, \
             {n_leader_changes} leader changes"
        );
    }
}

impl Usage {
    fn add(&mut self, pid: u32, data_dir: &Path) {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let number = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            number.unwrap_or(0)
        };
        self.rss_kib += number("VmRSS:");
        self.n_threads += number("Threads:");
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd"));
        self.n_fds += fds.map_or(0, |fds| fds.count() as u64);
        self.disk_kib += disk_bytes(data_dir) / 1024;
    }
}

fn disk_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => disk_bytes(&entry.path()),
            Ok(kind) if kind.is_file() => entry.metadata().map_or(0, |file| file.len()),
            // A link, or gone meanwhile.
            Ok(_) | Err(_) => 0,
        })
        .sum()
}
