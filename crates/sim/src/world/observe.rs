//! Tells the invariants what an entry did, and what an agent started.

use nihilo_machine::Applied;
use nihilo_types::instance::InstanceSpec;

use super::World;
use crate::invariants::Verdict;
use crate::invariants::cap;
use crate::invariants::instances::Running;

impl World {
    /// Node `n` is the first to have applied this entry.
    pub(crate) fn observe_entry(&mut self, n: usize, _index: u64, applied: &Applied) {
        if applied.ownership_changed {
            let state = &self.nodes[n].replica.state;
            let (ended, verdict) = self.checks.sessions.observe(state);
            self.judge("one session", verdict);
            for name in ended {
                let down = (0..self.nodes.len()).find(|m| self.nodes[*m].name() == name);
                if let Some(down) = down {
                    self.checks.instances.node_declared_down(down);
                }
            }
        }
        for event in &applied.events {
            let verdict = self.checks.versions.observe(event);
            self.judge("versions grow", verdict);
            self.checks.desired.observe(&event.object);
            let verdict =
                self.checks
                    .routes
                    .observe(&event.object, &self.nodes, &self.checks.sessions);
            self.judge("route ready", verdict);
        }
    }

    /// An agent obeyed a `Start`.
    pub(crate) fn observe_start(&mut self, n: usize, spec: &InstanceSpec) -> Verdict {
        let session = self.nodes[n].control.session;
        let running = Running {
            node: n,
            revision: spec.revision.clone(),
            uid: spec.revision_uid.clone(),
            // It does not know yet that it was declared down.
            is_stranded: !self.checks.sessions.is_open(session),
        };
        self.checks.instances.started(&spec.id, running);
        let bounds = self.checks.desired.bounds(&spec.revision_uid);
        cap::holds(&self.checks.instances, &spec.revision_uid, bounds.max)
    }
}
