//! The only door to replicated state: one command, one file.
//!
//! Every handler first checks, then changes; a refused command changes nothing but the clock.

mod bundle;
mod cluster;
mod config_map;
mod domain_claim;
mod domain_mapping;
mod gc;
mod member;
mod ownership;
mod revision;
mod route;
mod scale;
mod secret;
mod service;
mod session;
mod token;
mod write;

use nihilo_types::id::{LogIndex, ShardId};
use nihilo_types::time::rfc3339;

use crate::command::{Command, Envelope, Fence, RequestKey};
use crate::replies::StoredReply;
use crate::reply::{Outcome, Rejection, Reply};
use crate::rows::{self, tag};
use crate::state::{Applied, EventKind, ObjectChange, ObjectEvent, RowChange, State};

/// Services of a cluster, at most (02-store §8).
pub const MAX_SERVICES: usize = 200_000;
/// Revisions of a Service, at most.
pub const MAX_REVISIONS_PER_SERVICE: usize = 1_200;

/// The entry being applied and what it has done so far.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) index: LogIndex,
    /// RFC 3339 of the entry's wall time.
    pub(crate) now: String,
    pub(crate) log_ms: u64,
    /// Of the entry: the rules it was written for.
    pub(crate) cluster_version: u32,
    rows: Vec<RowChange>,
    events: Vec<ObjectEvent>,
    ownership_changed: bool,
}

pub(crate) type Result<T = Outcome> = std::result::Result<T, Rejection>;

impl State {
    /// Applies the entry at `index`. Deterministic; refusals are replies.
    pub fn apply(&mut self, index: LogIndex, envelope: &Envelope) -> Applied {
        self.clock.log_ms = self.clock.log_ms.max(envelope.log_ms);
        self.clock.wall_ms = envelope.wall_ms;
        let mut context = Context {
            index,
            now: rfc3339(envelope.wall_ms),
            log_ms: self.clock.log_ms,
            cluster_version: envelope.cluster_version,
            rows: vec![rows::put(rows::key(tag::CLOCK, &[]), &self.clock)],
            events: Vec::new(),
            ownership_changed: false,
        };
        let reply = self.answer(envelope, &mut context);
        if context.ownership_changed {
            self.ownership_at = index;
        }
        Applied {
            reply,
            rows: context.rows,
            events: context.events,
            ownership_changed: context.ownership_changed,
        }
    }

    /// Executes once per request id: a repetition gets the first reply.
    fn answer(&mut self, envelope: &Envelope, context: &mut Context) -> Reply {
        let RequestKey { id, hash } = &envelope.request;
        if let Some((first_hash, reply)) = self.replies.get(id).filter(|_| !id.is_empty()) {
            if first_hash == *hash {
                return reply;
            }
            return Reply {
                index: context.index,
                result: Err(Rejection::RequestIdReused),
            };
        }
        let result = self.execute(&envelope.command, context);
        let reply = Reply {
            index: context.index,
            result,
        };
        if !id.is_empty() {
            let stored = StoredReply {
                request_hash: *hash,
                at_log_ms: context.log_ms,
                reply: reply.clone(),
            };
            self.replies.keep(id, &stored, &mut context.rows);
        }
        reply
    }

    fn execute(&mut self, command: &Command, context: &mut Context) -> Result {
        match command {
            Command::InitCluster(init) => self.init_cluster(init, context),
            Command::PutService(put) => self.put_service(put, context),
            Command::DeleteService(delete) => self.delete_service(delete, context),
            Command::RecordService(record) => self.record_service(record, context),
            Command::RecordRevision(record) => self.record_revision(record, context),
            Command::AssignTraffic(assign) => self.assign_traffic(assign, context),
            Command::RecordRoute(record) => self.record_route(record, context),
            Command::AdvanceRollout(advance) => self.advance_rollout(advance, context),
            Command::CollectRevisions(collect) => self.collect_revisions(collect, context),
            Command::PutConfigMap(put) => self.put_config_map(put, context),
            Command::DeleteConfigMap(delete) => self.delete_config_map(delete, context),
            Command::PutDomainMapping(put) => self.put_domain_mapping(put, context),
            Command::DeleteDomainMapping(delete) => self.delete_domain_mapping(delete, context),
            Command::RecordDomainMapping(record) => self.record_domain_mapping(record, context),
            Command::PutDomainClaim(put) => self.put_domain_claim(put, context),
            Command::DeleteDomainClaim(delete) => self.delete_domain_claim(delete, context),
            Command::RecordScale(record) => self.record_scale(record, context),
            Command::OpenSession(open) => self.open_session(open, context),
            Command::CloseSession(close) => self.close_session(close, context),
            Command::NodeDown(down) => self.node_down(down, context),
            Command::Reassign(reassign) => self.reassign(reassign, context),
            Command::SetClusterVersion(set) => self.set_cluster_version(*set, context),
            Command::RecordMembers(record) => self.record_members(record, context),
            Command::CreateToken(create) => self.create_token(create, context),
            Command::RevokeToken(revoke) => self.revoke_token(revoke, context),
            Command::AddNode(add) => self.add_node(add, context),
            Command::PromoteNode(promote) => self.promote_node(*promote, context),
            Command::RemoveNode(remove) => self.remove_node(remove, context),
            Command::SetDuty(set) => self.set_duty(*set, context),
            Command::PutBundle(put) => self.put_bundle(put, context),
            Command::DeleteBundle(delete) => self.delete_bundle(delete, context),
            Command::PutSecret(put) => self.put_secret(put, context),
            Command::DeleteSecret(delete) => self.delete_secret(delete, context),
        }
    }

    /// Refuses a command whose owner is no longer the owner.
    pub(crate) fn check_fence(&self, fence: Fence) -> Result<()> {
        let owner = self.owner(fence.shard);
        if owner.epoch == fence.epoch {
            return Ok(());
        }
        Err(Rejection::Fenced {
            owner: owner.session,
            epoch: owner.epoch,
        })
    }
}

impl Context {
    pub(crate) fn row(&mut self, row: RowChange) {
        self.rows.push(row);
    }

    pub(crate) fn event(&mut self, object: ObjectChange) {
        self.events.push(ObjectEvent {
            index: self.index,
            object,
        });
    }

    pub(crate) fn ownership_changed(&mut self) {
        self.ownership_changed = true;
    }
}

/// `Added` for an object that did not exist before.
pub(crate) fn event_kind(existed: bool) -> EventKind {
    if existed {
        EventKind::Modified
    } else {
        EventKind::Added
    }
}

/// A fence is only good for objects of its own shard.
pub(crate) fn check_shard(fence: Fence, shard: ShardId) -> Result<()> {
    if fence.shard == shard {
        return Ok(());
    }
    Err(Rejection::Invalid(format!(
        "object belongs to shard {shard}, not {}",
        fence.shard
    )))
}
