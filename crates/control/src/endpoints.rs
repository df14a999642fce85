//! The newest endpoint table of every revision this node owns, for gateways to follow.

use std::collections::BTreeMap;

use nihilo_types::endpoint::EndpointTable;
use nihilo_types::id::{ObjectKey, ShardId};
use parking_lot::Mutex;
use tokio::sync::broadcast;

/// Updates a follower may lag behind before it is told to start over.
pub const MAX_FOLLOWER_LAG: usize = 1024;

/// What followers need to catch up, then to keep up.
#[derive(Debug)]
pub struct EndpointBoard {
    tables: Mutex<BTreeMap<ObjectKey, (ShardId, EndpointTable)>>,
    updates: broadcast::Sender<EndpointTable>,
}

impl Default for EndpointBoard {
    fn default() -> Self {
        Self {
            tables: Mutex::default(),
            updates: broadcast::channel(MAX_FOLLOWER_LAG).0,
        }
    }
}

impl EndpointBoard {
    pub fn publish(&self, shard: ShardId, table: EndpointTable) {
        let mut tables = self.tables.lock();
        tables.insert(table.revision.clone(), (shard, table.clone()));
        // Nobody listening is a normal state; under the lock so that no follower sees a gap.
        drop(self.updates.send(table));
    }

    /// Forgets a shard that moved away: its new owner speaks for it.
    pub fn forget(&self, shard: ShardId) {
        self.tables.lock().retain(|_, (of, _)| *of != shard);
    }

    /// The present tables, and a receiver of everything after them.
    pub fn follow(&self) -> (Vec<EndpointTable>, broadcast::Receiver<EndpointTable>) {
        let tables = self.tables.lock();
        let present = tables.values().map(|(_, table)| table.clone()).collect();
        (present, self.updates.subscribe())
    }
}
