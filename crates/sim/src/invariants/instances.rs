//! The truth about instances, and that no instance id is ever issued twice (03-actors §4).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nihilo_types::id::{InstanceId, ObjectKey};

use super::Verdict;

#[derive(Debug, Default)]
pub(crate) struct Instances {
    /// Ids that owners have asked for.
    asked: BTreeSet<InstanceId>,
    ever: BTreeSet<InstanceId>,
    running: BTreeMap<InstanceId, Running>,
}

/// One running instance, by its agent.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    pub(crate) node: usize,
    pub(crate) revision: ObjectKey,
    pub(crate) uid: Arc<str>,
    /// Its node was declared down while it ran: its place may have been given away.
    pub(crate) is_stranded: bool,
}

impl Instances {
    pub(crate) fn asked_for(&mut self, id: &InstanceId) -> Verdict {
        match self.asked.insert(id.clone()) {
            true => Ok(()),
            false => Err(format!("instance id {id} is issued again")),
        }
    }

    pub(crate) fn started(&mut self, id: &InstanceId, running: Running) {
        self.ever.insert(id.clone());
        self.running.insert(id.clone(), running);
    }

    pub(crate) fn gone(&mut self, id: &InstanceId) {
        self.running.remove(id);
    }

    pub(crate) fn node_declared_down(&mut self, node: usize) {
        for running in self.running.values_mut().filter(|r| r.node == node) {
            running.is_stranded = true;
        }
    }

    pub(crate) fn ever_existed(&self, id: &InstanceId) -> bool {
        self.ever.contains(id)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&InstanceId, &Running)> {
        self.running.iter()
    }
}
