//! What several unit tests need.

use nihilo_types::id::{ObjectKey, ShardId};
use nihilo_types::route_table::RevisionTarget;

/// Revision `default/name` of the service `s`, without limits but a second of time.
pub(crate) fn target(name: &str) -> RevisionTarget {
    RevisionTarget {
        revision: ObjectKey::new("default", name),
        uid: "u".into(),
        service: "s".into(),
        configuration: "s".into(),
        shard: ShardId(0),
        container_concurrency: 0,
        timeout_ms: 1_000,
        response_start_timeout_ms: 0,
        idle_timeout_ms: 0,
        h2c: false,
        queue_depth: 0,
        max_scale: 0,
        probe_paths: Default::default(),
    }
}
