//! `RecordMembers`, `AddNode`, `PromoteNode`, `RemoveNode`: who should belong to the cluster.
//! `SetDuty`: what a member is given to do.

use std::sync::Arc;

use nihilo_types::id::NodeId;

use super::{Context, Result};
use crate::command::{AddNode, PromoteNode, RecordMembers, RemoveNode, SetDuty};
use crate::member::{Duty, Member, Standing};
use crate::reply::{Outcome, Rejection};
use crate::rows::{self, tag};
use crate::state::State;

/// Nodes of a cluster that were not removed, at most.
pub(crate) const MAX_NODES: usize = 256;
/// Removed nodes that are remembered. An id that is forgotten is still never given again: new ones
/// are log indexes.
pub(crate) const MAX_REMOVED: usize = 4_096;

impl State {
    pub(crate) fn record_members(
        &mut self,
        record: &RecordMembers,
        context: &mut Context,
    ) -> Result {
        for founder in &record.members {
            if self.members.contains_key(&founder.id) {
                continue;
            }
            let member = Member {
                id: founder.id,
                name: founder.name.clone(),
                peer_address: founder.peer_address.clone(),
                admin_address: founder.admin_address.clone(),
                standing: Standing::Voter,
                is_founder: true,
                duty: Duty::Full,
            };
            self.put_member(member, context);
        }
        Ok(Outcome::Done)
    }

    pub(crate) fn add_node(&mut self, add: &AddNode, context: &mut Context) -> Result {
        let token = self.check_token(&add.token, &add.secret_hash, context.log_ms)?;
        self.check_newcomer(add, context)?;
        let id = NodeId(context.index.0);
        let standing = match token.voter {
            true => Standing::Voter,
            false => Standing::Learner,
        };
        self.drop_token(&token.id, context);
        let member = Member {
            id,
            name: add.name.clone(),
            peer_address: add.peer_address.clone(),
            admin_address: add.admin_address.clone(),
            standing,
            is_founder: false,
            duty: Duty::Full,
        };
        self.put_member(member, context);
        Ok(Outcome::Node(id))
    }

    /// A refused newcomer keeps its token.
    fn check_newcomer(&self, add: &AddNode, context: &Context) -> Result<()> {
        if self.members.contains_key(&NodeId(context.index.0)) {
            return Err(Rejection::NodeTaken(format!(
                "id {} belongs to a founding member; repeat the request",
                context.index
            )));
        }
        let present = || self.members.values().filter(|member| !member.is_removed());
        if present().count() >= MAX_NODES {
            return Err(Rejection::LimitReached(format!(
                "a cluster has at most {MAX_NODES} nodes"
            )));
        }
        let clash = present().find(|member| {
            member.name == add.name
                || member.peer_address == add.peer_address
                || member.admin_address == add.admin_address
        });
        let Some(other) = clash else {
            return Ok(());
        };
        Err(Rejection::NodeTaken(format!(
            "`{}` at {} is a member already, as node {}; remove that one first, or join under \
             another name and address",
            other.name, other.peer_address, other.id
        )))
    }

    pub(crate) fn promote_node(&mut self, promote: PromoteNode, context: &mut Context) -> Result {
        let mut member = self.present_member(promote.node)?;
        member.standing = Standing::Voter;
        self.put_member(member, context);
        Ok(Outcome::Done)
    }

    pub(crate) fn remove_node(&mut self, remove: &RemoveNode, context: &mut Context) -> Result {
        let mut member = self.removable(remove.node)?;
        member.standing = Standing::Removed { at: context.index };
        self.put_member(member, context);
        self.close_sessions_of(remove.node, context);
        self.forget_long_removed(context);
        Ok(Outcome::Done)
    }

    /// A member that may be taken out.
    ///
    /// # Errors
    /// It is none, or the last one that votes.
    pub fn removable(&self, node: NodeId) -> Result<Member> {
        let member = self.present_member(node)?;
        let mut others = self.members.values().filter(|other| other.id != node);
        if member.is_voter() && !others.any(|other| other.is_voter()) {
            return Err(Rejection::LastVoter(node));
        }
        Ok(member)
    }

    /// What follows is done by those that look at the state: owners, and the leader.
    pub(crate) fn set_duty(&mut self, set: SetDuty, context: &mut Context) -> Result {
        let mut member = self.present_member(set.node)?;
        if member.duty != set.duty {
            member.duty = set.duty;
            self.put_member(member, context);
        }
        Ok(Outcome::Done)
    }

    fn present_member(&self, node: NodeId) -> Result<Member> {
        if let Some(at) = self.removed_at(node) {
            return Err(Rejection::NodeRemoved { node, at });
        }
        let member = self.members.get(&node);
        member
            .map(|member| member.as_ref().clone())
            .ok_or(Rejection::NoSuchNode(node))
    }

    fn put_member(&mut self, member: Member, context: &mut Context) {
        let key = rows::key(tag::MEMBER, &[&member.id.to_string()]);
        context.row(rows::put(key, &member));
        self.members.insert(member.id, Arc::new(member));
    }

    fn forget_long_removed(&mut self, context: &mut Context) {
        let mut removed: Vec<_> = self
            .members
            .values()
            .filter_map(|member| match member.standing {
                Standing::Removed { at } => Some((at, member.id)),
                Standing::Learner | Standing::Voter => None,
            })
            .collect();
        removed.sort_unstable();
        let n_surplus = removed.len().saturating_sub(MAX_REMOVED);
        for (_, id) in removed.into_iter().take(n_surplus) {
            self.members.remove(&id);
            context.row(rows::delete(rows::key(tag::MEMBER, &[&id.to_string()])));
        }
    }
}
