//! Bringing a bundle to this node: from whichever other nodes have it, chunk by chunk, each proven
//! before it is kept. A fetch that broke is gone on with; a holder that fails is left out.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use nihilo_types::bundle::{Blob, BundleKind, Digest, Manifest};
use nihilo_types::instance::InstanceSpec;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tracing::{info, warn};

use super::error::BundleError;
use super::program::{self, Asked, Program};
use super::source::{BlobSource, BundleId, ChunkError, Holder};
use super::store::{BundleStore, Receiving};

/// Bundles that a node fetches at once; further ones wait for their turn.
const FETCHES: usize = 2;
/// Chunks of one bundle that are asked for at once: 16 MiB in memory.
const CHUNKS_AT_ONCE: usize = 4;
/// So often a holder may be out of reach before it is left out of a fetch.
const MAX_STRIKES: u32 = 2;
/// Between two tries of the same holders.
const PAUSE: Duration = Duration::from_millis(200);
/// A start may come before the entry that its bundle is in: a node that is behind hears of it by then.
const KNOWN_LIMIT: Duration = Duration::from_secs(5);
/// A start waits for its bundle at most so long, its turn included.
const FETCH_LIMIT: Duration = Duration::from_secs(600);

/// Why a bundle cannot be started on this node.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    #[error("bundle `{0}` is not known to the cluster; push it again")]
    Unknown(BundleId),
    #[error("ArtefactUnavailable: bundle `{bundle}` is on no node that answers; asked {asked}")]
    NoHolder { bundle: BundleId, asked: Asks },
    #[error("ArtefactUnavailable: bundle `{bundle}` has not come in {} s", FETCH_LIMIT.as_secs())]
    TooSlow { bundle: BundleId },
    #[error("bundle `{bundle}` is for {platform}, and this node is linux/{arch}")]
    WrongPlatform {
        bundle: BundleId,
        platform: String,
        arch: &'static str,
    },
    #[error("bundle `{bundle}`: {why}")]
    NoProgram { bundle: BundleId, why: String },
    #[error("bundle `{bundle}`: {source}")]
    Here {
        bundle: BundleId,
        source: Box<BundleError>,
    },
    #[error("the node is shutting down")]
    Ending,
}

/// Who was asked, and what was the matter with each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asks(BTreeMap<String, String>);

impl fmt::Display for Asks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nobody: no other node lives");
        }
        let each: Vec<_> = self
            .0
            .iter()
            .map(|(name, why)| format!("{name} ({why})"))
            .collect();
        f.write_str(&each.join(", "))
    }
}

/// The bundles of one node with the way to those of the others; cheap to clone.
#[derive(Clone)]
pub struct Bundles(Arc<Inner>);

struct Inner {
    store: Arc<BundleStore>,
    source: Arc<dyn BlobSource>,
    turns: Semaphore,
    /// One fetch of a blob at a time: who comes later finds it done.
    under_way: Mutex<BTreeMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
}

impl fmt::Debug for Bundles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundles")
            .field("store", &self.0.store)
            .finish_non_exhaustive()
    }
}

impl Bundles {
    pub fn new(store: Arc<BundleStore>, source: Arc<dyn BlobSource>) -> Self {
        Self(Arc::new(Inner {
            store,
            source,
            turns: Semaphore::new(FETCHES),
            under_way: Mutex::default(),
        }))
    }

    pub fn store(&self) -> &Arc<BundleStore> {
        &self.0.store
    }

    /// What an instance of the bundle executes. Where the bundle is here nothing is hashed and
    /// nobody is asked; `say` hears of a fetch that begins.
    ///
    /// # Errors
    /// Why it cannot be started here, with who was asked.
    pub async fn prepare(
        &self,
        bundle: &BundleId,
        spec: &InstanceSpec,
        say: impl Fn(&str),
    ) -> Result<Program, Unavailable> {
        match self.try_prepare(bundle, spec, &say).await {
            // Damage is seen once: the second time it has been fetched anew.
            Err(Unavailable::Here { source, .. }) if source.is_damage() => {
                self.try_prepare(bundle, spec, &say).await
            }
            prepared => prepared,
        }
    }

    async fn try_prepare(
        &self,
        bundle: &BundleId,
        spec: &InstanceSpec,
        say: &impl Fn(&str),
    ) -> Result<Program, Unavailable> {
        let manifest = self.here(bundle, say).await?;
        check_platform(bundle, &manifest)?;
        let asked = Asked {
            command: &spec.command,
            args: &spec.args,
            working_dir: &spec.working_dir,
        };
        let store = self.0.store.clone();
        if manifest.kind == BundleKind::Binary {
            let blob = store.program(&manifest.blob.digest);
            return Ok(program::of_binary(&blob, asked));
        }
        let unpacked = manifest.clone();
        let root = self.blocking(bundle, move || store.tree(&unpacked)).await?;
        program::of_tree(&root, &manifest.entrypoint, asked).map_err(|why| Unavailable::NoProgram {
            bundle: bundle.clone(),
            why,
        })
    }

    /// What an image's archive says of it, without its bytes.
    ///
    /// # Errors
    /// `Unknown`, or it is no image.
    pub async fn image(&self, bundle: &BundleId) -> Result<Digest, Unavailable> {
        let manifest = match self.0.store.installed(&bundle.digest) {
            Some(manifest) => manifest,
            None => Arc::new(self.known(bundle).await?),
        };
        check_platform(bundle, &manifest)?;
        manifest.image_id.ok_or_else(|| Unavailable::NoProgram {
            bundle: bundle.clone(),
            why: format!("a {} is no container image", manifest.kind),
        })
    }

    /// Where an image's archive lies on this node, proven; it is fetched first where it is not here, and
    /// `say` hears of that.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub async fn archive(
        &self,
        bundle: &BundleId,
        say: impl Fn(&str),
    ) -> Result<PathBuf, Unavailable> {
        match self.try_archive(bundle, &say).await {
            // As for programs.
            Err(Unavailable::Here { source, .. }) if source.is_damage() => {
                self.try_archive(bundle, &say).await
            }
            found => found,
        }
    }

    async fn try_archive(
        &self,
        bundle: &BundleId,
        say: &impl Fn(&str),
    ) -> Result<PathBuf, Unavailable> {
        let manifest = self.here(bundle, say).await?;
        let (store, blob) = (self.0.store.clone(), manifest.blob.digest);
        self.blocking(bundle, move || store.archive(&blob)).await
    }

    /// The manifest of a bundle that is on this node, now at the latest.
    async fn here(
        &self,
        bundle: &BundleId,
        say: &impl Fn(&str),
    ) -> Result<Arc<Manifest>, Unavailable> {
        if let Some(manifest) = self.0.store.installed(&bundle.digest) {
            return Ok(manifest);
        }
        let fetched = tokio::time::timeout(FETCH_LIMIT, self.bring(bundle, say)).await;
        let bundle = bundle.clone();
        fetched.map_err(|_| Unavailable::TooSlow { bundle })?
    }

    /// Fetches and installs a bundle that the cluster knows.
    async fn bring(
        &self,
        bundle: &BundleId,
        say: &impl Fn(&str),
    ) -> Result<Arc<Manifest>, Unavailable> {
        let manifest = self.known(bundle).await?;
        check_platform(bundle, &manifest)?;
        let size = manifest.blob.size;
        say(&format!("fetching bundle `{bundle}` ({size} bytes)"));
        self.fetch(bundle, &manifest, &self.0.source.holders())
            .await?;
        Ok(Arc::new(manifest))
    }

    async fn known(&self, bundle: &BundleId) -> Result<Manifest, Unavailable> {
        let manifest = tokio::time::timeout(KNOWN_LIMIT, self.manifest(bundle)).await;
        manifest.map_err(|_| Unavailable::Unknown(bundle.clone()))
    }

    /// Returns once this node knows it.
    async fn manifest(&self, bundle: &BundleId) -> Manifest {
        loop {
            if let Some(manifest) = self.0.source.manifest(bundle) {
                return manifest;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Makes the bundle startable here out of the chunks of `holders`.
    ///
    /// # Errors
    /// None of them gives what is missing, or this node has no room.
    pub async fn fetch(
        &self,
        bundle: &BundleId,
        manifest: &Manifest,
        holders: &[Holder],
    ) -> Result<(), Unavailable> {
        let blob = manifest.blob.digest;
        let alone = Alone::of(&self.0, blob);
        let _alone = alone.of_it.lock().await;
        let turn = self.0.turns.acquire().await;
        let _turn = turn.map_err(|_| Unavailable::Ending)?;
        self.fetch_alone(bundle, manifest, holders).await
    }

    async fn fetch_alone(
        &self,
        bundle: &BundleId,
        manifest: &Manifest,
        holders: &[Holder],
    ) -> Result<(), Unavailable> {
        if self.0.store.installed(&bundle.digest).is_some() {
            return Ok(());
        }
        let (store, blob) = (self.0.store.clone(), manifest.blob.clone());
        let receiving = self.blocking(bundle, move || store.receive(&blob)).await?;
        let receiving = Arc::new(receiving);
        let missing = receiving.missing();
        let n_chunks = missing.len();
        let fetch = Fetch {
            bundles: self,
            bundle,
            blob: &manifest.blob,
            receiving: &receiving,
            holders,
            standing: Mutex::new(vec![Standing::default(); holders.len()]),
        };
        let chunks = futures_util::stream::iter(missing).map(|chunk| fetch.chunk(chunk));
        let chunks = chunks.buffer_unordered(CHUNKS_AT_ONCE);
        chunks.try_for_each(|()| std::future::ready(Ok(()))).await?;
        let (store, manifest) = (self.0.store.clone(), manifest.clone());
        // Held until the manifest stands: before that it looks like nobody's.
        let held = receiving.clone();
        self.blocking(bundle, move || {
            held.finish()?;
            store.install(&manifest)
        })
        .await?;
        info!(%bundle, n_chunks, "bundle fetched");
        Ok(())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        bundle: &BundleId,
        work: impl FnOnce() -> Result<T, BundleError> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let done = tokio::task::spawn_blocking(work).await;
        let done = done.map_err(|_| Unavailable::Ending)?;
        done.map_err(|source| Unavailable::Here {
            bundle: bundle.clone(),
            source: source.into(),
        })
    }
}

/// A place in the row of those who want a blob; given up when it is dropped, which a start that is called
/// off does at any moment.
struct Alone<'a> {
    inner: &'a Inner,
    blob: Digest,
    of_it: Arc<tokio::sync::Mutex<()>>,
}

impl<'a> Alone<'a> {
    fn of(inner: &'a Inner, blob: Digest) -> Self {
        let of_it = inner.under_way.lock().entry(blob).or_default().clone();
        Self { inner, blob, of_it }
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        let mut under_way = self.inner.under_way.lock();
        // The map's own, and this one: nobody waits for it.
        if Arc::strong_count(&self.of_it) == 2 {
            under_way.remove(&self.blob);
        }
    }
}

fn check_platform(bundle: &BundleId, manifest: &Manifest) -> Result<(), Unavailable> {
    let arch = std::env::consts::ARCH;
    if manifest.platform.runs_on(arch) {
        return Ok(());
    }
    Err(Unavailable::WrongPlatform {
        bundle: bundle.clone(),
        platform: manifest.platform.to_string(),
        arch,
    })
}

/// What is known of a holder in one fetch.
#[derive(Debug, Clone, Default)]
struct Standing {
    n_strikes: u32,
    /// Why it is not asked any more.
    out: Option<String>,
}

/// One fetch of one blob.
struct Fetch<'a> {
    bundles: &'a Bundles,
    bundle: &'a BundleId,
    blob: &'a Blob,
    receiving: &'a Arc<Receiving>,
    holders: &'a [Holder],
    /// By holder.
    standing: Mutex<Vec<Standing>>,
}

impl Fetch<'_> {
    /// Gets one chunk from whoever has it. Each round leaves the holders with a strike more, so there
    /// are few.
    async fn chunk(&self, chunk: u32) -> Result<(), Unavailable> {
        loop {
            let order = self.order(chunk);
            if order.is_empty() {
                return Err(self.no_holder());
            }
            for holder in order {
                if self.ask(holder, chunk).await? {
                    return Ok(());
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Those that are still asked, beginning with another one for each chunk.
    fn order(&self, chunk: u32) -> Vec<usize> {
        let standing = self.standing.lock();
        let n = self.holders.len();
        let all = (0..n).map(|i| (i + chunk as usize) % n.max(1));
        all.filter(|i| standing[*i].out.is_none()).collect()
    }

    /// Whether the holder gave the chunk, and it was right.
    async fn ask(&self, holder: usize, chunk: u32) -> Result<bool, Unavailable> {
        if self.standing.lock()[holder].out.is_some() {
            return Ok(false);
        }
        let source = &self.bundles.0.source;
        let asked = source.chunk(&self.holders[holder], self.blob.digest, chunk);
        let bytes = match asked.await {
            Ok(bytes) => bytes,
            Err(error) => {
                self.strike(holder, &error);
                return Ok(false);
            }
        };
        let receiving = self.receiving.clone();
        let put = move || receiving.put(chunk, &bytes);
        match self.bundles.blocking(self.bundle, put).await {
            Ok(()) => Ok(true),
            Err(Unavailable::Here { source, .. }) if source.is_damage() => {
                warn!(holder = self.holders[holder].name, %source, "chunk refused");
                self.standing.lock()[holder].out = Some(source.to_string());
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn strike(&self, holder: usize, error: &ChunkError) {
        let standing = &mut self.standing.lock()[holder];
        standing.n_strikes += 1;
        let is_out = match error {
            ChunkError::NotHeld => true,
            ChunkError::Unreachable(_) => standing.n_strikes >= MAX_STRIKES,
        };
        if is_out {
            standing.out = Some(error.to_string());
        }
    }

    fn no_holder(&self) -> Unavailable {
        let standing = self.standing.lock();
        let each = self.holders.iter().zip(standing.iter());
        let asked = each.map(|(holder, standing)| {
            let why = standing.out.clone().unwrap_or_default();
            (holder.name.clone(), why)
        });
        Unavailable::NoHolder {
            bundle: self.bundle.clone(),
            asked: Asks(asked.collect()),
        }
    }
}

#[cfg(test)]
#[path = "fetch_test.rs"]
mod tests;
