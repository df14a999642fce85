//! Ends what carries this directory's mark and belongs to no instance that the agent knows: a
//! process without a handle, or one that got away from its instance's end.
//!
//! It begins once the node's session is open, and takes nothing that it has not seen at two looks
//! in a row.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use nihilo_types::id::InstanceId;
use tokio::sync::watch;
use tracing::warn;

use crate::agent::Inner;
use crate::driver::Driver;
use crate::process::ProcessDriver;

/// Between two looks. Found by one, ended by the next: far below the minute that is promised.
const EVERY: Duration = Duration::from_secs(10);

/// Ends with the agent.
pub(crate) async fn run(
    inner: Weak<Inner>,
    driver: Arc<ProcessDriver>,
    mut accepting: watch::Receiver<bool>,
) {
    let mut seen = BTreeSet::new();
    while accepting.wait_for(|accepting| *accepting).await.is_ok() {
        let looking = driver.clone();
        // Every process of the host is looked at.
        let found = tokio::task::spawn_blocking(move || looking.found()).await;
        let Some(inner) = inner.upgrade() else { return };
        let unowned = unowned(found.unwrap_or_default(), |id| inner.is_known(id));
        for id in unowned.intersection(&seen) {
            warn!(instance = %id, "swept: it runs, and belongs to no instance of this node");
            driver.destroy_unknown(id).await;
            inner.log_end(id);
        }
        seen = unowned;
        drop(inner);
        tokio::time::sleep(EVERY).await;
    }
}

/// Read after the look at the processes: what was started meanwhile is known by now.
fn unowned(
    found: BTreeSet<InstanceId>,
    is_known: impl Fn(&InstanceId) -> bool,
) -> BTreeSet<InstanceId> {
    found.into_iter().filter(|id| !is_known(id)).collect()
}
