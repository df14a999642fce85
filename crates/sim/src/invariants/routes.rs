//! Once a Route is Ready for an assignment, no live gateway uses an older table (P11).

use std::collections::BTreeMap;

use nihilo_machine::state::{EventKind, ObjectChange};
use nihilo_types::condition::types;
use nihilo_types::id::{ObjectKey, SessionId};

use super::Verdict;
use super::sessions::Sessions;
use crate::world::Node;

/// Routes that are Ready, with the index of the assignment they are Ready for.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    ready: BTreeMap<ObjectKey, u64>,
}

impl Routes {
    /// Takes an entry's change; when a Route became Ready, looks at all live gateways.
    pub(crate) fn observe(
        &mut self,
        change: &ObjectChange,
        nodes: &[Node],
        sessions: &Sessions,
    ) -> Verdict {
        let ObjectChange::Route { object, change } = change else {
            return Ok(());
        };
        let key = object.metadata.key();
        let conditions = &object.status.conditions;
        if *change == EventKind::Deleted || !conditions.is_true(types::READY) {
            self.ready.remove(&key);
            return Ok(());
        }
        let assigned_at = object.status.assigned_at;
        if self.ready.insert(key.clone(), assigned_at) == Some(assigned_at) {
            return Ok(());
        }
        let live = |node: &&Node| node.up && sessions.is_open(node.control.session);
        match nodes
            .iter()
            .filter(live)
            .find(|node| is_behind(node, assigned_at))
        {
            None => Ok(()),
            Some(node) => Err(format!(
                "{key} is Ready for {assigned_at}, {} serves table {}",
                node.name(),
                node.control.acknowledged
            )),
        }
    }

    /// A gateway becomes live: what is Ready already binds it, too.
    pub(crate) fn opened(&self, node: &Node) -> Verdict {
        if node.control.session == SessionId(0) {
            return Ok(());
        }
        match self.ready.iter().find(|(_, at)| is_behind(node, **at)) {
            None => Ok(()),
            Some((key, at)) => Err(format!(
                "{} opens with table {}, {key} is Ready for {at}",
                node.name(),
                node.control.acknowledged
            )),
        }
    }
}

fn is_behind(node: &Node, assigned_at: u64) -> bool {
    node.control.acknowledged.0 < assigned_at
}
