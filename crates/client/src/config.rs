//! ConfigMaps: settings of users' apps, and of the cluster.

use nihilo_types::config_map::ConfigMap;
use nihilo_wire::serving as pb;
use pb::config_service_client::ConfigServiceClient;
use serde::de::DeserializeOwned;

use crate::call::{Client, request_id, unary};
use crate::error::Error;
use crate::serving::{Listed, Stored, listed, parent, stored};

/// What a write of a ConfigMap or a Secret did.
#[derive(Debug, Clone)]
pub struct WrittenConfig<T> {
    pub object: T,
    pub unchanged: bool,
    pub index: u64,
    /// Keys that have no effect, and what was left out.
    pub warnings: Vec<String>,
}

pub(crate) fn written<T: DeserializeOwned>(
    answer: pb::ApplyConfigResponse,
) -> Result<WrittenConfig<T>, Error> {
    let object = answer
        .object
        .ok_or_else(|| Error::bad_answer("a write without its object"))?;
    Ok(WrittenConfig {
        object: stored(object)?.object,
        unchanged: answer.unchanged,
        index: answer.index,
        warnings: answer.warnings,
    })
}

fn write_request(config_map: &ConfigMap, etag: &str) -> Result<pb::WriteRequest, Error> {
    Ok(pb::WriteRequest {
        json: serde_json::to_vec(config_map)
            .map_err(Error::bad_answer)?
            .into(),
        request_id: request_id(),
        etag: etag.into(),
        validate_only: false,
    })
}

fn name_of(namespace: &str, name: &str) -> String {
    format!("namespaces/{namespace}/configmaps/{name}")
}

impl Client {
    /// # Errors
    /// Not found, or no server answered.
    pub async fn config_map(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Stored<ConfigMap>, Error> {
        let name = name_of(namespace, name);
        stored(unary!(
            self,
            ConfigServiceClient,
            get_config_map,
            pb::GetRequest { name }
        )?)
    }

    /// # Errors
    /// No server answered.
    pub async fn config_maps(&self, namespace: Option<&str>) -> Result<Listed<ConfigMap>, Error> {
        let request = pb::ListRequest {
            parent: parent(namespace),
            service: String::new(),
        };
        listed(unary!(
            self,
            ConfigServiceClient,
            list_config_maps,
            request
        )?)
    }

    /// Creates or replaces; an `etag` makes it conditional on that version.
    ///
    /// # Errors
    /// Invalid, changed meanwhile, or no server answered.
    pub async fn apply_config_map(
        &self,
        config_map: &ConfigMap,
        etag: &str,
    ) -> Result<WrittenConfig<ConfigMap>, Error> {
        let request = write_request(config_map, etag)?;
        written(unary!(
            self,
            ConfigServiceClient,
            apply_config_map,
            request
        )?)
    }

    /// As [`Self::apply_config_map`], for one that is not there yet.
    ///
    /// # Errors
    /// Invalid, there already, or no server answered.
    pub async fn create_config_map(&self, config_map: &ConfigMap) -> Result<u64, Error> {
        let request = write_request(config_map, "")?;
        let answer = unary!(self, ConfigServiceClient, create_config_map, request)?;
        Ok(answer.index)
    }

    /// # Errors
    /// Not found, one of the cluster's own, or no server answered.
    pub async fn delete_config_map(&self, namespace: &str, name: &str) -> Result<u64, Error> {
        let request = pb::DeleteRequest {
            name: name_of(namespace, name),
            request_id: request_id(),
            etag: String::new(),
        };
        let answer = unary!(self, ConfigServiceClient, delete_config_map, request)?;
        Ok(answer.index)
    }
}
