//! What a seed draws before the world begins: sizes, timing, and which faults may happen at all.

use super::random::Random;

pub(crate) const MS: u64 = 1_000;
pub(crate) const SECOND: u64 = 1_000_000;
/// Of so many seeds, the last one freezes.
const IDLE_EVERY: u64 = 4;

/// Fixed for a run. Times in microseconds unless named otherwise.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) n_nodes: usize,
    pub(crate) n_services: usize,
    /// Length of the safety phase.
    pub(crate) chaos_us: u64,
    pub(crate) t_self_ms: u32,
    pub(crate) election_max_ms: u64,
    pub(crate) capacity: u32,
    /// Mean pause between two faults.
    pub(crate) fault_pause_us: u64,
    pub(crate) faults: Faults,
    /// Log entries between two snapshots that a node may restart from.
    pub(crate) snapshot_every: u64,
    /// Highest ordinary one-way delay between nodes.
    pub(crate) max_delay_us: u64,
    /// Longest pause between an applied entry and the task that follows it.
    pub(crate) max_task_delay_us: u64,
    /// Most revisions keep their last instance frozen.
    pub(crate) idles_frozen: bool,
}

/// Swarm testing: each seed turns a random subset off, so that rare combinations are not drowned
/// by the common ones (Groce et al., ISSTA 2012).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults {
    pub(crate) crash: bool,
    pub(crate) pause: bool,
    pub(crate) cut: bool,
    pub(crate) isolate: bool,
    /// A node goes in good order, as by SIGTERM, and comes back.
    pub(crate) leave: bool,
    /// An owner that does not hear of its loss meets an agent that was just restarted.
    pub(crate) stale_owner: bool,
    pub(crate) leader_change: bool,
    pub(crate) slow_link: bool,
    pub(crate) lagging_replica: bool,
    /// Permille of messages that are lost, doubled, or late by up to seconds.
    pub(crate) drop: u64,
    pub(crate) double: u64,
    pub(crate) late: u64,
    pub(crate) instance_trouble: bool,
    pub(crate) reload: bool,
    pub(crate) lost_stats: bool,
    pub(crate) broken_streams: bool,
    pub(crate) slow_commits: bool,
    pub(crate) churn: bool,
    /// Clients come back just as an instance is being stopped.
    pub(crate) late_clients: bool,
}

impl Plan {
    pub(crate) fn draw(seed: u64, random: &mut Random) -> Self {
        let balanced = random.chance(500);
        Self {
            n_nodes: usize::try_from(random.between(3, 5)).unwrap_or(3),
            n_services: usize::try_from(random.between(1, 5)).unwrap_or(1),
            chaos_us: random.between(15, 40) * SECOND,
            // Raft's profiles `balanced` and `calm`.
            t_self_ms: if balanced { 400 } else { 900 },
            election_max_ms: if balanced { 250 } else { 500 },
            capacity: u32::try_from(random.between(4, 40)).unwrap_or(4),
            fault_pause_us: random.between(300, 4_000) * MS,
            faults: Faults::draw(random),
            snapshot_every: random.between(20, 300),
            max_delay_us: random.between(300, 4_000),
            max_task_delay_us: random.between(50, 3_000),
            // Not drawn, so that all other seeds stay the runs that they were.
            idles_frozen: seed % IDLE_EVERY == IDLE_EVERY - 1,
        }
    }
}

impl Faults {
    fn draw(random: &mut Random) -> Self {
        let mut on = |permille| random.chance(permille);
        Self {
            crash: on(600),
            pause: on(500),
            cut: on(500),
            isolate: on(500),
            leave: on(400),
            stale_owner: on(400),
            leader_change: on(500),
            slow_link: on(400),
            lagging_replica: on(300),
            drop: if on(400) { 20 } else { 0 },
            double: if on(300) { 20 } else { 0 },
            late: if on(400) { 15 } else { 0 },
            instance_trouble: on(500),
            reload: on(500),
            lost_stats: on(400),
            broken_streams: on(400),
            slow_commits: on(300),
            churn: on(700),
            late_clients: on(500),
        }
    }

    /// After the heal.
    pub(crate) const NONE: Faults = Faults {
        crash: false,
        pause: false,
        cut: false,
        isolate: false,
        leave: false,
        stale_owner: false,
        leader_change: false,
        slow_link: false,
        lagging_replica: false,
        drop: 0,
        double: 0,
        late: 0,
        instance_trouble: false,
        reload: false,
        lost_stats: false,
        broken_streams: false,
        slow_commits: false,
        churn: false,
        late_clients: false,
    };
}
