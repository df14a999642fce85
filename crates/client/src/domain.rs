//! Own domains, and which namespace each is for.

use nihilo_types::domain::{ClusterDomainClaim, DomainMapping};
use nihilo_wire::serving as pb;
use pb::domain_service_client::DomainServiceClient;
use pb::write_response::Change;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::call::{Client, request_id, unary};
use crate::error::Error;
use crate::serving::{Listed, Stored, listed, parent, stored};

/// What a write did.
#[derive(Debug, Clone)]
pub struct WrittenObject<T> {
    pub object: T,
    pub change: Change,
    /// Index of the log entry.
    pub index: u64,
}

fn mapping_name(namespace: &str, host: &str) -> String {
    format!("namespaces/{namespace}/domainmappings/{host}")
}

impl Client {
    /// # Errors
    /// Not found, or no server answered.
    pub async fn domain_mapping(
        &self,
        namespace: &str,
        host: &str,
    ) -> Result<Stored<DomainMapping>, Error> {
        let name = mapping_name(namespace, host);
        let request = pb::GetRequest { name };
        stored(unary!(
            self,
            DomainServiceClient,
            get_domain_mapping,
            request
        )?)
    }

    /// # Errors
    /// No server answered.
    pub async fn domain_mappings(
        &self,
        namespace: Option<&str>,
    ) -> Result<Listed<DomainMapping>, Error> {
        let request = pb::ListRequest {
            parent: parent(namespace),
            service: String::new(),
        };
        listed(unary!(
            self,
            DomainServiceClient,
            list_domain_mappings,
            request
        )?)
    }

    /// # Errors
    /// Invalid, existing already, or no server answered.
    pub async fn create_domain_mapping(
        &self,
        mapping: &DomainMapping,
    ) -> Result<WrittenObject<DomainMapping>, Error> {
        let request = write_request(mapping, "")?;
        written(unary!(
            self,
            DomainServiceClient,
            create_domain_mapping,
            request
        )?)
    }

    /// Creates or replaces; an `etag` makes it conditional on that version.
    ///
    /// # Errors
    /// Invalid, changed meanwhile, or no server answered.
    pub async fn apply_domain_mapping(
        &self,
        mapping: &DomainMapping,
        etag: &str,
    ) -> Result<WrittenObject<DomainMapping>, Error> {
        let request = write_request(mapping, etag)?;
        written(unary!(
            self,
            DomainServiceClient,
            apply_domain_mapping,
            request
        )?)
    }

    /// # Errors
    /// Not found, or no server answered.
    pub async fn delete_domain_mapping(&self, namespace: &str, host: &str) -> Result<u64, Error> {
        let request = delete_request(mapping_name(namespace, host));
        let answer = unary!(self, DomainServiceClient, delete_domain_mapping, request)?;
        Ok(answer.index)
    }

    /// # Errors
    /// No server answered.
    pub async fn domain_claims(&self) -> Result<Listed<ClusterDomainClaim>, Error> {
        let request = pb::ListRequest::default();
        listed(unary!(
            self,
            DomainServiceClient,
            list_domain_claims,
            request
        )?)
    }

    /// # Errors
    /// Invalid, claimed for another namespace, or no server answered.
    pub async fn apply_domain_claim(
        &self,
        claim: &ClusterDomainClaim,
    ) -> Result<WrittenObject<ClusterDomainClaim>, Error> {
        let request = write_request(claim, "")?;
        written(unary!(
            self,
            DomainServiceClient,
            apply_domain_claim,
            request
        )?)
    }

    /// # Errors
    /// Not found, or no server answered.
    pub async fn delete_domain_claim(&self, host: &str) -> Result<u64, Error> {
        let request = delete_request(format!("clusterdomainclaims/{host}"));
        let answer = unary!(self, DomainServiceClient, delete_domain_claim, request)?;
        Ok(answer.index)
    }
}

fn write_request<T: Serialize>(object: &T, etag: &str) -> Result<pb::WriteRequest, Error> {
    let json = serde_json::to_vec(object).map_err(Error::bad_answer)?;
    Ok(pb::WriteRequest {
        json: json.into(),
        request_id: request_id(),
        etag: etag.into(),
        validate_only: false,
    })
}

fn delete_request(name: String) -> pb::DeleteRequest {
    pb::DeleteRequest {
        name,
        request_id: request_id(),
        etag: String::new(),
    }
}

fn written<T: DeserializeOwned>(answer: pb::WriteResponse) -> Result<WrittenObject<T>, Error> {
    let change = answer.change();
    let object = answer
        .object
        .ok_or_else(|| Error::bad_answer("a write without its object"))?;
    Ok(WrittenObject {
        object: stored(object)?.object,
        change,
        index: answer.index,
    })
}
