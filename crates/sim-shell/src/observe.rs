//! Looks at all nodes between two steps: the harness sees what no client can.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nihilo_raft::{RaftStatus, Role};
use nihilo_sim::checker::instance_bound::DeclaredDown;
use nihilo_sim::checker::monotonic::Sample;
use nihilo_sim::checker::replica_equality::Digest;
use nihilo_types::id::{LogIndex, SessionId};

use crate::book::Book;
use crate::node::{N_NODES, Site, View, name};

/// States are compared this often.
const LOOK_NS: u64 = 1_000_000_000;

#[derive(Debug, Default)]
pub(crate) struct Observer {
    last: [Option<RaftStatus>; N_NODES],
    applied: [LogIndex; N_NODES],
    /// Sessions that some node has seen open, with the node's place.
    open: BTreeMap<SessionId, usize>,
    closed: BTreeSet<SessionId>,
    next_look_ns: u64,
    pub(crate) digests: Vec<Digest>,
    pub(crate) n_leaders: u64,
}

impl Observer {
    pub(crate) fn step(&mut self, sites: &[Arc<Site>], now_ns: u64) {
        let book = sites[0].book.clone();
        for (place, site) in sites.iter().enumerate() {
            let view = site.view.lock().clone();
            match view {
                Some(view) => self.node(place, &view, &book, now_ns),
                None => self.last[place] = None,
            }
        }
        if now_ns >= self.next_look_ns {
            self.next_look_ns = now_ns + LOOK_NS;
            self.look(sites, now_ns);
        }
    }

    fn node(&mut self, place: usize, view: &View, book: &Book, now_ns: u64) {
        let mut status = view.raft.status();
        // Grows with every look.
        status.quorum_ack_age_ms = None;
        if self.last[place].as_ref() != Some(&status) {
            let known = self.last[place].as_ref();
            if known.map(|known| (known.role, known.term)) != Some((status.role, status.term)) {
                // Only then is it known to be durable.
                if status.role == Role::Leader {
                    self.n_leaders += 1;
                    sample(book, place, status.term, now_ns);
                }
            }
            let RaftStatus {
                role,
                term,
                last_log,
                applied,
                ..
            } = &status;
            let who = name(place);
            let what = format_args!("{who} {role} term {term} log {last_log} applied {applied}");
            book.trace_at(now_ns, what);
            self.last[place] = Some(status);
        }
        let applied = *view.raft.applied().borrow();
        if applied != self.applied[place] {
            self.applied[place] = applied;
            self.sessions(view, book, now_ns);
        }
    }

    /// Follows which sessions are open, by the first node that applies a change.
    fn sessions(&mut self, view: &View, book: &Book, now_ns: u64) {
        let applied = view.raft.applied().borrow().0;
        let open: Vec<(SessionId, usize)> = view.raft.state().read(|state| {
            let place = |node: u64| usize::try_from(node).unwrap_or(1).saturating_sub(1);
            let sessions = state.sessions();
            sessions
                .map(|session| (session.id, place(session.opened.node.0)))
                .collect()
        });
        let now_open: BTreeSet<SessionId> = open.iter().map(|(id, _)| *id).collect();
        let ended: Vec<(SessionId, usize)> = self
            .open
            .iter()
            // A node that lags has not heard of it yet.
            .filter(|(id, _)| id.0 <= applied && !now_open.contains(id))
            .map(|(id, place)| (*id, *place))
            .collect();
        for (id, place) in ended {
            self.open.remove(&id);
            self.closed.insert(id);
            book.trace_at(
                now_ns,
                format_args!("session {id} of {} ended", name(place)),
            );
            book.declared_down.lock().push(DeclaredDown {
                node: name(place),
                at_ns: now_ns,
                heard_again_ns: None,
                adopts: false,
            });
        }
        for (id, place) in open {
            if self.closed.contains(&id) || self.open.insert(id, place).is_some() {
                continue;
            }
            book.trace_at(
                now_ns,
                format_args!("session {id} of {} opened", name(place)),
            );
            let mut declared = book.declared_down.lock();
            let of_node = declared.iter_mut().filter(|down| down.node == name(place));
            for down in of_node.filter(|down| down.heard_again_ns.is_none()) {
                down.heard_again_ns = Some(now_ns);
            }
        }
    }

    fn look(&mut self, sites: &[Arc<Site>], now_ns: u64) {
        for (place, site) in sites.iter().enumerate() {
            let Some(view) = site.view.lock().clone() else {
                continue;
            };
            if view.raft.failure().borrow().is_none() {
                let (index, digest) = view.raft.state().digest();
                self.digests.push(Digest {
                    node: name(place),
                    at_ns: now_ns,
                    applied_index: index.0,
                    digest: format!("{digest:016x}"),
                });
            }
        }
    }
}

fn sample(book: &Book, place: usize, term: u64, now_ns: u64) {
    book.samples.lock().push(Sample {
        at_ns: now_ns,
        source: name(place),
        subject: "term that it leads".into(),
        value: term,
    });
}
