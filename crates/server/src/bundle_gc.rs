//! When this node's bundles are collected, and what the cluster says must stay.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nihilo_raft::RaftNode;
use nihilo_runtime::Agent;
use nihilo_runtime::bundle::{Bundles, Kept};
use nihilo_runtime::docker::{Found, Images, NoImage};
use nihilo_types::image::Reference;
use nihilo_wire::serving as pb;
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
    /// `docker.share-images`, as it is in force.
    pub shares_images: Arc<AtomicBool>,
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
    pub async fn collect(&self, is_dry_run: bool) -> Result<pb::Collected, String> {
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
        let mut needed: BTreeSet<_> = kept.roots.union(&kept.in_use).copied().collect();
        let store = self.bundles.store().clone();
        let max_bytes = store.usage().max_bytes;
        let collected = tokio::task::spawn_blocking(move || store.collect(kept, is_dry_run));
        let collected = collected.await.map_err(|error| error.to_string())?;
        if let Some(images) = self.agent.images().filter(|_| !is_dry_run) {
            // What was started meanwhile.
            needed.extend(self.agent.bundles_in_use());
            images.forget(&needed).await;
        }
        Ok(pb::Collected {
            n_bundles: collected.n_bundles,
            n_bytes: collected.n_bytes,
            n_bytes_kept: collected.n_bytes_kept,
            max_bytes,
        })
    }

    /// Whether images of this node's engine go into the cluster when services name them.
    pub fn shares_images(&self) -> bool {
        self.shares_images.load(Ordering::Relaxed)
    }

    /// The image that a name means to this node's engine, whatever its size.
    ///
    /// # Errors
    /// There is none.
    pub async fn find_image(&self, image: &Reference) -> Result<Found, NoImage> {
        self.images()?.find(image).await
    }

    /// # Errors
    /// Instances of this node are simulated.
    pub fn images(&self) -> Result<Images, NoImage> {
        let none = || NoImage::NoEngine("the node's instances are simulated".into());
        self.agent.images().ok_or_else(none)
    }
}
