//! Makes consensus follow the membership that the state wants, one step at a time.
//!
//! The log says who should belong to the cluster (`machine::member`); the leader compares that with
//! what openraft has and takes the next step. Nothing is remembered between two looks, so a change
//! that one leader began, a joint configuration included, is finished by the next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use nihilo_machine::Command;
use nihilo_machine::command::{PromoteNode, RecordMembers, RequestKey};
use nihilo_machine::member::{Duty, Member, Standing};
use nihilo_store::Node;
use nihilo_types::id::NodeId;
use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::node::{Inner, RaftNode};

/// How often a leader compares.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A step that takes longer is looked at again; consensus goes on with it meanwhile.
const STEP_LIMIT: Duration = Duration::from_secs(10);
/// A learner that lags by no more entries than this may vote.
const CAUGHT_UP: u64 = 100;
/// A node that answered the leader within this counts as there.
const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// A step that is not possible now is told again after this.
const WARN_EVERY: Duration = Duration::from_secs(30);

/// What consensus has, seen by its leader.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) me: u64,
    /// One set of voters; two while a change is half done.
    pub(crate) configs: Vec<BTreeSet<u64>>,
    /// Voters and learners.
    pub(crate) nodes: BTreeSet<u64>,
    /// The newest configuration is in the log of a majority.
    pub(crate) is_committed: bool,
    /// Entries that a node has yet to get; absent where nothing is known of it.
    pub(crate) lag: BTreeMap<u64, u64>,
    /// Nodes that answered just now, this one included.
    pub(crate) heard: BTreeSet<u64>,
}

/// One change on the way to what is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// The second half of a joint change.
    FinishJoint,
    DropLearners(BTreeSet<u64>),
    AddLearner(u64),
    Promote(BTreeSet<u64>),
    /// This node is to go: somebody else must lead first.
    HandOver,
    DropVoters(BTreeSet<u64>),
    /// This node is drained: this other voter, which is not, is to lead.
    Retire(u64),
    /// Writes down that a learner is to vote, because a voter is missing.
    Want(PromoteNode),
    /// What is wanted would end the cluster's ability to decide.
    Impossible(String),
}

impl Observed {
    fn voters(&self) -> BTreeSet<u64> {
        self.configs.iter().flatten().copied().collect()
    }

    fn is_caught_up(&self, node: u64) -> bool {
        self.heard.contains(&node) && self.lag.get(&node).is_some_and(|lag| *lag <= CAUGHT_UP)
    }
}

/// Returns the next step from what is to what is wanted; `None` when there is none, or the last
/// one is still under way.
pub(crate) fn next_step(wanted: &[Arc<Member>], seen: &Observed) -> Option<Step> {
    if !seen.is_committed {
        return None;
    }
    if seen.configs.len() > 1 {
        return Some(Step::FinishJoint);
    }
    let voters = seen.voters();
    let ids = |keep: &dyn Fn(&Member) -> bool| -> BTreeSet<u64> {
        let kept = wanted.iter().filter(|member| keep(member));
        kept.map(|member| member.id.0).collect()
    };
    let removed = ids(&Member::is_removed);
    let gone: BTreeSet<u64> = removed.intersection(&seen.nodes).copied().collect();
    let gone_learners: BTreeSet<u64> = gone.difference(&voters).copied().collect();
    if !gone_learners.is_empty() {
        return Some(Step::DropLearners(gone_learners));
    }
    let present = ids(&|member| !member.is_removed());
    if let Some(new) = present.difference(&seen.nodes).next() {
        return Some(Step::AddLearner(*new));
    }
    let to_vote = ids(&Member::is_voter);
    // Before anybody goes: the group is never smaller than it must be.
    let ready: BTreeSet<u64> = to_vote
        .difference(&voters)
        .copied()
        .filter(|id| seen.is_caught_up(*id))
        .collect();
    if !ready.is_empty() {
        return Some(Step::Promote(ready));
    }
    let gone_voters: BTreeSet<u64> = gone.intersection(&voters).copied().collect();
    if !gone_voters.is_empty() {
        return Some(drop_voters(&voters, gone_voters, seen));
    }
    missing_voter(wanted, seen).or_else(|| retire(wanted, seen))
}

/// A drained leader hands over to whoever lags least; it leads on where nobody can take over.
fn retire(wanted: &[Arc<Member>], seen: &Observed) -> Option<Step> {
    let is_drained = |member: &&Arc<Member>| member.duty == Duty::Drained;
    wanted
        .iter()
        .find(|member| member.id.0 == seen.me)
        .filter(is_drained)?;
    let voters = seen.voters();
    let able = wanted.iter().filter(|member| {
        let id = member.id.0;
        !is_drained(member) && id != seen.me && voters.contains(&id) && seen.is_caught_up(id)
    });
    let least = able.min_by_key(|member| (seen.lag.get(&member.id.0), member.id))?;
    Some(Step::Retire(least.id.0))
}

fn drop_voters(voters: &BTreeSet<u64>, gone: BTreeSet<u64>, seen: &Observed) -> Step {
    let rest: BTreeSet<u64> = voters.difference(&gone).copied().collect();
    let n_heard = rest.intersection(&seen.heard).count();
    // A configuration that cannot decide could not even be left again.
    if n_heard * 2 <= rest.len() {
        return Step::Impossible(format!(
            "without {gone:?} only {n_heard} of {} voters answer",
            rest.len()
        ));
    }
    if gone.contains(&seen.me) {
        return Step::HandOver;
    }
    Step::DropVoters(gone)
}

/// As many voters as the cluster was founded with are kept, as long as there are learners.
fn missing_voter(wanted: &[Arc<Member>], seen: &Observed) -> Option<Step> {
    let n_founders = wanted.iter().filter(|member| member.is_founder).count();
    let n_voters = wanted.iter().filter(|member| member.is_voter()).count();
    if n_voters >= n_founders {
        return None;
    }
    let learners = wanted
        .iter()
        .filter(|member| member.standing == Standing::Learner);
    let mut ready = learners.filter(|member| seen.is_caught_up(member.id.0));
    let node = ready.next()?.id;
    Some(Step::Want(PromoteNode { node }))
}

/// Runs for the life of the node; acts while it leads with a quorum behind it.
pub(crate) async fn follow(node: Weak<Inner>) {
    let mut warned: Option<Instant> = None;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(inner) = node.upgrade() else { return };
        let raft = RaftNode(inner);
        raft.notice_removal();
        if !raft.leads_with_quorum() {
            continue;
        }
        if raft.record_founders().await {
            continue;
        }
        let wanted: Vec<_> = raft
            .state()
            .read(|state| state.members().cloned().collect());
        let Some(step) = next_step(&wanted, &raft.observe()) else {
            continue;
        };
        if let Step::Impossible(why) = &step {
            if warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
                warned = Some(Instant::now());
                warn!(why, "a removal waits until enough voters answer");
            }
            continue;
        }
        info!(?step, "membership");
        match tokio::time::timeout(STEP_LIMIT, raft.take(step.clone(), &wanted)).await {
            Ok(Ok(())) => {}
            // Looked at again from the start: what is wanted has not changed.
            Ok(Err(text)) => warn!(?step, text, "membership step not done"),
            Err(_) => warn!(?step, "membership step not done in time"),
        }
    }
}

impl RaftNode {
    /// Writes the founding members down where the state has none of them yet; whether it tried.
    async fn record_founders(&self) -> bool {
        let (version, is_founded) = self
            .state()
            .read(|state| (state.cluster_version(), state.cluster().is_some()));
        let members = self.membership_nodes();
        let missing: Vec<_> = self.state().read(|state| {
            let unknown = self
                .founders()
                .iter()
                .filter(|founder| state.member(founder.id).is_none());
            let mut unknown = unknown.filter(|founder| members.contains_key(&founder.id.0));
            unknown.by_ref().cloned().collect()
        });
        let command = Command::RecordMembers(RecordMembers { members: missing });
        let is_needed = match &command {
            Command::RecordMembers(record) => !record.members.is_empty(),
            _ => false,
        };
        if !is_needed || !is_founded || version < command.since() {
            return false;
        }
        if let Err(error) = self
            .propose(command, RequestKey::default(), STEP_LIMIT)
            .await
        {
            warn!(%error, "founding members not written down");
        }
        true
    }

    fn observe(&self) -> Observed {
        let metrics = self.raft().metrics().borrow_watched().clone();
        let me = self.identity().node_id;
        let membership = metrics.membership_config.membership().clone();
        let last = metrics.last_log_index.unwrap_or(0);
        let replication = metrics.replication.unwrap_or_default();
        let matched = replication.iter().filter_map(|(id, matched)| {
            let matched = (*matched)?;
            Some((*id, last.saturating_sub(matched.index)))
        });
        Observed {
            me,
            configs: membership.get_joint_config().clone(),
            nodes: membership.nodes().map(|(id, _)| *id).collect(),
            is_committed: metrics.membership_config.log_id()
                == metrics.committed_membership_config.log_id(),
            lag: matched.collect(),
            heard: self.heard_within(HEARD_WITHIN),
        }
    }

    /// Why a node cannot be taken out now, seen by this node as the leader; `None` = it can.
    ///
    /// Waits for new answers of the others within `limit`: who answered a moment ago may be dead.
    pub async fn refuses_removal(&self, node: u64, limit: Duration) -> Option<String> {
        let voters = self.observe().voters();
        if !voters.contains(&node) {
            return None;
        }
        let rest: BTreeSet<u64> = voters.into_iter().filter(|id| *id != node).collect();
        let asked = Instant::now();
        let mut metrics = self.raft().metrics();
        loop {
            let heard = self.heard_within(asked.elapsed());
            let silent: Vec<_> = rest.difference(&heard).copied().collect();
            let n_heard = rest.len() - silent.len();
            if n_heard * 2 > rest.len() {
                return None;
            }
            let changed = tokio::time::timeout_at(asked + limit, metrics.changed()).await;
            if matches!(changed, Ok(Ok(()))) {
                continue;
            }
            return Some(format!(
                "without node {node} only {n_heard} of {} voters would answer, too few to decide \
                 anything, this removal included; silent: {silent:?}. Bring them back, or remove \
                 those first",
                rest.len()
            ));
        }
    }

    /// Voters and learners whose last answer to this leader is no older, and itself.
    fn heard_within(&self, age: Duration) -> BTreeSet<u64> {
        let metrics = self.raft().metrics().borrow_watched().clone();
        let heartbeat = metrics.heartbeat.unwrap_or_default();
        let answered = heartbeat.iter().filter_map(|(id, at)| {
            let at = (*at)?;
            (openraft::Instant::elapsed(&*at) <= age).then_some(*id)
        });
        answered.chain([self.identity().node_id]).collect()
    }

    /// Members that have not said that they know a cluster version.
    pub fn members_below(&self, version: u32) -> Vec<u64> {
        let known = self.board().versions();
        let mut members: Vec<u64> = self.membership_nodes().into_keys().collect();
        members.retain(|id| known.get(id).is_none_or(|known| *known < version));
        members
    }

    async fn take(&self, step: Step, wanted: &[Arc<Member>]) -> Result<(), String> {
        let change = match step {
            Step::FinishJoint => ChangeMembers::AddVoterIds(BTreeSet::new()),
            Step::DropLearners(ids) => ChangeMembers::RemoveNodes(ids),
            Step::DropVoters(ids) => ChangeMembers::RemoveVoters(ids),
            Step::Promote(ids) => ChangeMembers::AddVoterIds(ids),
            Step::AddLearner(id) => {
                let member = wanted.iter().find(|member| member.id == NodeId(id));
                let address = member.map(|member| member.peer_address.clone());
                let address = address.unwrap_or_default();
                ChangeMembers::AddNodes([(id, Node { address })].into())
            }
            Step::HandOver => {
                let moved = self.transfer_leader(None, STEP_LIMIT).await;
                return moved.map(drop).map_err(|error| error.to_string());
            }
            Step::Retire(to) => {
                let moved = self.transfer_leader(Some(to), STEP_LIMIT).await;
                return moved.map(drop).map_err(|error| error.to_string());
            }
            Step::Want(promote) => {
                let command = Command::PromoteNode(promote);
                let proposed = self.propose(command, RequestKey::default(), STEP_LIMIT);
                return proposed.await.map(drop).map_err(|error| error.to_string());
            }
            Step::Impossible(why) => return Err(why),
        };
        // Whoever leaves the voters leaves altogether.
        let changed = self.raft().change_membership(change, false).await;
        changed.map(drop).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
#[path = "membership_test.rs"]
mod tests;
