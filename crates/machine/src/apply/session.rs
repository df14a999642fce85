//! `OpenSession`, `CloseSession`, `NodeDown`: the lives of nodes.

use std::sync::Arc;

use nihilo_types::id::{NodeId, SessionId};

use super::{Context, Result};
use crate::command::{CloseSession, NodeDown, OpenSession};
use crate::reply::{Outcome, Rejection};
use crate::rows::{self, tag};
use crate::state::{MAX_LEFT, Session, ShardOwner, State};

impl State {
    /// Opens a session and closes the node's previous one in the same entry, so that no node ever
    /// has two; the previous one's shards follow at once (03-actors §3).
    pub(crate) fn open_session(&mut self, open: &OpenSession, context: &mut Context) -> Result {
        if let Some(at) = self.removed_at(open.node) {
            return Err(Rejection::NodeRemoved {
                node: open.node,
                at,
            });
        }
        let previous = self
            .sessions
            .values()
            .find(|s| s.opened.node == open.node)
            .cloned();
        if let Some(same) = previous
            .as_ref()
            .filter(|s| s.opened.boot_id == open.boot_id)
        {
            return Ok(Outcome::Session(same.id));
        }
        self.claim_store(open, context)?;
        let id = SessionId(context.index.0);
        let session = Arc::new(Session {
            id,
            opened: open.clone(),
        });
        context.row(rows::put(
            rows::key(tag::SESSION, &[&id.to_string()]),
            &session,
        ));
        self.sessions.insert(id, session);
        if let Some(previous) = previous {
            self.end_session(previous.id, context);
            let heir = if open.roles.control { id } else { SessionId(0) };
            self.inherit_shards(previous.id, heir, context);
        }
        context.ownership_changed();
        Ok(Outcome::Session(id))
    }

    /// A node that lost its store also lost votes and entries that it had acknowledged: under its
    /// old id it could help to form a second quorum (02-store §6).
    fn claim_store(&mut self, open: &OpenSession, context: &mut Context) -> Result<()> {
        if open.store_id.is_empty() {
            return Ok(());
        }
        match self.stores.get(&open.node) {
            Some(known) if **known == *open.store_id => Ok(()),
            Some(_) => Err(Rejection::StoreReplaced(open.node)),
            None => {
                let store: Arc<str> = open.store_id.as_str().into();
                let key = rows::key(tag::STORE, &[&open.node.to_string()]);
                context.row(rows::put(key, &store));
                self.stores.insert(open.node, store);
                Ok(())
            }
        }
    }

    pub(crate) fn close_session(&mut self, close: &CloseSession, context: &mut Context) -> Result {
        let outcome = self.close_with_moves(close.session, &close.moves, context)?;
        self.remember_left(close.session, close.returns);
        Ok(outcome)
    }

    /// The node of this session still answers what it has begun.
    fn remember_left(&mut self, session: SessionId, returns: bool) {
        self.left.push_back((session, returns));
        if self.left.len() > MAX_LEFT {
            self.left.pop_front();
        }
    }

    /// Closes whatever session a node has, in good order; its shards wait for the next `Reassign`.
    pub(super) fn close_sessions_of(&mut self, node: NodeId, context: &mut Context) {
        let open = self.sessions.values().find(|s| s.opened.node == node);
        let Some(id) = open.map(|session| session.id) else {
            return;
        };
        self.end_session(id, context);
        self.inherit_shards(id, SessionId(0), context);
        self.remember_left(id, false);
        context.ownership_changed();
    }

    pub(crate) fn node_down(&mut self, down: &NodeDown, context: &mut Context) -> Result {
        self.close_with_moves(down.session, &down.moves, context)
    }

    fn close_with_moves(
        &mut self,
        session: SessionId,
        moves: &[crate::command::Move],
        context: &mut Context,
    ) -> Result {
        if !self.sessions.contains_key(&session) {
            return Err(Rejection::SessionClosed(session));
        }
        if moves.iter().any(|step| step.to == session) {
            return Err(Rejection::StaleMove);
        }
        self.check_moves(moves)?;
        self.end_session(session, context);
        self.make_moves(moves, context);
        // A shard that nobody was named for is unowned until the next `Reassign`.
        self.inherit_shards(session, SessionId(0), context);
        context.ownership_changed();
        Ok(Outcome::Done)
    }

    fn end_session(&mut self, id: SessionId, context: &mut Context) {
        self.sessions.remove(&id);
        context.row(rows::delete(rows::key(tag::SESSION, &[&id.to_string()])));
    }

    fn inherit_shards(&mut self, from: SessionId, to: SessionId, context: &mut Context) {
        // Not all 256: a client's session, which owns none, is opened anew with every reconnect.
        let shards: Vec<_> = self
            .owners
            .iter()
            .filter(|(_, owner)| owner.session == from)
            .map(|(shard, _)| *shard)
            .collect();
        for shard in shards {
            let epoch = nihilo_types::id::Epoch(context.index.0);
            self.set_owner(shard, ShardOwner { session: to, epoch }, context);
        }
    }
}
