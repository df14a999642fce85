//! Calls to an agent that this node does not reach and another one does (03-actors §9): the link
//! between an owner and an agent may be cut while both live.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use nihilo_control::ports::CallError;
use nihilo_machine::state::Session;
use nihilo_raft::RaftNode;
use nihilo_types::id::{NodeId, SessionId};
use nihilo_wire::internal::relay_request::Call;
use nihilo_wire::internal::relay_response::Answer;

use super::remote::Remote;

/// An agent that has not answered by then is asked by way of another node too.
const RELAY_AFTER: Duration = Duration::from_millis(100);

/// Finds nodes that may pass calls on.
#[derive(Debug, Clone)]
pub struct Relays {
    pub node: NodeId,
    pub raft: RaftNode,
    pub remote: Remote,
}

impl Relays {
    /// Sends a call by way of the leader, or of any other node while this one leads.
    pub async fn send(&self, to: &Session, call: Call) -> Result<Answer, CallError> {
        let via = self.way_to(to);
        let via = via.ok_or_else(|| CallError::Unanswered("no node to pass it on".into()))?;
        self.remote.relay(&via, to.id, call).await
    }

    fn way_to(&self, to: &Session) -> Option<String> {
        let leader = self.raft.status().leader.map(NodeId);
        self.raft.state().read(|state| {
            let is_other = |node: NodeId| node != self.node && node != to.opened.node;
            let others = state
                .sessions()
                .filter(|session| is_other(session.opened.node));
            let chosen = others.min_by_key(|session| Some(session.opened.node) != leader);
            chosen.map(|session| session.opened.peer_address.clone())
        })
    }

    /// The open session of this id.
    pub fn session(&self, id: SessionId) -> Option<Session> {
        let state = self.raft.state();
        state.read(|state| state.session(id).map(|session| Session::clone(session)))
    }
}

/// The agent's own answer, or what another node brings of it when that is late. Tells whether it
/// was brought. Both calls are one to the agent: they carry the same fence.
pub async fn direct_or_relayed<T>(
    direct: impl Future<Output = Result<T, CallError>>,
    relayed: impl Future<Output = Result<T, CallError>>,
) -> Result<(T, bool), CallError> {
    let (mut direct, mut relayed) = (pin!(direct), pin!(relayed));
    match tokio::time::timeout(RELAY_AFTER, &mut direct).await {
        Ok(Err(CallError::Unanswered(_))) => return relayed.await.map(|answer| (answer, true)),
        Ok(answer) => return answer.map(|answer| (answer, false)),
        Err(_) => {}
    }
    tokio::select! {
        biased;
        // Its own answer says more: it reaches this node.
        answer = &mut direct => match answer {
            Err(CallError::Unanswered(_)) => relayed.await.map(|answer| (answer, true)),
            answer => answer.map(|answer| (answer, false)),
        },
        answer = &mut relayed => match answer {
            Err(CallError::Unanswered(_)) => direct.await.map(|answer| (answer, false)),
            answer => answer.map(|answer| (answer, true)),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    type Told = Result<u8, CallError>;

    fn silent() -> CallError {
        CallError::Unanswered("cut".into())
    }

    async fn late(answer: Told) -> Told {
        tokio::time::sleep(3 * RELAY_AFTER).await;
        answer
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_answers_first_is_heard_and_silence_is_never_the_answer_of_one() {
        let told = direct_or_relayed(ready(Ok(1)), pending::<Told>()).await;
        assert_eq!(told.expect("an answer"), (1, false));
        let told = direct_or_relayed(ready(Err(silent())), ready(Ok(2))).await;
        assert_eq!(told.expect("an answer"), (2, true));
        let told = direct_or_relayed(pending::<Told>(), ready(Ok(2))).await;
        assert_eq!(told.expect("an answer"), (2, true));
        let told = direct_or_relayed(late(Ok(1)), ready(Err(silent()))).await;
        assert_eq!(told.expect("an answer"), (1, false));
        let told = direct_or_relayed(late(Err(silent())), late(late(Ok(2)).await)).await;
        assert_eq!(told.expect("an answer"), (2, true));
        let told = direct_or_relayed(late(Err::<u8, _>(silent())), late(Err(silent()))).await;
        assert!(matches!(told, Err(CallError::Unanswered(_))), "{told:?}");
    }
}
