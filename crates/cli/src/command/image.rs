//! `nihilo image push|list`.

use clap::Subcommand;
use nihilo_client::Saving;
use nihilo_types::bundle::{BundleReference, IMAGE_PREFIX};
use nihilo_wire::serving as pb;
use serde::Serialize;

use super::Scope;
use super::bundle::{Shown, Told, bytes, share};
use crate::context::Context;
use crate::failure::Result;
use crate::output::{self, Format, OutputArgs, age_of};

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Give an image of a node's container engine to the whole cluster. New revisions of the namespace
    /// that name it run what was pushed, and nodes that lack it load it by themselves.
    Push {
        /// As `docker images` on the node shows it, NAME:TAG.
        image: String,
    },
    /// List images that were pushed, and the nodes that have their archives.
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        scope: Scope,
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub(crate) async fn run(context: &Context, command: ImageCommand) -> Result<()> {
    match command {
        ImageCommand::Push { image } => push(context, &image).await,
        ImageCommand::List { scope, output } => list(context, scope, output.output).await,
    }
}

async fn push(context: &Context, image: &str) -> Result<()> {
    let mut heard = Heard::new();
    let hear = |saving: &Saving| heard.hear(saving);
    let pushed = context
        .client
        .push_image(&context.namespace, image, hear)
        .await?;
    let how = heard.end();
    output::note(&format!(
        "Image '{image}' ({how}) is on {}.",
        pushed.nodes.join(", ")
    ));
    let named = nihilo_types::image::Image::pushed(image);
    let name = named.map(|named| named.name).unwrap_or_default();
    output::data(&BundleReference::pinned(&name, pushed.digest).image());
    Ok(())
}

/// What a node has said of an image that it gives to the cluster.
pub(crate) struct Heard {
    told: Told,
    is_first: bool,
    /// The archive's size, once all of it is there.
    n_bytes: Option<u64>,
}

impl Heard {
    pub(crate) fn new() -> Self {
        Self {
            told: Told::new(),
            is_first: true,
            n_bytes: None,
        }
    }

    /// Whether nothing was heard yet.
    pub(crate) fn is_first(&self) -> bool {
        self.is_first
    }

    pub(crate) fn hear(&mut self, saving: &Saving) {
        self.is_first = false;
        self.n_bytes = saving.is_copying.then_some(saving.n_bytes).or(self.n_bytes);
        self.told.say(|| said(saving));
    }

    /// What there is to say of it in the end.
    pub(crate) fn end(self) -> String {
        self.told.clear();
        let size = self.n_bytes.map(bytes);
        size.unwrap_or_else(|| "known before".to_owned())
    }
}

fn said(saving: &Saving) -> String {
    let node = &saving.node;
    match saving.is_copying {
        true => format!(
            "Copying {} from {node} to a second node",
            bytes(saving.n_bytes)
        ),
        false => format!(
            "Saving on {node}: {}",
            // What the engine says is not to the byte.
            share(saving.n_bytes, saving.n_bytes_expected.max(saving.n_bytes))
        ),
    }
}

/// An image as it is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownImage {
    /// As a service names it, without a tag.
    image: String,
    /// Nodes that have its archive.
    nodes: Vec<String>,
    #[serde(flatten)]
    bundle: Shown,
}

impl ShownImage {
    fn of(kept: pb::KeptImage) -> Result<Self> {
        let bundle = Shown::of(kept.bundle.unwrap_or_default())?;
        let name = bundle.name.strip_prefix(IMAGE_PREFIX);
        Ok(Self {
            image: name.unwrap_or(&bundle.name).to_owned(),
            nodes: kept.nodes,
            bundle,
        })
    }

    fn short_name(&self) -> String {
        format!("bundle/{}@{}", self.bundle.name, self.bundle.digest)
    }

    fn row(&self) -> Vec<String> {
        let id = self.bundle.manifest.image_id;
        let id = id.map(|id| id.to_string()).unwrap_or_default();
        vec![
            self.image.clone(),
            self.bundle.tags.join(","),
            id.chars().take(19).collect(),
            bytes(self.bundle.manifest.blob.size),
            match self.nodes.as_slice() {
                [] => "none".into(),
                nodes => nodes.join(","),
            },
            self.bundle.revisions.to_string(),
            age_of(&self.bundle.put_at),
        ]
    }
}

async fn list(context: &Context, scope: Scope, format: Format) -> Result<()> {
    let found = context.client.images(scope.namespace(context)).await?;
    let items: Result<Vec<_>> = found.items.into_iter().map(ShownImage::of).collect();
    output::list(format, &items?, ShownImage::short_name, |items| {
        let rows = items
            .iter()
            .map(|item| (item.bundle.namespace.clone(), item.row()));
        let head = ["IMAGE", "TAGS", "ID", "SIZE", "NODES", "REVISIONS", "AGE"];
        scope.table(&head, rows.collect())
    })?;
    for node in &found.silent {
        output::note(&format!("{node} does not say what it has"));
    }
    Ok(())
}
