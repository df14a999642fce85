//! Shards: the unit of ownership. The function below is part of the state format.

use crate::id::{ObjectKey, ShardId};

/// Number of ownership shards of a cluster; fixed for ever (03-actors §3).
pub const N_SHARDS: u16 = 256;

/// Returns the shard of a Service and of all that belongs to it.
///
/// `root` is the Service's key (or that of a bare Configuration or Route), so that a Service, its
/// Route, Revisions and Autoscalers always share a shard, an owner and an epoch.
/// Source: 03-actors §3, `xxh3_64(namespace ‖ "/" ‖ root name) mod 256`.
pub fn shard_of(root: &ObjectKey) -> ShardId {
    let text = format!("{}/{}", root.namespace, root.name);
    let hash = xxhash_rust::xxh3::xxh3_64(text.as_bytes());
    ShardId((hash % u64::from(N_SHARDS)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shard_function_is_part_of_the_state_format() {
        assert_eq!(
            shard_of(&ObjectKey::new("default", "hello")),
            ShardId(GOLDEN_HELLO)
        );
    }

    /// Computed once; a change here would orphan every stored object.
    const GOLDEN_HELLO: u16 = 40;
}
