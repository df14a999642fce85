//! No node ever has two open sessions (03-actors §3), and who was declared down when.

use std::collections::{BTreeMap, BTreeSet};

use nihilo_machine::State;
use nihilo_types::id::SessionId;

use super::Verdict;

/// Open sessions as of the newest entry, with their nodes' names.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    open: BTreeMap<SessionId, String>,
    /// Ended by others, or by the node's own next session: whatever it ran was given up.
    declared_down: BTreeSet<SessionId>,
}

impl Sessions {
    /// Takes the sessions after an entry; returns the nodes that were declared down with it.
    pub(crate) fn observe(&mut self, state: &State) -> (Vec<String>, Verdict) {
        let now: BTreeMap<SessionId, String> = state
            .sessions()
            .map(|session| (session.id, session.opened.name.clone()))
            .collect();
        let ended: Vec<_> = self
            .open
            .iter()
            .filter(|(id, _)| !now.contains_key(id) && !state.has_left(**id))
            .collect();
        self.declared_down.extend(ended.iter().map(|(id, _)| **id));
        let ended = ended.into_iter().map(|(_, name)| name.clone()).collect();
        let names: BTreeSet<_> = now.values().collect();
        let verdict = match names.len() == now.len() {
            true => Ok(()),
            false => Err(format!("open sessions: {now:?}")),
        };
        self.open = now;
        (ended, verdict)
    }

    pub(crate) fn is_open(&self, session: SessionId) -> bool {
        self.open.contains_key(&session)
    }

    pub(crate) fn was_declared_down(&self, session: SessionId) -> bool {
        self.declared_down.contains(&session)
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }
}
