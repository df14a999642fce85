//! `PutConfigMap`, `DeleteConfigMap`: settings; the system's are parsed before they are stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use nihilo_types::config_map::{
    CONFIG_AUTOSCALER, ConfigMap, SYSTEM_MAPS, SYSTEM_NAMESPACE, is_system,
};
use nihilo_types::id::ObjectKey;

use super::write::{carry_identity, check_expectation, check_immutable};
use super::{Context, Result, event_kind};
use crate::command::{DeleteConfigMap, PutConfigMap};
use crate::reply::{Change, Outcome, Rejection};
use crate::rows::{self, tag};
use crate::settings::Settings;
use crate::state::{EventKind, ObjectChange, State};

/// ConfigMaps of a cluster, at most.
const MAX_CONFIG_MAPS: usize = 100_000;

impl State {
    pub(crate) fn put_config_map(&mut self, put: &PutConfigMap, context: &mut Context) -> Result {
        let mut wanted = put.config_map.clone();
        wanted.default_fields();
        wanted.check().map_err(Rejection::Invalid)?;
        let key = wanted.metadata.key();
        let stored = self.config_maps.get(&key).cloned();
        let have = stored.as_ref().map(|stored| stored.metadata.version());
        check_expectation(&key, have, put.expect)?;
        let settings = self.settings_with(&wanted)?;
        let change = match &stored {
            None if self.config_maps.len() >= MAX_CONFIG_MAPS => {
                let text = format!("at most {MAX_CONFIG_MAPS} configmaps");
                return Err(Rejection::LimitReached(text));
            }
            None => Change::Created,
            Some(stored) => {
                let is_same_data =
                    stored.data == wanted.data && stored.binary_data == wanted.binary_data;
                check_immutable(stored.immutable, is_same_data && wanted.immutable)?;
                let is_same = is_same_data
                    && stored.immutable == wanted.immutable
                    && stored.metadata.labels == wanted.metadata.labels
                    && stored.metadata.annotations == wanted.metadata.annotations;
                if is_same {
                    return Ok(outcome(stored, Change::Unchanged));
                }
                Change::Updated
            }
        };
        let known = stored.as_ref().map(|stored| &stored.metadata);
        carry_identity(&mut wanted.metadata, known, &put.uid, context);
        let object = self.store_config_map(wanted, context);
        let autocreates = |settings: &Settings| settings.network.autocreate_domain_claims;
        let begins_to = autocreates(&settings) && !autocreates(&self.settings);
        self.settings = Arc::new(settings);
        if begins_to {
            self.settle_claims(|_| true, context);
        }
        Ok(outcome(&object, change))
    }

    /// The settings that would hold with this ConfigMap.
    fn settings_with(&self, map: &ConfigMap) -> Result<Settings> {
        if !is_system(&map.metadata.key()) {
            return Ok(self.settings.as_ref().clone());
        }
        let settings = self.settings.with(&map.metadata.name, &map.data);
        settings.map_err(Rejection::Invalid)
    }

    fn store_config_map(&mut self, mut map: ConfigMap, context: &mut Context) -> Arc<ConfigMap> {
        let key = map.metadata.key();
        map.metadata.set_version(context.index);
        let object = Arc::new(map);
        context.row(rows::put(rows::object_key(tag::CONFIG_MAP, &key), &object));
        let change = event_kind(self.config_maps.contains_key(&key));
        context.event(ObjectChange::ConfigMap {
            object: object.clone(),
            change,
        });
        self.config_maps.insert(key, object.clone());
        object
    }

    pub(crate) fn delete_config_map(
        &mut self,
        delete: &DeleteConfigMap,
        context: &mut Context,
    ) -> Result {
        let key = &delete.key;
        let Some(stored) = self.config_maps.get(key).cloned() else {
            return Err(Rejection::NotFound(key.clone()));
        };
        check_expectation(key, Some(stored.metadata.version()), delete.expect)?;
        if is_system(key) {
            let text = format!("configmap {key} holds the cluster's settings and stays");
            return Err(Rejection::Invalid(text));
        }
        self.config_maps.remove(key);
        context.row(rows::delete(rows::object_key(tag::CONFIG_MAP, key)));
        context.event(ObjectChange::ConfigMap {
            object: stored.clone(),
            change: EventKind::Deleted,
        });
        Ok(outcome(&stored, Change::Deleted))
    }

    /// The cluster's own, with what its founder has set for the autoscaler.
    pub(crate) fn make_system_maps(
        &mut self,
        autoscaler: &BTreeMap<String, String>,
        context: &mut Context,
    ) -> Result<()> {
        let mut settings = self.settings.as_ref().clone();
        for name in SYSTEM_MAPS {
            let data = match name {
                CONFIG_AUTOSCALER => autoscaler.clone(),
                _ => BTreeMap::new(),
            };
            settings = settings.with(name, &data).map_err(Rejection::Invalid)?;
        }
        for name in SYSTEM_MAPS {
            if self
                .config_maps
                .contains_key(&ObjectKey::new(SYSTEM_NAMESPACE, name))
            {
                continue;
            }
            let data = match name {
                CONFIG_AUTOSCALER => autoscaler.clone(),
                _ => BTreeMap::new(),
            };
            let mut map = ConfigMap::system(name, data);
            map.metadata.creation_timestamp.clone_from(&context.now);
            self.store_config_map(map, context);
        }
        self.settings = Arc::new(settings);
        Ok(())
    }
}

fn outcome(object: &Arc<ConfigMap>, change: Change) -> Outcome {
    Outcome::ConfigMap {
        config_map: Box::new(object.as_ref().clone()),
        change,
    }
}
