//! The state as rows of bytes: what the store writes, what snapshots carry, what a start reads.
//!
//! Key = kind tag ‖ 0x00 ‖ parts joined by 0x00; value = JSON of the object, additive by serde's
//! rules. Derived indexes are rebuilt on load, never stored.

use std::sync::Arc;

use nihilo_types::autoscaler::ScaleRecord;
use nihilo_types::config_map::ConfigMap;
use nihilo_types::configuration::Configuration;
use nihilo_types::id::{NodeId, ObjectKey, SessionId, ShardId};
use nihilo_types::revision::Revision;
use nihilo_types::route::Route;
use nihilo_types::secret::SealedSecret;
use nihilo_types::service::Service;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bundles::BundleKey;
use crate::objects::{Kept, SharedKeys, Stored};
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
    pub(crate) const DOMAIN_CLAIM: &str = "domainclaim";
    pub(crate) const DOMAIN_MAPPING: &str = "domainmapping";
    pub(crate) const SESSION: &str = "session";
    pub(crate) const STORE: &str = "store";
    pub(crate) const OWNER: &str = "owner";
    pub(crate) const REPLY: &str = "reply";
    pub(crate) const VERSION: &str = "version";
    pub(crate) const ANCESTORS: &str = "ancestors";
    pub(crate) const MEMBER: &str = "member";
    pub(crate) const TOKEN: &str = "token";
    pub(crate) const BUNDLE: &str = "bundle";
    pub(crate) const SECRET: &str = "secret";
}

/// The kinds of rows that there may be very many of, in the order of their keys.
pub(crate) const OBJECT_TAGS: [&str; 10] = [
    tag::BUNDLE,
    tag::CONFIG_MAP,
    tag::CONFIGURATION,
    tag::DOMAIN_CLAIM,
    tag::DOMAIN_MAPPING,
    tag::REVISION,
    tag::ROUTE,
    tag::SCALE,
    tag::SECRET,
    tag::SERVICE,
];

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
        self.visit_few(visit);
        for kind in OBJECT_TAGS {
            self.visit_objects(kind, visit);
        }
    }

    /// The rows that are not objects.
    pub(crate) fn visit_few(&self, visit: &mut dyn FnMut(RowChange)) {
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

    /// The rows of one of [`OBJECT_TAGS`], in the order of their keys.
    pub(crate) fn visit_objects(&self, kind: &str, visit: &mut dyn FnMut(RowChange)) {
        match kind {
            tag::SERVICE => self.services.visit_rows(visit),
            tag::CONFIGURATION => self.configurations.visit_rows(visit),
            tag::REVISION => self.revisions.visit_rows(visit),
            tag::ROUTE => self.routes.visit_rows(visit),
            tag::CONFIG_MAP => {
                for (key, config_map) in &self.config_maps {
                    visit(put(object_key(kind, key), config_map));
                }
            }
            tag::BUNDLE => {
                for bundle in self.bundles.all() {
                    visit(put(bundle.key().row(), bundle));
                }
            }
            tag::DOMAIN_CLAIM => {
                for (host, claim) in self.domains.claims() {
                    visit(put(key(kind, &[host]), claim));
                }
            }
            tag::DOMAIN_MAPPING => {
                for (key, mapping) in self.domains.mappings() {
                    visit(put(object_key(kind, key), mapping));
                }
            }
            tag::SECRET => {
                for (key, secret) in &self.secrets {
                    visit(put(object_key(kind, key), secret));
                }
            }
            tag::SCALE => {
                for (key, scale) in &self.scales {
                    visit(put(object_key(kind, key), scale));
                }
            }
            _ => {}
        }
    }

    /// Rebuilds the state from its rows.
    ///
    /// # Errors
    /// A row that this build cannot read; the caller must not start on a part of the state.
    pub fn from_rows(
        rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<State, RowError> {
        let mut read = ReadRows::default();
        for (key, value) in rows {
            read.add(&key, &value)?;
        }
        State::from_read([read])
    }

    /// Rebuilds the state from rows that were read, in parts if need be: the parts are whatever
    /// followed each other, in the rows' order.
    ///
    /// # Errors
    /// As [`Self::from_rows`].
    pub fn from_read(parts: impl IntoIterator<Item = ReadRows>) -> Result<State, RowError> {
        let mut all = ReadRows::default();
        for part in parts {
            all.append(part);
        }
        let mut state = State {
            services: all.services.into_iter().collect(),
            ..State::default()
        };
        let mut roots = SharedKeys::of(&state.services);
        let shared = |(key, kept)| (roots.share(key), kept);
        state.configurations = all.configurations.into_iter().map(shared).collect();
        let mut roots = SharedKeys::of(&state.services);
        let shared = |(key, kept)| (roots.share(key), kept);
        state.routes = all.routes.into_iter().map(shared).collect();
        let mut roots = SharedKeys::of(&state.services);
        let mut revisions = Vec::with_capacity(all.revisions.len());
        for (key, root, kept) in all.revisions {
            let root = roots.share(root);
            let key = root.sibling(key.name);
            state.revisions_of.insert(&root, &key.name);
            revisions.push((key, kept));
        }
        state.revisions = revisions.into_iter().collect();
        let mut known = SharedKeys::of(&state.revisions);
        let shared = |(key, scale)| (known.share(key), scale);
        state.scales = all.scales.into_iter().map(shared).collect();
        for (bundle, revision) in all.pins {
            state.bundles.pin(bundle, &revision);
        }
        for (key, value) in all.others {
            state.load_row(&key, &value)?;
        }
        state.rebuild_indexes();
        Ok(state)
    }

    /// A row of what there is little of.
    fn load_row(&mut self, key: &str, value: &[u8]) -> Result<(), RowError> {
        let malformed = || RowError::MalformedKey { key: key.into() };
        let mut parts = key.split('\0');
        let kind = parts.next().unwrap_or_default();
        let first = parts.next();
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
            tag::CONFIG_MAP => {
                let map: Arc<ConfigMap> = Arc::new(decode(key, value)?);
                self.config_maps.insert(object_of(key)?, map);
            }
            tag::BUNDLE => self.bundles.put(Arc::new(decode(key, value)?)),
            tag::SECRET => {
                let secret: Arc<SealedSecret> = Arc::new(decode(key, value)?);
                self.secrets.insert(object_of(key)?, secret);
            }
            tag::DOMAIN_CLAIM => self.domains.put_claim(Arc::new(decode(key, value)?)),
            tag::DOMAIN_MAPPING => {
                let mapping = Arc::new(decode(key, value)?);
                self.domains.put_mapping(&object_of(key)?, mapping);
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

/// Rows that were read and proven, each by itself: what of making a state can be done aside.
#[derive(Debug, Default)]
pub struct ReadRows {
    services: Vec<(ObjectKey, Kept<Service>)>,
    configurations: Vec<(ObjectKey, Kept<Configuration>)>,
    /// With the Service that each belongs to.
    revisions: Vec<(ObjectKey, ObjectKey, Kept<Revision>)>,
    routes: Vec<(ObjectKey, Kept<Route>)>,
    scales: Vec<(ObjectKey, Arc<ScaleRecord>)>,
    /// Bundles that revisions run, each with the revision.
    pins: Vec<(BundleKey, Arc<str>)>,
    /// Key and value of what there is little of.
    others: Vec<(String, Vec<u8>)>,
}

impl ReadRows {
    /// Reads one more row, key and value.
    ///
    /// # Errors
    /// This build cannot read it.
    pub fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), RowError> {
        let key = String::from_utf8_lossy(key);
        let kind = key.split('\0').next().unwrap_or_default();
        match kind {
            tag::SERVICE => self.services.push(kept(&key, value)?),
            tag::CONFIGURATION => self.configurations.push(kept(&key, value)?),
            tag::ROUTE => self.routes.push(kept(&key, value)?),
            tag::REVISION => {
                let (kept, revision) = read::<Revision>(&key, value)?;
                let key = object_of(&key)?;
                let pin = BundleKey::of_revision(&revision);
                self.pins.extend(pin.map(|pin| (pin, key.name.clone())));
                self.revisions.push((key, revision.root(), kept));
            }
            tag::SCALE => {
                let scale = Arc::new(decode(&key, value)?);
                self.scales.push((object_of(&key)?, scale));
            }
            _ => self.others.push((key.into_owned(), value.to_vec())),
        }
        Ok(())
    }

    fn append(&mut self, mut later: Self) {
        self.services.append(&mut later.services);
        self.configurations.append(&mut later.configurations);
        self.revisions.append(&mut later.revisions);
        self.routes.append(&mut later.routes);
        self.scales.append(&mut later.scales);
        self.pins.append(&mut later.pins);
        self.others.append(&mut later.others);
    }
}

fn object_of(key: &str) -> Result<ObjectKey, RowError> {
    let mut parts = key.split('\0').skip(1);
    match (parts.next(), parts.next()) {
        (Some(namespace), Some(name)) => Ok(ObjectKey::new(namespace, name)),
        _ => Err(RowError::MalformedKey { key: key.into() }),
    }
}

fn kept<T: Stored>(key: &str, value: &[u8]) -> Result<(ObjectKey, Kept<T>), RowError> {
    let (kept, _) = read(key, value)?;
    Ok((object_of(key)?, kept))
}

fn read<T: Stored>(key: &str, value: &[u8]) -> Result<(Kept<T>, T), RowError> {
    Kept::read(value).map_err(|source| RowError::Value {
        key: key.into(),
        source,
    })
}

fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, RowError> {
    serde_json::from_slice(value).map_err(|source| RowError::Value {
        key: key.into(),
        source,
    })
}
