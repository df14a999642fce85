//! The state as rows of bytes: what the store writes, what snapshots carry, what a start reads.
//!
//! Key = kind tag ‖ 0x00 ‖ parts joined by 0x00; value = JSON of the object, additive by serde's
//! rules. Derived indexes are rebuilt on load, never stored.

use std::sync::Arc;

use nihilo_types::config_map::ConfigMap;
use nihilo_types::id::{NodeId, ObjectKey, SessionId, ShardId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::state::{RowChange, State};

/// A row that cannot be read back: the store must refuse to start on it.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    #[error("row `{key}` has an unknown kind")]
    UnknownKind { key: String },
    #[error("row `{key}` has a malformed key")]
    MalformedKey { key: String },
    #[error("row `{key}` does not decode")]
    Value {
        key: String,
        source: serde_json::Error,
    },
}

pub(crate) mod tag {
    pub(crate) const CLUSTER: &str = "cluster";
    pub(crate) const CLOCK: &str = "clock";
    pub(crate) const SERVICE: &str = "service";
    pub(crate) const CONFIGURATION: &str = "configuration";
    pub(crate) const REVISION: &str = "revision";
    pub(crate) const ROUTE: &str = "route";
    pub(crate) const SCALE: &str = "scale";
    pub(crate) const CONFIG_MAP: &str = "configmap";
    pub(crate) const SESSION: &str = "session";
    pub(crate) const STORE: &str = "store";
    pub(crate) const OWNER: &str = "owner";
    pub(crate) const REPLY: &str = "reply";
    pub(crate) const VERSION: &str = "version";
    pub(crate) const ANCESTORS: &str = "ancestors";
    pub(crate) const MEMBER: &str = "member";
    pub(crate) const TOKEN: &str = "token";
}

pub(crate) fn key(tag: &str, parts: &[&str]) -> Vec<u8> {
    let mut bytes = tag.as_bytes().to_vec();
    for part in parts {
        bytes.push(0);
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

pub(crate) fn object_key(tag: &str, object: &ObjectKey) -> Vec<u8> {
    key(tag, &[&object.namespace, &object.name])
}

pub(crate) fn put<T: Serialize>(key: Vec<u8>, value: &T) -> RowChange {
    RowChange {
        key,
        value: Some(encode(value)),
    }
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("state rows hold only string-keyed maps")
}

pub(crate) fn delete(key: Vec<u8>) -> RowChange {
    RowChange { key, value: None }
}

impl State {
    /// Every row of the state; in no promised order.
    pub fn rows(&self) -> Vec<RowChange> {
        let mut rows = Vec::new();
        self.visit_rows(&mut |row| rows.push(row));
        rows
    }

    /// The same, one at a time: a large state is not held twice.
    pub fn visit_rows(&self, visit: &mut dyn FnMut(RowChange)) {
        if let Some(cluster) = &self.cluster {
            visit(put(key(tag::CLUSTER, &[]), cluster));
        }
        visit(put(key(tag::CLOCK, &[]), &self.clock));
        if let Some(version) = &self.version {
            visit(put(key(tag::VERSION, &[]), version));
        }
        if !self.ancestors.is_empty() {
            visit(put(key(tag::ANCESTORS, &[]), &self.ancestors));
        }
        for (id, member) in &self.members {
            visit(put(key(tag::MEMBER, &[&id.to_string()]), member));
        }
        for (id, token) in &self.tokens {
            visit(put(key(tag::TOKEN, &[id]), token));
        }
        self.visit_objects(visit);
        for (id, session) in &self.sessions {
            visit(put(key(tag::SESSION, &[&id.to_string()]), session));
        }
        for (node, store) in &self.stores {
            visit(put(key(tag::STORE, &[&node.to_string()]), store));
        }
        for (shard, owner) in &self.owners {
            visit(put(key(tag::OWNER, &[&shard.to_string()]), owner));
        }
        self.replies.visit_rows(visit);
    }

    fn visit_objects(&self, visit: &mut dyn FnMut(RowChange)) {
        for (key, service) in &self.services {
            visit(put(object_key(tag::SERVICE, key), service));
        }
        for (key, configuration) in &self.configurations {
            visit(put(object_key(tag::CONFIGURATION, key), configuration));
        }
        for (key, revision) in &self.revisions {
            visit(put(object_key(tag::REVISION, key), revision));
        }
        for (key, route) in &self.routes {
            visit(put(object_key(tag::ROUTE, key), route));
        }
        for (key, config_map) in &self.config_maps {
            visit(put(object_key(tag::CONFIG_MAP, key), config_map));
        }
        for (key, scale) in &self.scales {
            visit(put(object_key(tag::SCALE, key), scale));
        }
    }

    /// Rebuilds the state from its rows.
    ///
    /// # Errors
    /// A row that this build cannot read; the caller must not start on a part of the state.
    pub fn from_rows(
        rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<State, RowError> {
        let mut state = State::default();
        for (key, value) in rows {
            state.load_row(&String::from_utf8_lossy(&key), &value)?;
        }
        state.rebuild_indexes();
        Ok(state)
    }

    fn load_row(&mut self, key: &str, value: &[u8]) -> Result<(), RowError> {
        let malformed = || RowError::MalformedKey { key: key.into() };
        let mut parts = key.split('\0');
        let kind = parts.next().unwrap_or_default();
        let first = parts.next();
        let object = || match (first, key.split('\0').nth(2)) {
            (Some(namespace), Some(name)) => Ok(ObjectKey::new(namespace, name)),
            _ => Err(malformed()),
        };
        let number = || {
            first
                .and_then(|text| text.parse::<u64>().ok())
                .ok_or_else(malformed)
        };
        match kind {
            tag::CLUSTER => self.cluster = Some(Arc::new(decode(key, value)?)),
            tag::CLOCK => self.clock = decode(key, value)?,
            tag::ANCESTORS => self.ancestors = decode(key, value)?,
            tag::VERSION => self.version = Some(decode(key, value)?),
            tag::MEMBER => {
                let id = NodeId(number()?);
                self.members.insert(id, Arc::new(decode(key, value)?));
            }
            tag::TOKEN => {
                let id = first.ok_or_else(malformed)?;
                self.tokens.insert(id.into(), Arc::new(decode(key, value)?));
            }
            tag::SERVICE => drop(
                self.services
                    .insert(object()?, Arc::new(decode(key, value)?)),
            ),
            tag::CONFIGURATION => drop(
                self.configurations
                    .insert(object()?, Arc::new(decode(key, value)?)),
            ),
            tag::REVISION => drop(
                self.revisions
                    .insert(object()?, Arc::new(decode(key, value)?)),
            ),
            tag::ROUTE => drop(self.routes.insert(object()?, Arc::new(decode(key, value)?))),
            tag::SCALE => drop(self.scales.insert(object()?, Arc::new(decode(key, value)?))),
            tag::CONFIG_MAP => {
                let map: Arc<ConfigMap> = Arc::new(decode(key, value)?);
                self.config_maps.insert(object()?, map);
            }
            tag::SESSION => {
                let id = SessionId(number()?);
                self.sessions.insert(id, Arc::new(decode(key, value)?));
            }
            tag::STORE => {
                self.stores.insert(NodeId(number()?), decode(key, value)?);
            }
            tag::OWNER => {
                let shard = ShardId(u16::try_from(number()?).map_err(|_| malformed())?);
                self.owners.insert(shard, decode(key, value)?);
            }
            tag::REPLY => {
                // A client's own words, 0x00 included: all that follows the tag.
                let (_, id) = key.split_once('\0').ok_or_else(malformed)?;
                self.replies.load(id, &decode(key, value)?);
            }
            _ => return Err(RowError::UnknownKind { key: key.into() }),
        }
        Ok(())
    }
}

fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, RowError> {
    serde_json::from_slice(value).map_err(|source| RowError::Value {
        key: key.into(),
        source,
    })
}
