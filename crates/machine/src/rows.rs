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
    let value = serde_json::to_vec(value).expect("state rows hold only string-keyed maps");
    RowChange {
        key,
        value: Some(value),
    }
}

pub(crate) fn delete(key: Vec<u8>) -> RowChange {
    RowChange { key, value: None }
}

impl State {
    /// Every row of the state, for a snapshot; in no promised order.
    pub fn rows(&self) -> Vec<RowChange> {
        let mut rows = Vec::new();
        if let Some(cluster) = &self.cluster {
            rows.push(put(key(tag::CLUSTER, &[]), cluster));
        }
        rows.push(put(key(tag::CLOCK, &[]), &self.clock));
        let objects = |rows: &mut Vec<RowChange>| {
            rows.extend(
                self.services
                    .iter()
                    .map(|(k, v)| put(object_key(tag::SERVICE, k), v)),
            );
            rows.extend(
                self.configurations
                    .iter()
                    .map(|(k, v)| put(object_key(tag::CONFIGURATION, k), v)),
            );
            rows.extend(
                self.revisions
                    .iter()
                    .map(|(k, v)| put(object_key(tag::REVISION, k), v)),
            );
            rows.extend(
                self.routes
                    .iter()
                    .map(|(k, v)| put(object_key(tag::ROUTE, k), v)),
            );
            rows.extend(
                self.config_maps
                    .iter()
                    .map(|(k, v)| put(object_key(tag::CONFIG_MAP, k), v)),
            );
            rows.extend(
                self.scales
                    .iter()
                    .map(|(k, v)| put(object_key(tag::SCALE, k), v)),
            );
        };
        objects(&mut rows);
        rows.extend(
            self.sessions
                .iter()
                .map(|(id, v)| put(key(tag::SESSION, &[&id.to_string()]), v)),
        );
        rows.extend(
            self.stores
                .iter()
                .map(|(node, v)| put(key(tag::STORE, &[&node.to_string()]), v)),
        );
        rows.extend(
            self.owners
                .iter()
                .map(|(shard, v)| put(key(tag::OWNER, &[&shard.to_string()]), v)),
        );
        rows.extend(
            self.replies
                .iter()
                .map(|(id, v)| put(key(tag::REPLY, &[id]), v)),
        );
        rows
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
                self.replies.insert(id.into(), decode(key, value)?);
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
