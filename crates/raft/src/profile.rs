//! Raft timing (02-store §2.2).

use nihilo_types::node_config::Profile;

/// Fewer cores than this, and the scheduler makes false elections under a tighter profile.
const MIN_CORES_FOR_BALANCED: usize = 4;

/// Fixed for the life of a process; all in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    pub name: &'static str,
    pub heartbeat_ms: u64,
    pub election_min_ms: u64,
    pub election_max_ms: u64,
    pub quorum_loss_probe_ms: u64,
}

/// A follower waits for the lease, which is `election_max_ms`, and then for its own timeout: 500, not
/// 600, brings the next leader within a second (docs/performance.md).
const CALM: Timing = Timing {
    name: "calm",
    heartbeat_ms: 100,
    election_min_ms: 300,
    election_max_ms: 500,
    quorum_loss_probe_ms: 1_500,
};
const BALANCED: Timing = Timing {
    name: "balanced",
    heartbeat_ms: 50,
    election_min_ms: 150,
    election_max_ms: 250,
    quorum_loss_probe_ms: 700,
};
const FAST: Timing = Timing {
    name: "fast",
    heartbeat_ms: 30,
    election_min_ms: 100,
    election_max_ms: 160,
    quorum_loss_probe_ms: 450,
};

impl Timing {
    /// `auto` is decided once, by the number of cores.
    pub fn of(profile: Profile) -> Self {
        match profile {
            Profile::Calm => CALM,
            Profile::Balanced => BALANCED,
            Profile::Fast => FAST,
            Profile::Auto => {
                let cores = std::thread::available_parallelism().map_or(1, usize::from);
                if cores < MIN_CORES_FOR_BALANCED {
                    CALM
                } else {
                    BALANCED
                }
            }
        }
    }

    /// What a node advertises as its own time without leader contact (03-actors §3).
    pub fn t_self_ms(&self) -> u64 {
        (self.election_max_ms + 3 * self.heartbeat_ms).max(400)
    }
}
