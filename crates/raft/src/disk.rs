//! Free space of the disk that the store lies on: below a bound this node leads no new writes, so
//! that a filling disk is told to people before it takes the node's store (02-store §3 item 5).

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use crate::Raft;
use crate::node::most_advanced_follower;

/// Room that the store needs beyond its files: two write-ahead logs, and compactions of them.
pub const MIN_FREE_BYTES: u64 = 256 * 1024 * 1024;
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Leadership is offered to another node no more often than this: it may be as full as this one.
const OFFER_EVERY: Duration = Duration::from_secs(10);
/// A disk that stays low is reported again after this.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Bytes that this process may still write; `None` when the file system does not say.
pub(crate) fn free_bytes(dir: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(dir).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Publishes the free space of `dir`, and hands leadership on while it is low. Never returns.
pub(crate) async fn watch(raft: Raft, me: u64, dir: PathBuf, free: watch::Sender<Option<u64>>) {
    let (mut offered, mut warned) = (None, None);
    let is_due = |last: Option<Instant>, every| last.is_none_or(|at| at.elapsed() >= every);
    loop {
        let now = free_bytes(&dir);
        free.send_replace(now);
        let is_low = now.is_some_and(|bytes| bytes < MIN_FREE_BYTES);
        if is_low && is_due(warned, WARN_EVERY) {
            warned = Some(Instant::now());
            let free_mib = now.unwrap_or(0) / (1024 * 1024);
            warn!(free_mib, dir = %dir.display(), "disk-low: this node leads no new writes");
        }
        if is_low
            && is_due(offered, OFFER_EVERY)
            && let Some(target) = most_advanced_follower(&raft, me)
        {
            offered = Some(Instant::now());
            if let Err(error) = raft.trigger().transfer_leader(target).await {
                warn!(%error, "leadership not handed over");
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
