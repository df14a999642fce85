//! Whom a command talks to, and about which namespace.

use std::path::Path;

use nihilo_client::Client;

use crate::args::Global;
use crate::dev::layout;
use crate::failure::Result;

/// Where `nihilo dev` keeps its cluster unless told otherwise.
pub(crate) const DEFAULT_DATA_DIR: &str = "./.nihilo";
const FALLBACK_SERVER: &str = "127.0.0.1:7070";

#[derive(Debug)]
pub(crate) struct Context {
    pub client: Client,
    pub namespace: String,
}

impl Context {
    /// Needs a tokio runtime, connects nowhere yet.
    ///
    /// # Errors
    /// A server's address that is none.
    pub(crate) fn new(global: &Global, data_dir: &Path) -> Result<Self> {
        let client = Client::connect_lazy(servers(&global.server, data_dir))?;
        Ok(Self {
            client: client.with_timeout(global.request_timeout),
            namespace: global.namespace.clone(),
        })
    }
}

/// The servers named, else those of the local cluster, else the default port.
fn servers(named: &[String], data_dir: &Path) -> Vec<String> {
    if !named.is_empty() {
        return named.to_vec();
    }
    // A file that cannot be read is the concern of `dev`; here the other nodes will do.
    let local: Vec<_> = layout::existing(data_dir)
        .into_iter()
        .filter_map(|config| Some(config.ok()?.admin_address()))
        .collect();
    if local.is_empty() {
        vec![FALLBACK_SERVER.into()]
    } else {
        local
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_cluster_is_found_by_its_files() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(servers(&[], dir.path()), [FALLBACK_SERVER]);
        layout::prepare(dir.path(), 3, Some(20)).unwrap();
        let found = servers(&[], dir.path());
        assert_eq!(
            found,
            ["127.0.0.1:7090", "127.0.0.1:7190", "127.0.0.1:7290"]
        );
        assert_eq!(servers(&["x:1".into()], dir.path()), ["x:1"]);
    }
}
