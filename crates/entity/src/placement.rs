//! Where a new instance goes, and which one goes away.

use std::collections::{BTreeMap, BTreeSet};

use nihilo_types::id::{InstanceId, ObjectKey, SessionId};
use nihilo_types::instance::InstanceState;

use crate::table::{InstanceRow, RowState, View};

/// Returns the node session for the next instance of `revision`: spread over nodes, then least
/// loaded, ties by rendezvous. `None` when no open agent has a free place.
pub fn place(
    view: View<'_>,
    revision: &ObjectKey,
    planned: &BTreeMap<SessionId, u32>,
    avoid: &BTreeSet<SessionId>,
) -> Option<SessionId> {
    let load = |id: SessionId, of: Option<&ObjectKey>| -> u32 {
        let rows = view.table.instances.values();
        let counted = rows.filter(|row| row.session == id && is_counted(row));
        let n = counted
            .filter(|row| of.is_none_or(|key| row.revision == *key))
            .count();
        u32::try_from(n).unwrap_or(u32::MAX) + planned.get(&id).copied().unwrap_or(0)
    };
    view.state
        .sessions()
        .filter(|session| session.opened.roles.agent && !avoid.contains(&session.id))
        .filter(|session| load(session.id, None) < session.opened.capacity)
        .min_by_key(|session| {
            let own = load(session.id, Some(revision));
            (
                own,
                load(session.id, None),
                weight(revision, session.opened.node.0),
            )
        })
        .map(|session| session.id)
}

/// Whether a row takes a place under max-scale.
pub fn is_counted(row: &InstanceRow) -> bool {
    match &row.state {
        RowState::Requested | RowState::Stranded { .. } => true,
        RowState::Refused(_) => false,
        RowState::Reported(report) => report.state.is_counted(),
    }
}

/// Whether it is on its way out; a drain can still be called off.
pub fn is_leaving(row: &InstanceRow) -> bool {
    matches!(&row.state, RowState::Reported(report)
        if matches!(report.state, InstanceState::Draining | InstanceState::Stopping))
}

/// Orders instances by how little is lost with them: not ready, idle, few requests, young.
pub fn victims(rows: &mut [(&InstanceId, &InstanceRow)]) {
    rows.sort_by_key(|(id, row)| match &row.state {
        RowState::Reported(report) => {
            let ready = report.state == InstanceState::Ready;
            (
                u8::from(ready),
                report.in_flight,
                report.age_ms,
                (*id).clone(),
            )
        }
        _ => (0, 0, 0, (*id).clone()),
    });
}

fn weight(revision: &ObjectKey, node: u64) -> u64 {
    let text = format!("{revision}/{node}");
    xxhash_rust::xxh3::xxh3_64(text.as_bytes())
}
