//! An upload: bytes in, proven chunk by chunk; a second node takes them; then the cluster is told.

use std::sync::Arc;
use std::time::Duration;

use nihilo_machine::command::{PutBundle, RequestKey};
use nihilo_runtime::bundle::{BlobSource, BundleError, Holder, Receiving};
use nihilo_types::bundle::{BundleKind, Manifest, check_name_of, check_tag};
use nihilo_types::names::check_dns1123;
use nihilo_wire::{internal, serving as pb};
use pb::upload_request::Step;
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::{Code, Status, Streaming};
use tracing::{info, warn};

use super::super::error;
use super::{BundleApi, Names, read_manifest};

/// Uploads of one node under way at once: a chunk of memory each.
const MAX_UPLOADS: usize = 4;
/// Between two pieces; what has come is kept when it is over.
const PIECE_LIMIT: Duration = Duration::from_secs(30);
/// Copies that must be durable before a bundle is known, where so many nodes live.
const COPIES: usize = 2;
/// Another node has to have taken it by then.
const TAKE_LIMIT: Duration = Duration::from_secs(600);
const RELEASE_LIMIT: Duration = Duration::from_secs(1);

static UPLOADS: Semaphore = Semaphore::const_new(MAX_UPLOADS);

/// # Errors
/// So many are under way.
pub(super) fn permit() -> Result<SemaphorePermit<'static>, Status> {
    UPLOADS.try_acquire().map_err(|_| {
        let text = format!("{MAX_UPLOADS} uploads are under way on this node; repeat the command");
        error::unavailable("OVERLOADED", text)
    })
}

/// Work that waits for the disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BundleError> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|failure| Status::internal(failure.to_string()))?
        .map_err(|failure| refused(&failure))
}

pub(super) fn refused(failure: &BundleError) -> Status {
    let text = failure.to_string();
    match failure {
        BundleError::Full { .. } => error::exhausted("BUNDLES_FULL", text),
        BundleError::DiskFull { .. } => error::exhausted("DISK_FULL", text),
        BundleError::TooLarge => error::invalid("TOO_LARGE", text),
        BundleError::WrongChunk { .. }
        | BundleError::WrongLength { .. }
        | BundleError::WrongBlob { .. } => error::invalid("DIGEST_MISMATCH", text),
        BundleError::NoSuchChunk { .. }
        | BundleError::Refused { .. }
        | BundleError::NoArchive { .. } => error::invalid("MALFORMED", text),
        BundleError::Incomplete { .. } | BundleError::NotHeld { .. } => {
            error::precondition("INCOMPLETE", text)
        }
        BundleError::Io { .. } => Status::internal(text),
    }
}

impl BundleApi {
    /// # Errors
    /// Malformed, damaged, no room, or no second node; what has come stays for the next attempt.
    pub(super) async fn take_upload(
        &self,
        mut steps: Streaming<pb::UploadRequest>,
    ) -> Result<pb::UploadResponse, Status> {
        let _permit = permit()?;
        let Some(Step::Begin(begin)) = next(&mut steps).await? else {
            return Err(error::invalid("MALFORMED", "an upload begins with `begin`"));
        };
        let manifest = read_manifest(&begin.manifest)?;
        check(&begin, manifest.kind)?;
        let (store, blob) = (
            self.collector.bundles.store().clone(),
            manifest.blob.clone(),
        );
        // Kept to the end, so that the blob is.
        let receiving = Arc::new(blocking(move || store.receive(&blob)).await?);
        receive(&mut steps, &receiving, &manifest).await?;
        let (store, finished) = (self.collector.bundles.store().clone(), receiving.clone());
        let installed = manifest.clone();
        blocking(move || {
            finished.finish()?;
            store.install(&installed)
        })
        .await?;
        self.share(&begin, &manifest).await
    }

    /// Makes a bundle that is here whole known to the cluster, once other nodes have it.
    pub(super) async fn share(
        &self,
        begin: &pb::UploadBegin,
        manifest: &Manifest,
    ) -> Result<pb::UploadResponse, Status> {
        let takers = self.spread(begin, manifest).await?;
        let known = self.make_known(begin, manifest).await;
        // Where nobody knows whether it was applied, the leases run out by themselves.
        let is_certain = !matches!(&known, Err(status) if status.code() == Code::DeadlineExceeded);
        if is_certain {
            self.release(&takers, manifest).await;
        }
        let index = known?;
        let mut nodes: Names = takers.into_iter().map(|taker| taker.name).collect();
        nodes.insert(self.node_name.clone());
        let digest = manifest.digest();
        info!(bundle = begin.name, %digest, index, "bundle uploaded");
        Ok(pb::UploadResponse {
            digest: digest.to_string(),
            index,
            nodes: nodes.into_iter().collect(),
        })
    }

    async fn make_known(
        &self,
        begin: &pb::UploadBegin,
        manifest: &Manifest,
    ) -> Result<u64, Status> {
        // The stream has no one message to hash: these words say what is asked.
        let asked = [&begin.namespace, &begin.name, &begin.tag].map(String::as_bytes);
        let asked = [asked.join(&0), begin.manifest.to_vec()].concat();
        let once = RequestKey::new(&begin.request_id, "upload-bundle", &asked);
        let put = PutBundle {
            namespace: begin.namespace.clone(),
            name: begin.name.clone(),
            tag: begin.tag.clone(),
            digest: manifest.digest(),
            manifest: manifest.clone(),
            must_be_known: false,
        };
        self.put(put, once).await
    }

    /// Has other nodes take the bundle until there are copies enough; returns them.
    async fn spread(
        &self,
        begin: &pb::UploadBegin,
        manifest: &Manifest,
    ) -> Result<Vec<Holder>, Status> {
        let others = self.source.holders();
        let wanted = COPIES.min(others.len() + 1) - 1;
        let (mut takers, mut refusals) = (Vec::new(), Vec::new());
        self.collector.bundles.store().lease(manifest.blob.digest);
        for other in others {
            if takers.len() == wanted {
                break;
            }
            match self.offer(&other, begin, manifest).await {
                Ok(()) => takers.push(other),
                Err(why) => refusals.push(format!("{}: {why}", other.name)),
            }
        }
        if takers.len() == wanted {
            return Ok(takers);
        }
        self.release(&takers, manifest).await;
        Err(error::unavailable(
            "NO_SECOND_COPY",
            format!(
                "the bundle is on {} alone, and no other node takes it ({}); it becomes known once \
                 one has: repeat the command",
                self.node_name,
                refusals.join("; ")
            ),
        ))
    }

    async fn offer(
        &self,
        to: &Holder,
        begin: &pb::UploadBegin,
        manifest: &Manifest,
    ) -> Result<(), String> {
        let mut client = self.source.client(&to.peer_address)?;
        let request = internal::TakeRequest {
            namespace: begin.namespace.clone(),
            name: begin.name.clone(),
            manifest: manifest.to_bytes().into(),
            holder: self.node_name.clone(),
            holder_address: self.peer_address.clone(),
        };
        let answer = tokio::time::timeout(TAKE_LIMIT, client.take(request)).await;
        let answer = answer.map_err(|_| format!("not taken in {} s", TAKE_LIMIT.as_secs()))?;
        let answer = answer.map_err(|status| status.message().to_owned())?;
        match answer.into_inner().refusal {
            refusal if refusal.is_empty() => Ok(()),
            refusal => Err(refusal),
        }
    }

    /// Nobody needs to keep it on trust any more. One that does not hear it forgets by itself.
    async fn release(&self, takers: &[Holder], manifest: &Manifest) {
        let store = self.collector.bundles.store();
        store.release(&manifest.blob.digest);
        for taker in takers {
            let Ok(mut client) = self.source.client(&taker.peer_address) else {
                continue;
            };
            let request = internal::ReleaseRequest {
                blob: manifest.blob.digest.to_string(),
            };
            let released = tokio::time::timeout(RELEASE_LIMIT, client.release(request)).await;
            if !matches!(released, Ok(Ok(_))) {
                warn!(node = taker.name, "not told that the bundle is known");
            }
        }
    }
}

pub(super) fn check(begin: &pb::UploadBegin, kind: BundleKind) -> Result<(), Status> {
    let tag = match begin.tag.as_str() {
        "" => Ok(()),
        tag => check_tag(tag),
    };
    let namespace = check_dns1123(&begin.namespace);
    let namespace = namespace.map_err(|why| format!("namespace `{}`: {why}", begin.namespace));
    namespace
        .and_then(|()| check_name_of(kind, &begin.name))
        .and(tag)
        .map_err(|why| error::invalid("INVALID_FIELD", why))
}

async fn next(steps: &mut Streaming<pb::UploadRequest>) -> Result<Option<Step>, Status> {
    let message = tokio::time::timeout(PIECE_LIMIT, steps.message()).await;
    let message = message.map_err(|_| {
        let text = format!("nothing has come for {PIECE_LIMIT:?}; what has is kept");
        error::unavailable("STALLED", text)
    })??;
    message
        .map(|message| {
            let empty = || error::invalid("MALFORMED", "an empty step of an upload");
            message.step.ok_or_else(empty)
        })
        .transpose()
}

/// Takes pieces until the stream ends; each chunk is proven and written when it is whole.
async fn receive(
    steps: &mut Streaming<pb::UploadRequest>,
    receiving: &Arc<Receiving>,
    manifest: &Manifest,
) -> Result<(), Status> {
    let malformed = |text: String| error::invalid("MALFORMED", text);
    let (mut at, mut bytes) = (0, Vec::new());
    while let Some(step) = next(steps).await? {
        let Step::Piece(piece) = step else {
            return Err(malformed("a second `begin`".into()));
        };
        if piece.chunk != at && !bytes.is_empty() {
            return Err(malformed(format!(
                "chunk {at} is not whole, and another begins"
            )));
        }
        at = piece.chunk;
        let range = manifest.blob.range_of(at);
        let (_, n_bytes) = range.ok_or_else(|| malformed(format!("there is no chunk {at}")))?;
        bytes.extend_from_slice(&piece.data);
        let n_come = bytes.len() as u64;
        if n_come > n_bytes {
            return Err(malformed(format!(
                "chunk {at} has more than {n_bytes} bytes"
            )));
        }
        if n_come == n_bytes {
            let (receiving, whole) = (receiving.clone(), std::mem::take(&mut bytes));
            blocking(move || receiving.put(at, &whole)).await?;
        }
    }
    Ok(())
}
