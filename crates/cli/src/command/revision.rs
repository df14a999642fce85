//! `nihilo revision list`.

use clap::Subcommand;
use nihilo_types::meta::keys;
use nihilo_types::revision::Revision;
use nihilo_types::route::{Route, TrafficTarget};

use super::Scope;
use crate::context::Context;
use crate::failure::Result;
use crate::output::{self, OutputArgs, age_of, condition_cells};

const HEAD: [&str; 9] = [
    "NAME",
    "SERVICE",
    "TRAFFIC",
    "TAGS",
    "GENERATION",
    "AGE",
    "CONDITIONS",
    "READY",
    "REASON",
];

#[derive(Debug, Subcommand)]
pub(crate) enum RevisionCommand {
    /// List revisions, newest first within a service.
    #[command(visible_alias = "ls")]
    List {
        /// Only those of this service.
        #[arg(short, long, default_value = "", hide_default_value = true)]
        service: String,
        #[command(flatten)]
        scope: Scope,
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub(crate) async fn run(context: &Context, command: RevisionCommand) -> Result<()> {
    let RevisionCommand::List {
        service,
        scope,
        output,
    } = command;
    let namespace = scope.namespace(context);
    let mut revisions = context.client.revisions(namespace, &service).await?.items;
    let routes = context.client.routes(namespace, &service).await?.items;
    revisions.sort_by_key(|revision| {
        (
            revision.root(),
            std::cmp::Reverse(revision.configuration_generation()),
        )
    });
    let name = |r: &Revision| format!("revision.serving.knative.dev/{}", r.metadata.name);
    output::list(output.output, &revisions, name, |revisions| {
        let rows = revisions
            .iter()
            .map(|r| (r.metadata.namespace.clone(), row(r, &routes)));
        scope.table(&HEAD, rows.collect())
    })
}

fn row(revision: &Revision, routes: &[Route]) -> Vec<String> {
    let meta = &revision.metadata;
    let targets: Vec<_> = routes
        .iter()
        .filter(|route| route.metadata.namespace == meta.namespace)
        .flat_map(|route| &route.status.traffic)
        .filter(|target| target.revision_name == meta.name)
        .collect();
    let share: u32 = targets
        .iter()
        .map(|target| TrafficTarget::share(target))
        .sum();
    let tags: Vec<_> = targets
        .iter()
        .map(|t| t.tag.as_str())
        .filter(|tag| !tag.is_empty())
        .collect();
    let mut row = vec![
        meta.name.clone(),
        meta.label(keys::SERVICE).unwrap_or_default().into(),
        if share > 0 {
            format!("{share}%")
        } else {
            String::new()
        },
        tags.join(","),
        revision.configuration_generation().to_string(),
        age_of(&meta.creation_timestamp),
    ];
    row.extend(condition_cells(&revision.status.conditions));
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_shows_its_share_of_every_route() {
        let mut revision = Revision::default();
        revision.metadata.name = "hello-00001".into();
        revision
            .metadata
            .labels
            .insert(keys::SERVICE.into(), "hello".into());
        let mut route = Route::default();
        let tag = TrafficTarget {
            tag: "old".into(),
            ..TrafficTarget::revision("hello-00001", 0)
        };
        route.status.traffic = vec![TrafficTarget::revision("hello-00001", 90), tag];
        let row = row(&revision, &[route]);
        assert_eq!(row[..5], ["hello-00001", "hello", "90%", "old", "0"]);
    }
}
