//! `nihilo bundle push|list|describe|delete|tag|gc`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use clap::Subcommand;
use nihilo_client::{Push, Pushed, Upload};
use nihilo_types::bundle::{BundleReference, BundleVersion, Manifest};
use nihilo_wire::serving as pb;
use serde::Serialize;
use tokio::time::Instant;

use super::{Scope, worst};
use crate::context::Context;
use crate::failure::{Failure, Result, exit};
use crate::output::{self, Format, OutputArgs, age_of};
use crate::pack::{self, Packed};

/// Between two lines about an upload; on a terminal one line is written anew.
const SAY_EVERY: Duration = Duration::from_secs(2);
const REDRAW_EVERY: Duration = Duration::from_millis(200);
const MIB: u64 = 1024 * 1024;

#[derive(Debug, Subcommand)]
pub(crate) enum BundleCommand {
    /// Push a program or a directory, without a service.
    Push {
        path: PathBuf,
        /// Name in the namespace; the tag is `latest` where none is given.
        #[arg(long, value_name = "NAME[:TAG]")]
        name: String,
        /// What a directory runs, instead of its Procfile's `web:` line; several are words of one.
        #[arg(long, allow_hyphen_values = true, value_name = "COMMAND")]
        cmd: Vec<String>,
    },
    /// List bundles.
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        scope: Scope,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show one bundle.
    #[command(visible_alias = "get")]
    Describe {
        /// `NAME:TAG` or `NAME@sha256:…`.
        bundle: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Delete a tag (`NAME:TAG`), a bundle (`NAME@sha256:…`), or everything of a name.
    Delete {
        #[arg(required = true)]
        bundle: Vec<String>,
    },
    /// Give a bundle another tag.
    Tag { bundle: String, tag: String },
    /// Have the nodes remove what neither a tag nor a revision needs. They do so by themselves each
    /// hour, and when there is little room.
    Gc {
        /// Only say what would be removed.
        #[arg(long)]
        dry_run: bool,
    },
}

pub(crate) async fn run(context: &Context, command: BundleCommand) -> Result<()> {
    match command {
        BundleCommand::Push { path, name, cmd } => {
            let packed = pack::pack(&path, &cmd)?;
            let reference = BundleReference::parse(&name).map_err(Failure::usage)?;
            let BundleVersion::Tag(tag) = &reference.version else {
                return Err(Failure::usage(
                    "a bundle is pushed under a tag, not a digest",
                ));
            };
            let pushed = push(context, &packed, &reference.name, tag).await?;
            let pinned = BundleReference::pinned(&reference.name, pushed.digest);
            output::data(&pinned.image());
            Ok(())
        }
        BundleCommand::List { scope, output } => list(context, scope, output.output).await,
        BundleCommand::Describe { bundle, output } => {
            let reference = BundleReference::parse(&bundle).map_err(Failure::usage)?;
            let found = context.client.bundle(&context.namespace, &reference).await;
            let shown = Shown::of(found.map_err(not_found)?)?;
            output::one(output.output, &shown, Shown::short_name, Shown::describe)
        }
        BundleCommand::Delete { bundle } => delete(context, &bundle).await,
        BundleCommand::Tag { bundle, tag } => {
            let reference = BundleReference::parse(&bundle).map_err(Failure::usage)?;
            let tagged = context
                .client
                .tag_bundle(&context.namespace, &reference, &tag);
            let tagged = tagged.await.map_err(not_found)?;
            let (name, digest) = (&reference.name, &tagged.digest);
            output::data(&format!("Bundle '{name}:{tag}' is {digest} now."));
            Ok(())
        }
        BundleCommand::Gc { dry_run } => collect(context, dry_run).await,
    }
}

/// Uploads what the cluster does not have, and says how that goes.
pub(crate) async fn push(
    context: &Context,
    packed: &Packed,
    name: &str,
    tag: &str,
) -> Result<Pushed> {
    for remark in &packed.remarks {
        output::note(&format!("warning: {remark}"));
    }
    let push = Push {
        namespace: &context.namespace,
        name,
        tag,
        manifest: &packed.manifest,
    };
    let uploading = Uploading {
        packed,
        told: Mutex::new(Told::new()),
    };
    let pushed = context.client.push_bundle(push, &uploading).await?;
    let size = packed.manifest.blob.size;
    let sent = match pushed.n_sent {
        0 => "nothing had to be sent".to_owned(),
        n_sent => format!("{} of {} sent", bytes(n_sent), bytes(size)),
    };
    uploading.told().clear();
    output::note(&format!(
        "Bundle '{name}:{tag}' ({}, {}) is on {}: {sent}.",
        packed.manifest.kind,
        bytes(size),
        pushed.nodes.join(", ")
    ));
    Ok(pushed)
}

struct Uploading<'a> {
    packed: &'a Packed,
    told: Mutex<Told>,
}

impl Uploading<'_> {
    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        let told = self.told.lock();
        told.unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Says how something goes, not too often.
pub(crate) struct Told {
    is_terminal: bool,
    at: Instant,
}

impl Told {
    pub(crate) fn new() -> Self {
        Self {
            is_terminal: std::io::stderr().is_terminal(),
            at: Instant::now(),
        }
    }

    pub(crate) fn clear(&self) {
        if self.is_terminal {
            output::progress("");
        }
    }

    /// `line` is made only where it is said.
    pub(crate) fn say(&mut self, line: impl FnOnce() -> String) {
        let every = match self.is_terminal {
            true => REDRAW_EVERY,
            false => SAY_EVERY,
        };
        if self.at.elapsed() < every {
            return;
        }
        self.at = Instant::now();
        match self.is_terminal {
            true => output::progress(&line()),
            false => output::note(&line()),
        }
    }
}

/// `1.5 MiB of 3.0 MiB (50 %)`.
pub(crate) fn share(n: u64, of: u64) -> String {
    let percent = n * 100 / of.max(1);
    format!("{} of {} ({percent} %)", bytes(n), bytes(of))
}

impl Upload for Uploading<'_> {
    fn read(&self, at: u64, n: u64) -> std::io::Result<Vec<u8>> {
        self.packed.read(at, n)
    }

    fn progress(&self, server: &str, n_sent: u64, n_to_send: u64) {
        let line = || format!("Uploading to {server}: {}", share(n_sent, n_to_send));
        self.told().say(line);
    }
}

/// `12.3 MiB`, or bytes below one.
pub(crate) fn bytes(n: u64) -> String {
    match n {
        n if n < MIB => format!("{n} bytes"),
        n => format!("{}.{} MiB", n / MIB, n % MIB * 10 / MIB),
    }
}

/// A bundle as it is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Shown {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) digest: String,
    pub(super) tags: Vec<String>,
    pub(super) put_at: String,
    /// That run it.
    pub(super) revisions: u32,
    pub(super) manifest: Manifest,
}

impl Shown {
    pub(super) fn of(bundle: pb::Bundle) -> Result<Self> {
        let manifest = Manifest::parse(&bundle.manifest);
        let manifest = manifest.map_err(|why| Failure::new(exit::OTHER, why.to_string()))?;
        Ok(Self {
            namespace: bundle.namespace,
            name: bundle.name,
            digest: bundle.digest,
            tags: bundle.tags,
            put_at: bundle.put_at,
            revisions: bundle.n_revisions,
            manifest,
        })
    }

    fn short_name(&self) -> String {
        format!("bundle/{}@{}", self.name, self.digest)
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.tags.join(","),
            self.digest.chars().take(19).collect(),
            self.manifest.kind.to_string(),
            self.manifest.platform.to_string(),
            bytes(self.manifest.blob.size),
            self.revisions.to_string(),
            age_of(&self.put_at),
        ]
    }

    fn describe(&self) -> String {
        let words = match (self.manifest.image_id, self.manifest.entrypoint.as_slice()) {
            (Some(id), _) => format!("of the image {id}"),
            (None, []) => "the program itself".to_owned(),
            (None, words) => words.join(" "),
        };
        let lines = [
            format!(
                "Name: {}   Namespace: {}   Age: {}",
                self.name,
                self.namespace,
                age_of(&self.put_at)
            ),
            format!("Image:       {}", self.short_name()),
            format!("Tags:        {}", self.tags.join(", ")),
            format!("Kind:        {}", self.manifest.kind),
            format!("Platform:    {}", self.manifest.platform),
            format!("Entry point: {words}"),
            format!(
                "Size:        {} in {} chunks, {}",
                bytes(self.manifest.blob.size),
                self.manifest.blob.n_chunks(),
                self.manifest.blob.digest
            ),
            format!("Revisions:   {}", self.revisions),
        ];
        lines.map(|line| output::plain(&line)).join("\n")
    }
}

async fn list(context: &Context, scope: Scope, format: Format) -> Result<()> {
    let found = context.client.bundles(scope.namespace(context)).await?;
    let items: Result<Vec<_>> = found.into_iter().map(Shown::of).collect();
    output::list(format, &items?, Shown::short_name, |items| {
        let rows = items
            .iter()
            .map(|item| (item.namespace.clone(), item.row()));
        let head = [
            "NAME",
            "TAGS",
            "DIGEST",
            "KIND",
            "PLATFORM",
            "SIZE",
            "REVISIONS",
            "AGE",
        ];
        scope.table(&head, rows.collect())
    })
}

async fn delete(context: &Context, bundles: &[String]) -> Result<()> {
    let mut failures = Vec::new();
    for bundle in bundles {
        if let Err(failure) = delete_one(context, bundle).await {
            failures.push(failure);
        }
    }
    worst(failures)
}

async fn delete_one(context: &Context, bundle: &str) -> Result<()> {
    let reference = BundleReference::parse(bundle).map_err(Failure::usage)?;
    // A colon before the last slash belongs to a registry's port.
    let last = bundle.rsplit('/').next().unwrap_or(bundle);
    let names_version = last.contains([':', '@']);
    let version = names_version.then_some(&reference.version);
    let namespace = &context.namespace;
    let deleted = context
        .client
        .delete_bundle(namespace, &reference.name, version);
    deleted.await.map_err(not_found)?;
    output::data(&format!(
        "Bundle '{bundle}' deleted in namespace '{namespace}'."
    ));
    Ok(())
}

fn not_found(error: nihilo_client::Error) -> Failure {
    let is_unknown = error.is_not_found() || error.reason == "UNKNOWN_BUNDLE";
    let failure = Failure::from(error);
    match is_unknown {
        true => failure.hint("nihilo bundle list -A"),
        false => failure,
    }
}

async fn collect(context: &Context, dry_run: bool) -> Result<()> {
    let nodes = context.client.collect_bundles(dry_run).await?;
    let rows: Vec<_> = nodes.iter().map(row_of_node).collect();
    let removed = if dry_run { "TO REMOVE" } else { "REMOVED" };
    let head = ["NODE", "BUNDLES", removed, "KEPT", "BOUND"];
    output::data(&output::table(&head, &rows));
    let failed = nodes.iter().filter(|node| !node.failure.is_empty());
    let failures = failed.map(|node| {
        let text = format!("{}: {}", node.node, node.failure);
        Failure::new(exit::UNREACHABLE, text)
    });
    worst(failures.collect())
}

fn row_of_node(node: &pb::NodeBundles) -> Vec<String> {
    let Some(collected) = &node.collected else {
        return vec![node.node.clone(), "?".into()];
    };
    vec![
        node.node.clone(),
        collected.n_bundles.to_string(),
        bytes(collected.n_bytes),
        bytes(collected.n_bytes_kept),
        bytes(collected.max_bytes),
    ]
}

/// The bundle that a service is deployed from, under the service's own name.
pub(crate) async fn of_service(
    context: &Context,
    path: &Path,
    command: &[String],
    service: &str,
) -> Result<String> {
    let packed = pack::pack(path, command)?;
    let pushed = push(context, &packed, service, "latest").await?;
    Ok(BundleReference::pinned(service, pushed.digest).image())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_in_one_word_or_two() {
        assert_eq!(bytes(17), "17 bytes");
        assert_eq!(bytes(3 * MIB / 2), "1.5 MiB");
        assert_eq!(bytes(2_048 * MIB), "2048.0 MiB");
    }
}
