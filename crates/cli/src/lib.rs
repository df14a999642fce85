//! The command line of Nihilo: one file per command in `command/`, the local cluster in `dev/`.
//!
//! This crate does not know the server. The binary hands in what needs it as [`Hooks`].

mod args;
mod command;
mod context;
mod dev;
mod failure;
mod flags;
mod http;
mod output;
mod traffic_spec;
mod wait;

use std::ffi::OsString;

use clap::Parser;
use nihilo_types::node_config::NodeConfig;

/// What the binary does for the command line.
/// Why a node ended that nobody told to stop.
#[derive(Debug)]
pub struct NodeFailure {
    pub error: anyhow::Error,
    /// The store cannot be proven whole, or is not this node's: to start it again changes nothing.
    pub is_store_refused: bool,
}

#[derive(Debug, Clone, Copy)]
pub struct Hooks {
    /// Runs one node in this process until it is told to stop; called without a tokio runtime.
    pub node_start: fn(NodeConfig) -> std::result::Result<(), NodeFailure>,
    /// Runs a built-in app by name until it is told to stop; returns the exit code.
    pub demo_app: fn(&str) -> i32,
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
