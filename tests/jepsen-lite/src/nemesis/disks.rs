//! What disks do to the nodes on them.

use std::fmt;
use std::time::Duration;

use nihilo_sim::checker::Evidence;

use crate::backend::{Injection, N_NODES, NodeIndex, SyncFault};
use crate::clock::{self, boottime_ns, pause};
use crate::judge::{STORE_FAILED, node_name};
use crate::seed::Random;
use crate::trial::Trial;

/// Below the node's own mark of 256 MiB, and enough for what it writes nevertheless.
const LOW_BYTES: u64 = 128 * 1024 * 1024;
const HOLD_MIN_MS: u64 = 5_000;
const HOLD_MAX_MS: u64 = 15_000;
const SLOW_MIN_MS: u64 = 100;
const SLOW_MAX_MS: u64 = 2_000;
/// A store that writes notices at its next sync.
const NOTICED_LIMIT: Duration = Duration::from_secs(20);
/// How long a store that has failed is watched for coming back by itself.
const STAYS_FAILED: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// All on the leader, unless their names say otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFault {
    /// N20.
    PowerLossLeader,
    PowerLossFollower,
    PowerLossAll,
    /// N19: less than the node wants for its writes.
    Low,
    /// N19: nothing left.
    Full,
    /// N17.
    Frozen,
    /// N18.
    SyncFails,
    /// N16.
    SlowSync,
}

impl DiskFault {
    pub const ALL: [DiskFault; 8] = [
        DiskFault::PowerLossLeader,
        DiskFault::PowerLossFollower,
        DiskFault::PowerLossAll,
        DiskFault::Low,
        DiskFault::Full,
        DiskFault::Frozen,
        DiskFault::SyncFails,
        DiskFault::SlowSync,
    ];

    /// Whether each node has to have a disk of its own for it.
    pub fn needs_disks(self) -> bool {
        !matches!(self, DiskFault::SyncFails | DiskFault::SlowSync)
    }

    /// # Errors
    /// The harness could not do it, or the cluster did not become whole again.
    pub(super) async fn strike(self, trial: &mut Trial, random: &mut Random) -> anyhow::Result<()> {
        let leader = trial.cluster.leader().await?;
        let hold = Duration::from_millis(random.between(HOLD_MIN_MS, HOLD_MAX_MS));
        trial.say(&format!("{self}, node{} leads", leader + 1));
        match self {
            DiskFault::PowerLossLeader => power_loss(trial, &[leader], random).await,
            DiskFault::PowerLossFollower => {
                let node = super::target::follower(leader, random);
                power_loss(trial, &[node], random).await
            }
            DiskFault::PowerLossAll => {
                let all: Vec<_> = (0..N_NODES).collect();
                power_loss(trial, &all, random).await
            }
            DiskFault::Low => {
                trial.hurt(leader, "disk low");
                trial.cluster.disk(leader)?.fill(LOW_BYTES)?;
                pause(hold).await;
                trial.cluster.disk(leader)?.give_back()?;
                trial.unhurt(leader, "space is back").await
            }
            DiskFault::Full => {
                trial.hurt(leader, "disk full");
                trial.cluster.disk(leader)?.fill(0)?;
                pause(hold).await;
                // It need not fail: it stops to take writes, and what it still has to note may
                // find space that its log has taken before.
                match store(trial, leader).await {
                    Ok(_) => {
                        stays_failed(trial, leader, |trial| {
                            trial.cluster.disk(leader)?.give_back()
                        })
                        .await?;
                    }
                    Err(goes_on) => {
                        trial.say(&format!("node{}: {goes_on}", leader + 1));
                        trial.cluster.disk(leader)?.give_back()?;
                    }
                }
                restart(trial, leader).await
            }
            DiskFault::Frozen => {
                trial.hurt(leader, "disk frozen");
                trial.cluster.disk(leader)?.freeze()?;
                pause(hold).await;
                trial.cluster.disk(leader)?.thaw()?;
                trial.unhurt(leader, "disk thawed").await
            }
            DiskFault::SyncFails => {
                trial.hurt(leader, "syncs fail");
                let mut injected = Some(inject(trial, leader, SyncFault::Fails).await?);
                stays_failed(trial, leader, |_| {
                    injected.take();
                    Ok(())
                })
                .await?;
                restart(trial, leader).await
            }
            DiskFault::SlowSync => {
                let by = Duration::from_millis(random.between(SLOW_MIN_MS, SLOW_MAX_MS));
                trial.hurt(leader, &format!("syncs take {} ms more", by.as_millis()));
                let injected = inject(trial, leader, SyncFault::Slow(by)).await?;
                pause(hold).await;
                tokio::task::block_in_place(|| drop(injected));
                trial.unhurt(leader, "syncs are as before").await
            }
        }
    }
}

async fn power_loss(
    trial: &mut Trial,
    nodes: &[NodeIndex],
    random: &mut Random,
) -> anyhow::Result<()> {
    trial.lose_power(nodes).await?;
    pause(Duration::from_millis(random.between(500, 4_000))).await;
    let mut order = nodes.to_vec();
    random.shuffle(&mut order);
    let took = trial.heal(&order).await?;
    let seconds = took.as_secs_f64();
    trial.say(&format!("whole again {seconds:.1} s after the start"));
    Ok(())
}

async fn inject(trial: &Trial, node: NodeIndex, fault: SyncFault) -> anyhow::Result<Injection> {
    let pid = trial.cluster.nodes[node].pid();
    let pid = pid.ok_or_else(|| anyhow::anyhow!("node{} does not run", node + 1))?;
    Injection::start(pid, fault).await
}

/// Waits until a node's store says that it has failed, takes the cause away, and demands that this
/// changes nothing: the next sync after a failed one may succeed with the data gone.
async fn stays_failed(
    trial: &mut Trial,
    node: NodeIndex,
    take_away: impl FnOnce(&mut Trial) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let name = node_name(node);
    let noticed = clock::until(NOTICED_LIMIT, LOOK_EVERY, || store(trial, node)).await;
    take_away(trial)?;
    match noticed {
        Ok(cause) => {
            trial.say(&format!("{name}: {cause}"));
            trial.confirm(STORE_FAILED);
        }
        Err(why) => {
            let what = format!("does not notice that its store has failed: {why}");
            trial.find(STORE_FAILED, Evidence::new(name, what).at(boottime_ns()));
            return Ok(());
        }
    }
    let again = clock::until(STAYS_FAILED, LOOK_EVERY, || async {
        match store(trial, node).await {
            Ok(failed) => Err(failed),
            Err(works) => Ok(works),
        }
    });
    if let Ok(works) = again.await {
        let what = format!("the store of a process that failed is back: {works}");
        trial.find(STORE_FAILED, Evidence::new(name, what).at(boottime_ns()));
    }
    Ok(())
}

/// What a node says of its store once that has failed; an error while it works, or nobody answers.
async fn store(trial: &Trial, node: NodeIndex) -> Result<String, String> {
    let client = trial.cluster.client(&[node]);
    let client = client.map_err(|error| error.to_string())?;
    let status = client.with_timeout(ASK_LIMIT).local_status().await;
    let status = status.map_err(|error| error.to_string())?;
    let store = status.nodes.into_iter().next().map(|node| node.store);
    match store {
        Some(store) if store != "ok" => Ok(store),
        other => Err(format!("store: {}", other.unwrap_or_default())),
    }
}

async fn restart(trial: &mut Trial, node: NodeIndex) -> anyhow::Result<()> {
    trial.kill(node).await?;
    let took = trial.heal(&[node]).await?;
    let seconds = took.as_secs_f64();
    trial.say(&format!("whole again {seconds:.1} s after its restart"));
    Ok(())
}

impl fmt::Display for DiskFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DiskFault::PowerLossLeader => "power-loss-leader",
            DiskFault::PowerLossFollower => "power-loss-follower",
            DiskFault::PowerLossAll => "power-loss-all",
            DiskFault::Low => "disk-low",
            DiskFault::Full => "disk-full",
            DiskFault::Frozen => "disk-frozen",
            DiskFault::SyncFails => "sync-fails",
            DiskFault::SlowSync => "slow-sync",
        })
    }
}
