//! SIGHUP: what of its configuration a running node follows, and what it leaves to its next start.

use nihilo_cli::Reread;
use nihilo_types::node_config::NodeConfig;
use nihilo_types::node_view::{self, LIVE};
use tracing::{error, info, warn};

use crate::log::{self, Log};
use crate::node_check;
use crate::wiring::Node;

/// The configuration of a running node, as far as it is in force.
pub(crate) struct LiveSettings<'a> {
    pub(crate) node: &'a Node,
    pub(crate) log: &'a Log,
    pub(crate) reread: &'a Reread,
    /// What the node was started with, and has followed since.
    pub(crate) in_force: NodeConfig,
}

impl LiveSettings<'_> {
    /// Reads everything again, and says what came of it. What cannot be read or used changes nothing.
    pub(crate) fn read_again(&mut self) {
        let wanted = match (self.reread)() {
            Ok(wanted) => wanted,
            Err(why) => return error!(why, "configuration not read again, nothing changes"),
        };
        let (live, later) = split(&node_view::changed(&self.in_force, &wanted));
        let next = followed(&self.in_force, &wanted);
        if let Err(why) = self.follow(&wanted, &next) {
            return error!(
                error = format!("{why:#}"),
                "configuration refused, nothing changes"
            );
        }
        self.in_force = next;
        let (live, later) = (live.join(", "), later.join(", "));
        info!(changed = live, "configuration read again");
        if !later.is_empty() {
            warn!(
                keys = later,
                "changed, and in force after `nihilo node restart` only"
            );
        }
    }

    /// All of `next` or nothing: whatever may be refused is, before anything changes. So is what a restart
    /// with all that is wanted would refuse.
    fn follow(&self, wanted: &NodeConfig, next: &NodeConfig) -> anyhow::Result<()> {
        node_check::check(wanted)?;
        let filter = log::wanted(&next.log)?;
        self.node.follow(next)?;
        if let Err(error) = self.log.follow(filter) {
            warn!(%error, "the log stays as it is");
        }
        Ok(())
    }
}

/// What is followed at once, and what is not.
fn split(changed: &[&'static str]) -> (Vec<&'static str>, Vec<&'static str>) {
    changed.iter().partition(|key| LIVE.contains(key))
}

/// What is in force, with what is followed at once as it is wanted now.
fn followed(in_force: &NodeConfig, wanted: &NodeConfig) -> NodeConfig {
    let mut next = in_force.clone();
    next.log.clone_from(&wanted.log);
    next.shutdown_grace = wanted.shutdown_grace;
    next.bundles = wanted.bundles;
    next.docker.share_images = wanted.docker.share_images;
    let (theirs, ours) = (&wanted.gateway, &mut next.gateway);
    ours.trusted_proxies.clone_from(&theirs.trusted_proxies);
    ours.proxy_protocol_from
        .clone_from(&theirs.proxy_protocol_from);
    ours.probe_user_agents.clone_from(&theirs.probe_user_agents);
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_what_is_listed_as_live_is_followed() {
        let in_force = NodeConfig::of_one("node1".into(), 1, "/x".into());
        let mut wanted = in_force.clone();
        wanted.log = "debug".into();
        wanted.shutdown_grace = 7;
        wanted.bundles.max_bytes = 1 << 30;
        wanted.docker.share_images = false;
        wanted.gateway.trusted_proxies = vec!["10.0.0.0/8".into()];
        wanted.gateway.proxy_protocol_from = vec!["10.0.0.7".into()];
        wanted.gateway.probe_user_agents = Some(vec!["x".into()]);
        wanted.capacity = 3;
        wanted.gateway_port = 80;
        let (live, later) = split(&node_view::changed(&in_force, &wanted));
        let mut sorted = live;
        sorted.sort_unstable();
        assert_eq!(sorted, LIVE);
        // The port in URLs is the gateway's unless it is told.
        assert_eq!(later, ["gateway-port", "external-port", "capacity"]);
        let next = followed(&in_force, &wanted);
        assert_eq!(node_view::changed(&next, &wanted), later);
        let (unchanged, _) = split(&node_view::changed(&in_force, &in_force));
        assert!(unchanged.is_empty());
    }
}
