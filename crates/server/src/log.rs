//! What this node says on standard error, and how much of it.

use anyhow::Context;
use nihilo_types::node_env;
use tracing_subscriber::EnvFilter;

use crate::service_manager;

/// The engine's client, whatever the filter says. More than this it prints what it sends and gets:
/// containers' variables, Secrets among them.
const QUIET: [&str; 2] = ["bollard=info", "bollard::docker=info"];

type Change = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

/// The log of this process.
pub(crate) struct Log {
    change: Change,
}

impl Log {
    /// Begins to say what `configured` asks for, or the environment, which goes before it.
    ///
    /// # Errors
    /// `configured` is no filter.
    pub(crate) fn start(configured: &str) -> anyhow::Result<Self> {
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(wanted(configured)?)
            .with_writer(std::io::stderr)
            // A journal shows colours as binary data.
            .with_ansi(!service_manager::journal_reads_stderr())
            // Its own complaint would panic where the log cannot be written: on a full disk.
            .log_internal_errors(false)
            .with_filter_reloading();
        let handle = subscriber.reload_handle();
        // A second subscriber in one process is a test's business.
        drop(subscriber.try_init());
        let change: Change =
            Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()));
        Ok(Self { change })
    }

    /// # Errors
    /// Nothing is logged any more.
    pub(crate) fn follow(&self, filter: EnvFilter) -> anyhow::Result<()> {
        (self.change)(filter).map_err(anyhow::Error::msg)
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

/// What is logged with this in the configuration.
///
/// # Errors
/// `configured` is no filter.
pub(crate) fn wanted(configured: &str) -> anyhow::Result<EnvFilter> {
    filter(std::env::var(node_env::LOG).ok().as_deref(), configured)
}

/// A variable that is no filter counts as none: it may be another program's.
fn filter(variable: Option<&str>, configured: &str) -> anyhow::Result<EnvFilter> {
    let of_variable = variable
        .filter(|text| !text.is_empty())
        .and_then(|text| text.parse().ok());
    let filter: EnvFilter = match of_variable {
        Some(filter) => filter,
        None => configured
            .parse()
            .with_context(|| format!("log = `{configured}`"))?,
    };
    let quiet = QUIET
        .into_iter()
        .filter_map(|directive| directive.parse().ok());
    Ok(quiet.fold(filter, EnvFilter::add_directive))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_goes_before_the_file() {
        for (variable, configured, want) in [
            (None, "info,openraft=warn", "info,openraft=warn"),
            (Some("trace"), "debug", "trace"),
            (Some(""), "debug", "debug"),
            (Some("nihilo=loud"), "debug", "debug"),
        ] {
            let made = filter(variable, configured).unwrap().to_string();
            let wanted = want.split(',').all(|part| made.contains(part));
            assert!(wanted && made.contains("bollard=info"), "{made}");
        }
        let refused = filter(None, "nihilo=loud").unwrap_err();
        assert!(refused.to_string().contains("log = `nihilo=loud`"));
    }
}
