//! Fetching an image from its registry.

use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;
use nihilo_types::image::Reference;
use nihilo_types::instance::stage;

use super::engine::Failed;
use crate::driver::StartError;
use crate::logs::Output;

/// A start waits for its image at most so long.
const PULL_LIMIT: Duration = Duration::from_secs(600);

/// Pulls `image`; the engine's words about it become the instance's output.
///
/// # Errors
/// The registry does not answer, does not have it or wants to know who asks.
pub(super) async fn pull(
    docker: &Docker,
    image: &Reference,
    output: &Output,
) -> Result<(), StartError> {
    say(output, &format!("pulling image `{image}`"));
    let pulled = tokio::time::timeout(PULL_LIMIT, pull_all(docker, image, output)).await;
    let why = match pulled {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(failed)) => failed.to_string(),
        Err(_) => format!("not here after {} s", PULL_LIMIT.as_secs()),
    };
    // Whatever the engine goes on with: no container was asked for.
    Err(StartError::not_started(
        stage::IMAGE,
        format!(
            "image `{image}` is not on this node, and pulling it fails: {why}; check its name and \
             registry, or push it from a node that has it (`nihilo image push {image}`) and make a new \
             revision"
        ),
    ))
}

async fn pull_all(docker: &Docker, image: &Reference, output: &Output) -> Result<(), Failed> {
    let options = CreateImageOptionsBuilder::new()
        .from_image(image.name())
        .tag(image.version())
        .build();
    let docker = docker.clone().with_timeout(PULL_LIMIT);
    let steps = docker.create_image(Some(options), None, None);
    let mut steps = std::pin::pin!(steps);
    while let Some(step) = steps.next().await {
        let step = step.map_err(Failed::of)?;
        // What is said of a single layer has its id, and there is much of it.
        if let (None, Some(status)) = (step.id, step.status) {
            say(output, &status);
        }
    }
    Ok(())
}

fn say(output: &Output, text: &str) {
    output.push(true, text.as_bytes().to_vec());
}

/// With `imagePullPolicy: Never`.
pub(super) fn not_here(image: &Reference, engine: &Failed) -> StartError {
    StartError::not_started(
        stage::IMAGE,
        format!(
            "image `{image}` is not on this node, and its imagePullPolicy is `Never`: {engine}; push it \
             from a node that has it (`nihilo image push {image}`) and make a new revision"
        ),
    )
}
