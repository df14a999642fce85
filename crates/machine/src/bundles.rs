//! Bundles as the state holds them: which there are, what their tags name, which revisions run them.
//! Their bytes are files of nodes; a node drops those of what is not kept here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nihilo_types::bundle::{BundleReference, BundleVersion, Digest, Manifest};
use nihilo_types::image::Image;
use nihilo_types::revision::Revision;
use serde::{Deserialize, Serialize};

use crate::rows::{self, tag};

/// Bundles of a cluster, at most: a manifest of 35 KiB each at the very most.
pub const MAX_BUNDLES: usize = 5_000;
/// Bundles of one name that have tags, at most: an eleventh takes those of the oldest.
pub const MAX_TAGGED_PER_NAME: usize = 10;
/// Tags of one bundle, at most.
pub const MAX_TAGS: usize = 20;
/// What has come so lately is kept without a reason: somebody is about to use it. LogTime.
pub const KEEP_NEW_MS: u64 = 24 * 60 * 60 * 1_000;

/// One version of a name in a namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BundleKey {
    pub namespace: String,
    pub name: String,
    pub digest: Digest,
}

impl BundleKey {
    pub fn new(namespace: &str, name: &str, digest: Digest) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            digest,
        }
    }

    /// The bundle that a revision runs, if it runs one.
    pub(crate) fn of_revision(revision: &Revision) -> Option<Self> {
        let image = &revision.spec.container()?.image;
        let bundle = Image::bundle(image)?;
        let digest = bundle.digest()?;
        Some(Self::new(
            &revision.metadata.namespace,
            &bundle.name,
            digest,
        ))
    }

    pub(crate) fn row(&self) -> Vec<u8> {
        let parts = [&self.namespace, &self.name, &self.digest.hex()];
        rows::key(tag::BUNDLE, &parts.map(String::as_str))
    }
}

/// What is known of one bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    pub namespace: String,
    pub name: String,
    pub digest: Digest,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<String>,
    /// When it was put last, by LogTime and by the index of the entry.
    pub put_log_ms: u64,
    pub put_at_index: u64,
    /// RFC 3339.
    pub put_at: String,
    pub manifest: Manifest,
}

impl Bundle {
    pub fn key(&self) -> BundleKey {
        BundleKey::new(&self.namespace, &self.name, self.digest)
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Bundles {
    versions: BTreeMap<BundleKey, Arc<Bundle>>,
    /// Bundle to the names of the revisions that run it, which stand in its namespace; derived.
    pins: BTreeMap<BundleKey, BTreeSet<Arc<str>>>,
}

impl Bundles {
    pub(crate) fn len(&self) -> usize {
        self.versions.len()
    }

    pub(crate) fn get(&self, key: &BundleKey) -> Option<&Arc<Bundle>> {
        self.versions.get(key)
    }

    /// By key.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Bundle>> {
        self.versions.values()
    }

    pub(crate) fn of_name(
        &self,
        namespace: &str,
        name: &str,
    ) -> impl Iterator<Item = &Arc<Bundle>> {
        let is_its =
            move |bundle: &&Arc<Bundle>| bundle.namespace == namespace && bundle.name == name;
        self.all().filter(is_its)
    }

    /// The version that a reference means now.
    pub(crate) fn find(&self, namespace: &str, wanted: &BundleReference) -> Option<&Arc<Bundle>> {
        match &wanted.version {
            BundleVersion::Digest(digest) => {
                self.get(&BundleKey::new(namespace, &wanted.name, *digest))
            }
            BundleVersion::Tag(tag) => self
                .of_name(namespace, &wanted.name)
                .find(|bundle| bundle.tags.contains(tag)),
        }
    }

    /// Whether no node may drop its bytes.
    pub(crate) fn is_kept(&self, bundle: &Bundle, now_log_ms: u64) -> bool {
        let is_new = now_log_ms < bundle.put_log_ms.saturating_add(KEEP_NEW_MS);
        is_new || !bundle.tags.is_empty() || self.n_pins(&bundle.key()) > 0
    }

    /// Revisions that run it.
    pub(crate) fn n_pins(&self, key: &BundleKey) -> u32 {
        let n = self.pins.get(key).map_or(0, BTreeSet::len);
        u32::try_from(n).unwrap_or(u32::MAX)
    }

    /// One of the revisions that run it.
    pub(crate) fn first_pin(&self, key: &BundleKey) -> Option<&Arc<str>> {
        self.pins.get(key)?.first()
    }

    pub(crate) fn put(&mut self, bundle: Arc<Bundle>) {
        self.versions.insert(bundle.key(), bundle);
    }

    pub(crate) fn remove(&mut self, key: &BundleKey) -> Option<Arc<Bundle>> {
        self.versions.remove(key)
    }

    /// A revision runs it.
    pub(crate) fn pin(&mut self, key: BundleKey, revision: &Arc<str>) {
        self.pins.entry(key).or_default().insert(revision.clone());
    }

    pub(crate) fn unpin(&mut self, key: &BundleKey, revision: &Arc<str>) {
        if let Some(pins) = self.pins.get_mut(key) {
            pins.remove(revision);
            if pins.is_empty() {
                self.pins.remove(key);
            }
        }
    }
}
