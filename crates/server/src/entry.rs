//! What the binaries do: demo apps, node and command line in one file.

use nihilo_cli::Hooks;

use crate::{demo_app, node_check, offline, process};

/// Runs the command line of this process; returns its exit code.
pub fn run() -> i32 {
    let args: Vec<_> = std::env::args_os().collect();
    let text: Vec<String> = args
        .iter()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    // Before anything else: it is on the cold-start path of instances.
    if let [_, command, name] = text.as_slice()
        && command == "demo-app"
    {
        return demo_app::run(name);
    }
    let hooks = Hooks {
        node_start: process::run_node,
        node_check: node_check::check,
        offline: offline::run,
        demo_app: demo_app::run,
    };
    nihilo_cli::run(args, hooks)
}
