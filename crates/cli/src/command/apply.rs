//! `nihilo apply -f FILE|-`: create or replace what manifests say, then wait.

use std::io::Read;

use nihilo_client::Change;
use nihilo_types::manifest::{self, Document};
use nihilo_types::service::Service;

use super::{configmap, domain, secret, worst};
use crate::context::Context;
use crate::failure::{Failure, Result, exit};
use crate::output;
use crate::sharing;
use crate::wait::{self, Progress, WaitArgs};

#[derive(Debug, clap::Args)]
pub(crate) struct ApplyArgs {
    /// Manifest of one or more documents; `-` reads standard input.
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    file: Vec<String>,
    #[command(flatten)]
    wait: WaitArgs,
}

/// All files are read before anything is changed; then each object is applied even if another
/// one fails, and the worst outcome decides the exit code.
pub(crate) async fn run(context: &Context, args: &ApplyArgs) -> Result<()> {
    let mut documents = Vec::new();
    for file in &args.file {
        documents.extend(read(file)?);
    }
    let mut failures = Vec::new();
    documents.sort_by_key(rank);
    for document in documents {
        let applied = match document {
            Document::Service(service) => apply(context, *service, &args.wait).await,
            Document::ConfigMap(map) => configmap::apply(context, *map, "").await,
            Document::Secret(secret) => secret::apply(context, *secret).await,
            Document::DomainMapping(mapping) => domain::apply(context, *mapping).await,
            Document::DomainClaim(claim) => domain::apply_claim(context, &claim).await,
        };
        if let Err(failure) = applied {
            if failure.code == exit::INTERRUPTED {
                return Err(failure);
            }
            failures.push(failure);
        }
    }
    worst(failures)
}

/// What others may need comes first.
fn rank(document: &Document) -> u8 {
    match document {
        Document::ConfigMap(_) | Document::Secret(_) | Document::DomainClaim(_) => 0,
        Document::Service(_) => 1,
        Document::DomainMapping(_) => 2,
    }
}

fn read(file: &str) -> Result<Vec<Document>> {
    // One byte more than is allowed, so that the parser sees that it is too much.
    let limit = u64::try_from(manifest::MAX_BYTES)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    let read_all = |input: &mut dyn Read| {
        let mut text = String::new();
        input.take(limit).read_to_string(&mut text).map(|_| text)
    };
    let text = if file == "-" {
        read_all(&mut std::io::stdin())
    } else {
        std::fs::File::open(file).and_then(|mut file| read_all(&mut file))
    };
    let shown = if file == "-" { "stdin" } else { file };
    let text = text.map_err(|error| Failure::usage(format!("cannot read {shown}: {error}")))?;
    manifest::parse(&text, shown).map_err(|error| Failure::usage(error.0))
}

async fn apply(context: &Context, mut service: Service, wait: &WaitArgs) -> Result<()> {
    if service.metadata.namespace.is_empty() {
        service.metadata.namespace.clone_from(&context.namespace);
    }
    let name = service.metadata.name.clone();
    let mut progress = Progress::start();
    sharing::images_of_applied(&context.client, &service, &progress).await;
    let written = context.client.apply_service(&service).await?;
    let unchanged = written.change == Change::Unchanged;
    if unchanged {
        output::data(&format!("No changes to apply to service '{name}'."));
    } else {
        let namespace = &service.metadata.namespace;
        output::data(&format!(
            "Applying service '{name}' in namespace '{namespace}':\n"
        ));
        progress.say(&format!("Accepted at log index {}.", written.index));
    }
    if wait.no_wait {
        return Ok(());
    }
    let ready = wait::until_ready(
        &context.client,
        written.service,
        written.index,
        wait.limit,
        &mut progress,
    )
    .await?;
    output::data(&wait::available(&ready, "applied", unchanged));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_that_is_not_understood_is_a_usage_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hello.yaml");
        std::fs::write(&file, "apiVersion: serving.knative.dev/v1\nkind: Servise\n").unwrap();
        let file = file.to_str().unwrap();
        let failure = read(file).unwrap_err();
        assert_eq!(failure.code, 2);
        assert!(failure.to_string().contains("hello.yaml"), "{failure}");
        assert_eq!(read("/nonexistent/x.yaml").unwrap_err().code, 2);
    }

    #[test]
    fn a_manifest_that_is_too_large_is_not_read_to_its_end() {
        let endless = read("/dev/zero").unwrap_err();
        assert_eq!(endless.code, 2);
        let limit = manifest::MAX_BYTES.to_string();
        assert!(endless.to_string().contains(&limit), "{endless}");
    }
}
