//! Where a new instance goes, and which one goes away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nihilo_machine::state::Session;
use nihilo_types::id::{InstanceId, ObjectKey, SessionId};
use nihilo_types::instance::InstanceState;

use crate::rows::{is_counted, is_frozen};
use crate::table::{InstanceRow, RowState, View};

/// Instances by which a node may be ahead of the least loaded one and still be preferred for the
/// requests that wait at its gateway (03-actors §7.2).
const NEAR_SLACK: u32 = 2;

/// Returns the node session for the next instance of `revision`: spread over nodes, then `near`,
/// where requests wait, then least loaded, ties by rendezvous. Where all are full, one that holds a
/// frozen instance: its agent refuses, and stops that one for whoever asks next. `None` when no open
/// agent that is given work has a place in either way.
pub fn place(
    view: View<'_>,
    revision: &ObjectKey,
    planned: &BTreeMap<SessionId, u32>,
    avoid: &BTreeSet<SessionId>,
    near: Option<SessionId>,
) -> Option<SessionId> {
    let rows_on = |id: SessionId| {
        view.table
            .instances
            .values()
            .filter(move |r| r.session == id)
    };
    let load = |id: SessionId, of: Option<&ObjectKey>| -> u32 {
        let counted = rows_on(id).filter(|row| is_counted(row));
        let n = counted
            .filter(|row| of.is_none_or(|key| row.revision == *key))
            .count();
        u32::try_from(n).unwrap_or(u32::MAX) + planned.get(&id).copied().unwrap_or(0)
    };
    let given_work: Vec<_> = (view.state.sessions())
        .filter(|session| session.opened.roles.agent && !avoid.contains(&session.id))
        .filter(|session| view.state.duty_of(session.opened.node).is_full())
        .map(|session| (session, load(session.id, None)))
        .collect();
    let has_room = |(session, load): &(&Arc<Session>, u32)| *load < session.opened.capacity;
    let may_make_room = |(session, _): &(&Arc<Session>, u32)| rows_on(session.id).any(is_frozen);
    let mut open = given_work.clone();
    open.retain(has_room);
    if open.is_empty() {
        open = given_work;
        open.retain(may_make_room);
    }
    let least = open.iter().map(|(_, load)| *load).min()?;
    let is_near =
        |id: SessionId, load: u32| near == Some(id) && load <= least.saturating_add(NEAR_SLACK);
    let best = open.iter().min_by_key(|(session, all)| {
        (
            load(session.id, Some(revision)),
            !is_near(session.id, *all),
            *all,
            weight(revision, session.opened.node.0),
        )
    });
    best.map(|(session, _)| session.id)
}

/// Orders instances by how little is lost with them: not ready, idle, few requests, young. Youth
/// is told by when the keeper saw the state begin: what a report said of its age has grown old.
pub fn victims(rows: &mut [(&InstanceId, &InstanceRow)]) {
    rows.sort_by_key(|(id, row)| match &row.state {
        RowState::Reported(report) => {
            let ready = report.state == InstanceState::Ready;
            (
                u8::from(ready),
                report.in_flight,
                (u64::MAX - row.since_ms, report.age_ms),
                (*id).clone(),
            )
        }
        _ => (0, 0, (0, 0), (*id).clone()),
    });
}

fn weight(revision: &ObjectKey, node: u64) -> u64 {
    let text = format!("{revision}/{node}");
    xxhash_rust::xxh3::xxh3_64(text.as_bytes())
}
