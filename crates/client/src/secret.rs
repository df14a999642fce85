//! Secrets: values go to the cluster and never come back.

use nihilo_types::secret::{Secret, SecretOutline};
use nihilo_wire::serving as pb;
use pb::config_service_client::ConfigServiceClient;

use crate::call::{Client, request_id, unary};
use crate::config::{WrittenConfig, written};
use crate::error::Error;
use crate::serving::{Listed, Stored, listed, parent, stored};

fn name_of(namespace: &str, name: &str) -> String {
    format!("namespaces/{namespace}/secrets/{name}")
}

impl Client {
    /// Its keys and their sizes.
    ///
    /// # Errors
    /// Not found, or no server answered.
    pub async fn secret(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Stored<SecretOutline>, Error> {
        let name = name_of(namespace, name);
        let request = pb::GetRequest { name };
        stored(unary!(self, ConfigServiceClient, get_secret, request)?)
    }

    /// # Errors
    /// No server answered.
    pub async fn secrets(&self, namespace: Option<&str>) -> Result<Listed<SecretOutline>, Error> {
        let request = pb::ListRequest {
            parent: parent(namespace),
            service: String::new(),
        };
        listed(unary!(self, ConfigServiceClient, list_secrets, request)?)
    }

    /// For one that is not there yet.
    ///
    /// # Errors
    /// Invalid, there already, the server has no key to seal it by, or none answered.
    pub async fn create_secret(
        &self,
        secret: &Secret,
    ) -> Result<WrittenConfig<SecretOutline>, Error> {
        let request = write_request(secret);
        written(unary!(self, ConfigServiceClient, create_secret, request)?)
    }

    /// Creates or replaces.
    ///
    /// # Errors
    /// As [`Self::create_secret`].
    pub async fn apply_secret(
        &self,
        secret: &Secret,
    ) -> Result<WrittenConfig<SecretOutline>, Error> {
        let request = write_request(secret);
        written(unary!(self, ConfigServiceClient, apply_secret, request)?)
    }

    /// # Errors
    /// Not found, or no server answered.
    pub async fn delete_secret(&self, namespace: &str, name: &str) -> Result<u64, Error> {
        let request = pb::DeleteRequest {
            name: name_of(namespace, name),
            request_id: request_id(),
            etag: String::new(),
        };
        let answer = unary!(self, ConfigServiceClient, delete_secret, request)?;
        Ok(answer.index)
    }
}

fn write_request(secret: &Secret) -> pb::WriteRequest {
    pb::WriteRequest {
        json: secret.expose_json().expose().to_vec().into(),
        request_id: request_id(),
        etag: String::new(),
        validate_only: false,
    }
}
