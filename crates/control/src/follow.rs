//! The local gateway's view: endpoint tables of every owner, and the route table of every entry.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use nihilo_machine::route_table::{self, Changed};
use nihilo_machine::state::Session;
use nihilo_types::id::{LogIndex, SessionId};
use nihilo_types::route_table::RouteTable;
use tokio::task::JoinHandle;
use tracing::debug;

use crate::node::Shared;
use crate::ports::read;

const RETRY: Duration = Duration::from_millis(50);

/// One subscription per open control session.
#[derive(Debug, Default)]
pub(crate) struct Follower {
    subscriptions: BTreeMap<SessionId, JoinHandle<()>>,
}

impl Follower {
    /// Starts and ends subscriptions so that they are those of the open sessions.
    pub(crate) fn sync(&mut self, shared: &Arc<Shared>, open: &BTreeMap<SessionId, Arc<Session>>) {
        self.subscriptions.retain(|id, task| {
            let keep = open.contains_key(id);
            if !keep {
                task.abort();
            }
            keep
        });
        for (id, session) in open {
            if session.opened.roles.control && !self.subscriptions.contains_key(id) {
                let task = shared.spawn("endpoints", follow(shared.clone(), session.clone()));
                self.subscriptions.insert(*id, task);
            }
        }
    }
}

/// Feeds one owner's endpoint tables to the gateway; ends only by being aborted.
async fn follow(shared: Arc<Shared>, owner: Arc<Session>) {
    loop {
        match shared.ports.owners.endpoints(owner.clone()).await {
            Ok(mut tables) => {
                while let Some(table) = tables.next().await {
                    shared.ports.gateway.update_endpoints(table);
                }
            }
            Err(error) => debug!(owner = %owner.opened.name, %error, "no endpoint stream"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Keeps the gateway's route table in step with the applied state.
#[derive(Debug)]
pub(crate) struct RouteFeed {
    table: Arc<RouteTable>,
    applied: LogIndex,
}

impl RouteFeed {
    /// Builds the table of what is applied now and swaps it in.
    pub(crate) fn start(shared: &Shared) -> Self {
        let applied = *shared.ports.state.applied().borrow();
        let table = read(shared.ports.state.as_ref(), |state| {
            route_table::build(state, applied)
        });
        let feed = Self {
            table: Arc::new(table),
            applied,
        };
        shared.ports.gateway.swap_routes(feed.table.clone());
        feed
    }

    /// Moves on to `applied`; `changed` = since the last call, `None` = unknown.
    pub(crate) fn advance(
        &mut self,
        shared: &Shared,
        applied: LogIndex,
        changed: Option<Changed>,
    ) -> LogIndex {
        if applied <= self.applied {
            return self.table.index;
        }
        let table = read(shared.ports.state.as_ref(), |state| match &changed {
            Some(changed) if changed.is_empty() => None,
            Some(changed) => Some(route_table::update(&self.table, state, changed, applied)),
            None => Some(route_table::build(state, applied)),
        });
        self.applied = applied;
        if let Some(table) = table {
            self.table = Arc::new(table);
            shared.ports.gateway.swap_routes(self.table.clone());
        }
        applied
    }
}
