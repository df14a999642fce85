//! `nihilo route list`.

use clap::Subcommand;
use nihilo_types::route::Route;

use super::Scope;
use crate::context::Context;
use crate::failure::Result;
use crate::output::{self, OutputArgs, status_word};

#[derive(Debug, Subcommand)]
pub(crate) enum RouteCommand {
    /// List routes.
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        scope: Scope,
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub(crate) async fn run(context: &Context, command: RouteCommand) -> Result<()> {
    let RouteCommand::List { scope, output } = command;
    let routes = context
        .client
        .routes(scope.namespace(context), "")
        .await?
        .items;
    let name = |r: &Route| format!("route.serving.knative.dev/{}", r.metadata.name);
    output::list(output.output, &routes, name, |routes| {
        let row = |route: &Route| {
            let ready = status_word(route.status.conditions.status("Ready"));
            let row = vec![
                route.metadata.name.clone(),
                route.status.url.clone(),
                ready.into(),
            ];
            (route.metadata.namespace.clone(), row)
        };
        scope.table(&["NAME", "URL", "READY"], routes.iter().map(row).collect())
    })
}
