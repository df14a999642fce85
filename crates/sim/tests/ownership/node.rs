//! One node: its replica's progress, its owner with the shard's keeper, its agent.

use std::collections::{BTreeMap, BTreeSet};

pub(crate) type Index = u8;
pub(crate) type Instance = u8;

/// A log entry; its index is the session or the epoch that it makes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Entry {
    /// A life of the node begins, its previous one ends, the shard goes along.
    Open { node: usize },
    /// A life is declared over; the shard goes to another one, if there is one.
    Down { session: Index },
}

/// What one replica knows after so many entries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Table {
    /// Open sessions and their nodes.
    pub(crate) sessions: BTreeMap<Index, usize>,
    pub(crate) owner: Index,
    pub(crate) epoch: Index,
}

impl Table {
    pub(crate) fn of(log: &[Entry], keeps_old: bool) -> Self {
        let mut table = Self::default();
        for (i, entry) in log.iter().enumerate() {
            table.apply(entry, i as Index + 1, keeps_old);
        }
        table
    }

    /// `keeps_old` is the planted hole: the node's earlier session stays open.
    pub(crate) fn apply(&mut self, entry: &Entry, index: Index, keeps_old: bool) {
        match entry {
            Entry::Open { node } => {
                let old: Vec<_> = self
                    .sessions
                    .iter()
                    .filter(|(_, n)| *n == node)
                    .map(|(s, _)| *s)
                    .collect();
                self.sessions.insert(index, *node);
                let was_owner = old.contains(&self.owner) || self.owner == 0;
                if !keeps_old {
                    old.iter().for_each(|session| {
                        self.sessions.remove(session);
                    });
                }
                if was_owner {
                    (self.owner, self.epoch) = (index, index);
                }
            }
            Entry::Down { session } => {
                self.sessions.remove(session);
                if self.owner == *session {
                    let heir = self.sessions.keys().next().copied().unwrap_or(0);
                    (self.owner, self.epoch) = (heir, index);
                }
            }
        }
    }
}

/// A row of the keeper; every one takes a place under the cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Row {
    /// Sent with this number, not answered.
    Requested {
        session: Index,
        seq: u8,
    },
    Reported {
        session: Index,
    },
    /// Its session has ended; un-counted when the grace is over.
    Stranded {
        node: usize,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Owner {
    pub(crate) epoch: Index,
    pub(crate) rows: BTreeMap<Instance, Row>,
    /// Agents that have not answered this epoch's list.
    pub(crate) waiting: BTreeSet<Index>,
    /// Nodes without a session, which may come back with instances that this owner never counted.
    pub(crate) awaited: BTreeSet<usize>,
    pub(crate) seq: u8,
    pub(crate) has_reloaded: bool,
}

impl Owner {
    pub(crate) fn new(epoch: Index, agents: BTreeSet<Index>, awaited: BTreeSet<usize>) -> Self {
        Self {
            epoch,
            rows: BTreeMap::new(),
            waiting: agents,
            awaited,
            seq: 0,
            has_reloaded: false,
        }
    }

    /// An agent's whole answer to list number `seq`: what it does not show is not there.
    pub(crate) fn listed(
        &mut self,
        from: Index,
        node: usize,
        seq: u8,
        shown: &BTreeSet<Instance>,
        adopts: bool,
    ) {
        self.rows.retain(|id, row| match *row {
            Row::Requested { session, seq: sent } => {
                session != from || sent > seq || shown.contains(id)
            }
            Row::Reported { session } => session != from || shown.contains(id),
            Row::Stranded { node: at } => at != node || shown.contains(id),
        });
        if adopts {
            for id in shown {
                self.rows.insert(*id, Row::Reported { session: from });
            }
        }
        self.waiting.remove(&from);
        self.awaited.remove(&node);
    }

    pub(crate) fn session_ended(&mut self, ended: Index, node: usize, counts: bool) {
        self.waiting.remove(&ended);
        let at = |row: &Row| matches!(*row, Row::Requested { session, .. } | Row::Reported { session } if session == ended);
        if counts {
            self.rows
                .values_mut()
                .filter(|row| at(row))
                .for_each(|row| *row = Row::Stranded { node });
        } else {
            self.rows.retain(|_, row| !at(row));
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    pub(crate) is_up: bool,
    /// Entries applied here; durable.
    pub(crate) applied: usize,
    /// This life's session, once it is in the log.
    pub(crate) session: Index,
    pub(crate) owner: Option<Owner>,
    /// What runs on the box, whether its node lives or not.
    pub(crate) running: BTreeSet<Instance>,
    /// Highest epoch that the agent has obeyed or seen in its table.
    pub(crate) floor: Index,
    /// Newest answered list of that epoch.
    pub(crate) listed: u8,
    /// The same over all lives, for the judge.
    pub(crate) obeyed: Index,
}
