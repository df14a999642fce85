//! The shard keeper's table: what would double an instance if it were forgotten (03-actors §5.2).
//!
//! It outlives panics, reloads and passivation of the shard's actors. Handlers read it through a
//! [`View`]; only the shell writes it, from agents' reports and when an effect leaves.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use nihilo_machine::State;
use nihilo_types::id::{Epoch, InstanceId, LogIndex, NodeId, ObjectKey, SessionId, ShardId};
use nihilo_types::instance::InstanceReport;
use nihilo_types::shard::N_SHARDS;

/// Reports of one gateway about one revision that wait for the autoscaler's next turn, at most.
pub const MAX_PENDING_STATS: usize = 8;

/// What the cluster's operator has set for all entities.
pub use nihilo_machine::settings::Settings;

/// Everything that a turn may look at.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub state: &'a State,
    pub table: &'a ShardTable,
    pub settings: &'a Settings,
}

/// One owned shard's soft state under one epoch.
#[derive(Debug, Clone, Default)]
pub struct ShardTable {
    pub shard: ShardId,
    pub epoch: Epoch,
    /// Every live agent has answered this epoch's `List`, and no node that is gone may come back
    /// with instances in time: absent instances do not exist.
    pub complete: bool,
    /// Every live gateway serves a route table at or above this index.
    pub acknowledged: LogIndex,
    pub instances: BTreeMap<InstanceId, InstanceRow>,
    /// Agents that answer only by way of another node: they get no starts from here (03-actors §9).
    pub by_relay: BTreeSet<SessionId>,
    /// Next number of [`ShardTable::instance_id`]; never reset within an epoch.
    pub next_instance: u64,
    /// By revision, then gateway session; oldest first.
    pub stats: BTreeMap<ObjectKey, BTreeMap<SessionId, VecDeque<StatRow>>>,
    /// When each gateway session's newest batch came in, also an empty one.
    pub heard: BTreeMap<SessionId, Heard>,
    /// Newest version sent to gateways per revision; kept so that versions never repeat.
    pub endpoint_seq: u64,
}

/// An instance, or a start that was sent and not answered yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceRow {
    pub revision: ObjectKey,
    pub session: SessionId,
    pub node: NodeId,
    pub state: RowState,
    /// Control's monotonic clock when the state was entered.
    pub since_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowState {
    /// `Start` was sent; counted until an answer, or a later `List` that does not show it.
    Requested,
    /// The agent refused: never ran, not counted; kept briefly for the Revision actor to see.
    Refused(Refusal),
    Reported(Box<InstanceReport>),
    /// Its node was declared down; counted until `uncount_at_ms` (restart grace), see 03-actors
    /// §10.
    Stranded {
        last: Option<Box<InstanceReport>>,
        uncount_at_ms: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub kind: RefusalKind,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    NoCapacity,
    Busy,
    NotReady,
    Failed,
}

/// One gateway's second about one revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatRow {
    pub seq: u64,
    pub area_us: u64,
    pub used_us: u64,
    pub n_started: u64,
    pub in_flight: u64,
    pub queued: u64,
    pub oldest_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    pub seq: u64,
    pub at_ms: u64,
}

impl ShardTable {
    pub fn new(shard: ShardId, epoch: Epoch) -> Self {
        Self {
            shard,
            epoch,
            next_instance: 1,
            ..Self::default()
        }
    }

    /// The id of the `k`-th instance, from 0, that one turn starts for `revision`.
    ///
    /// One log entry often gives many shards to an owner under one epoch, and a Service of the
    /// same name in another namespace lives in another shard: so each shard counts in numbers
    /// that no other one uses.
    pub fn instance_id(&self, revision: &ObjectKey, k: u64) -> InstanceId {
        let counter = (self.next_instance + k) * u64::from(N_SHARDS) + u64::from(self.shard.0);
        InstanceId::new(&revision.name, self.epoch, counter)
    }

    /// Instances of one revision, by id.
    pub fn of<'a>(
        &'a self,
        revision: &'a ObjectKey,
    ) -> impl Iterator<Item = (&'a InstanceId, &'a InstanceRow)> {
        self.instances
            .iter()
            .filter(move |(_, row)| row.revision == *revision)
    }
}

#[cfg(test)]
mod tests {
    use nihilo_types::shard::shard_of;

    use super::*;

    #[test]
    fn services_of_one_name_in_two_namespaces_never_share_an_instance_id() {
        let id = |namespace: &str| {
            let shard = shard_of(&ObjectKey::new(namespace, "hello"));
            let table = ShardTable::new(shard, Epoch(71));
            table.instance_id(&ObjectKey::new(namespace, "hello-00001"), 0)
        };
        assert_ne!(id("default"), id("staging"));
    }

    #[test]
    fn ids_of_one_turn_and_of_the_next_differ() {
        let revision = ObjectKey::new("default", "hello-00001");
        let mut table = ShardTable::new(ShardId(255), Epoch(71));
        let first = [
            table.instance_id(&revision, 0),
            table.instance_id(&revision, 1),
        ];
        table.next_instance += 2;
        let second = table.instance_id(&revision, 0);
        assert!(first[0] != first[1] && !first.contains(&second));
    }
}
