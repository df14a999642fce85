//! This node's session, and its keep-alives to the leader; when this node leads, also the roll of
//! who is live (02-store §13).

use std::sync::Arc;
use std::time::Duration;

use nihilo_entity::liveness::Roll;
use nihilo_entity::reconcile;
use nihilo_failpoint::{Point, hit};
use nihilo_machine::command::{CloseSession, OpenSession, RequestKey, Roles};
use nihilo_machine::ownership::moves_away_from;
use nihilo_machine::{Command, Outcome};
use nihilo_types::id::{LogIndex, NodeId, SessionId};
use tracing::{debug, info, warn};

use crate::node::Shared;
use crate::ports::{KeepAlive, KeepAliveAnswer, LinkError, read};

/// How often a node says that it lives.
pub const KEEP_ALIVE_PERIOD: Duration = Duration::from_millis(100);
/// While a Route here waits for all gateways to serve its table, the leader, who alone knows, is asked
/// again after this, so many times for each such table: then the next keep-alive has to do.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(5);
const MAX_ASKED_AGAIN: u32 = 20;
/// How often the leader looks at its roll.
const ROLL_PERIOD: Duration = Duration::from_millis(20);
/// A node without an answered keep-alive for so long after its start serves its last table.
pub const STALE_START_AFTER: Duration = Duration::from_secs(3);
const OPEN_LIMIT: Duration = Duration::from_secs(5);
const DECISION_LIMIT: Duration = Duration::from_secs(2);
const OPEN_BACKOFF_MIN_MS: u64 = 100;
const OPEN_BACKOFF_MAX_MS: u64 = 5_000;

/// What the node advertises about itself; the boot id is drawn per session.
#[derive(Debug, Clone)]
pub struct SessionTemplate {
    pub roles: Roles,
    pub peer_address: String,
    pub gateway_address: String,
    pub admin_address: String,
    pub capacity: u32,
    pub t_self_ms: u32,
    pub kills_instances_on_exit: bool,
    pub store_id: String,
}

/// Sends keep-alives, opens and re-opens the session. Never returns.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut tick = tokio::time::interval(KEEP_ALIVE_PERIOD);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut table = shared.table_acknowledged.subscribe();
    let mut backoff_ms = OPEN_BACKOFF_MIN_MS;
    let mut not_before_ms = 0;
    let mut patience = Patience::default();
    loop {
        let (min, awaited) = (*shared.min_table.borrow(), *shared.awaited_table.borrow());
        let asks_again = patience.asks_again(min, awaited);
        // Each is a reason to speak; which one first does not matter.
        tokio::select! {
            biased;
            _ = tick.tick() => {}
            _ = table.changed() => {}
            () = tokio::time::sleep(ASK_AGAIN_AFTER), if asks_again => {}
        }
        let answer = keep_alive(&shared).await;
        let now = shared.now_ms();
        match answer {
            Ok(answer) => {
                shared.leader_contact.send_replace(Some(now));
                shared.take_min_table(&answer);
                if shared.lost_session(&answer) {
                    shared.set_session(SessionId(0));
                }
                let wants = shared.session() == SessionId(0) && !shared.is_closing();
                if wants && now >= not_before_ms && shared.caught_up(answer.leader_applied) {
                    match open(&shared).await {
                        Ok(()) => backoff_ms = OPEN_BACKOFF_MIN_MS,
                        Err(text) => {
                            warn!(text, backoff_ms, "session not opened");
                            not_before_ms = now + backoff_ms;
                            backoff_ms = (backoff_ms * 2).min(OPEN_BACKOFF_MAX_MS);
                        }
                    }
                }
            }
            Err(error) => {
                debug!(%error, "keep-alive not answered");
                shared.serve_stale_if_alone(now);
            }
        }
    }
}

/// How often it was asked for the table that is awaited now.
#[derive(Debug, Default)]
struct Patience {
    awaited: LogIndex,
    n_asked: u32,
}

impl Patience {
    /// Whether to ask before the next keep-alive is due. Each call that says so counts.
    fn asks_again(&mut self, min: LogIndex, awaited: LogIndex) -> bool {
        if self.awaited != awaited {
            *self = Self {
                awaited,
                n_asked: 0,
            };
        }
        let asks = min < awaited && self.n_asked < MAX_ASKED_AGAIN;
        self.n_asked += u32::from(asks);
        asks
    }
}

async fn keep_alive(shared: &Arc<Shared>) -> Result<KeepAliveAnswer, LinkError> {
    let message = KeepAlive {
        node: shared.config.node,
        session: shared.session(),
        applied: *shared.ports.state.applied().borrow(),
        table: *shared.table_acknowledged.borrow(),
    };
    let leadership = shared.ports.leader.now();
    match leadership.leader {
        None => Err(LinkError("no leader is known".into())),
        Some(leader) if leader == shared.config.node => shared.answer_keep_alive(&message),
        Some(leader) => {
            let call = shared.ports.leader_link.keep_alive(leader, message);
            match tokio::time::timeout(KEEP_ALIVE_PERIOD * 3, call).await {
                Ok(answer) => answer,
                Err(_) => Err(LinkError("the leader did not answer in time".into())),
            }
        }
    }
}

async fn open(shared: &Arc<Shared>) -> Result<(), String> {
    let template = &shared.config.session;
    let open = OpenSession {
        node: shared.config.node,
        name: shared.config.name.clone(),
        boot_id: uuid::Uuid::now_v7().to_string(),
        roles: template.roles,
        peer_address: template.peer_address.clone(),
        gateway_address: template.gateway_address.clone(),
        admin_address: template.admin_address.clone(),
        pid: std::process::id(),
        capacity: template.capacity,
        t_self_ms: template.t_self_ms,
        kills_instances_on_exit: template.kills_instances_on_exit,
        store_id: template.store_id.clone(),
    };
    hit(Point::SessionOpens);
    let command = Command::OpenSession(open);
    let reply = shared
        .ports
        .proposer
        .propose(command, RequestKey::default(), OPEN_LIMIT)
        .await
        .map_err(|error| error.to_string())?;
    match reply.result {
        Ok(Outcome::Session(session)) => {
            hit(Point::SessionOpened);
            // Before an order is taken or a request, by what held when the session was opened.
            if !shared.acted_on(LogIndex(session.0)).await {
                return Err(format!("{session} is open, but not yet acted on here"));
            }
            if shared.is_closing() || !shared.is_open(session) {
                return Err(format!("{session} came too late"));
            }
            info!(%session, "session open");
            shared.set_session(session);
            Ok(())
        }
        Ok(other) => Err(format!("unexpected answer {other:?}")),
        Err(rejection) => Err(rejection.to_string()),
    }
}

/// The leader's side: proposes what the roll decides, while this node leads.
pub(crate) async fn run_leader(shared: Arc<Shared>) {
    let mut tick = tokio::time::interval(ROLL_PERIOD);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let leadership = shared.ports.leader.now();
        if !leadership.leads_with_quorum {
            continue;
        }
        shared.begin_term(leadership.term);
        dial_suspects(&shared).await;
        let now = shared.now_ms();
        let myself = shared.session();
        let decision = {
            // The state's read lock is always the innermost one.
            let mut roll = shared.roll.lock();
            read(shared.ports.state.as_ref(), |state| {
                roll.decide(state, myself, now)
            })
        };
        let Some(command) = decision else { continue };
        debug!(?command, "ownership decision");
        if let Command::NodeDown(down) = &command {
            info!(session = %down.session, cause = ?down.cause, "node declared down");
            hit(Point::NodeDeclaredDown);
        }
        let proposed =
            shared
                .ports
                .proposer
                .propose(command, RequestKey::default(), DECISION_LIMIT);
        match proposed.await {
            Ok(reply) => shared.wait_applied(reply.index).await,
            Err(error) => warn!(%error, "ownership decision not written"),
        }
    }
}

async fn dial_suspects(shared: &Arc<Shared>) {
    let (now, myself) = (shared.now_ms(), shared.session());
    let suspects = {
        let roll = shared.roll.lock();
        read(shared.ports.state.as_ref(), |state| {
            let address = |id| {
                state
                    .session(id)
                    .map(|s| s.opened.peer_address.as_str().into())
            };
            roll.suspects(state, myself, now)
                .into_iter()
                .filter_map(|id| Some((id, address(id)?)))
                .collect::<Vec<(_, Arc<str>)>>()
        })
    };
    for (session, address) in suspects {
        if shared.ports.leader_link.is_refused(address).await {
            shared.roll.lock().refused(session, shared.now_ms());
        }
    }
}

impl Shared {
    fn begin_term(&self, term: u64) {
        let mut roll = self.roll.lock();
        if roll.term() != term {
            *roll = Roll::begin(term, self.now_ms(), self.config.election_timeout_max_ms);
        }
    }

    /// Answers a keep-alive, if this node leads and a quorum said so just now: an isolated leader
    /// must not vouch for anybody, itself included.
    pub(crate) fn answer_keep_alive(
        &self,
        message: &KeepAlive,
    ) -> Result<KeepAliveAnswer, LinkError> {
        let leadership = self.ports.leader.now();
        if !leadership.leads_with_quorum {
            return Err(LinkError("this node does not lead a quorum".into()));
        }
        self.begin_term(leadership.term);
        let mut roll = self.roll.lock();
        roll.heard(message.session, message.table, self.now_ms());
        Ok(read(self.ports.state.as_ref(), |state| {
            let (min_table, held_back_by) = roll.min_table(state);
            KeepAliveAnswer {
                leader_applied: *self.ports.state.applied().borrow(),
                min_table,
                held_back_by,
                session_open: state.session(message.session).is_some(),
            }
        }))
    }

    /// Routes that wait for gateways look again when the minimum has grown.
    fn take_min_table(&self, answer: &KeepAliveAnswer) {
        let grew = self.min_table.send_if_modified(|known| {
            let grew = answer.min_table > *known;
            if grew {
                *known = answer.min_table;
            }
            grew
        });
        if !grew {
            return;
        }
        let table = answer.min_table;
        for shard in self.owned_shards() {
            let Some(epoch) = self.epoch_of(shard) else {
                continue;
            };
            self.acknowledge(shard, epoch, table);
            let waiting = read(self.ports.state.as_ref(), |state| {
                reconcile::waiting_for_gateways(state, shard, table)
            });
            for key in waiting {
                self.mark_dirty(shard, epoch, key);
            }
        }
    }

    fn lost_session(&self, answer: &KeepAliveAnswer) -> bool {
        let session = self.session();
        session != SessionId(0) && !answer.session_open && !self.is_open(session)
    }

    fn is_open(&self, session: SessionId) -> bool {
        read(self.ports.state.as_ref(), |state| {
            state.session(session).is_some()
        })
    }

    fn caught_up(&self, leader_applied: LogIndex) -> bool {
        *self.ports.state.applied().borrow() >= leader_applied
            && *self.table_acknowledged.borrow() >= leader_applied
    }

    fn serve_stale_if_alone(&self, now_ms: u64) {
        if self.leader_contact.borrow().is_none() && now_ms >= STALE_START_AFTER.as_millis() as u64
        {
            self.ports.gateway.open_listeners();
        }
    }

    /// Closes the session and hands all shards over in one entry; returns when it is in the log
    /// or `limit` has passed, whichever comes first. `returns`: what runs here goes on, and the node's
    /// next session takes it in at once.
    pub(crate) async fn leave(&self, limit: Duration, returns: bool) {
        self.closing
            .store(true, std::sync::atomic::Ordering::Release);
        let session = self.session();
        if session == SessionId(0) {
            return;
        }
        hit(Point::SessionCloses);
        let moves = read(self.ports.state.as_ref(), |state| {
            moves_away_from(state, session)
        });
        let command = Command::CloseSession(CloseSession {
            session,
            moves,
            returns,
        });
        if let Err(error) = self
            .ports
            .proposer
            .propose(command, RequestKey::default(), limit)
            .await
        {
            warn!(%error, "session not closed, the leader will declare this node down");
        }
    }

    fn is_closing(&self) -> bool {
        self.closing.load(std::sync::atomic::Ordering::Acquire)
    }

    /// The present leader, for status.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        self.ports.leader.now().leader
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_is_asked_again_while_a_table_is_awaited_and_not_for_ever() {
        let mut patience = Patience::default();
        let asked = |patience: &mut Patience, min, awaited| {
            let often = 0..MAX_ASKED_AGAIN + 5;
            let asks = often.filter(|_| patience.asks_again(LogIndex(min), LogIndex(awaited)));
            u32::try_from(asks.count()).unwrap_or(u32::MAX)
        };
        assert_eq!(asked(&mut patience, 7, 7), 0);
        assert_eq!(asked(&mut patience, 7, 9), MAX_ASKED_AGAIN);
        assert_eq!(asked(&mut patience, 9, 9), 0);
        // The next one is worth as many questions.
        assert_eq!(asked(&mut patience, 9, 12), MAX_ASKED_AGAIN);
    }
}
