//! Which revisions of a Service nobody needs any more (01-objects §13).
//!
//! Source: knative/serving:pkg/reconciler/gc/gc.go.

use nihilo_machine::settings::GcConfig;
use nihilo_types::configuration::Configuration;
use nihilo_types::meta::keys;
use nihilo_types::revision::{Revision, RoutingState};
use nihilo_types::time::parse_rfc3339;

use crate::table::View;

/// Revisions that one entry removes, at most; what is left over is looked at again.
const MAX_AT_ONCE: usize = 100;

/// The names of those that may go now, oldest first.
pub(crate) fn stale(view: View<'_>, configuration: &Configuration) -> Vec<String> {
    let config = &view.settings.gc;
    let disabled = config.since_create_ms.is_none()
        && config.since_active_ms.is_none()
        && config.max_non_active.is_none();
    if disabled {
        return Vec::new();
    }
    let mut free: Vec<_> = view
        .state
        .revisions_of(&configuration.metadata.key())
        .filter(|revision| !is_protected(configuration, revision))
        .map(|revision| (last_active_ms(&revision), revision))
        .collect();
    free.sort_by_key(|(at_ms, revision)| (*at_ms, revision.configuration_generation()));
    if free.len() <= config.min_non_active {
        return Vec::new();
    }
    let now_ms = view.state.clock().wall_ms;
    let mut allowance = free.len() - config.min_non_active;
    let (mut gone, mut left) = (Vec::new(), Vec::new());
    for (_, revision) in free {
        if allowance > 0 && is_stale(config, &revision, now_ms) {
            allowance -= 1;
            gone.push(revision.metadata.name.clone());
        } else {
            left.push(revision.metadata.name.clone());
        }
    }
    let max = config.max_non_active.unwrap_or(usize::MAX);
    let surplus = left.len().saturating_sub(max).min(allowance);
    gone.extend(left.into_iter().take(surplus));
    gone.truncate(MAX_AT_ONCE);
    gone
}

fn is_protected(configuration: &Configuration, revision: &Revision) -> bool {
    let (name, status) = (&revision.metadata.name, &configuration.status);
    *name == status.latest_ready_revision_name
        || *name == status.latest_created_revision_name
        || revision.metadata.annotation(keys::NO_GC) == Some("true")
        || revision.routing_state() != RoutingState::Reserve
}

/// Older than every time that is enabled.
fn is_stale(config: &GcConfig, revision: &Revision, now_ms: u64) -> bool {
    if config.since_create_ms.is_none() && config.since_active_ms.is_none() {
        return false;
    }
    let created_ms = parse_rfc3339(&revision.metadata.creation_timestamp).unwrap_or(now_ms);
    let is_past = |since_ms: Option<u64>, at_ms: u64| {
        since_ms.is_none_or(|since_ms| at_ms.saturating_add(since_ms) <= now_ms)
    };
    is_past(config.since_create_ms, created_ms)
        && is_past(config.since_active_ms, last_active_ms(revision))
}

/// When its routing state last changed, else when it was made.
fn last_active_ms(revision: &Revision) -> u64 {
    let modified = revision.metadata.annotation(keys::ROUTING_STATE_MODIFIED);
    let created = Some(revision.metadata.creation_timestamp.as_str());
    modified
        .or(created)
        .and_then(parse_rfc3339)
        .unwrap_or(u64::MAX)
}
