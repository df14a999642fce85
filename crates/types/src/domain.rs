//! DomainMapping: an own host name of a Service or Route. ClusterDomainClaim: whose a name is.

use serde::{Deserialize, Serialize};

use crate::condition::{Conditions, types};
use crate::id::ObjectKey;
use crate::meta::{DEFAULT_NAMESPACE, ObjectMeta, OwnerReference, is_zero};
use crate::service::{Address, is_default};

pub const API_VERSION: &str = "serving.knative.dev/v1beta1";
pub const CLAIM_API_VERSION: &str = "networking.internal.knative.dev/v1alpha1";
/// Hosts below it are names inside of the cluster, and nobody's own.
pub const CLUSTER_LOCAL_DOMAIN: &str = "cluster.local";

/// Its name is the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DomainMapping {
    #[serde(default)]
    pub api_version: String,
    #[serde(default)]
    pub kind: String,
    pub metadata: ObjectMeta,
    pub spec: DomainMappingSpec,
    #[serde(default, skip_serializing_if = "is_default")]
    pub status: DomainMappingStatus,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DomainMappingSpec {
    #[serde(rename = "ref")]
    pub reference: Reference,
    /// Refused: certificates are files of the nodes. Here so that it is refused in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<SecretTls>,
}

/// A Service or Route of the same namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reference {
    #[serde(default)]
    pub api_version: String,
    #[serde(default)]
    pub kind: String,
    #[serde(default)]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretTls {
    #[serde(default)]
    pub secret_name: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DomainMappingStatus {
    #[serde(default, skip_serializing_if = "is_zero")]
    pub observed_generation: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub conditions: Conditions,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub url: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub address: Address,
    /// Index of the entry that made it: of those that wait for a name the oldest gets it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub made_at: u64,
    /// Index of the entry since which gateways are to serve the host for its present reference;
    /// 0 = they are not.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub assigned_at: u64,
}

impl DomainMapping {
    pub fn default_fields(&mut self) {
        self.api_version = API_VERSION.into();
        self.kind = "DomainMapping".into();
        if self.metadata.namespace.is_empty() {
            self.metadata.namespace = DEFAULT_NAMESPACE.into();
        }
        if self.spec.reference.namespace.is_empty() {
            self.spec.reference.namespace = self.metadata.namespace.clone();
        }
    }

    /// The Route that serves the host: a Service's has the Service's name.
    pub fn route(&self) -> ObjectKey {
        ObjectKey::new(
            self.metadata.namespace.as_str(),
            self.spec.reference.name.as_str(),
        )
    }

    /// Gateways are to serve the host, and it is not known of all of them that they do.
    pub fn awaits_gateways(&self) -> bool {
        self.status.assigned_at > 0 && !self.status.conditions.is_true(types::INGRESS_READY)
    }
}

/// Of the whole cluster; its name is the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterDomainClaim {
    #[serde(default)]
    pub api_version: String,
    #[serde(default)]
    pub kind: String,
    pub metadata: ObjectMeta,
    pub spec: ClusterDomainClaimSpec,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterDomainClaimSpec {
    /// Whose DomainMapping may have the name.
    #[serde(default)]
    pub namespace: String,
}

impl ClusterDomainClaim {
    pub fn new(host: &str, namespace: &str) -> Self {
        let mut claim = Self::default();
        claim.metadata.name = host.into();
        claim.spec.namespace = namespace.into();
        claim.default_fields();
        claim
    }

    /// The one that the cluster makes by itself; it goes with the mapping.
    pub fn made_for(mapping: &DomainMapping) -> Self {
        let meta = &mapping.metadata;
        let mut claim = Self::new(&meta.name, &meta.namespace);
        claim.metadata.owner_references = vec![OwnerReference {
            api_version: API_VERSION.into(),
            kind: "DomainMapping".into(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            controller: true,
            block_owner_deletion: true,
        }];
        claim
    }

    pub fn default_fields(&mut self) {
        self.api_version = CLAIM_API_VERSION.into();
        self.kind = "ClusterDomainClaim".into();
    }

    pub fn is_made_for(&self, mapping: &DomainMapping) -> bool {
        let mut owners = self.metadata.owner_references.iter();
        owners.any(|owner| owner.uid == mapping.metadata.uid)
    }
}
