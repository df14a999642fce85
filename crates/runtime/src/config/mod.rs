//! What instances take out of Secrets and ConfigMaps: looked up when they start, handed to the
//! driver beside what the owner has sent, and kept up to date where it is files.
//!
//! ```text
//! owner ── references ──> agent ── looks up ──> ConfigSource (this node's applied state)
//!                           │
//!                           ├─ variables ──────────────> the program's environment
//!                           └─ files ─> directories ───> mounted where the template says
//! ```
//!
//! Values are in the instance's environment and in its directories, and nowhere else: not in its
//! handle, its report, a log or a message.

mod directories;
mod keep;
mod removal;
mod resolve;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use nihilo_types::id::{LogIndex, ObjectKey};
use nihilo_types::instance::{InstanceSpec, stage};
use nihilo_types::instance_config::Holder;
use nihilo_types::secret_value::SecretValue;

use crate::driver::StartError;

pub(crate) use directories::Directories;
pub(crate) use keep::run as keep;
pub(crate) use removal::{keep_ours, names_in, remove_below};
pub(crate) use resolve::{Resolved, resolve};

/// Where this node's agent finds Secrets and ConfigMaps, opened.
pub trait ConfigSource: Send + Sync + 'static {
    /// Resolves once this node has applied the log up to `index`: `false` where it has not in time.
    fn reached(&self, index: LogIndex) -> Pin<Box<dyn Future<Output = bool> + Send + '_>>;

    /// The object's version, without opening it; `None` = there is none.
    fn version(&self, holder: Holder, key: &ObjectKey) -> Option<LogIndex>;

    /// `None` = there is none.
    ///
    /// # Errors
    /// It is there, and this node cannot open it: why, in words for people, without its values.
    fn find(&self, holder: Holder, key: &ObjectKey) -> Result<Option<Content>, String>;
}

/// An opened object: its keys and their values.
pub type Content = BTreeMap<String, SecretValue>;

/// The agent's way to it.
#[derive(Clone)]
pub(crate) struct Source(pub(crate) Arc<dyn ConfigSource>);

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

/// What was looked up for one instance, for its driver.
#[derive(Debug, Default)]
pub struct Provided {
    /// Beside those of the specification; none of them is in both.
    pub env: Vec<(String, SecretValue)>,
    /// In an order in which they can be mounted.
    pub mounts: Vec<Mount>,
}

/// A volume, and where it is to be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub volume: String,
    pub source: MountSource,
    /// Absolute.
    pub path: String,
    pub read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    /// Of this host.
    Directory(PathBuf),
    /// New and empty, in memory, of so many bytes at most.
    Memory { max_bytes: Option<u64> },
    /// New and empty, a volume of the container engine's own, gone with the container: whoever the image
    /// runs as writes there, and a node that is not root could not take that away.
    Engine,
    /// What an earlier mount of this instance shows at this path.
    Earlier(String),
}

/// Who may read an instance's files, so that nobody else can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// The node's own user, as whom the instance runs.
    Node,
    /// This user and group.
    User(u32, u32),
    /// A user that only the image knows. The files are below a directory that is the node's alone.
    OfImage,
}

/// Looks up and lays out what an instance refers to.
pub(crate) async fn provide(
    source: &Source,
    directories: &Arc<Directories>,
    spec: &InstanceSpec,
    reader: Reader,
) -> Result<Provided, StartError> {
    if spec.config.is_empty() {
        return Ok(Provided::default());
    }
    let failed = |cause: String| StartError::not_started(stage::CONFIG, cause);
    if !source.0.reached(spec.config.min_index).await {
        return Err(failed(format!(
            "this node has not applied the log up to {}, where what the instance refers to was \
             written; it is tried again",
            spec.config.min_index
        )));
    }
    let (source, directories, spec) = (source.clone(), directories.clone(), spec.clone());
    // Opens, and writes files.
    let laid_out = tokio::task::spawn_blocking(move || {
        let versions = keep::versions(&source, &spec);
        let Resolved { env, volumes } = resolve(&spec, |holder, key| source.0.find(holder, key))?;
        let mounts = directories.prepare(&spec, &volumes, reader);
        let mounts = mounts.map_err(|error| format!("its volumes cannot be written: {error}"))?;
        directories.note(&spec.id, versions);
        Ok(Provided { env, mounts })
    });
    let laid_out = laid_out.await.map_err(|error| error.to_string());
    laid_out.flatten().map_err(failed)
}
