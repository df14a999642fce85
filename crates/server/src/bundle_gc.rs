//! When this node's bundles are collected, and what the cluster says must stay.

use std::time::Duration;

use nihilo_raft::RaftNode;
use nihilo_runtime::Agent;
use nihilo_runtime::bundle::{Bundles, Collected, Kept};
use tracing::info;

const EVERY: Duration = Duration::from_secs(60 * 60);
/// Not more often than this, however little room there is.
const PAUSE: Duration = Duration::from_secs(30);
/// Bound of the read that says what is kept.
const READ_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub struct Collector {
    pub raft: RaftNode,
    pub agent: Agent,
    pub bundles: Bundles,
}

impl Collector {
    /// Each hour, and when there is little room.
    pub async fn run(self) {
        loop {
            // Pressure first: it may have waited through the pause.
            tokio::select! {
                biased;
                () = self.bundles.store().pressed() => {}
                () = tokio::time::sleep(EVERY) => {}
            }
            if let Err(why) = self.collect(false).await {
                info!(why, "bundles not collected; nothing was removed");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Removes what neither the cluster nor an instance here needs, or says what it would.
    ///
    /// # Errors
    /// No quorum says what the cluster needs: nothing is removed.
    pub async fn collect(&self, is_dry_run: bool) -> Result<Collected, String> {
        // Before the read: what is used from here on may belong to a newer state.
        let as_of_ms = self.bundles.store().now_ms();
        let read = self.raft.read_index(READ_LIMIT).await;
        read.map_err(|error| error.to_string())?;
        let kept = Kept {
            roots: self.raft.state().read(|state| state.kept_bundles()),
            in_use: self.agent.bundles_in_use(),
            as_of_ms,
            ..Kept::default()
        };
        let store = self.bundles.store().clone();
        let collected = tokio::task::spawn_blocking(move || store.collect(kept, is_dry_run));
        collected.await.map_err(|error| error.to_string())
    }
}
