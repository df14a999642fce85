//! `nihilo.serving.v1.BundleService`: artefacts that the cluster keeps itself.

mod engines;
mod image;
mod share;
mod upload;

use std::collections::BTreeSet;
use std::time::Duration;

use nihilo_machine::bundles::Bundle;
use nihilo_machine::command::{DeleteBundle, PutBundle, RequestKey};
use nihilo_machine::{Command, State};
use nihilo_raft::RaftNode;
use nihilo_runtime::bundle::BlobSource;
use nihilo_types::bundle::{BundleReference, BundleVersion, Manifest};
use nihilo_wire::{internal, serving as pb};
use prost::Message;
use tonic::{Request, Response, Status, Streaming};

pub use image::Progress as PushProgress;

use super::read::{self, Level};
use super::write::propose;
use super::{error, names};
use crate::bundle_gc::Collector;
use crate::peer::bundle_source::BundleSource;

/// A node that does not say by then what it has removed is left out of the answer.
const COLLECT_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub struct BundleApi {
    pub collector: Collector,
    pub source: BundleSource,
    /// Name and peer address of this node.
    pub node_name: String,
    pub peer_address: String,
}

impl BundleApi {
    fn raft(&self) -> &RaftNode {
        &self.collector.raft
    }

    /// Bundles of a namespace, or of all, in the order of their names, the newest of each first.
    fn list(&self, namespace: Option<&str>) -> Vec<pb::Bundle> {
        self.raft().state().read(|state| {
            let all = state.bundles();
            let wanted =
                all.filter(|(bundle, _)| namespace.is_none_or(|name| bundle.namespace == name));
            let mut all: Vec<_> = wanted.collect();
            let order = |bundle: &Bundle| {
                let newest_first = std::cmp::Reverse(bundle.put_at_index);
                (bundle.namespace.clone(), bundle.name.clone(), newest_first)
            };
            all.sort_by_key(|(bundle, _)| order(bundle));
            all.into_iter()
                .map(|(b, n_pins)| shown(b, n_pins))
                .collect()
        })
    }

    fn find(&self, namespace: &str, reference: &str) -> Result<(Bundle, u32), Status> {
        let wanted = BundleReference::parse(reference);
        let wanted = wanted.map_err(|why| error::invalid("MALFORMED", why))?;
        let found = self
            .raft()
            .state()
            .read(|state| find(state, namespace, &wanted));
        found.ok_or_else(|| error::not_found("bundle", reference))
    }

    async fn collect_on(&self, address: &str, dry_run: bool) -> Result<pb::Collected, String> {
        let mut client = self.source.client(address)?;
        let asked = client.collect(internal::CollectRequest { dry_run });
        let answer = tokio::time::timeout(COLLECT_LIMIT, asked).await;
        let answer = answer.map_err(|_| format!("no answer in {COLLECT_LIMIT:?}"))?;
        let answer = answer.map_err(|status| status.message().to_owned())?;
        Ok(answer.into_inner())
    }
}

fn find(state: &State, namespace: &str, wanted: &BundleReference) -> Option<(Bundle, u32)> {
    let mut all = state.bundles();
    let is_it = |bundle: &Bundle| {
        let is_version = match &wanted.version {
            BundleVersion::Tag(tag) => bundle.tags.contains(tag),
            BundleVersion::Digest(digest) => bundle.digest == *digest,
        };
        is_version && bundle.namespace == namespace && bundle.name == wanted.name
    };
    let (bundle, n_pins) = all.find(|(bundle, _)| is_it(bundle))?;
    Some((bundle.as_ref().clone(), n_pins))
}

fn shown(bundle: &Bundle, n_revisions: u32) -> pb::Bundle {
    pb::Bundle {
        namespace: bundle.namespace.clone(),
        name: bundle.name.clone(),
        digest: bundle.digest.to_string(),
        tags: bundle.tags.iter().cloned().collect(),
        put_at: bundle.put_at.clone(),
        n_revisions,
        manifest: bundle.manifest.to_bytes().into(),
    }
}

fn read_manifest(bytes: &[u8]) -> Result<Manifest, Status> {
    Manifest::parse(bytes).map_err(|why| error::invalid("MALFORMED", why.to_string()))
}

/// What a request means by its two fields, of which one at most is set.
fn version_of(tag: &str, digest: &str) -> Result<Option<BundleVersion>, Status> {
    match (tag, digest) {
        ("", "") => Ok(None),
        (tag, "") => Ok(Some(BundleVersion::Tag(tag.into()))),
        ("", digest) => match digest.parse() {
            Ok(digest) => Ok(Some(BundleVersion::Digest(digest))),
            Err(why) => Err(error::invalid("MALFORMED", why)),
        },
        _ => {
            let text = "a bundle is named by a tag or by a digest, not by both";
            Err(error::invalid("MALFORMED", text))
        }
    }
}

#[tonic::async_trait]
impl pb::bundle_service_server::BundleService for BundleApi {
    async fn have(
        &self,
        request: Request<pb::HaveRequest>,
    ) -> Result<Response<pb::HaveResponse>, Status> {
        let manifest = read_manifest(&request.into_inner().manifest)?;
        let store = self.collector.bundles.store().clone();
        let missing = upload::blocking(move || store.missing(&manifest.blob)).await?;
        Ok(Response::new(pb::HaveResponse {
            missing,
            node: self.node_name.clone(),
        }))
    }

    async fn upload(
        &self,
        request: Request<Streaming<pb::UploadRequest>>,
    ) -> Result<Response<pb::UploadResponse>, Status> {
        self.take_upload(request.into_inner())
            .await
            .map(Response::new)
    }

    async fn list_bundles(
        &self,
        request: Request<pb::ListBundlesRequest>,
    ) -> Result<Response<pb::ListBundlesResponse>, Status> {
        read::ready(self.raft(), &request, Level::Linearizable).await?;
        let request = request.into_inner();
        let items = self.list(names::parse_parent(&request.parent)?);
        Ok(Response::new(pb::ListBundlesResponse { items }))
    }

    async fn describe_bundle(
        &self,
        request: Request<pb::DescribeBundleRequest>,
    ) -> Result<Response<pb::Bundle>, Status> {
        read::ready(self.raft(), &request, Level::Linearizable).await?;
        let request = request.into_inner();
        let (bundle, n_pins) = self.find(&request.namespace, &request.reference)?;
        Ok(Response::new(shown(&bundle, n_pins)))
    }

    async fn delete_bundle(
        &self,
        request: Request<pb::DeleteBundleRequest>,
    ) -> Result<Response<pb::DeleteBundleResponse>, Status> {
        let request = request.into_inner();
        let asked = request.encode_to_vec();
        let once = RequestKey::new(&request.request_id, "delete-bundle", &asked);
        let command = Command::DeleteBundle(DeleteBundle {
            version: version_of(&request.tag, &request.digest)?,
            namespace: request.namespace,
            name: request.name,
        });
        let reply = propose(self.raft(), command, once).await?;
        match reply.result {
            Ok(_) => Ok(Response::new(pb::DeleteBundleResponse {
                index: reply.index.0,
            })),
            Err(rejection) => Err(error::rejected(&rejection)),
        }
    }

    async fn tag_bundle(
        &self,
        request: Request<pb::TagBundleRequest>,
    ) -> Result<Response<pb::TagBundleResponse>, Status> {
        read::ready(self.raft(), &request, Level::Linearizable).await?;
        let request = request.into_inner();
        let asked = request.encode_to_vec();
        let once = RequestKey::new(&request.request_id, "tag-bundle", &asked);
        let (bundle, _) = self.find(&request.namespace, &request.reference)?;
        let digest = bundle.digest.to_string();
        let put = PutBundle {
            namespace: bundle.namespace,
            name: bundle.name,
            tag: request.tag,
            digest: bundle.digest,
            manifest: bundle.manifest,
            must_be_known: true,
        };
        let index = self.put(put, once).await?;
        Ok(Response::new(pb::TagBundleResponse { digest, index }))
    }

    async fn collect_bundles(
        &self,
        request: Request<pb::CollectBundlesRequest>,
    ) -> Result<Response<pb::CollectBundlesResponse>, Status> {
        let dry_run = request.into_inner().dry_run;
        let here = self.collector.collect(dry_run).await;
        let mut nodes = vec![(self.node_name.clone(), here)];
        for other in self.source.holders() {
            let collected = self.collect_on(&other.peer_address, dry_run).await;
            nodes.push((other.name, collected));
        }
        let mut nodes: Vec<_> = nodes
            .into_iter()
            .map(|(node, collected)| {
                let failure = collected.as_ref().err().cloned().unwrap_or_default();
                pb::NodeBundles {
                    node,
                    collected: collected.ok(),
                    failure,
                }
            })
            .collect();
        nodes.sort_by(|a, b| a.node.cmp(&b.node));
        Ok(Response::new(pb::CollectBundlesResponse { nodes }))
    }

    type PushImageStream = PushProgress;

    async fn push_image(
        &self,
        request: Request<pb::PushImageRequest>,
    ) -> Result<Response<PushProgress>, Status> {
        read::ready(self.raft(), &request, Level::Linearizable).await?;
        let pushed = Self::push_image(self, request.into_inner()).await?;
        Ok(Response::new(pushed))
    }

    type ShareImageStream = share::Progress;

    async fn share_image(
        &self,
        request: Request<pb::ShareImageRequest>,
    ) -> Result<Response<share::Progress>, Status> {
        read::ready(self.raft(), &request, Level::Linearizable).await?;
        Self::share_image(self, request.into_inner()).map(Response::new)
    }

    async fn list_images(
        &self,
        request: Request<pb::ListImagesRequest>,
    ) -> Result<Response<pb::ListImagesResponse>, Status> {
        read::ready(self.raft(), &request, Level::Linearizable).await?;
        let request = request.into_inner();
        let namespace = names::parse_parent(&request.parent)?;
        Ok(Response::new(self.images(namespace).await))
    }
}

impl BundleApi {
    /// Gives an image of this node's engine to the cluster.
    ///
    /// # Errors
    /// Malformed, or this node has no such image.
    pub(crate) async fn push_image(
        &self,
        request: pb::PushImageRequest,
    ) -> Result<PushProgress, Status> {
        image::Push::begin(self.clone(), request).await
    }

    /// Makes a bundle known; returns the index of the entry.
    async fn put(&self, put: PutBundle, once: RequestKey) -> Result<u64, Status> {
        let reply = propose(self.raft(), Command::PutBundle(Box::new(put)), once).await?;
        match reply.result {
            Ok(_) => Ok(reply.index.0),
            Err(rejection) => Err(error::rejected(&rejection)),
        }
    }
}

/// Nodes by name.
type Names = BTreeSet<String>;
