//! `nihilo traffic set|show`: how a service's requests are shared out.

use clap::Subcommand;
use nihilo_types::meta::keys;
use nihilo_types::route::TrafficTarget;
use nihilo_types::service::Service;
use nihilo_types::time::parse_go_duration_ms;

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
    /// Move all traffic to a revision by small steps, each once every gateway serves the one
    /// before.
    Ramp {
        service: String,
        /// A revision, or `@latest`.
        #[arg(long, value_name = "REV|@latest")]
        to: String,
        /// How long it takes in all.
        #[arg(long, default_value = "10m", value_parser = whole_seconds)]
        over: u64,
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
        TrafficCommand::Ramp { service, to, over } => ramp(context, &service, &to, over).await,
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

fn whole_seconds(text: &str) -> std::result::Result<u64, String> {
    match parse_go_duration_ms(text) {
        Some(ms) if ms >= 1_000 && ms.is_multiple_of(1_000) => Ok(ms / 1_000),
        _ => Err(format!(
            "`{text}` is not a duration of whole seconds such as 10m"
        )),
    }
}

/// Tags stay where they are; everything else goes to the one revision in the end.
async fn ramp(context: &Context, name: &str, to: &str, over_s: u64) -> Result<()> {
    let stored = context.client.service(&context.namespace, name).await?;
    let mut service = stored.object;
    let annotations = &mut service.metadata.annotations;
    annotations.insert(keys::ROLLOUT_DURATION.into(), format!("{over_s}s"));
    let goal = match to {
        "@latest" => {
            annotations.remove(keys::RAMP);
            TrafficTarget::latest(100)
        }
        revision => {
            annotations.insert(keys::RAMP.into(), revision.into());
            TrafficTarget::revision(revision, 100)
        }
    };
    let tagged = service
        .spec
        .traffic
        .iter()
        .filter(|target| !target.tag.is_empty());
    let mut traffic: Vec<_> = tagged
        .map(|target| TrafficTarget {
            percent: Some(0),
            url: String::new(),
            ..target.clone()
        })
        .collect();
    traffic.push(goal);
    service.spec.traffic = traffic;
    let written = context
        .client
        .update_service(&service, &stored.etag)
        .await?;
    output::data(&format!(
        "Traffic of service '{name}' moves to {to} over {over_s} s (log index {}); see `nihilo \
         traffic show {name}`.",
        written.index
    ));
    Ok(())
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
