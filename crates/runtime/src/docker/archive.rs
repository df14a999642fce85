//! An image from the cluster's own archive into the engine of this node, and the names that keep it there.
//!
//! An image is known by the engine's id of it. Whether an archive gives that one is the engine's word,
//! after it has loaded it: archives are not the same bytes everywhere, and neither are ids.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::{
    ImportImageOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptionsBuilder,
    TagImageOptionsBuilder,
};
use futures_util::StreamExt;
use nihilo_types::bundle::Digest;
use nihilo_types::instance::stage;
use tokio::time::Instant;
use tokio_util::io::ReaderStream;
use tracing::{info, warn};

use super::engine::{Engine, Failed, Ready, Unnamed};
use crate::bundle::{BundleId, Bundles};
use crate::driver::StartError;
use crate::logs::Output;
use crate::process::mark::Mark;

/// An engine loads an archive within so long.
const LOAD_LIMIT: Duration = Duration::from_secs(600);
/// Bytes that are handed to the engine at once.
const PIECE_BYTES: usize = 1024 * 1024;
/// How an engine says what it has loaded that has no name.
const LOADED: &str = "Loaded image ID: ";
/// Names of images that were loaded here: this, and the node's own mark.
const KEEPER: &str = "nihilo.local/";

/// Brings the image of an archive to the engine.
///
/// # Errors
/// There is no archive, the engine does not load it, or it is another image.
pub(super) async fn bring(
    engine: Arc<Engine>,
    bundles: Bundles,
    bundle: BundleId,
    image: Digest,
    output: Output,
) -> Result<(), StartError> {
    let ready = engine.ready().await?;
    let is_there = async || {
        let has = has(&ready.docker, &image).await;
        has.map_err(|failed| engine.start_error(stage::IMAGE, failed))
    };
    if is_there().await? {
        return Ok(());
    }
    let say = |text: &str| output.push(true, text.as_bytes().to_vec());
    let archive = bundles.archive(&bundle, say).await;
    let archive =
        archive.map_err(|error| StartError::not_started(stage::BUNDLE, error.to_string()))?;
    // One load at a time: who comes second finds it done. What is still fetched holds nobody up.
    let _one_at_a_time = engine.loading.lock().await;
    if is_there().await? {
        return Ok(());
    }
    let unnamed = Unnamed {
        bundle: bundle.digest,
        begun_at: Instant::now(),
    };
    engine.unnamed.lock().insert(image, unnamed);
    say(&format!("loading image `{bundle}`"));
    load(&engine, ready, &bundle, &archive, &image).await?;
    info!(%bundle, %image, "image loaded");
    name(&engine, ready, &image, &bundle.digest).await;
    Ok(())
}

/// Names what was loaded by an engine that failed before it could say so: without a name, nobody would
/// ever take it out of the engine again.
pub(super) async fn name_late(engine: &Engine, ready: &Ready) {
    let unnamed = engine.unnamed.lock().clone();
    for (image, of_it) in unnamed {
        match has(&ready.docker, &image).await {
            Ok(true) => name(engine, ready, &image, &of_it.bundle).await,
            Ok(false) => engine.unnamed.lock().retain(|other, of_it| {
                // An engine that was not waited for may be at it.
                *other != image || of_it.begun_at.elapsed() < LOAD_LIMIT
            }),
            // It is asked again.
            Err(_) => {}
        }
    }
}

/// Names an image that a container was made of, where it has no name: as an engine leaves it that failed
/// before it could say that it has loaded it, maybe to an earlier process.
pub(super) async fn name_where_none(engine: Arc<Engine>, image: Digest, bundle: Digest) {
    let Some(ready) = engine.ready_by_now() else {
        return;
    };
    // Where it cannot be said now, the next start asks again.
    let found = ready.docker.inspect_image(&image.to_string()).await;
    if found.is_ok_and(|found| found.repo_tags.unwrap_or_default().is_empty()) {
        name(&engine, ready, &image, &bundle).await;
    }
}

/// Whether the engine has an image of this id.
async fn has(docker: &Docker, image: &Digest) -> Result<bool, Failed> {
    match docker.inspect_image(&image.to_string()).await {
        Ok(_) => Ok(true),
        Err(error) => match Failed::of(error) {
            Failed::Refused { status: 404, .. } => Ok(false),
            failed => Err(failed),
        },
    }
}

async fn load(
    engine: &Engine,
    ready: &Ready,
    bundle: &BundleId,
    archive: &Path,
    wanted: &Digest,
) -> Result<(), StartError> {
    let docker = &ready.docker;
    let failed = |failed| engine.start_error(stage::IMAGE, failed).with_nothing_left();
    let before = ids(docker).await.map_err(failed)?;
    let loaded = tokio::time::timeout(LOAD_LIMIT, load_all(docker, archive)).await;
    let loaded = loaded.unwrap_or_else(|_| {
        let text = format!("not loaded in {} s", LOAD_LIMIT.as_secs());
        Err(Failed::Unanswered(text))
    });
    let loaded = loaded.map_err(failed)?;
    if has(docker, wanted).await.map_err(failed)? {
        return Ok(());
    }
    for other in loaded.iter().filter(|id| !before.contains(*id)) {
        discard(docker, other).await;
    }
    let loaded: Vec<_> = loaded.into_iter().collect();
    Err(StartError::not_started(
        stage::IMAGE_ID,
        format!(
            "ImageIdMismatch: the archive of `{bundle}` gave image {} on this node's engine, not {wanted}; \
             what it gave was removed again. Push it anew from a node that has the image, and make a new \
             revision",
            match loaded.as_slice() {
                [] => "none",
                [first, ..] => first,
            }
        ),
    ))
}

/// Ids of what was loaded, as the engine says.
async fn load_all(docker: &Docker, archive: &Path) -> Result<BTreeSet<String>, Failed> {
    let file = tokio::fs::File::open(archive).await;
    let file = file.map_err(|error| Failed::Unreached(error.to_string()))?;
    let docker = docker.clone().with_timeout(LOAD_LIMIT);
    let pieces = ReaderStream::with_capacity(file, PIECE_BYTES);
    let options = ImportImageOptionsBuilder::new().quiet(true).build();
    let steps = docker.import_image_stream(options, pieces, None);
    let mut steps = std::pin::pin!(steps);
    let mut loaded = BTreeSet::new();
    while let Some(step) = steps.next().await {
        let said = step.map_err(Failed::of)?.stream.unwrap_or_default();
        let ids = said.lines().filter_map(|line| line.strip_prefix(LOADED));
        loaded.extend(ids.map(|id| id.trim().to_owned()));
    }
    Ok(loaded)
}

/// Ids of all images that the engine has.
async fn ids(docker: &Docker) -> Result<BTreeSet<String>, Failed> {
    let options = ListImagesOptionsBuilder::new().all(true).build();
    let images = docker
        .list_images(Some(options))
        .await
        .map_err(Failed::of)?;
    Ok(images.into_iter().map(|image| image.id).collect())
}

/// Gives a loaded image a name of this node's own: one without any goes with `docker image prune`.
async fn name(engine: &Engine, ready: &Ready, image: &Digest, bundle: &Digest) {
    let options = TagImageOptionsBuilder::new()
        .repo(&repository(&engine.mark))
        .tag(&bundle.hex())
        .build();
    let named = ready
        .docker
        .tag_image(&image.to_string(), Some(options))
        .await;
    match named.map_err(Failed::of) {
        Ok(()) => drop(engine.unnamed.lock().remove(image)),
        Err(failed) => {
            warn!(%image, %failed, "loaded without a name; the next start of it gives it one");
        }
    }
}

fn repository(mark: &Mark) -> String {
    format!("{KEEPER}{}", mark.as_str())
}

/// Takes the names away from images whose bundles are not `kept`; the engine drops those that have no
/// other name and no container.
pub(super) async fn forget(docker: &Docker, mark: &Mark, kept: &BTreeSet<Digest>) {
    let repository = repository(mark);
    let filters = HashMap::from([("reference", vec![repository.clone()])]);
    let options = ListImagesOptionsBuilder::new().filters(&filters).build();
    let images = match docker.list_images(Some(options)).await.map_err(Failed::of) {
        Ok(images) => images,
        Err(failed) => return warn!(%failed, "images that nobody needs are left in the engine"),
    };
    for name in images.into_iter().flat_map(|image| image.repo_tags) {
        let tag = name.strip_prefix(&repository);
        let bundle = tag.and_then(|tag| Digest::from_hex(tag.strip_prefix(':')?));
        if bundle.is_some_and(|bundle| !kept.contains(&bundle)) {
            discard(docker, &name).await;
        }
    }
}

/// Not by force: what a container is made of stays.
async fn discard(docker: &Docker, image: &str) {
    let options = RemoveImageOptionsBuilder::new().build();
    let removed = docker.remove_image(image, Some(options), None).await;
    match removed.map_err(Failed::of) {
        Ok(_) => info!(image, "image removed from the engine"),
        Err(failed) if failed.is_gone() => {}
        Err(failed) => warn!(image, %failed, "image not removed from the engine"),
    }
}
