//! Column families and fixed keys.

pub const LOG: &str = "raft_log";
pub const META: &str = "raft_meta";
pub const STATE: &str = "sm_kv";
pub const STATE_META: &str = "sm_meta";
pub(crate) const FAMILIES: [&str; 4] = [LOG, META, STATE, STATE_META];

pub const VOTE: &[u8] = b"vote";
pub(crate) const COMMITTED: &[u8] = b"committed";
pub(crate) const PURGED: &[u8] = b"purged";
pub(crate) const IDENTITY: &[u8] = b"identity";
/// In [`STATE_META`]: last applied log id and membership, written with the rows they belong to.
pub const APPLIED: &[u8] = b"applied";

pub(crate) fn log_key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}
