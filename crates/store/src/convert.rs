//! Between openraft's types and our own messages: a change of the library cannot change our
//! formats on disk or wire.

use std::collections::{BTreeMap, BTreeSet};

use nihilo_wire::internal as pb;
use openraft::EntryPayload;

use crate::type_config::{
    Entry, EntryBytes, LeaderId, LogId, Membership, Node, SnapshotMeta, StoredMembership, Vote,
};

/// A message of ours that lacks what it must have.
#[derive(Debug, thiserror::Error)]
#[error("malformed raft message: {0}")]
pub struct Malformed(&'static str);

pub fn leader_id_to(id: &LeaderId) -> pb::LeaderId {
    pb::LeaderId {
        term: id.term,
        node_id: id.node_id,
    }
}

fn leader_id_from(id: Option<pb::LeaderId>) -> Result<LeaderId, Malformed> {
    let id = id.ok_or(Malformed("no leader id"))?;
    Ok(LeaderId {
        term: id.term,
        node_id: id.node_id,
    })
}

pub fn vote_to(vote: &Vote) -> pb::Vote {
    pb::Vote {
        leader_id: Some(leader_id_to(&vote.leader_id)),
        committed: vote.committed,
    }
}

/// # Errors
/// No vote, or one without a leader id.
pub fn vote_from(vote: Option<pb::Vote>) -> Result<Vote, Malformed> {
    let vote = vote.ok_or(Malformed("no vote"))?;
    Ok(Vote {
        leader_id: leader_id_from(vote.leader_id)?,
        committed: vote.committed,
    })
}

pub fn log_id_to(id: &LogId) -> pb::LogId {
    pb::LogId {
        leader_id: Some(leader_id_to(&id.leader_id)),
        index: id.index,
    }
}

/// # Errors
/// A log id without a leader id.
pub fn log_id_from(id: Option<pb::LogId>) -> Result<Option<LogId>, Malformed> {
    let Some(id) = id else { return Ok(None) };
    Ok(Some(LogId {
        leader_id: leader_id_from(id.leader_id)?,
        index: id.index,
    }))
}

pub fn membership_to(membership: &Membership) -> pb::Membership {
    let configs = membership.get_joint_config().iter();
    pb::Membership {
        configs: configs
            .map(|ids| pb::NodeSet {
                ids: ids.iter().copied().collect(),
            })
            .collect(),
        nodes: membership
            .nodes()
            .map(|(id, node)| {
                (
                    *id,
                    pb::Node {
                        address: node.address.clone(),
                    },
                )
            })
            .collect(),
    }
}

/// # Errors
/// A configuration that names unknown nodes.
pub fn membership_from(membership: pb::Membership) -> Result<Membership, Malformed> {
    let configs: Vec<BTreeSet<u64>> = membership
        .configs
        .into_iter()
        .map(|set| set.ids.into_iter().collect())
        .collect();
    let nodes: BTreeMap<u64, Node> = membership
        .nodes
        .into_iter()
        .map(|(id, node)| {
            (
                id,
                Node {
                    address: node.address,
                },
            )
        })
        .collect();
    Membership::new(configs, nodes).map_err(|_| Malformed("membership names unknown nodes"))
}

pub fn stored_membership_to(stored: &StoredMembership) -> pb::StoredMembership {
    pb::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_to),
        membership: Some(membership_to(stored.membership())),
    }
}

/// # Errors
/// A log id without a leader id.
pub fn stored_membership_from(
    stored: Option<pb::StoredMembership>,
) -> Result<StoredMembership, Malformed> {
    let Some(stored) = stored else {
        return Ok(StoredMembership::default());
    };
    let membership = stored
        .membership
        .map(membership_from)
        .transpose()?
        .unwrap_or_default();
    Ok(StoredMembership::new(
        log_id_from(stored.log_id)?,
        membership,
    ))
}

pub fn entry_to(entry: &Entry) -> pb::Entry {
    let payload = match &entry.payload {
        EntryPayload::Blank => pb::entry::Payload::Blank(true),
        EntryPayload::Normal(bytes) => pb::entry::Payload::Normal(bytes.0.clone()),
        EntryPayload::Membership(membership) => {
            pb::entry::Payload::Membership(membership_to(membership))
        }
    };
    pb::Entry {
        log_id: Some(log_id_to(&entry.log_id)),
        payload: Some(payload),
    }
}

/// # Errors
/// An entry without id or payload.
pub fn entry_from(entry: pb::Entry) -> Result<Entry, Malformed> {
    let payload = match entry.payload.ok_or(Malformed("no payload"))? {
        pb::entry::Payload::Blank(_) => EntryPayload::Blank,
        pb::entry::Payload::Normal(bytes) => EntryPayload::Normal(EntryBytes(bytes)),
        pb::entry::Payload::Membership(membership) => {
            EntryPayload::Membership(membership_from(membership)?)
        }
    };
    let log_id = log_id_from(entry.log_id)?.ok_or(Malformed("no log id"))?;
    Ok(Entry { log_id, payload })
}

pub fn snapshot_meta_to(meta: &SnapshotMeta) -> pb::SnapshotMeta {
    pb::SnapshotMeta {
        last_log_id: meta.last_log_id.as_ref().map(log_id_to),
        last_membership: Some(stored_membership_to(&meta.last_membership)),
        snapshot_id: String::new(),
    }
}

/// # Errors
/// Ids without a leader id.
pub fn snapshot_meta_from(meta: Option<pb::SnapshotMeta>) -> Result<SnapshotMeta, Malformed> {
    let meta = meta.ok_or(Malformed("no snapshot meta"))?;
    Ok(SnapshotMeta {
        last_log_id: log_id_from(meta.last_log_id)?,
        last_membership: stored_membership_from(meta.last_membership)?,
    })
}
