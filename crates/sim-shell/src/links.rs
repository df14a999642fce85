//! Which direction of which link is cut.
//!
//! A cut hides what arrives: bytes that are under way are seen when the link is whole again, as
//! TCP sends them again until then. A long cut may also end with its connections reset. Dials wait
//! as long as a direction is cut: nobody says that the other side refuses.

use std::collections::{BTreeMap, BTreeSet};
use std::task::{Context, Waker};

use parking_lot::Mutex;

/// From a host, to a host.
pub(crate) type Edge = (String, String);

#[derive(Debug, Default)]
pub(crate) struct Links(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    cut: BTreeSet<Edge>,
    /// How often connections over an edge were reset.
    n_resets: BTreeMap<Edge, u64>,
    /// By the number of the connection that waits.
    waiting: BTreeMap<u64, Waker>,
    n_connections: u64,
}

impl Links {
    pub(crate) fn cut(&self, edge: Edge) {
        self.0.lock().cut.insert(edge);
    }

    /// Makes an edge whole again; what was under way arrives now, or ends in a reset.
    pub(crate) fn heal(&self, edge: &Edge, resets: bool) {
        let mut state = self.0.lock();
        state.cut.remove(edge);
        if resets {
            *state.n_resets.entry(edge.clone()).or_default() += 1;
        }
        for waker in std::mem::take(&mut state.waiting).into_values() {
            waker.wake();
        }
    }

    pub(crate) fn is_cut(&self, edge: &Edge) -> bool {
        self.0.lock().cut.contains(edge)
    }

    pub(crate) fn n_resets(&self, edge: &Edge) -> u64 {
        self.0.lock().n_resets.get(edge).copied().unwrap_or(0)
    }

    /// A number for one more connection.
    pub(crate) fn number(&self) -> u64 {
        let mut state = self.0.lock();
        state.n_connections += 1;
        state.n_connections
    }

    /// Wakes the task when any edge has healed.
    pub(crate) fn wait(&self, connection: u64, context: &Context<'_>) {
        let waker = context.waker().clone();
        self.0.lock().waiting.insert(connection, waker);
    }

    pub(crate) fn forget(&self, connection: u64) {
        self.0.lock().waiting.remove(&connection);
    }
}
