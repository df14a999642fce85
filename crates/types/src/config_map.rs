//! ConfigMap: settings of users' apps, and in namespace `knative-serving` those of the cluster.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::ObjectKey;
use crate::meta::{DEFAULT_NAMESPACE, ObjectMeta};
use crate::names::{check_dns1123, check_dns1123_subdomain};
use crate::secret_value::SecretValue;
use crate::service::is_default;

pub const SYSTEM_NAMESPACE: &str = "knative-serving";
/// Of the autoscaler, of routes, of revision collection: there from first boot, never deleted.
pub const CONFIG_AUTOSCALER: &str = "config-autoscaler";
pub const CONFIG_NETWORK: &str = "config-network";
pub const CONFIG_GC: &str = "config-gc";
pub const SYSTEM_MAPS: [&str; 3] = [CONFIG_AUTOSCALER, CONFIG_NETWORK, CONFIG_GC];
/// Keys and values of one ConfigMap together, at most.
pub const MAX_BYTES: usize = 1024 * 1024;
/// Longest key.
pub const MAX_KEY: usize = 253;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigMap {
    #[serde(default)]
    pub api_version: String,
    #[serde(default)]
    pub kind: String,
    pub metadata: ObjectMeta,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, String>,
    /// Base64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub binary_data: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub immutable: bool,
}

impl ConfigMap {
    /// One of the cluster's own.
    pub fn system(name: &str, data: BTreeMap<String, String>) -> Self {
        let mut map = Self {
            data,
            ..Self::default()
        };
        map.metadata.name = name.into();
        map.metadata.namespace = SYSTEM_NAMESPACE.into();
        map.default_fields();
        map
    }

    pub fn default_fields(&mut self) {
        self.api_version = "v1".into();
        self.kind = "ConfigMap".into();
        if self.metadata.namespace.is_empty() {
            self.metadata.namespace = DEFAULT_NAMESPACE.into();
        }
    }

    /// # Errors
    /// The first thing that is wrong with its name, keys or size.
    pub fn check(&self) -> Result<(), String> {
        check_dns1123_subdomain(&self.metadata.name)
            .map_err(|why| format!("{why}: metadata.name"))?;
        check_dns1123(&self.metadata.namespace)
            .map_err(|why| format!("not a DNS 1123 label: [{why}]: metadata.namespace"))?;
        let mut bytes = 0;
        for (key, value) in self.data.iter().chain(&self.binary_data) {
            check_key(key)?;
            bytes += key.len() + value.len();
        }
        for (key, value) in &self.binary_data {
            SecretValue::from_base64(value).map_err(|why| format!("{why}: binaryData[{key}]"))?;
        }
        if bytes > MAX_BYTES {
            return Err(format!("{bytes} bytes, at most {MAX_BYTES}: data"));
        }
        match self
            .data
            .keys()
            .find(|key| self.binary_data.contains_key(*key))
        {
            Some(key) => Err(format!("key {key:?} is in data and in binaryData")),
            None => Ok(()),
        }
    }
}

/// # Errors
/// What a key of a ConfigMap or Secret may hold.
pub fn check_key(key: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    // They become names of files, where these have a meaning already.
    let is_taken = key == "." || key.starts_with("..");
    if key.is_empty() || key.len() > MAX_KEY || !key.chars().all(fits) || is_taken {
        return Err(format!(
            "invalid key {key:?}: at most {MAX_KEY} of [-._a-zA-Z0-9], and not beginning with \
             `..`: data"
        ));
    }
    Ok(())
}

pub fn is_system(key: &ObjectKey) -> bool {
    *key.namespace == *SYSTEM_NAMESPACE && SYSTEM_MAPS.contains(&&*key.name)
}
