//! `nihilo cluster backup FILE`, `nihilo cluster restore FILE`.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use nihilo_types::node_config::Member;
use nihilo_types::time;

use super::join::{CONFIG, NodeArgs, check_empty, check_own};
use super::node;
use crate::context::Context;
use crate::failure::{Failure, Result, exit};
use crate::{BackupHead, Done, Hooks, Offline, Place, output};

#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// Must not exist yet.
    file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// From `nihilo cluster backup`.
    file: PathBuf,
    #[command(flatten)]
    node: NodeArgs,
    /// Write the data directory and its node.yaml, and do not run the node.
    #[arg(long)]
    no_start: bool,
}

/// The file appears under its name only once it is whole, proven and on the disk.
pub(crate) async fn run(context: &Context, args: &BackupArgs, hooks: Hooks) -> Result<()> {
    let shown = args.file.display().to_string();
    if args.file.exists() {
        return Err(
            Failure::new(exit::CONFLICT, format!("{shown} exists already"))
                .hint("name another file: a backup replaces nothing"),
        );
    }
    let partial = partial_of(&args.file);
    let file =
        File::create_new(&partial).map_err(|error| Failure::io(partial.display(), &error))?;
    let head = match receive(context, file, &partial, hooks).await {
        Ok(head) => head,
        Err(failure) => {
            // What came is of no use to anybody.
            drop(std::fs::remove_file(&partial));
            return Err(failure);
        }
    };
    std::fs::rename(&partial, &args.file)
        .and_then(|()| sync_parent(&args.file))
        .map_err(|error| Failure::io(&shown, &error))?;
    output::data(&format!(
        "cluster `{}` as of index {} ({}), digest {}, is in {shown}",
        head.cluster_id,
        head.index,
        time::rfc3339(head.wall_ms),
        head.digest
    ));
    Ok(())
}

/// Beside the file, under a name that is no other backup's.
fn partial_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

async fn receive(
    context: &Context,
    mut file: File,
    partial: &Path,
    hooks: Hooks,
) -> Result<BackupHead> {
    let shown = partial.display();
    let writing = |error: std::io::Error| Failure::io(&shown, &error);
    let mut pieces = context.client.backup().await?;
    while let Some(piece) = pieces.next().await? {
        file.write_all(&piece).map_err(writing)?;
    }
    file.sync_all().map_err(writing)?;
    prove(partial, hooks)
}

fn prove(file: &Path, hooks: Hooks) -> Result<BackupHead> {
    let task = Offline::Prove { file: file.into() };
    match (hooks.offline)(task).map_err(|error| failed(&error))? {
        Done::Backup(head) => Ok(head),
        other => Err(Failure::new(exit::OTHER, format!("unexpected {other:?}"))),
    }
}

fn sync_parent(file: &Path) -> std::io::Result<()> {
    let parent = file
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// An error of the offline part with its causes.
pub(crate) fn failed(error: &anyhow::Error) -> Failure {
    let failure = Failure::new(exit::OTHER, error.to_string());
    let causes = error.chain().skip(1);
    causes.fold(failure, |failure, cause| failure.because(cause.to_string()))
}

pub(crate) fn restore(args: RestoreArgs, hooks: Hooks) -> Result<()> {
    let mut config = args.node.config();
    check_empty(&config.data_dir)?;
    check_own(&config)?;
    let task = Offline::Restore {
        file: args.file.clone(),
        data_dir: config.data_dir.clone(),
        place: Place {
            name: config.name.clone(),
            peer: config.peer_address(),
            admin: config.admin_address(),
        },
    };
    let done = (hooks.offline)(task).map_err(|error| failed(&error))?;
    let Done::Node {
        node_id,
        cluster_id,
        cluster,
        domain,
        external_port,
        index,
    } = done
    else {
        return Err(Failure::new(exit::OTHER, format!("unexpected {done:?}")));
    };
    (config.node_id, config.cluster, config.domain) = (node_id, cluster, domain);
    config.external_port = Some(external_port);
    config.members = vec![Member {
        id: node_id,
        name: config.name.clone(),
        peer: config.peer_address(),
        admin: config.admin_address(),
    }];
    let file = config.data_dir.join(CONFIG);
    std::fs::write(&file, config.to_yaml()).map_err(|error| Failure::io(file.display(), &error))?;
    output::note(&format!(
        "{} is the only node of the new cluster `{cluster_id}`, at index {index}; whatever still \
         runs of the old one is another cluster\n  run it with: nihilo node start --config {}\n  \
         then, for each further node: nihilo cluster token create --voter",
        config.name,
        file.display()
    ));
    if args.no_start {
        return Ok(());
    }
    node::start(config, hooks)
}
