//! What writes of all kinds of objects have in common.

use std::time::Duration;

use nihilo_machine::command::{Expect, RequestKey};
use nihilo_machine::reply::Change;
use nihilo_machine::{Command, Reply};
use nihilo_raft::RaftNode;
use nihilo_types::id::LogIndex;
use nihilo_types::meta::ObjectMeta;
use nihilo_wire::serving as pb;
use serde::de::DeserializeOwned;
use tonic::Status;

use super::{error, names};

/// Who writes, until there is authentication.
pub(super) const ANONYMOUS: &str = "anonymous";
/// Bound of a write, forwarding and waiting for a leader included.
const WRITE_LIMIT: Duration = Duration::from_secs(5);

pub(super) async fn propose(
    raft: &RaftNode,
    command: Command,
    once: RequestKey,
) -> Result<Reply, Status> {
    if once.id.is_empty() && command.needs_request_id() {
        let text = "a write needs a `request_id` or an `etag`: without one it could be applied \
                    twice";
        return Err(error::invalid("MALFORMED", text));
    }
    raft.propose(command, once, WRITE_LIMIT)
        .await
        .map_err(|failure| error::not_proposed(&failure))
}

pub(super) fn decode<T: DeserializeOwned>(json: &[u8]) -> Result<T, Status> {
    serde_json::from_slice(json).map_err(|failure| error::invalid("MALFORMED", failure.to_string()))
}

/// `if_unnamed` is what a request that names no version expects of the stored object.
pub(super) fn expectation(
    etag: &str,
    object: &ObjectMeta,
    if_unnamed: Expect,
) -> Result<Expect, Status> {
    if let Some(version) = names::parse_etag(etag)? {
        return Ok(Expect::Version(LogIndex(version)));
    }
    match object.version() {
        LogIndex(0) => Ok(if_unnamed),
        version => Ok(Expect::Version(version)),
    }
}

pub(super) fn change_to(change: Change) -> pb::write_response::Change {
    match change {
        Change::Created => pb::write_response::Change::Created,
        Change::Updated | Change::Deleted => pb::write_response::Change::Updated,
        Change::Unchanged => pb::write_response::Change::Unchanged,
    }
}
