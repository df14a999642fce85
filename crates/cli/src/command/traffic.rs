//! `nihilo traffic set|show`: how a service's requests are shared out.

use clap::Subcommand;
use nihilo_types::route::TrafficTarget;
use nihilo_types::service::Service;

use crate::context::Context;
use crate::failure::Result;
use crate::output::{self, OutputArgs};
use crate::traffic_spec;
use crate::wait::{self, Progress, WaitArgs};

#[derive(Debug, Subcommand)]
pub(crate) enum TrafficCommand {
    /// Replace all shares: `hello-00001=90,@latest=10`, `hello-00001#stable=100`.
    Set {
        service: String,
        #[arg(required = true, value_name = "REV[#TAG]=PCT")]
        traffic: Vec<String>,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Show the shares asked for and those that are served.
    Show {
        service: String,
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub(crate) async fn run(context: &Context, command: TrafficCommand) -> Result<()> {
    match command {
        TrafficCommand::Set {
            service,
            traffic,
            wait,
        } => set(context, &service, &traffic_spec::parse(&traffic)?, &wait).await,
        TrafficCommand::Show { service, output } => {
            let service = context
                .client
                .service(&context.namespace, &service)
                .await?
                .object;
            let name = |_: &Vec<TrafficTarget>| service.metadata.name.clone();
            output::one(output.output, &service.status.traffic, name, |_| {
                table(&service)
            })
        }
    }
}

async fn set(
    context: &Context,
    name: &str,
    traffic: &[TrafficTarget],
    wait: &WaitArgs,
) -> Result<()> {
    let mut progress = Progress::start();
    let written = context
        .client
        .set_traffic(&context.namespace, name, traffic)
        .await?;
    progress.say(&format!("Accepted at log index {}.", written.index));
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
    output::data(&format!("\n{}", table(&ready)));
    Ok(())
}

fn table(service: &Service) -> String {
    let row = |target: &TrafficTarget| {
        let latest = if target.is_latest() { "yes" } else { "" };
        vec![
            target.revision_name.clone(),
            format!("{}%", target.share()),
            target.tag.clone(),
            latest.into(),
            target.url.clone(),
        ]
    };
    let rows: Vec<_> = service.status.traffic.iter().map(row).collect();
    output::table(&["REVISION", "TRAFFIC", "TAG", "LATEST", "URL"], &rows)
}
