//! Secrets and ConfigMaps out of this node's applied state, as its agent looks them up.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use nihilo_raft::RaftNode;
use nihilo_runtime::config::{ConfigSource, Content};
use nihilo_types::config_map::ConfigMap;
use nihilo_types::id::{LogIndex, ObjectKey};
use nihilo_types::instance_config::Holder;
use nihilo_types::secret::SealedSecret;
use nihilo_types::secret_value::SecretValue;

use crate::secrets_key::SecretsKey;

/// How long a start waits for the log to be applied here.
const REACH_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct AppliedConfig {
    pub(crate) raft: RaftNode,
    pub(crate) key: SecretsKey,
}

impl ConfigSource for AppliedConfig {
    fn reached(&self, index: LogIndex) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        let mut applied = self.raft.applied();
        Box::pin(async move {
            let reached = applied.wait_for(|at| *at >= index);
            let reached = tokio::time::timeout(REACH_LIMIT, reached).await;
            matches!(reached, Ok(Ok(_)))
        })
    }

    fn version(&self, holder: Holder, key: &ObjectKey) -> Option<LogIndex> {
        self.raft.state().read(|state| match holder {
            Holder::Secret => state.secret(key).map(|found| found.metadata.version()),
            Holder::ConfigMap => state.config_map(key).map(|found| found.metadata.version()),
        })
    }

    fn find(&self, holder: Holder, key: &ObjectKey) -> Result<Option<Content>, String> {
        match holder {
            Holder::ConfigMap => {
                let found = self
                    .raft
                    .state()
                    .read(|state| state.config_map(key).cloned());
                Ok(found.map(|map| content(&map)))
            }
            Holder::Secret => {
                let found = self.raft.state().read(|state| state.secret(key).cloned());
                found.map(|secret| self.open(&secret)).transpose()
            }
        }
    }
}

impl AppliedConfig {
    fn open(&self, secret: &SealedSecret) -> Result<Content, String> {
        let name = &secret.metadata.name;
        let key = self
            .key
            .get()
            .map_err(|error| format!("secret {name:?} cannot be opened: {error}"))?;
        if key.id() != secret.sealed_by {
            return Err(format!(
                "secret {name:?} is sealed by key {}, and this node holds key {}: give it the file \
                 that `secrets-key-file` names on the other nodes, and restart it",
                secret.sealed_by,
                key.id()
            ));
        }
        let names = secret.sealed.keys();
        let opened = names.filter_map(|entry| {
            let value = secret.open(&key, entry)?;
            let value = value
                .map_err(|why| format!("key {entry:?} of secret {name:?} cannot be opened: {why}"));
            Some(value.map(|value| (entry.clone(), value)))
        });
        opened.collect()
    }
}

fn content(map: &ConfigMap) -> Content {
    let text = map.data.iter();
    let text = text.map(|(key, value)| (key.clone(), SecretValue::new(value.as_bytes())));
    let bytes = map.binary_data.iter().filter_map(|(key, value)| {
        // `apply` has seen that it is base64.
        Some((key.clone(), SecretValue::from_base64(value).ok()?))
    });
    text.chain(bytes).collect::<BTreeMap<_, _>>()
}
