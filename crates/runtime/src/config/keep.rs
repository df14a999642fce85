//! Keeps the files of running instances as their objects are. Their environment stays as it was at
//! the start.

use std::sync::{Arc, Weak};
use std::time::Duration;

use nihilo_types::id::{LogIndex, ObjectKey};
use nihilo_types::instance::InstanceSpec;
use nihilo_types::instance_config::{FileSource, Holder, MountedVolume};
use tracing::{info, warn};

use super::{Directories, Reader, Resolved, Source, resolve};
use crate::agent::Inner;

/// Between two looks: well below the ten seconds that are promised.
const EVERY: Duration = Duration::from_secs(3);

/// Of every object that an instance's files come from; `None` = there is none.
pub(crate) type Versions = Vec<(Holder, String, Option<LogIndex>)>;

/// Ends with the agent.
pub(crate) async fn run(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(inner) = inner.upgrade() else { return };
        let having = inner.with_files();
        if having.is_empty() {
            continue;
        }
        let (source, directories) = inner.config_parts();
        // Opens, and writes files.
        let looked = tokio::task::spawn_blocking(move || {
            for (spec, reader) in having {
                refresh(&source, &directories, &spec, reader);
            }
        });
        drop(looked.await);
    }
}

pub(crate) fn versions(source: &Source, spec: &InstanceSpec) -> Versions {
    let sources = spec.config.volumes.iter().flat_map(MountedVolume::sources);
    let version = |holder: Holder, name: &str| {
        let key = ObjectKey::new(spec.revision.namespace.clone(), name);
        (holder, name.to_owned(), source.0.version(holder, &key))
    };
    sources.map(|of| version(of.holder, &of.name)).collect()
}

/// Each volume for itself: what one lacks does not hold up the others.
fn refresh(source: &Source, directories: &Arc<Directories>, spec: &InstanceSpec, reader: Reader) {
    let Some(before) = directories.made_of(&spec.id) else {
        return;
    };
    let now = versions(source, spec);
    if before == now {
        return;
    }
    let volumes = spec.config.volumes.iter();
    let kept = volumes.filter(|volume| !has_gone(volume, &before, &now));
    let failures: Vec<_> = kept
        .filter_map(|volume| write(source, directories, spec, volume, reader).err())
        .collect();
    if failures.is_empty() {
        info!(instance = %spec.id, "files of its volumes are up to date");
        // Looked at again once something has changed.
        directories.renote(&spec.id, now);
    } else if directories.note_failed(&spec.id, &now) {
        let why = failures.join("; ");
        warn!(instance = %spec.id, why, "files of its volumes stay as they were, and are tried again");
    }
}

/// Whether something that it was made of is not there any more: an instance that runs is not taken
/// what it started with.
fn has_gone(volume: &MountedVolume, before: &Versions, now: &Versions) -> bool {
    let is_absent = |versions: &Versions, source: &FileSource| {
        let mut absent = versions.iter().filter(|(_, _, version)| version.is_none());
        absent.any(|(holder, name, _)| *holder == source.holder && *name == source.name)
    };
    let mut sources = volume.sources();
    sources.any(|source| is_absent(now, source) && !is_absent(before, source))
}

fn write(
    source: &Source,
    directories: &Directories,
    spec: &InstanceSpec,
    volume: &MountedVolume,
    reader: Reader,
) -> Result<(), String> {
    let mut only_this = spec.clone();
    only_this.config.all_keys.clear();
    only_this.config.variables.clear();
    only_this.config.volumes = vec![volume.clone()];
    let Resolved { volumes, .. } = resolve(&only_this, |holder, key| source.0.find(holder, key))?;
    volumes.iter().try_for_each(|(name, files)| {
        let updated = directories.update(&spec.id, name, files, reader);
        updated.map_err(|error| format!("volume `{name}`: {error}"))
    })
}
