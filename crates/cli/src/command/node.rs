//! `nihilo node start`: one node in this process. The commands beside it only talk to the cluster.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use nihilo_types::isolation::Isolation;
use nihilo_types::node_config::{NodeConfig, OnNodeExit};
use nihilo_types::node_env;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal, setsid};

use super::drain::{self, DrainArgs};
use super::nodes;
use super::restart::{self, RestartArgs};
use crate::context::Context;
use crate::failure::{Failure, Result, exit};
use crate::output::OutputArgs;
use crate::{Hooks, NodeStart, Reread};

pub(crate) const FILE: &str = "node.yaml";
/// Far above any configuration, far below what would hurt to read.
const MAX_CONFIG_BYTES: usize = 1024 * 1024;

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Run a node until it is told to stop.
    Start(StartArgs),
    /// Nodes, and what each is given to do.
    List {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// One node and what it runs; of a drained one, what keeps that there.
    Describe {
        node: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Place no new instances on a node; what runs there stays.
    Cordon { node: String },
    /// Move everything away from a node: instances, shards, leadership. Its gateway serves on.
    Drain(DrainArgs),
    /// Let a node take instances again.
    Uncordon { node: String },
    /// Replace a node's program by the one that is installed now, with the configuration of now. Its
    /// instances go on, and no request is refused.
    Restart(RestartArgs),
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// Its configuration; default: the variables NIHILO_… if NIHILO_MEMBERS is set, else
    /// ./node.yaml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What becomes of its instances when this process dies without being told to stop: `kill` =
    /// they die with it, `adopt` = they go on, and the next process of this node takes them
    /// over. Default: what the configuration says, else `adopt`, but `kill` where this process
    /// is a container's first or its child.
    #[arg(long, value_name = "WHAT")]
    on_node_exit: Option<OnNodeExit>,
    /// Read the configuration, say what is wrong with it, and run nothing.
    #[arg(long)]
    check: bool,
    /// How far programs are kept from everything that is not theirs: `none`, `landlock` or `full`.
    /// Default: what the configuration says.
    #[arg(long, value_name = "LEVEL")]
    isolation: Option<Isolation>,
    /// Stop when this process, which must be the parent, ends.
    #[arg(long, hide = true, value_name = "PID")]
    parent: Option<i32>,
    /// Leave the caller's session, so that its end is not this node's.
    #[arg(long, hide = true, conflicts_with = "parent")]
    own_session: bool,
}

/// Everything but running one.
pub(crate) async fn talk(context: &Context, command: NodeCommand) -> Result<()> {
    match command {
        NodeCommand::Start(_) => unreachable!("dispatched before"),
        NodeCommand::List { output } => nodes::list(context, output).await,
        NodeCommand::Describe { node, output } => nodes::describe(context, &node, output).await,
        NodeCommand::Cordon { node } => nodes::cordon(context, &node).await,
        NodeCommand::Drain(args) => drain::run(context, &args).await,
        NodeCommand::Uncordon { node } => nodes::uncordon(context, &node).await,
        NodeCommand::Restart(args) => restart::run(context, &args).await,
    }
}

pub(crate) fn run(args: StartArgs, hooks: Hooks) -> Result<()> {
    let StartArgs {
        config,
        on_node_exit,
        check,
        isolation,
        parent,
        own_session,
    } = args;
    let file = config;
    let read = move || -> Result<NodeConfig> {
        let mut config = config_of(file.as_deref())?;
        config.on_node_exit = on_node_exit.or(config.on_node_exit);
        config.process.isolation = isolation.unwrap_or(config.process.isolation);
        Ok(config)
    };
    let config = read()?;
    if check {
        return (hooks.node_check)(&config).map_err(|error| unusable(&config.name, &error));
    }
    if let Some(parent) = parent {
        die_with(parent)?;
    }
    if own_session {
        // Refused only to a group leader, which is on its own already.
        let _unless_leader = setsid();
    }
    let start = NodeStart {
        config,
        reread: Box::new(move || read().map_err(|failure| failure.to_string())),
        arguments: std::env::args_os().skip(1).collect(),
    };
    run_it(start, hooks)
}

/// Runs the node of a configuration that lies in its data directory.
pub(crate) fn start(config: NodeConfig, hooks: Hooks) -> Result<()> {
    let file = config.data_dir.join(FILE);
    let arguments = ["node", "start", "--config"].map(OsString::from);
    let arguments = arguments.into_iter().chain([file.clone().into()]);
    let arguments = arguments.collect();
    let reread: Reread =
        Box::new(move || config_of(Some(&file)).map_err(|failure| failure.to_string()));
    let start = NodeStart {
        config,
        reread,
        arguments,
    };
    run_it(start, hooks)
}

fn unusable(name: &str, error: &anyhow::Error) -> Failure {
    let failure = Failure::usage(format!("{name} cannot use its configuration: {error}"));
    explained(failure, error)
}

/// What an error says of its causes.
fn explained(failure: Failure, error: &anyhow::Error) -> Failure {
    let causes = error.chain().skip(1);
    causes.fold(failure, |failure, cause| failure.because(cause.to_string()))
}

fn run_it(start: NodeStart, hooks: Hooks) -> Result<()> {
    let name = start.config.name.clone();
    (hooks.node_start)(start).map_err(|ended| {
        let code = if ended.is_store_refused {
            exit::STORE_REFUSED
        } else {
            exit::OTHER
        };
        let failure = Failure::new(code, format!("{name} failed: {}", ended.error));
        explained(failure, &ended.error)
    })
}

/// The configuration in a file with the variables over it, or where none is named.
pub(crate) fn config_of(file: Option<&Path>) -> Result<NodeConfig> {
    let variables = node_env::of_process();
    match file {
        Some(file) => read_over(file, &variables),
        None => unnamed(&variables),
    }
}

/// A file with the variables over it.
///
/// # Errors
/// Usage: either is not what it should be.
pub(crate) fn read_over(file: &Path, variables: &BTreeMap<String, String>) -> Result<NodeConfig> {
    node_env::over(read(file)?, variables).map_err(|error| Failure::usage(error.0))
}

/// The configuration of a node that no file was named for.
fn unnamed(variables: &BTreeMap<String, String>) -> Result<NodeConfig> {
    if variables.contains_key(node_env::MEMBERS) {
        return node_env::read(variables).map_err(|error| Failure::usage(error.0));
    }
    read_over(Path::new(FILE), variables)
}

/// # Errors
/// Usage: the file cannot be read or is not a node's configuration.
pub(crate) fn read(file: &Path) -> Result<NodeConfig> {
    let shown = file.display().to_string();
    let bytes = std::fs::read(file).map_err(|error| {
        Failure::usage(format!("cannot read {shown}: {error}"))
            .hint("nihilo dev --nodes 3 writes one for each node; containers set NIHILO_MEMBERS")
    })?;
    if bytes.len() > MAX_CONFIG_BYTES {
        let found = bytes.len();
        let text =
            format!("{shown}: {found} bytes, at most {MAX_CONFIG_BYTES} make a configuration");
        return Err(Failure::usage(text).hint(repair(&shown)));
    }
    let Ok(text) = String::from_utf8(bytes) else {
        return Err(Failure::usage(format!("{shown}: not a text file")).hint(repair(&shown)));
    };
    NodeConfig::parse(&text, &shown).map_err(|error| Failure::usage(error.0).hint(repair(&shown)))
}

/// What is stored beside a broken configuration is whole: only the file needs care.
fn repair(shown: &str) -> String {
    format!("correct {shown}; its data directory is not touched meanwhile")
}

fn die_with(parent: i32) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|error| Failure::io("cannot follow the parent", &error.into()))?;
    // It may have ended before the line above.
    if getppid()
        .map(Pid::as_raw_nonzero)
        .map(std::num::NonZero::get)
        == Some(parent)
    {
        return Ok(());
    }
    Err(Failure::new(
        exit::OTHER,
        "the process that started this node has ended",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_broken_file_is_a_usage_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("node.yaml");
        assert_eq!(read(&file).unwrap_err().code, 2);
        std::fs::write(&file, "name: node1\nnode-idd: 1\n").unwrap();
        let failure = read(&file).unwrap_err();
        assert_eq!(failure.code, 2);
        assert!(failure.to_string().contains("node-idd"), "{failure}");
    }

    #[test]
    fn variables_count_where_they_name_members_and_no_file_is_named() {
        let variable = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let mut variables = BTreeMap::from([
            variable("NIHILO_NODE_NAME", "node1"),
            variable("NIHILO_DATA_DIR", "/data"),
        ]);
        // No file of that name lies in this crate's directory.
        assert!(unnamed(&variables).unwrap_err().to_string().contains(FILE));
        variables.extend([variable(node_env::MEMBERS, "1=node1")]);
        assert_eq!(unnamed(&variables).unwrap().peer_address(), "node1:7071");
        variables.extend([variable("NIHILO_MEMBER", "1=node1")]);
        let failure = unnamed(&variables).unwrap_err();
        assert_eq!(failure.code, 2);
        assert!(
            failure.to_string().contains("NIHILO_MEMBER is not known"),
            "{failure}"
        );
    }

    #[test]
    fn each_kind_of_corruption_names_the_file_and_the_next_step() {
        let good = "name: node1\nnode-id: 1\ndata-dir: /tmp/x\nmembers:\n  - id: 1\n    name: \
                    node1\n    peer: 127.0.0.1:7071\n    admin: 127.0.0.1:7070\n";
        let cases: [(&str, Vec<u8>, &str); 8] = [
            ("syntax", b"name: [node1\nnode-id: 1\n".to_vec(), ""),
            (
                "type",
                good.replace("node-id: 1", "node-id: one").into(),
                "node-id",
            ),
            ("key", format!("{good}capacty: 3\n").into(), "capacty"),
            ("cut", good[..good.len() / 2].into(), ""),
            ("empty", Vec::new(), ""),
            ("binary", vec![0xff, 0xfe, 0, 1, 2, 3], "not a text file"),
            ("zeros", vec![0; 4_096], ""),
            (
                "port",
                format!("{good}admin-port: 70000\n").into(),
                "admin-port",
            ),
        ];
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("node.yaml");
        std::fs::write(&file, good).unwrap();
        assert!(read(&file).is_ok());
        for (name, bytes, named) in cases {
            std::fs::write(&file, bytes).unwrap();
            let failure = read(&file).unwrap_err();
            let text = failure.to_string();
            assert_eq!(failure.code, 2, "{name}: {text}");
            assert!(
                text.contains("node.yaml") && text.contains(named),
                "{name}: {text}"
            );
            assert!(text.contains("hint: correct "), "{name}: {text}");
        }
    }
}
