//! What other nodes get of this node's bundles.

use std::sync::Arc;

use nihilo_runtime::bundle::{BundleId, Holder};
use nihilo_types::bundle::{Digest, Manifest};
use nihilo_types::image::Reference;
use nihilo_wire::internal as pb;
use nihilo_wire::serving::{Collected, PushImageRequest};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use crate::admin::bundle::{BundleApi, PushProgress};

/// Chunks that are read for others at once: 32 MiB in memory.
const MAX_SERVED: usize = 8;

#[derive(Debug)]
pub struct BundleService {
    api: BundleApi,
    turns: Arc<Semaphore>,
}

impl BundleService {
    pub fn new(api: BundleApi) -> Self {
        Self {
            api,
            turns: Arc::new(Semaphore::new(MAX_SERVED)),
        }
    }
}

fn malformed(why: impl std::fmt::Display) -> Status {
    Status::invalid_argument(why.to_string())
}

#[tonic::async_trait]
impl pb::bundles_server::Bundles for BundleService {
    async fn fetch_chunk(
        &self,
        request: Request<pb::FetchChunkRequest>,
    ) -> Result<Response<pb::FetchChunkResponse>, Status> {
        let request = request.into_inner();
        let blob: Digest = request.blob.parse().map_err(malformed)?;
        let turn = self.turns.clone().acquire_owned().await;
        let turn = turn.map_err(|_| Status::unavailable("the node is shutting down"))?;
        let store = self.api.collector.bundles.store().clone();
        let read = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            store.read_chunk(blob, request.chunk)
        });
        let read = read
            .await
            .map_err(|error| Status::internal(error.to_string()))?;
        let data = read.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(pb::FetchChunkResponse {
            data: data.map(Into::into),
        }))
    }

    async fn take(
        &self,
        request: Request<pb::TakeRequest>,
    ) -> Result<Response<pb::TakeResponse>, Status> {
        let request = request.into_inner();
        let manifest = Manifest::parse(&request.manifest).map_err(malformed)?;
        let bundle = BundleId {
            namespace: request.namespace.into(),
            name: request.name,
            digest: manifest.digest(),
        };
        let holder = Holder {
            name: request.holder,
            peer_address: request.holder_address,
        };
        let bundles = &self.api.collector.bundles;
        // Before the first byte: the collection must not come between it and the last.
        bundles.store().lease(manifest.blob.digest);
        let taken = bundles.fetch(&bundle, &manifest, &[holder]).await;
        let refusal = match taken {
            Ok(()) => String::new(),
            Err(error) => {
                bundles.store().release(&manifest.blob.digest);
                error.to_string()
            }
        };
        Ok(Response::new(pb::TakeResponse { refusal }))
    }

    async fn release(
        &self,
        request: Request<pb::ReleaseRequest>,
    ) -> Result<Response<pb::ReleaseResponse>, Status> {
        let blob: Digest = request.into_inner().blob.parse().map_err(malformed)?;
        self.api.collector.bundles.store().release(&blob);
        Ok(Response::new(pb::ReleaseResponse {}))
    }

    async fn collect(
        &self,
        request: Request<pb::CollectRequest>,
    ) -> Result<Response<Collected>, Status> {
        let is_dry_run = request.into_inner().dry_run;
        let collected = self.api.collector.collect(is_dry_run).await;
        collected.map(Response::new).map_err(Status::unavailable)
    }

    async fn held(
        &self,
        request: Request<pb::HeldRequest>,
    ) -> Result<Response<pb::HeldResponse>, Status> {
        let store = self.api.collector.bundles.store();
        let is_held = |bundle: &String| {
            let digest: Option<Digest> = bundle.parse().ok();
            digest.is_some_and(|digest| store.has(&digest))
        };
        let bundles = request.into_inner().bundles.into_iter();
        Ok(Response::new(pb::HeldResponse {
            bundles: bundles.filter(is_held).collect(),
        }))
    }

    async fn find_image(
        &self,
        request: Request<pb::FindImageRequest>,
    ) -> Result<Response<pb::FindImageResponse>, Status> {
        let image = Reference::parse(&request.into_inner().image).map_err(malformed)?;
        Ok(Response::new(self.api.collector.say_of_image(&image).await))
    }

    type PushImageStream = PushProgress;

    async fn push_image(
        &self,
        request: Request<PushImageRequest>,
    ) -> Result<Response<PushProgress>, Status> {
        let pushed = self.api.push_image(request.into_inner()).await?;
        Ok(Response::new(pushed))
    }
}
