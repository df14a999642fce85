//! Addresses of entities.

use std::fmt;

use nihilo_types::id::ObjectKey;

/// One actor's address. A Service and its Route, Revisions and Autoscalers share a shard.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntityKey {
    Service(ObjectKey),
    Route(ObjectKey),
    Revision(ObjectKey),
    /// By the revision's key.
    Autoscaler(ObjectKey),
}

impl EntityKey {
    pub fn object(&self) -> &ObjectKey {
        match self {
            EntityKey::Service(key)
            | EntityKey::Route(key)
            | EntityKey::Revision(key)
            | EntityKey::Autoscaler(key) => key,
        }
    }

    pub fn kind(&self) -> &'static str {
        match self {
            EntityKey::Service(_) => "service",
            EntityKey::Route(_) => "route",
            EntityKey::Revision(_) => "revision",
            EntityKey::Autoscaler(_) => "autoscaler",
        }
    }
}

impl fmt::Display for EntityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind(), self.object())
    }
}
