//! A cluster that begins anew with what another one has left: restored from a backup, or recovered
//! from one node after the majority was lost (02-store §6.2).

use std::sync::Arc;

use nihilo_types::id::{LogIndex, NodeId};

use crate::member::{Duty, Member, Standing};
use crate::state::State;

impl State {
    /// The same objects in a cluster of their own, with `me` as its only voter: no session, no
    /// owner and no join token of the old one counts any more, its nodes are removed as of `at`.
    ///
    /// `at` must be above every index that the old cluster may have given out.
    #[must_use]
    pub fn begin_anew(mut self, cluster_id: &str, me: Member, at: LogIndex) -> State {
        if let Some(cluster) = &self.cluster {
            let mut cluster = cluster.as_ref().clone();
            let before = std::mem::replace(&mut cluster.cluster_id, cluster_id.to_owned());
            self.ancestors.push(before);
            self.cluster = Some(Arc::new(cluster));
        }
        self.sessions.clear();
        self.owners.clear();
        self.tokens.clear();
        // Each node comes with another store than it had there.
        self.stores.clear();
        for member in self.members.values_mut() {
            if member.id != me.id && !member.is_removed() {
                let standing = Standing::Removed { at };
                *member = Arc::new(Member {
                    standing,
                    ..member.as_ref().clone()
                });
            }
        }
        // It is all that there is: what it was not to do there it has to do here.
        let duty = Duty::Full;
        self.members.insert(me.id, Arc::new(Member { duty, ..me }));
        self.rebuild_indexes();
        self
    }

    /// The clusters that this one was made of, oldest first: what their nodes left running on a
    /// host of this one belongs to it.
    pub fn ancestors(&self) -> &[String] {
        &self.ancestors
    }

    /// A founding or recovering node of one's own, by what is known of it.
    pub fn member_or(&self, node: NodeId, otherwise: Member) -> Member {
        let known = self
            .members
            .get(&node)
            .filter(|member| !member.is_removed());
        known.map_or(otherwise, |member| Member {
            standing: Standing::Voter,
            ..member.as_ref().clone()
        })
    }
}
