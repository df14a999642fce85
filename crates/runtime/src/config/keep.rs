//! Keeps the files of running instances as their objects are. Their environment stays as it was at
//! the start.

use std::sync::{Arc, Weak};
use std::time::Duration;

use nihilo_types::id::{LogIndex, ObjectKey};
use nihilo_types::instance::InstanceSpec;
use nihilo_types::instance_config::{Holder, MountedVolume};
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

/// What has gone keeps its files: an instance that runs is not taken what it started with.
fn refresh(source: &Source, directories: &Arc<Directories>, spec: &InstanceSpec, reader: Reader) {
    let now = versions(source, spec);
    if !directories.has(&spec.id) || directories.is_made_of(&spec.id, &now) {
        return;
    }
    let mut only_files = spec.clone();
    only_files.config.all_keys.clear();
    only_files.config.variables.clear();
    let resolved = resolve(&only_files, |holder, key| source.0.find(holder, key));
    let written = resolved.and_then(|Resolved { volumes, .. }| {
        volumes.iter().try_for_each(|(volume, files)| {
            let updated = directories.update(&spec.id, volume, files, reader);
            updated.map_err(|error| format!("volume `{volume}`: {error}"))
        })
    });
    match written {
        Ok(()) => info!(instance = %spec.id, "files of its volumes are up to date"),
        Err(why) => warn!(instance = %spec.id, why, "files of its volumes stay as they were"),
    }
    // Looked at again once something has changed.
    directories.renote(&spec.id, now);
}
