//! The images of this node's engine, for who gives them to the cluster.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use nihilo_types::bundle::{
    Blob, BundleKind, CHUNK_BYTES, Digest, MAX_BLOB_BYTES, Manifest, Platform, SCHEMA,
};
use nihilo_types::image::Reference;

use super::archive;
use super::engine::{Engine, Failed};
use crate::bundle::{BundleError, BundleStore, Receiving, Spool};

/// Until an engine begins to hand an image out: older ones lay all of it on the disk first.
const SAVE_LIMIT: Duration = Duration::from_secs(600);
/// Between two pieces of it.
const PIECE_LIMIT: Duration = Duration::from_secs(60);

/// An image that an engine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub id: Digest,
    /// Of its layers, as the engine counts them: about as many as its archive has.
    pub n_bytes: u64,
    pub platform: Platform,
    /// A registry has given or taken it under the name that was asked for.
    pub is_in_registry: bool,
}

impl Found {
    /// # Errors
    /// It is too large to be given to other nodes.
    pub fn check_size(&self) -> Result<(), NoImage> {
        let n_bytes = self.n_bytes;
        match n_bytes > MAX_BLOB_BYTES {
            true => Err(NoImage::TooLarge { n_bytes }),
            false => Ok(()),
        }
    }
}

/// Why there is no image to give.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoImage {
    /// There is nothing that could have or need one.
    #[error("{0}")]
    NoEngine(String),
    /// Nobody can say whether there is one.
    #[error("{0}")]
    Unknown(String),
    #[error("the engine has no such image")]
    Missing,
    #[error(
        "the image has {n_bytes} bytes, and an archive {MAX_BLOB_BYTES} at most: pull it from a registry on \
         each node instead"
    )]
    TooLarge { n_bytes: u64 },
    #[error("the engine calls it `{0}`, which is no SHA-256 digest")]
    NoDigest(String),
}

/// Why an image did not come out of its engine.
#[derive(Debug, thiserror::Error)]
pub enum NotSaved {
    #[error("{0}")]
    NoEngine(String),
    #[error("the engine stops giving it out: {0}")]
    Broken(String),
    #[error("what the engine gave out is refused: {0}")]
    NoArchive(String),
    #[error("{0}")]
    Store(#[from] BundleError),
    #[error("the node is shutting down")]
    Ending,
}

/// The engine's images; cheap to clone.
#[derive(Debug, Clone)]
pub struct Images(pub(super) Arc<Engine>);

impl Images {
    /// The image that a name means to this node's engine, whatever its size.
    ///
    /// # Errors
    /// There is none.
    pub async fn find(&self, image: &Reference) -> Result<Found, NoImage> {
        let ready = self.0.ready().await;
        let ready = ready.map_err(|error| match self.0.is_there() {
            true => NoImage::Unknown(error.cause),
            false => NoImage::NoEngine(error.cause),
        })?;
        let found = ready.docker.inspect_image(&image.to_string()).await;
        let found = found.map_err(|error| match Failed::of(error) {
            Failed::Refused { status: 404, .. } => NoImage::Missing,
            failed => NoImage::Unknown(self.0.start_error("image", failed).cause),
        })?;
        let id = found.id.unwrap_or_default();
        let n_bytes = found
            .size
            .and_then(|size| u64::try_from(size).ok())
            .unwrap_or(0);
        let digests = found.repo_digests.unwrap_or_default();
        Ok(Found {
            id: id.parse().map_err(|_| NoImage::NoDigest(id))?,
            n_bytes,
            is_in_registry: digests.iter().any(|digest| is_of(image, digest)),
            platform: Platform {
                os: found.os.unwrap_or_else(|| "linux".into()),
                arch: found
                    .architecture
                    .unwrap_or_else(|| Platform::ANY_ARCH.into()),
            },
        })
    }

    /// Lays an image's archive down in the store, as the blob of the manifest that is returned; it is kept
    /// while the second answer lives. `came` hears how many bytes there are so far.
    ///
    /// # Errors
    /// The engine or the store; nothing is left of it then.
    pub async fn save(
        &self,
        found: &Found,
        store: &Arc<BundleStore>,
        came: impl FnMut(u64),
    ) -> Result<(Manifest, Receiving), NotSaved> {
        let ready = self.0.ready().await;
        let ready = ready.map_err(|error| NotSaved::NoEngine(error.cause))?;
        let docker = ready.docker.clone().with_timeout(SAVE_LIMIT);
        // By its id: saved by a name, it would take that name from other engines' images.
        let pieces = docker.export_image(&found.id.to_string());
        let spool = store.spool()?;
        let spool = spooled(spool, pieces, came).await?;
        let (blob, kept) = blocking(move || finished(spool)).await?;
        let manifest = Manifest {
            schema: SCHEMA,
            kind: BundleKind::DockerArchive,
            platform: found.platform.clone(),
            entrypoint: Vec::new(),
            blob,
            image_id: Some(found.id),
        };
        Ok((manifest, kept))
    }

    /// Drops loaded images of bundles that are not kept, where this node has ever asked an engine for
    /// anything.
    pub async fn forget(&self, kept: &BTreeSet<Digest>) {
        if let Some(ready) = self.0.ready_by_now() {
            archive::name_late(&self.0, ready).await;
            archive::forget(&ready.docker, &self.0.mark, kept).await;
        }
    }
}

/// Whether a registry's digest, `NAME@sha256:…`, is of this image's name. The others are of names that the
/// image was given away or pulled under before it was called so.
fn is_of(image: &Reference, digest: &str) -> bool {
    let digest = Reference::parse(digest);
    digest.is_ok_and(|digest| digest.familiar_name() == image.familiar_name())
}

/// Chunk by chunk onto the disk.
async fn spooled(
    mut spool: Spool,
    pieces: impl Stream<Item = Result<Bytes, bollard::errors::Error>>,
    mut came: impl FnMut(u64),
) -> Result<Spool, NotSaved> {
    let chunk_bytes = usize::try_from(CHUNK_BYTES).unwrap_or(usize::MAX);
    let mut pieces = std::pin::pin!(pieces);
    let (mut chunk, mut is_first) = (BytesMut::new(), true);
    loop {
        let limit = if is_first { SAVE_LIMIT } else { PIECE_LIMIT };
        let piece = tokio::time::timeout(limit, pieces.next()).await;
        let piece = piece.map_err(|_| NotSaved::Broken(format!("nothing for {limit:?}")))?;
        let is_last = piece.is_none();
        if let Some(piece) = piece {
            let piece = piece.map_err(|error| NotSaved::Broken(Failed::of(error).to_string()))?;
            chunk.extend_from_slice(&piece);
        }
        is_first = false;
        if chunk.len() >= chunk_bytes || is_last {
            let bytes = chunk.split();
            spool = blocking(move || {
                spool.write(&bytes)?;
                Ok(spool)
            })
            .await?;
            came(spool.size());
        }
        if is_last {
            return Ok(spool);
        }
    }
}

/// Whoever gave the image would hear of what is wrong with its archive; who loads it later would not.
fn finished(spool: Spool) -> Result<(Blob, Receiving), NotSaved> {
    spool.check_archive().map_err(NotSaved::NoArchive)?;
    Ok(spool.finish()?)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NotSaved> + Send + 'static,
) -> Result<T, NotSaved> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| NotSaved::Ending)?
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    const ROOM: u64 = 64 * CHUNK_BYTES;
    const SAVED: &[u8] = br#"[{"Config":"c.json","RepoTags":null,"Layers":["layer.tar"]}]"#;

    fn archive() -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let layer = vec![7; 100_000];
        for (path, bytes) in [("layer.tar", &layer[..]), ("manifest.json", SAVED)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, path, bytes).unwrap();
        }
        tar.into_inner().unwrap()
    }

    async fn saved(
        store: &Arc<BundleStore>,
        pieces: Vec<Result<Bytes, bollard::errors::Error>>,
    ) -> Result<Blob, NotSaved> {
        let spool = store.spool()?;
        let spool = spooled(spool, stream::iter(pieces), |_| {}).await?;
        Ok(blocking(move || finished(spool)).await?.0)
    }

    /// Nothing of it counts or lies anywhere.
    fn assert_empty(store: &BundleStore, dir: &tempfile::TempDir) {
        assert_eq!(store.usage().n_bytes, 0);
        let spools = std::fs::read_dir(dir.path().join("bundles/tmp"));
        assert_eq!(spools.unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_an_engine_breaks_off_or_ends_too_early_is_no_image() {
        let dir = tempfile::tempdir().unwrap();
        let store = BundleStore::open(dir.path().join("bundles"), ROOM).unwrap();
        let whole = archive();
        let half = Bytes::copy_from_slice(&whole[..whole.len() / 2]);
        // As Docker does once it has begun to answer: its words are the end of the answer.
        let words =
            Bytes::from_static(b"{\"errorDetail\":{\"message\":\"input/output error\"}}\r\n");
        let behind_the_layer = Bytes::copy_from_slice(&whole[..512 + 100_352]);
        let without_its_end = Bytes::copy_from_slice(&whole[..whole.len() - 1_024]);
        let cases = [
            (half.clone(), None),
            (half.clone(), Some(words.clone())),
            (behind_the_layer.clone(), None),
            (behind_the_layer, Some(words.clone())),
            (without_its_end.clone(), None),
            (without_its_end, Some(words.clone())),
            (whole.clone().into(), Some(words)),
        ];
        for (begun, end) in cases {
            let pieces = [Some(begun), end].into_iter().flatten().map(Ok);
            let refused = saved(&store, pieces.collect()).await.unwrap_err();
            assert!(matches!(refused, NotSaved::NoArchive(_)), "{refused}");
            assert_empty(&store, &dir);
        }
        let gone = bollard::errors::Error::RequestTimeoutError;
        let broken = saved(&store, vec![Ok(half), Err(gone)]).await.unwrap_err();
        assert!(matches!(broken, NotSaved::Broken(_)), "{broken}");
        assert_empty(&store, &dir);
        let blob = saved(&store, vec![Ok(whole.clone().into())]).await.unwrap();
        assert_eq!(blob.digest, Digest::of(&whole));
    }

    #[test]
    fn a_registry_has_what_it_was_pulled_under_this_name() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let cases = [
            ("nginx:1", "nginx", true),
            ("docker.io/library/nginx:1", "nginx", true),
            ("ghcr.io/team/app:v1", "ghcr.io/team/app", true),
            // Pulled, and then tagged.
            ("team/app:v1", "nginx", false),
            ("app:v1", "ghcr.io/team/app", false),
        ];
        for (image, of, wanted) in cases {
            let image = Reference::parse(image).unwrap();
            assert_eq!(is_of(&image, &format!("{of}@{digest}")), wanted, "{image}");
        }
        let image = Reference::parse("nginx").unwrap();
        assert!(!is_of(&image, "<none>@<none>"));
    }
}
