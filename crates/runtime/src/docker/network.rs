//! Which of the engine's networks instances are attached to: one that this node reaches.

use bollard::Docker;
use bollard::models::ContainerInspectResponse;

use super::engine::Failed;

/// The engine's default network, whose addresses the host reaches.
const BRIDGE: &str = "bridge";
/// Docker's own mark of a container's root.
const IN_CONTAINER: &str = "/.dockerenv";
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// Returns what was configured, or looks where the node itself is attached: where it runs in a
/// container of this engine, instances become its siblings.
///
/// # Errors
/// The node's own container is attached to no network that could be shared.
pub(super) async fn choose(docker: &Docker, configured: Option<&str>) -> Result<String, Failed> {
    if let Some(network) = configured {
        return Ok(network.into());
    }
    if std::fs::metadata(IN_CONTAINER).is_err() {
        return Ok(BRIDGE.into());
    }
    // Unless somebody named it, a container's host name is its id.
    let own = std::fs::read_to_string(HOST_NAME).unwrap_or_default();
    match docker.inspect_container(own.trim(), None).await {
        Ok(inspected) => shared(&inspected).ok_or_else(|| Failed::Refused {
            status: 404,
            text: "this node's own container has no network that instances could share; attach it \
                   to one, and name it as `docker: {network: NAME}` in the node's configuration"
                .into(),
        }),
        Err(error) => match Failed::of(error) {
            // Not a container of this engine: its addresses are reached as from the host, or not
            // at all, which the instance's own failure will say.
            failed if failed.is_gone() => Ok(BRIDGE.into()),
            failed => Err(failed),
        },
    }
}

/// Whether the node itself runs in a container of this engine.
pub(super) async fn is_container_of(docker: &Docker) -> bool {
    if std::fs::metadata(IN_CONTAINER).is_err() {
        return false;
    }
    let own = std::fs::read_to_string(HOST_NAME).unwrap_or_default();
    docker.inspect_container(own.trim(), None).await.is_ok()
}

/// One that somebody made before the engine's own. A node on the host's network reaches all of them.
fn shared(own: &ContainerInspectResponse) -> Option<String> {
    let networks = own.network_settings.as_ref()?.networks.as_ref()?;
    let mut names: Vec<&str> = networks.keys().map(String::as_str).collect();
    names.sort_unstable();
    let made = names
        .iter()
        .find(|name| ![BRIDGE, "host", "none"].contains(*name));
    match made {
        Some(name) => Some((*name).to_owned()),
        None => (names.contains(&BRIDGE) || names.contains(&"host")).then(|| BRIDGE.into()),
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::{EndpointSettings, NetworkSettings};

    use super::*;

    #[test]
    fn siblings_share_the_network_that_somebody_made() {
        let attached = |names: &[&str]| {
            let networks = names
                .iter()
                .map(|name| ((*name).to_owned(), EndpointSettings::default()));
            shared(&ContainerInspectResponse {
                network_settings: Some(NetworkSettings {
                    networks: Some(networks.collect()),
                    ..NetworkSettings::default()
                }),
                ..ContainerInspectResponse::default()
            })
        };
        assert_eq!(attached(&["bridge", "team"]).as_deref(), Some("team"));
        assert_eq!(attached(&["bridge"]).as_deref(), Some("bridge"));
        assert_eq!(attached(&["host"]).as_deref(), Some("bridge"));
        assert_eq!(attached(&["none"]), None);
    }
}
