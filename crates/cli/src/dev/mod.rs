//! `nihilo dev`: a cluster on this machine, in the foreground or detached.

#[cfg(test)]
mod compose_test;
pub(crate) mod layout;
pub(crate) mod process;
pub(crate) mod ready;
pub(crate) mod spawn;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nihilo_types::node_config::NodeConfig;
use tokio::signal::unix::{SignalKind, signal};

use crate::context::DEFAULT_DATA_DIR;
use crate::failure::{Failure, Result, exit};
use crate::{Hooks, command, output};
use spawn::{Lifetime, Node};

/// How often the foreground looks after its nodes.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DevArgs {
    /// Nodes: an odd number, so that a majority survives a loss.
    #[arg(long, default_value_t = 1, value_parser = n_nodes)]
    nodes: u32,
    /// Where everything is kept.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    /// Added to every port; only a new cluster can choose it.
    #[arg(long, value_name = "N")]
    port_offset: Option<u16>,
    /// Return once the cluster serves; it runs on.
    #[arg(long, conflicts_with = "stop")]
    detach: bool,
    /// End the cluster of the data directory.
    #[arg(long)]
    stop: bool,
}

fn n_nodes(text: &str) -> std::result::Result<u32, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("a cluster has 1, 3 or 5 nodes".into()),
    }
}

pub(crate) fn run(args: &DevArgs, hooks: Hooks) -> Result<()> {
    let dir = std::path::absolute(&args.data_dir)
        .map_err(|error| Failure::io(args.data_dir.display(), &error))?;
    if args.stop {
        return process::stop(&dir);
    }
    let configs = layout::prepare(&dir, args.nodes, args.port_offset)?;
    let (running, missing): (Vec<_>, Vec<_>) = configs
        .iter()
        .partition(|config| process::running(&config.data_dir).is_some());
    if !running.is_empty() && !args.detach {
        return Err(Failure::new(
            exit::CONFLICT,
            format!("a cluster runs in {}", dir.display()),
        )
        .hint(stop_command(&dir)));
    }
    check_ports(&missing)?;
    if let ([only], false) = (configs.as_slice(), args.detach) {
        output::note(&format!(
            "{} on http://{}",
            only.name,
            only.gateway_address()
        ));
        return command::node::start(only.clone(), hooks);
    }
    command::runtime()?.block_on(async {
        let lifetime = if args.detach {
            Lifetime::Own
        } else {
            Lifetime::OfThisProcess
        };
        let mut nodes = start(&missing, &configs, lifetime).await?;
        announce(&dir, &configs, args.detach);
        if args.detach {
            Ok(())
        } else {
            supervise(&dir, &mut nodes).await
        }
    })
}

/// Starts `missing` and waits until all of `configs` serve; on failure none of those started
/// stays behind.
async fn start(
    missing: &[&NodeConfig],
    configs: &[NodeConfig],
    lifetime: Lifetime,
) -> Result<Vec<Node>> {
    let mut nodes = Vec::new();
    let mut outcome = Ok(());
    for config in missing {
        match Node::spawn(config, lifetime) {
            Ok(node) => nodes.push(node),
            Err(failure) => outcome = Err(failure),
        }
    }
    if outcome.is_ok() {
        outcome = tokio::select! {
            served = ready::wait(configs, &mut nodes) => served,
            () = told_to_stop() => Err(Failure::new(exit::INTERRUPTED, "interrupted")),
        };
    }
    if let Err(failure) = outcome {
        nodes.iter_mut().for_each(Node::kill);
        return Err(failure);
    }
    Ok(nodes)
}

/// Looks after the nodes of a foreground cluster until it is told to stop.
async fn supervise(dir: &Path, nodes: &mut Vec<Node>) -> Result<()> {
    let mut look = tokio::time::interval(LOOK_EVERY);
    let stopped = told_to_stop();
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            () = &mut stopped => break,
            _ = look.tick() => {}
        }
        nodes.retain_mut(|node| match node.ended() {
            None => true,
            Some(how) => {
                let file = layout::config_file(&node.config.data_dir);
                output::note(&format!("{} ended: {how}", node.config.name));
                output::note(&format!(
                    "  hint: nihilo node start --config {}",
                    file.display()
                ));
                false
            }
        });
        // One that was started again by hand counts as well.
        if nodes.is_empty() && !process::any_running(dir) {
            return Err(Failure::new(exit::OTHER, "all nodes have ended"));
        }
    }
    output::note("stopping");
    process::stop(dir)
}

/// Ctrl-C, or a polite end by somebody else.
async fn told_to_stop() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        drop(tokio::signal::ctrl_c().await);
        return;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

fn announce(dir: &Path, configs: &[NodeConfig], detached: bool) {
    for config in configs {
        output::data(&format!(
            "  {}  gateway http://{}  admin {}",
            config.name,
            config.gateway_address(),
            config.admin_address()
        ));
    }
    output::data(&format!(
        "  output of the nodes: {}/node*/node.log",
        dir.display()
    ));
    let stop = if detached {
        stop_command(dir)
    } else {
        "Ctrl-C".into()
    };
    output::data(&format!(
        "next: nihilo service create hello --image demo/hello   stop: {stop}"
    ));
}

fn stop_command(dir: &Path) -> String {
    format!("nihilo dev --stop --data-dir {}", dir.display())
}

/// Finds a port in use before anything is started.
fn check_ports(configs: &[&NodeConfig]) -> Result<()> {
    for config in configs {
        let ports = [
            ("gateway", config.gateway_port),
            ("admin", config.admin_port),
            ("peer", config.peer_port),
        ];
        for (what, port) in ports {
            if let Err(error) = TcpListener::bind((config.listen.as_str(), port)) {
                let name = &config.name;
                return Err(Failure::new(
                    exit::CONFLICT,
                    format!("port {port} ({what} of {name}) cannot be used: {error}"),
                )
                .hint(format!(
                    "end what uses it (`ss -ltnp 'sport = :{port}'`), or use other ports: nihilo \
                     dev --port-offset 1000 --data-dir NEW"
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named_with_the_next_step() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = layout::prepare(dir.path(), 1, None).unwrap().remove(0);
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        // Port 0 is always free.
        (config.gateway_port, config.admin_port, config.peer_port) = (0, port, 0);
        let failure = check_ports(&[&config]).unwrap_err();
        assert_eq!(failure.code, 4);
        let text = failure.to_string();
        assert!(
            text.contains(&format!("port {port} (admin of node1)")),
            "{text}"
        );
        assert!(text.contains("--port-offset"), "{text}");
        drop(taken);
        assert!(check_ports(&[&config]).is_ok());
    }

    #[test]
    fn the_number_of_nodes_is_odd() {
        assert_eq!(n_nodes("3"), Ok(3));
        assert!(n_nodes("2").is_err() && n_nodes("0").is_err());
    }
}
