//! Requests of clients: where each stands, and how it ends.

use std::sync::Arc;

use nihilo_types::endpoint::Endpoint;
use nihilo_types::id::ObjectKey;
use nihilo_types::route_table::RevisionTarget;

use super::event::Address;

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) host: String,
    pub(crate) gateway: Address,
    /// Not idempotent: must not be executed twice.
    pub(crate) is_post: bool,
    /// It streams a body: over the mesh it asks for its place first.
    pub(crate) has_body: bool,
    pub(crate) arrived_us: u64,
    pub(crate) duration_us: u64,
    pub(crate) target: Option<Arc<RevisionTarget>>,
    pub(crate) place: Place,
    pub(crate) attempt: u32,
    /// When the present attempt was sent.
    pub(crate) sent_us: u64,
    pub(crate) n_lost: u32,
    /// Since when nothing of it could be sent.
    pub(crate) unsent_since_us: Option<u64>,
    /// The present attempt has only asked for its place so far.
    pub(crate) is_reserving: bool,
    pub(crate) n_executions: u32,
    /// Executions that came to their end.
    pub(crate) n_finished: u32,
    pub(crate) outcome: Option<Outcome>,
}

/// Where a request is; exactly one of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// On its way to or from one of the others, within one event.
    Between,
    /// In its revision's line.
    Waiting,
    /// Taken out of the line to look for a place.
    Woken,
    /// Sent to an instance.
    Exchange(Endpoint),
    /// In the line of a revision that was deleted and made anew: only its deadline ends it.
    Orphaned,
    Done,
}

/// What the client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Ok,
    /// The gateway was not up or not open.
    NotAccepted,
    UnknownHost,
    QueueFull,
    BadGateway,
    Timeout,
    /// The gateway's node died.
    Reset,
}

impl Request {
    pub(crate) fn revision(&self) -> Option<ObjectKey> {
        self.target.as_ref().map(|target| target.revision.clone())
    }
}
