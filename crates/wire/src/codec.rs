//! Bytes of log entries, commands and replies.

use bytes::Bytes;
use nihilo_machine::command::{CLUSTER_VERSION, RequestKey};
use nihilo_machine::{Command, Envelope, Reply};
use prost::Message;

use crate::internal::LogEntry;

/// Largest command accepted, in bytes of its encoding (02-store §2.2).
pub const MAX_COMMAND_BYTES: usize = 1024 * 1024;

/// Version of the [`LogEntry`] message itself.
const FORMAT: u32 = 1;

/// Bytes that this build cannot read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("log entry is not a valid message")]
    Message(#[from] prost::DecodeError),
    #[error("log entry has format {0}, this build reads {FORMAT}")]
    Format(u32),
    #[error(
        "log entry was written for cluster version {0}, this build knows {CLUSTER_VERSION}; start \
         the node with the build that the others run"
    )]
    ClusterVersion(u32),
    #[error("JSON inside does not decode")]
    Json(#[from] serde_json::Error),
}

/// Encodes one entry; these bytes are replicated and stored as they are.
pub fn encode_entry(envelope: &Envelope) -> Bytes {
    let entry = LogEntry {
        format: FORMAT,
        cluster_version: envelope.cluster_version,
        log_ms: envelope.log_ms,
        wall_ms: envelope.wall_ms,
        request_id: envelope.request.id.clone(),
        request_hash: envelope.request.hash,
        command: encode_command(&envelope.command),
    };
    entry.encode_to_vec().into()
}

/// # Errors
/// Anything that this build cannot apply: the store must stop, never skip.
pub fn decode_entry(bytes: &[u8]) -> Result<Envelope, DecodeError> {
    let entry = LogEntry::decode(bytes)?;
    if entry.format != FORMAT {
        return Err(DecodeError::Format(entry.format));
    }
    if entry.cluster_version > CLUSTER_VERSION {
        return Err(DecodeError::ClusterVersion(entry.cluster_version));
    }
    Ok(Envelope {
        cluster_version: entry.cluster_version,
        log_ms: entry.log_ms,
        wall_ms: entry.wall_ms,
        request: RequestKey {
            id: entry.request_id,
            hash: entry.request_hash,
        },
        command: serde_json::from_slice(&entry.command)?,
    })
}

pub fn encode_command(command: &Command) -> Bytes {
    serde_json::to_vec(command)
        .expect("commands hold only string-keyed maps")
        .into()
}

/// # Errors
/// Malformed JSON or an unknown command.
pub fn decode_command(bytes: &[u8]) -> Result<Command, DecodeError> {
    Ok(serde_json::from_slice(bytes)?)
}

pub fn encode_reply(reply: &Reply) -> Bytes {
    serde_json::to_vec(reply)
        .expect("replies hold only string-keyed maps")
        .into()
}

/// # Errors
/// Malformed JSON or a reply of a newer build.
pub fn decode_reply(bytes: &[u8]) -> Result<Reply, DecodeError> {
    Ok(serde_json::from_slice(bytes)?)
}
