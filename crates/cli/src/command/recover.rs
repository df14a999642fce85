//! `nihilo cluster recover --from-this-node`: the majority is lost for good (02-store §6.2).
//!
//! The one command that works on a node's files, with the node stopped. Nothing suggests it as a
//! remedy for slowness.

use std::io::{BufRead, IsTerminal};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use nihilo_types::node_config::NodeConfig;
use nihilo_types::time;

use super::backup::failed;
use super::node;
use crate::failure::{Failure, Result, exit};
use crate::{Done, Hooks, Offline, Place, Remains, output};

/// A voter that lives answers within this, on any network that a cluster runs on.
const DIAL_LIMIT: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    /// Says that this node's state is what goes on.
    #[arg(long, required = true)]
    from_this_node: bool,
    /// Configuration of the node; default: as for `nihilo node start`.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Go on although other voters answer: they are about to be wiped.
    #[arg(long)]
    peers_are_gone: bool,
    /// The cluster's name, as a confirmation in scripts.
    #[arg(long, value_name = "NAME")]
    yes: Option<String>,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(args: &RecoverArgs, hooks: Hooks) -> Result<()> {
    let config = node::config_of(args.config.as_deref())?;
    let data_dir = config.data_dir.clone();
    let inspect = Offline::Inspect {
        data_dir: data_dir.clone(),
    };
    let done = (hooks.offline)(inspect).map_err(|error| failed(&error))?;
    let Done::Remains(remains) = done else {
        return Err(Failure::new(exit::OTHER, format!("unexpected {done:?}")));
    };
    let alive = answering(&remains);
    output::note(&explanation(&remains, &alive));
    if !alive.is_empty() && !args.peers_are_gone {
        return Err(Failure::new(
            exit::CONFLICT,
            format!("voters answer: {}", alive.join(", ")),
        )
        .because(
            "with a majority of them there is a cluster still, and two would serve the same hosts",
        )
        .hint("start this node and let it join them; if they are to be wiped: --peers-are-gone"));
    }
    if args.dry_run {
        output::data("nothing was changed");
        return Ok(());
    }
    confirm(args, &remains)?;
    let recover = Offline::Recover {
        data_dir,
        place: place(&config),
    };
    match (hooks.offline)(recover).map_err(|error| failed(&error))? {
        Done::Node {
            cluster_id, index, ..
        } => {
            output::data(&format!(
                "node {} is the only voter of the new cluster `{cluster_id}`, at index {index}",
                remains.node_id
            ));
            output::note(
                "what was here before stands beside, named `….before-recover`\n\
                 next: start this node; on each other host wipe the data directory, and join it: \
                 nihilo cluster token create --voter",
            );
            Ok(())
        }
        other => Err(Failure::new(exit::OTHER, format!("unexpected {other:?}"))),
    }
}

fn place(config: &NodeConfig) -> Place {
    Place {
        name: config.name.clone(),
        peer: config.peer_address(),
        admin: config.admin_address(),
    }
}

/// Other voters whose peer port takes a connection.
fn answering(remains: &Remains) -> Vec<String> {
    let answers = |address: &str| {
        let resolved = address.to_socket_addrs().ok()?;
        resolved
            .into_iter()
            .find_map(|at| TcpStream::connect_timeout(&at, DIAL_LIMIT).ok())
    };
    let alive = remains
        .others
        .iter()
        .filter(|(_, at)| answers(at).is_some());
    alive.map(|(id, at)| format!("node {id} at {at}")).collect()
}

fn explanation(remains: &Remains, alive: &[String]) -> String {
    let others: Vec<_> = remains
        .others
        .iter()
        .map(|(id, at)| format!("{id} ({at})"))
        .collect();
    let answer = match alive {
        [] => "none of them answers".into(),
        alive => format!("answering: {}", alive.join(", ")),
    };
    format!(
        "This node: {id} of cluster `{cluster}`\n\
         Its newest entry: index {last}; the newest applied one is of {at}\n\
         Other voters: {others}; {answer}\n\
         WHAT MAY BE LOST: every write that the lost majority acknowledged after index {last}.\n\
         Entries here whose outcome was unknown become committed: {undecided}.\n\
         A new cluster id is made; nodes of the old cluster are refused, and if a majority of them \
         comes up, that is a second cluster.",
        id = remains.node_id,
        cluster = remains.cluster_id,
        last = remains.last_index,
        at = time::rfc3339(remains.wall_ms),
        others = if others.is_empty() {
            "none".into()
        } else {
            others.join(", ")
        },
        undecided = remains.n_undecided,
    )
}

fn confirm(args: &RecoverArgs, remains: &Remains) -> Result<()> {
    let name = match &args.yes {
        Some(name) => name.clone(),
        None if std::io::stdin().is_terminal() => {
            output::note(&format!(
                "Type the cluster's name (`{}`) to go on:",
                remains.cluster
            ));
            let mut line = String::new();
            let read = std::io::stdin().lock().read_line(&mut line);
            read.map_err(|error| Failure::io("stdin", &error))?;
            line.trim().to_owned()
        }
        None => {
            return Err(Failure::usage("not confirmed: nothing was changed")
                .hint(format!("add --yes {}", remains.cluster)));
        }
    };
    if name == remains.cluster {
        return Ok(());
    }
    let text = format!(
        "the cluster is `{}`, not `{name}`; nothing was changed",
        remains.cluster
    );
    Err(Failure::usage(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remains() -> Remains {
        Remains {
            node_id: 2,
            cluster_id: "prod".into(),
            cluster: "prod".into(),
            last_index: 41,
            wall_ms: 0,
            n_undecided: 3,
            others: vec![(1, "127.0.0.1:1".into())],
        }
    }

    #[test]
    fn it_says_what_may_be_lost() {
        assert!(answering(&remains()).is_empty());
        let text = explanation(&remains(), &[]);
        for part in [
            "after index 41",
            "become committed: 3",
            "none of them answers",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn the_name_is_the_confirmation() {
        let args = |yes: &str| RecoverArgs {
            from_this_node: true,
            config: None,
            peers_are_gone: false,
            yes: Some(yes.into()),
            dry_run: false,
        };
        assert!(confirm(&args("prod"), &remains()).is_ok());
        assert_eq!(confirm(&args("dev"), &remains()).unwrap_err().code, 2);
    }
}
