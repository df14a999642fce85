//! Column families and fixed keys.

pub const LOG: &str = "raft_log";
pub const META: &str = "raft_meta";
pub const STATE: &str = "sm_kv";
pub const STATE_META: &str = "sm_meta";
/// The state's rows: of the even generations in [`STATE`], of the odd ones here. An install fills
/// the one that is not read, and one row in [`STATE_META`] says which one is.
pub const STATE_ODD: &str = "sm_kv_odd";
/// Changes of objects by log index, for watches.
pub(crate) const CHANGES: &str = "sm_chg";
pub const FAMILIES: [&str; 6] = [LOG, META, STATE, STATE_META, CHANGES, STATE_ODD];

pub const VOTE: &[u8] = b"vote";
pub(crate) const COMMITTED: &[u8] = b"committed";
pub(crate) const PURGED: &[u8] = b"purged";
pub const IDENTITY: &[u8] = b"identity";
/// In [`STATE_META`]: last applied log id and membership, written with the rows they belong to.
pub const APPLIED: &[u8] = b"applied";
/// In [`STATE_META`]: the entry after which [`CHANGES`] is complete, as 8 bytes big-endian.
pub(crate) const CHANGES_AFTER: &[u8] = b"changes-after";
/// In [`STATE_META`]: number of the generation that is read, as 8 bytes big-endian; absent = 0.
pub const GENERATION: &[u8] = b"generation";

/// The family that holds the rows of a generation.
pub(crate) fn state_family(generation: u64) -> &'static str {
    if generation.is_multiple_of(2) {
        STATE
    } else {
        STATE_ODD
    }
}

pub(crate) fn log_key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}
