//! Identifiers as newtypes, so that two integers of one kind never stand side by side.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// Position of an entry in the Raft log; 0 = before the first entry. Doubles as the version
    /// of every object (`resourceVersion`).
    LogIndex(u64)
);
number!(
    /// Fence of a shard's ownership: the [`LogIndex`] of the entry that assigned it; 0 = never.
    Epoch(u64)
);
number!(
    /// One life of a node's process: the [`LogIndex`] of its `OpenSession` entry.
    SessionId(u64)
);
number!(
    /// A voter or learner of the cluster; never reused. Founders are 1, 2, 3.
    NodeId(u64)
);
number!(
    /// One of [`crate::shard::N_SHARDS`] units of ownership.
    ShardId(u16)
);

/// Namespace and name of an object of a known kind. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ObjectKey {
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The key of a sibling object in the same namespace.
    pub fn sibling(&self, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: self.namespace.clone(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What belongs to the whole cluster stands in no namespace.
        match &*self.namespace {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// Kinds that the replicated state holds as objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    Service,
    Configuration,
    Revision,
    Route,
    ConfigMap,
    DomainMapping,
    /// Of the whole cluster: its key's namespace is empty.
    ClusterDomainClaim,
    Secret,
}

impl Kind {
    pub const ALL: [Kind; 8] = [
        Kind::Service,
        Kind::Configuration,
        Kind::Revision,
        Kind::Route,
        Kind::ConfigMap,
        Kind::DomainMapping,
        Kind::ClusterDomainClaim,
        Kind::Secret,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Service => "Service",
            Kind::Configuration => "Configuration",
            Kind::Revision => "Revision",
            Kind::Route => "Route",
            Kind::ConfigMap => "ConfigMap",
            Kind::DomainMapping => "DomainMapping",
            Kind::ClusterDomainClaim => "ClusterDomainClaim",
            Kind::Secret => "Secret",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Name of one instance: `{revision}-{epoch base36}-{counter base36}`, drawn by the owner's shard
/// keeper (03-actors §4); unique for ever without a commit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceId(pub Arc<str>);

impl InstanceId {
    /// Longest id in bytes; a longer revision name is cut and gets a hash of itself.
    pub const MAX_LEN: usize = 63;

    /// Builds the id of the `counter`-th instance that this (shard, epoch) creates.
    pub fn new(revision: &str, epoch: Epoch, counter: u64) -> Self {
        let suffix = format!("-{}-{}", base36(epoch.0), base36(counter));
        let room = Self::MAX_LEN.saturating_sub(suffix.len());
        if revision.len() <= room {
            return Self(format!("{revision}{suffix}").into());
        }
        let hash = base36(xxhash_rust::xxh3::xxh3_64(revision.as_bytes()));
        let hash: String = hash.chars().take(6).collect();
        let keep: String = revision.chars().take(room.saturating_sub(7)).collect();
        Self(format!("{keep}-{hash}{suffix}").into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for InstanceId {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Lower-case base 36, no padding.
pub fn base36(mut number: u64) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut digits = Vec::new();
    loop {
        digits.push(char::from(DIGITS[(number % 36) as usize]));
        number /= 36;
        if number == 0 {
            break;
        }
    }
    digits.iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_id_names_revision_epoch_and_counter() {
        let id = InstanceId::new("hello-00001", Epoch(71), 36);
        assert_eq!(id.as_str(), "hello-00001-1z-10");
    }

    #[test]
    fn long_revision_names_are_cut_and_stay_distinct() {
        let a = InstanceId::new(&"a".repeat(63), Epoch(1), 1);
        let b = InstanceId::new(&format!("{}b", "a".repeat(62)), Epoch(1), 1);
        assert!(a.as_str().len() <= InstanceId::MAX_LEN);
        assert_ne!(a, b);
    }
}
