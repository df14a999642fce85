//! One client that writes services in turn and knows what was acknowledged.
//!
//! The slots make lost writes visible: each write goes to another service, and all of them are
//! read back right after a kill, before any is written again.

use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use nihilo_types::service::Service;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Code, Status};

use super::node::{Node, Write};
use crate::figures::{Samples, milliseconds};

/// Far more than the writes that can be at risk in one kill.
pub(super) const N_SLOTS: usize = 64;
/// After a kill the client repeats an unanswered write this often, and a failed one at any time
/// after this.
const REPEAT_EVERY: Duration = Duration::from_millis(5);
/// In between it is patient: repetitions of what is only slow would make it slower.
const PATIENT: Duration = Duration::from_secs(1);
/// One attempt: a follower of either store may keep one that it handed to a dead leader for longer.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(1);
/// Repetitions of one write under way at once: more than are begun in [`ATTEMPT_LIMIT`].
const MAX_ATTEMPTS: usize = 256;
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// Latencies of steady writes kept, at most.
const MAX_SAMPLES: usize = 1 << 20;
const SERIAL: &str = "bench.example.com/serial";

#[derive(Debug)]
pub(super) struct Writer {
    nodes: Vec<Node>,
    slots: Vec<Slot>,
    /// Number of the last write.
    serial: u64,
    turn: usize,
    steady_ms: Vec<f64>,
}

#[derive(Debug)]
struct Slot {
    service: Service,
    /// Serial of the last write to it that was acknowledged; 0 = none.
    acked: u64,
}

impl Writer {
    pub(super) fn new(nodes: Vec<Node>, services: Vec<Service>) -> Self {
        let slots = services
            .into_iter()
            .map(|service| Slot { service, acked: 0 });
        Self {
            nodes,
            slots: slots.collect(),
            serial: 0,
            turn: 0,
            steady_ms: Vec::new(),
        }
    }

    /// Writes every slot once.
    pub(super) async fn fill(&mut self) -> anyhow::Result<()> {
        for _ in 0..self.slots.len() {
            self.write(PATIENT).await?;
        }
        Ok(())
    }

    /// Writes one after the other; their latencies count as those of an unharmed cluster.
    pub(super) async fn write_for(&mut self, lasts: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + lasts;
        while Instant::now() < end {
            let started = Instant::now();
            self.write(PATIENT).await?;
            if self.steady_ms.len() < MAX_SAMPLES {
                self.steady_ms.push(milliseconds(started.elapsed()));
            }
        }
        Ok(())
    }

    /// Makes the next write as soon as anyone takes it; returns how many attempts that took.
    pub(super) async fn write_after_kill(&mut self) -> anyhow::Result<u64> {
        self.write(REPEAT_EVERY).await
    }

    /// Repeats it under one request id until a node acknowledges it.
    async fn write(&mut self, repeat_every: Duration) -> anyhow::Result<u64> {
        self.serial += 1;
        let index = (self.serial as usize) % self.slots.len();
        let slot = &mut self.slots[index];
        let annotations = &mut slot.service.metadata.annotations;
        annotations.insert(SERIAL.into(), self.serial.to_string());
        let write = Write {
            name: slot.service.metadata.name.clone(),
            json: serde_json::to_vec(&slot.service)?,
            request_id: uuid::Uuid::now_v7().to_string(),
        };
        let repeated = repeat(&self.nodes, &mut self.turn, &write, repeat_every);
        let n_attempts = timeout(WRITE_LIMIT, repeated)
            .await
            .with_context(|| format!("write {} was never acknowledged", self.serial))??;
        slot.acked = self.serial;
        Ok(n_attempts)
    }

    /// Reads all slots and compares; returns how many.
    pub(super) async fn check(&self) -> anyhow::Result<usize> {
        let mut last = None;
        for node in &self.nodes {
            match node.services().await {
                Ok(stored) => return self.compare(&stored),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no nodes")?)
    }

    /// The same by every node in turn.
    pub(super) async fn check_on_every_node(&self) -> anyhow::Result<()> {
        for node in &self.nodes {
            self.compare(&node.services().await?)?;
        }
        Ok(())
    }

    fn compare(&self, stored: &[Service]) -> anyhow::Result<usize> {
        for slot in self.slots.iter().filter(|slot| slot.acked > 0) {
            let name = &slot.service.metadata.name;
            let found = stored.iter().find(|stored| stored.metadata.name == *name);
            let serial = found.and_then(|found| found.metadata.annotation(SERIAL));
            if serial != Some(slot.acked.to_string().as_str()) {
                let acked = slot.acked;
                bail!("LOST: write {acked} of `{name}` was acknowledged, {serial:?} is there");
            }
        }
        Ok(self.slots.len())
    }

    pub(super) fn n_acked(&self) -> u64 {
        self.serial
    }

    /// Latencies of steady writes in milliseconds.
    pub(super) fn steady(&self) -> Samples {
        Samples::new(self.steady_ms.iter().copied())
    }
}

/// One more attempt every `every`, and soon after each that failed, at the next node, until one is
/// acknowledged.
async fn repeat(
    nodes: &[Node],
    turn: &mut usize,
    write: &Write,
    every: Duration,
) -> anyhow::Result<u64> {
    let mut attempts = FuturesUnordered::new();
    let mut next = Instant::now();
    let mut n_attempts = 0;
    loop {
        // Answers first: no attempt is made after the one that was acknowledged.
        tokio::select! {
            biased;
            Some(answer) = attempts.next() => match answer {
                Ok(()) => return Ok(n_attempts),
                Err(status) if may_be_repeated(&status) => {
                    next = next.min(Instant::now() + REPEAT_EVERY);
                }
                Err(status) => bail!("a write was refused: {status}"),
            },
            () = sleep_until(next), if attempts.len() < MAX_ATTEMPTS => {
                next = Instant::now() + every;
                let node = nodes[*turn % nodes.len()].clone();
                *turn += 1;
                n_attempts += 1;
                attempts.push(attempt(node, write.clone()));
            }
        }
    }
}

async fn attempt(node: Node, write: Write) -> Result<(), Status> {
    match timeout(ATTEMPT_LIMIT, node.put(write)).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::deadline_exceeded("no answer to one attempt")),
    }
}

/// Everything that a dead or leaderless node may say; repeating is safe, see [`Write`].
fn may_be_repeated(status: &Status) -> bool {
    let codes = [
        Code::Unavailable,
        Code::DeadlineExceeded,
        Code::Cancelled,
        Code::Unknown,
        Code::ResourceExhausted,
    ];
    codes.contains(&status.code())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(acked: u64) -> Writer {
        let mut service = Service::default();
        service.metadata.name = "slot-0".into();
        Writer {
            nodes: Vec::new(),
            slots: vec![Slot { service, acked }],
            serial: acked,
            turn: 0,
            steady_ms: Vec::new(),
        }
    }

    #[test]
    fn an_acknowledged_write_that_is_not_there_is_named() {
        let mut stored = Service::default();
        stored.metadata.name = "slot-0".into();
        stored
            .metadata
            .annotations
            .insert(SERIAL.into(), "6".into());
        assert_eq!(writer(6).compare(std::slice::from_ref(&stored)).unwrap(), 1);
        let lost = writer(7).compare(&[stored]).unwrap_err().to_string();
        assert!(lost.contains("write 7 of `slot-0`"), "{lost}");
        assert!(writer(7).compare(&[]).is_err());
    }

    #[test]
    fn refusals_of_the_request_itself_end_the_run() {
        assert!(may_be_repeated(&Status::unavailable("no leader")));
        assert!(!may_be_repeated(&Status::invalid_argument("no")));
    }
}
