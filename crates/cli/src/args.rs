//! The command tree.

use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use nihilo_types::time::parse_go_duration_ms;

use crate::command::{
    apply, autoscaler, bundle, cluster, completion, config, configmap, demo, deploy, doctor,
    domain, health, image, instance, internal, logs, man, node, ps, revision, route, secret,
    service, traffic, why,
};
use crate::dev;

/// Serverless HTTP services on a few machines, without Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "nihilo", version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Admin addresses, HOST:PORT; default: those in ./.nihilo, else 127.0.0.1:7070.
    #[arg(
        long,
        global = true,
        env = "NIHILO_SERVER",
        value_delimiter = ',',
        value_name = "A,B,C"
    )]
    pub server: Vec<String>,
    #[arg(
        short,
        long,
        global = true,
        env = "NIHILO_NAMESPACE",
        default_value = "default"
    )]
    pub namespace: String,
    /// Limit of one call, retries included.
    #[arg(long, global = true, default_value = "30s", value_parser = duration)]
    pub request_timeout: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a cluster on this machine.
    Dev(dev::DevArgs),
    /// See it work: from zero, under load, through the loss of the leader, and back.
    Demo(demo::DemoArgs),
    /// Create or replace what a manifest says.
    Apply(apply::ApplyArgs),
    /// Upload a program or a directory, and serve it.
    Deploy(deploy::DeployArgs),
    /// Services.
    #[command(subcommand, visible_alias = "ksvc")]
    Service(service::ServiceCommand),
    /// Shares of a service's traffic.
    #[command(subcommand)]
    Traffic(traffic::TrafficCommand),
    /// Revisions of services.
    #[command(subcommand, visible_alias = "rev")]
    Revision(revision::RevisionCommand),
    /// Routes of services.
    #[command(subcommand, visible_alias = "rt")]
    Route(route::RouteCommand),
    /// Own host names of services.
    #[command(subcommand, visible_alias = "dm")]
    Domain(domain::DomainCommand),
    /// Programs and directories that the cluster keeps.
    #[command(subcommand)]
    Bundle(bundle::BundleCommand),
    /// Container images that the cluster keeps, without a registry.
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Running instances.
    #[command(subcommand, visible_alias = "inst")]
    Instance(instance::InstanceCommand),
    /// What runs, by revision.
    Ps(ps::PsArgs),
    /// Output of a service's instances.
    Logs(logs::LogsArgs),
    /// Why something is as it is.
    #[command(subcommand)]
    Why(why::WhyCommand),
    /// What an autoscaler would do.
    #[command(subcommand)]
    Autoscaler(autoscaler::AutoscalerCommand),
    /// Values for services' instances that are shown to nobody else.
    #[command(subcommand)]
    Secret(secret::SecretCommand),
    /// Settings of services, and the cluster's own.
    #[command(subcommand, name = "configmap", visible_alias = "cm")]
    ConfigMap(configmap::ConfigMapCommand),
    /// The cluster itself.
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Whether a node works, as an exit code; for health checks of containers and balancers.
    Health(health::HealthArgs),
    /// What this machine lacks to be a node, and how to mend it.
    Doctor(doctor::DoctorArgs),
    /// A node's configuration.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Nodes of a cluster: run one, look at them, cordon and drain them.
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Print the version.
    Version,
    /// Print the completions of a shell.
    Completion(completion::CompletionArgs),
    /// Write the manual's pages.
    Man(man::ManArgs),
    /// What the packaging calls.
    #[command(subcommand, hide = true)]
    Internal(internal::InternalCommand),
    /// Run an app that is built into the binary.
    #[command(hide = true)]
    DemoApp { name: String },
}

fn duration(text: &str) -> Result<Duration, String> {
    match parse_go_duration_ms(text) {
        Some(0) | None => Err(format!(
            "`{text}` is not a duration above zero such as 30s or 1m30s"
        )),
        Some(milliseconds) => Ok(Duration::from_millis(milliseconds)),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Commands below `command` that do not say what they are for.
    fn silent(command: &clap::Command) -> Vec<String> {
        let below = command.get_subcommands().filter(|c| !c.is_hide_set());
        let all = below.flat_map(|c| {
            let own = c.get_about().is_none().then(|| c.get_name().to_owned());
            own.into_iter().chain(silent(c))
        });
        all.collect()
    }

    #[test]
    fn every_command_says_what_it_is_for() {
        assert_eq!(silent(&Cli::command()), Vec::<String>::new());
    }

    #[test]
    fn servers_are_a_list_and_usage_errors_exit_2() {
        let cli = Cli::try_parse_from(["nihilo", "ps", "--server", "a:1,b:2"]).unwrap();
        assert_eq!(cli.global.server, ["a:1", "b:2"]);
        let error = Cli::try_parse_from(["nihilo", "frobnicate"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert_eq!(
            Cli::try_parse_from(["nihilo", "--help"])
                .unwrap_err()
                .exit_code(),
            0
        );
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert!(duration("30").is_err() && duration("0s").is_err());
    }
}
