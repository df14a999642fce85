//! The command line of Nihilo: one file per command in `command/`, the local cluster in `dev/`.
//!
//! This crate does not know the server. The binary hands in what needs it as [`Hooks`].

mod args;
mod command;
mod config_flags;
mod context;
mod dev;
mod failure;
mod flags;
mod http;
mod output;
mod pack;
mod sharing;
mod traffic_spec;
mod wait;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser;
use nihilo_types::node_config::{DockerSettings, NodeConfig};
use nihilo_types::sealing::SealingKey;
use serde::Serialize;

/// Reads a node's configuration again, as at its start; an error is a line for people.
pub type Reread = Box<dyn Fn() -> std::result::Result<NodeConfig, String> + Send + Sync>;

/// A node that is to be run in this process.
pub struct NodeStart {
    pub config: NodeConfig,
    pub reread: Reread,
    /// The command line, less the program's name, that runs it again.
    pub arguments: Vec<OsString>,
}

impl std::fmt::Debug for NodeStart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeStart")
            .field("config", &self.config)
            .field("arguments", &self.arguments)
            .finish_non_exhaustive()
    }
}

/// Why a node ended that nobody told to stop.
#[derive(Debug)]
pub struct NodeFailure {
    pub error: anyhow::Error,
    /// The store cannot be proven whole, or is not this node's: to start it again changes nothing.
    pub is_store_refused: bool,
}

/// What the binary does for the command line.
#[derive(Debug, Clone, Copy)]
pub struct Hooks {
    /// Runs one node in this process until it is told to stop; called without a tokio runtime.
    pub node_start: fn(NodeStart) -> std::result::Result<(), NodeFailure>,
    /// What a start would refuse of a configuration, without one.
    pub node_check: fn(&NodeConfig) -> anyhow::Result<()>,
    /// Works on files while no node uses them.
    pub offline: fn(Offline) -> anyhow::Result<Done>,
    /// Runs a built-in app by name until it is told to stop; returns the exit code.
    pub demo_app: fn(&str) -> i32,
}

/// What can be done to a data directory while no process uses it.
#[derive(Debug, Clone)]
pub enum Offline {
    /// Makes the store of a node that has just been given its identity, and keeps the cluster's key
    /// for Secrets in that file, if the cluster has given it.
    Create {
        data_dir: PathBuf,
        cluster_id: String,
        node_id: u64,
        secrets_key: Option<(PathBuf, SealingKey)>,
    },
    /// Reads and proves a backup.
    Prove { file: PathBuf },
    /// Makes the first node of a new cluster out of a backup.
    Restore {
        file: PathBuf,
        data_dir: PathBuf,
        place: Place,
    },
    /// Says what a node's directory would bring into a cluster of its own; changes nothing.
    Inspect { data_dir: PathBuf },
    /// Makes a one-voter cluster of a node whose majority is lost for good.
    Recover { data_dir: PathBuf, place: Place },
    /// Ends every program and every container that a node left running.
    Sweep {
        data_dir: PathBuf,
        docker: DockerSettings,
    },
}

/// How a node is reached.
#[derive(Debug, Clone)]
pub struct Place {
    pub name: String,
    pub peer: String,
    pub admin: String,
}

/// What came of it.
#[derive(Debug, Clone)]
pub enum Done {
    Nothing,
    Backup(BackupHead),
    /// The identity of the node that the directory holds now, and its cluster's name and domain.
    Node {
        node_id: u64,
        cluster_id: String,
        cluster: String,
        domain: String,
        external_port: u16,
        /// The entry that everything stands at.
        index: u64,
    },
    Remains(Remains),
}

/// What a backup says of itself.
#[derive(Debug, Clone, Serialize)]
pub struct BackupHead {
    pub cluster_id: String,
    pub cluster_version: u32,
    pub index: u64,
    pub digest: String,
    pub wall_ms: u64,
}

/// What a node's directory would bring into a cluster of its own.
#[derive(Debug, Clone)]
pub struct Remains {
    pub node_id: u64,
    pub cluster_id: String,
    pub cluster: String,
    pub last_index: u64,
    pub wall_ms: u64,
    pub n_undecided: u64,
    /// The other voters: id and peer address.
    pub others: Vec<(u64, String)>,
}

/// Runs one command line (`args[0]` is the program) and returns the exit code.
pub fn run(args: Vec<OsString>, server_hooks: Hooks) -> i32 {
    let cli = match args::Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout and are no failure. A closed pipe changes nothing.
            drop(error.print());
            return error.exit_code();
        }
    };
    match command::dispatch(cli, server_hooks) {
        Ok(()) => 0,
        Err(failure) => {
            output::note(&failure.to_string());
            failure.code
        }
    }
}
