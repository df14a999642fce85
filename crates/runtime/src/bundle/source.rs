//! What a node needs of the others to have a bundle that it does not have.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use nihilo_types::bundle::{BundleReference, Digest, Manifest};
use nihilo_types::instance::InstanceSpec;

/// Which bundle, as a revision names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BundleId {
    pub namespace: Arc<str>,
    pub name: String,
    pub digest: Digest,
}

impl BundleId {
    /// The bundle of an instance's own namespace.
    ///
    /// # Errors
    /// The reference names no digest: only a revision's may be started.
    pub(crate) fn of(spec: &InstanceSpec, bundle: &BundleReference) -> Result<Self, String> {
        let digest = bundle.digest();
        Ok(Self {
            namespace: spec.revision.namespace.clone(),
            name: bundle.name.clone(),
            digest: digest.ok_or_else(|| format!("`{bundle}` is pinned to no digest"))?,
        })
    }
}

impl fmt::Display for BundleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.digest)
    }
}

/// A node that may have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub name: String,
    pub peer_address: String,
}

/// Why a holder gave no chunk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// It answered, and does not have the blob.
    #[error("does not have it")]
    NotHeld,
    /// It is not reached, or too busy: it may have the blob.
    #[error("{0}")]
    Unreachable(String),
}

pub type ChunkFuture = Pin<Box<dyn Future<Output = Result<Bytes, ChunkError>> + Send>>;

/// The cluster, as the bundles of a node see it.
pub trait BlobSource: Send + Sync + 'static {
    /// Of a bundle that is known to the cluster; `None` = it is not.
    fn manifest(&self, bundle: &BundleId) -> Option<Manifest>;

    /// Other nodes that live, in the order in which they are to be asked.
    fn holders(&self) -> Vec<Holder>;

    /// A whole chunk of a blob, as the holder has it: it is proven by who asked. Ends by itself.
    fn chunk(&self, holder: &Holder, blob: Digest, chunk: u32) -> ChunkFuture;
}
