//! Container images that the cluster keeps: out of one node's engine, into the bundles.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use nihilo_machine::command::{PutBundle, RequestKey};
use nihilo_runtime::bundle::{BlobSource, BundleId};
use nihilo_runtime::docker::{Found, NoImage, NotSaved};
use nihilo_types::bundle::{
    BundleKind, BundleReference, BundleVersion, Digest, IMAGE_PREFIX, Manifest,
};
use nihilo_types::image::Reference;
use nihilo_wire::{internal, serving as pb};
use pb::push_image_progress::Step;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::super::error;
use super::engines::{ASK_LIMIT, Asked};
use super::{BundleApi, upload};

/// Messages about a push that its caller may lag behind; older ones are of no use.
const MAX_LAG: usize = 4;

pub type Progress = ReceiverStream<Result<pb::PushImageProgress, Status>>;
type Sender = mpsc::Sender<Result<pb::PushImageProgress, Status>>;

/// One image on its way out of this node's engine.
pub(super) struct Push {
    api: BundleApi,
    begin: pb::UploadBegin,
    found: Found,
}

impl Push {
    /// Finds the image; the rest goes on beside the answer, for as long as somebody reads it.
    ///
    /// # Errors
    /// Malformed, or this node has no such image: then with the nodes that have it.
    pub(super) async fn begin(
        api: BundleApi,
        request: pb::PushImageRequest,
    ) -> Result<Progress, Status> {
        let image = Reference::parse(&request.image);
        let image = image.map_err(|why| error::invalid("MALFORMED", why))?;
        let begin = begin(request, &image)?;
        let permit = upload::permit()?;
        let found = api.collector.find_image(&image).await;
        let found = match found.and_then(|found| found.check_size().map(|()| found)) {
            Ok(found) => found,
            Err(why @ NoImage::TooLarge { .. }) => {
                return Err(error::invalid(
                    "TOO_LARGE",
                    format!("image `{image}`: {why}"),
                ));
            }
            Err(why) => return Err(api.not_here(&image, &begin.namespace, &why).await),
        };
        let (sender, receiver) = mpsc::channel(MAX_LAG);
        let push = Self { api, begin, found };
        nihilo_actors::task::spawn("image-push", async move {
            let pushed = tokio::select! {
                biased;
                // Nobody waits for it any more.
                () = sender.closed() => return,
                pushed = push.run(&sender) => pushed,
            };
            // A client that stops reading holds nobody up.
            drop(permit);
            let last = pushed.map(|done| progress(Step::Done(done)));
            drop(sender.send(last).await);
        });
        Ok(ReceiverStream::new(receiver))
    }

    async fn run(&self, sender: &Sender) -> Result<pb::UploadResponse, Status> {
        if let Some(done) = self.again().await? {
            return Ok(done);
        }
        let saving = |n_bytes, is_copying| {
            let step = Step::Saving(pb::ImageSaving {
                node: self.api.node_name.clone(),
                n_bytes,
                n_bytes_expected: self.found.n_bytes,
                is_copying,
            });
            // Whoever lags behind hears the next one.
            drop(sender.try_send(Ok(progress(step))));
        };
        saving(0, false);
        let images = self.api.collector.images();
        let images = images.map_err(|why| error::precondition("NO_ENGINE", why.to_string()))?;
        let store = self.api.collector.bundles.store().clone();
        let saved = images.save(&self.found, &store, |n| saving(n, false)).await;
        // Kept to the end, so that the blob is.
        let (manifest, _kept) = saved.map_err(|failure| not_saved(&failure))?;
        saving(manifest.blob.size, true);
        let installed = manifest.clone();
        upload::blocking(move || store.install(&installed)).await?;
        let begin = pb::UploadBegin {
            manifest: manifest.to_bytes().into(),
            ..self.begin.clone()
        };
        self.api.share(&begin, &manifest).await
    }

    /// The same image again under its name: its archive is known, and is had from whoever has it; `None` =
    /// it is not, or nobody has it.
    async fn again(&self) -> Result<Option<pb::UploadResponse>, Status> {
        let Some(manifest) = self.known() else {
            return Ok(None);
        };
        let digest = manifest.digest();
        let bundle = BundleId {
            namespace: self.begin.namespace.as_str().into(),
            name: self.begin.name.clone(),
            digest,
        };
        let holders = self.api.source.holders();
        let bundles = &self.api.collector.bundles;
        if bundles.fetch(&bundle, &manifest, &holders).await.is_err() {
            return Ok(None);
        }
        let put = PutBundle {
            namespace: self.begin.namespace.clone(),
            name: self.begin.name.clone(),
            tag: self.begin.tag.clone(),
            digest,
            manifest,
            must_be_known: true,
        };
        let once = RequestKey::new(
            &self.begin.request_id,
            "push-image",
            digest.hex().as_bytes(),
        );
        let index = self.api.put(put, once).await?;
        let (mut held, _) = self.api.held(BTreeSet::from([digest.to_string()])).await;
        let nodes = held.remove(&digest.to_string()).unwrap_or_default();
        Ok(Some(pb::UploadResponse {
            digest: digest.to_string(),
            index,
            nodes: nodes.into_iter().collect(),
        }))
    }

    fn known(&self) -> Option<Manifest> {
        self.api.raft().state().read(|state| {
            let mut all = state.bundles().map(|(bundle, _)| bundle);
            let is_it = |bundle: &nihilo_machine::bundles::Bundle| {
                bundle.namespace == self.begin.namespace
                    && bundle.name == self.begin.name
                    && bundle.manifest.image_id == Some(self.found.id)
            };
            all.find(|bundle| is_it(bundle))
                .map(|bundle| bundle.manifest.clone())
        })
    }
}

impl BundleApi {
    /// Images of a namespace, or of all, with the nodes that have their archives.
    pub(super) async fn images(&self, namespace: Option<&str>) -> pb::ListImagesResponse {
        let all = self.list(namespace).into_iter();
        let images: Vec<_> = all
            .filter(|bundle| bundle.name.starts_with(IMAGE_PREFIX))
            .collect();
        let digests = images.iter().map(|image| image.digest.clone()).collect();
        let (held, silent) = self.held(digests).await;
        let kept = images.into_iter().map(|bundle| {
            let nodes = held.get(&bundle.digest).into_iter().flatten();
            pb::KeptImage {
                nodes: nodes.cloned().collect(),
                bundle: Some(bundle),
            }
        });
        pb::ListImagesResponse {
            items: kept.collect(),
            silent,
        }
    }

    /// Which live nodes have which of these bundles, and the nodes that do not say.
    pub(super) async fn held(
        &self,
        bundles: BTreeSet<String>,
    ) -> (BTreeMap<String, BTreeSet<String>>, Vec<String>) {
        let store = self.collector.bundles.store();
        let is_here = |bundle: &&String| {
            let digest: Option<Digest> = bundle.parse().ok();
            digest.is_some_and(|digest| store.has(&digest))
        };
        let here: Vec<_> = bundles.iter().filter(is_here).cloned().collect();
        let (others, bundles) = (self.source.holders(), &bundles);
        let asked = others.iter().map(|other| async move {
            let mut client = self.source.client(&other.peer_address).ok()?;
            let bundles = bundles.iter().cloned().collect();
            let answer = client.held(internal::HeldRequest { bundles });
            let answer = tokio::time::timeout(ASK_LIMIT, answer).await.ok()?.ok()?;
            Some(answer.into_inner().bundles)
        });
        let answers = join_all(asked).await;
        let mut held: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut silent = Vec::new();
        let others = others.into_iter().map(|other| other.name).zip(answers);
        for (node, answer) in others.chain([(self.node_name.clone(), Some(here))]) {
            match answer {
                Some(bundles) => bundles.into_iter().for_each(|bundle| {
                    held.entry(bundle).or_default().insert(node.clone());
                }),
                None => silent.push(node),
            }
        }
        (held, silent)
    }

    /// Asks the others, so that whoever asked knows where to go.
    async fn not_here(&self, image: &Reference, namespace: &str, why: &NoImage) -> Status {
        let others = self.ask_others(image).await;
        let at = |asked: &Asked| format!("{} (--server {})", asked.name, asked.admin_address);
        let refusals: Vec<_> = others.iter().map(Asked::refusal).collect();
        let all = || others.iter().zip(&refusals);
        let have: Vec<_> = all().filter(|(_, refusal)| refusal.is_none()).collect();
        let own = format!(
            "image `{image}` is not to be had from {}: {why}",
            self.node_name
        );
        if let Some((first, _)) = have.first() {
            let all: Vec<_> = have.iter().map(|(one, _)| at(one)).collect();
            return error::precondition(
                "IMAGE_ELSEWHERE",
                format!(
                    "{own}; it is on {}: `nihilo image push {image} -n {namespace} --server {}`",
                    all.join(", "),
                    first.admin_address
                ),
            );
        }
        let refusals = all().filter_map(|(one, refusal)| {
            let refusal = refusal.as_ref()?;
            Some(format!("; nor from {}: {refusal}", one.name))
        });
        error::precondition(
            "NO_IMAGE",
            format!(
                "{own}{}; build it, pull it or `docker load` it on one of them, and push it there",
                refusals.collect::<String>()
            ),
        )
    }
}

/// What a push comes to as an upload.
fn begin(request: pb::PushImageRequest, image: &Reference) -> Result<pb::UploadBegin, Status> {
    let named = BundleReference::of_image(image);
    let Some((bundle, BundleVersion::Tag(tag))) = named.map(|b| (b.name, b.version)) else {
        let text = format!("`{image}` is a registry's digest: push the image by a tag");
        return Err(error::invalid("MALFORMED", text));
    };
    let begin = pb::UploadBegin {
        namespace: request.namespace,
        name: bundle,
        tag,
        request_id: request.request_id,
        ..pb::UploadBegin::default()
    };
    upload::check(&begin, BundleKind::DockerArchive)?;
    Ok(begin)
}

fn progress(step: Step) -> pb::PushImageProgress {
    pb::PushImageProgress { step: Some(step) }
}

fn not_saved(failure: &NotSaved) -> Status {
    match failure {
        NotSaved::Store(failure) => upload::refused(failure),
        NotSaved::NoEngine(_) => error::precondition("NO_ENGINE", failure.to_string()),
        NotSaved::Broken(_) => {
            error::unavailable("ENGINE_FAILED", format!("{failure}; repeat the command"))
        }
        NotSaved::NoArchive(_) => error::unavailable(
            "ENGINE_FAILED",
            format!("{failure}; look at what the engine says of it, and repeat the command"),
        ),
        NotSaved::Ending => error::unavailable("STOPPING", failure.to_string()),
    }
}
