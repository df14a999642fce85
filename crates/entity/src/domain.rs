//! Own domains of a Route: each is served once every live gateway has a table that holds it.
//!
//! Whose the host is, and that there is a Route, `apply` has said already.

use nihilo_machine::Command;
use nihilo_machine::command::{Fence, RecordDomainMapping};
use nihilo_types::condition::{Assertion, types};
use nihilo_types::domain::DomainMapping;
use nihilo_types::id::ObjectKey;
use nihilo_types::route::Route;

use crate::table::View;

/// Records the next own domain of the Route that was not known to be served, and is.
pub(crate) fn served(view: View<'_>, route: &ObjectKey) -> Option<Command> {
    let stored = view.state.route(route)?;
    let mut mappings = view.state.domain_mappings_of(route);
    let mapping =
        mappings.find(|mapping| mapping.awaits_gateways() && is_served(view, &stored, mapping))?;
    Some(Command::RecordDomainMapping(RecordDomainMapping {
        fence: Fence {
            shard: view.table.shard,
            epoch: view.table.epoch,
        },
        key: mapping.metadata.key(),
        version: mapping.metadata.version(),
        assertions: vec![Assertion::truth(types::INGRESS_READY)],
    }))
}

/// Some own domain of the Route is to be served, and it is not known that it is.
pub(crate) fn is_waiting(view: View<'_>, route: &ObjectKey) -> bool {
    let mut mappings = view.state.domain_mappings_of(route);
    mappings.any(|mapping| mapping.awaits_gateways())
}

/// The host stands in the table from both entries on: the mapping's, and the Route's assignment.
fn is_served(view: View<'_>, route: &Route, mapping: &DomainMapping) -> bool {
    let assigned_at = route.status.assigned_at;
    assigned_at > 0 && view.table.acknowledged.0 >= assigned_at.max(mapping.status.assigned_at)
}
