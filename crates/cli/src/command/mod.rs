//! One file per command; this one finds it and gives it a runtime.

pub(crate) mod apply;
pub(crate) mod autoscaler;
pub(crate) mod backup;
pub(crate) mod bundle;
pub(crate) mod cluster;
pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod configmap;
pub(crate) mod demo;
pub(crate) mod deploy;
pub(crate) mod digests;
pub(crate) mod doctor;
pub(crate) mod domain;
pub(crate) mod drain;
pub(crate) mod health;
pub(crate) mod image;
pub(crate) mod instance;
pub(crate) mod internal;
pub(crate) mod join;
pub(crate) mod literals;
pub(crate) mod logs;
pub(crate) mod man;
pub(crate) mod members;
pub(crate) mod node;
pub(crate) mod nodes;
pub(crate) mod ps;
pub(crate) mod recover;
pub(crate) mod restart;
pub(crate) mod revision;
pub(crate) mod route;
pub(crate) mod secret;
pub(crate) mod service;
pub(crate) mod traffic;
pub(crate) mod why;

use std::path::Path;

use crate::args::{Cli, Command, Global};
use crate::context::{Context, DEFAULT_DATA_DIR};
use crate::failure::{Failure, Result, exit};
use crate::{Hooks, dev, output};

pub(crate) fn dispatch(cli: Cli, hooks: Hooks) -> Result<()> {
    let global = &cli.global;
    match cli.command {
        Command::Dev(args) => dev::run(&args, hooks),
        Command::Node(node::NodeCommand::Start(args)) => node::run(args, hooks),
        Command::Cluster(cluster::ClusterCommand::Join(args)) => join::run(global, args, hooks),
        Command::Cluster(cluster::ClusterCommand::Restore(args)) => backup::restore(args, hooks),
        Command::Cluster(cluster::ClusterCommand::Recover(args)) => recover::run(&args, hooks),
        Command::Cluster(cluster::ClusterCommand::Backup(args)) => {
            talk(global, Path::new(DEFAULT_DATA_DIR), async |context| {
                backup::run(&context, &args, hooks).await
            })
        }
        Command::Health(args) => runtime()?.block_on(health::run(global, args)),
        Command::Autoscaler(command) => autoscaler::run(&command),
        Command::Doctor(args) => doctor::run(&args),
        Command::Config(command) => config::run(&command),
        Command::DemoApp { name } => demo_app(&name, hooks),
        Command::Version => {
            output::data(concat!("nihilo ", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
        Command::Completion(args) => {
            completion::run(args);
            Ok(())
        }
        Command::Man(args) => man::run(&args),
        Command::Internal(command) => internal::run(command, hooks),
        Command::Demo(args) => {
            let data_dir = args.data_dir.clone();
            talk(global, &data_dir, async |context| {
                demo::run(&context, &args).await
            })
        }
        command => talk(global, Path::new(DEFAULT_DATA_DIR), async |context| {
            remote(command, &context).await
        }),
    }
}

/// Commands that only talk to the cluster.
async fn remote(command: Command, context: &Context) -> Result<()> {
    match command {
        Command::Apply(args) => apply::run(context, &args).await,
        Command::Service(command) => service::run(context, command).await,
        Command::Deploy(args) => deploy::run(context, args).await,
        Command::Bundle(command) => bundle::run(context, command).await,
        Command::Image(command) => image::run(context, command).await,
        Command::Traffic(command) => traffic::run(context, command).await,
        Command::Revision(command) => revision::run(context, command).await,
        Command::Route(command) => route::run(context, command).await,
        Command::Domain(command) => domain::run(context, command).await,
        Command::Instance(command) => instance::run(context, command).await,
        Command::Ps(args) => ps::run(context, &args).await,
        Command::Logs(args) => logs::run(context, args).await,
        Command::ConfigMap(command) => configmap::run(context, command).await,
        Command::Secret(command) => secret::run(context, command).await,
        Command::Why(command) => why::run(context, command).await,
        Command::Cluster(command) => cluster::run(context, command).await,
        Command::Node(command) => node::talk(context, command).await,
        Command::Dev(_)
        | Command::Demo(_)
        | Command::Autoscaler(_)
        | Command::Health(_)
        | Command::Doctor(_)
        | Command::Config(_)
        | Command::DemoApp { .. }
        | Command::Version
        | Command::Completion(_)
        | Command::Man(_)
        | Command::Internal(_) => unreachable!("dispatched before"),
    }
}

fn talk(
    global: &Global,
    data_dir: &Path,
    run: impl AsyncFnOnce(Context) -> Result<()>,
) -> Result<()> {
    runtime()?.block_on(async { run(Context::new(global, data_dir)?).await })
}

/// One thread: a child that is spawned from it lives as long as this process does.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::io("cannot start", &error))
}

fn demo_app(name: &str, hooks: Hooks) -> Result<()> {
    match (hooks.demo_app)(name) {
        0 => Ok(()),
        code => Err(Failure::new(
            code,
            format!("app `{name}` ended with code {code}"),
        )),
    }
}

/// Which namespaces a list covers.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Scope {
    /// All namespaces.
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}

impl Scope {
    pub(crate) fn namespace(self, context: &Context) -> Option<&str> {
        (!self.all_namespaces).then_some(context.namespace.as_str())
    }

    /// The table with NAMESPACE as first column where that says something.
    pub(crate) fn table(self, head: &[&str], rows: Vec<(String, Vec<String>)>) -> String {
        if !self.all_namespaces {
            let rows: Vec<_> = rows.into_iter().map(|(_, row)| row).collect();
            return output::table(head, &rows);
        }
        let head: Vec<_> = ["NAMESPACE"]
            .into_iter()
            .chain(head.iter().copied())
            .collect();
        let with = |(namespace, row)| [namespace].into_iter().chain(row).collect();
        output::table(&head, &rows.into_iter().map(with).collect::<Vec<_>>())
    }
}

/// The worst of two exit codes, for commands that do several things.
pub(crate) fn worst(failures: Vec<Failure>) -> Result<()> {
    let code = failures.iter().map(|failure| failure.code).max();
    match (code, <[Failure; 1]>::try_from(failures)) {
        (None, _) => Ok(()),
        (_, Ok([only])) => Err(only),
        (Some(code), Err(several)) => {
            several
                .iter()
                .for_each(|failure| output::note(&failure.to_string()));
            Err(Failure::new(
                code.max(exit::OTHER),
                format!("{} of them failed", several.len()),
            ))
        }
    }
}
