//! Starts this node's gateway as its configuration says.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use anyhow::Context;
use nihilo_control::Control;
use nihilo_gateway::access_log::Destination;
use nihilo_gateway::asleep::ProbeAgents;
use nihilo_gateway::listener::Trust;
use nihilo_gateway::rules::Cidr;
use nihilo_gateway::tls::Tls;
use nihilo_gateway::{Gateway, GatewayConfig, LocalInstances};
use nihilo_host::Host;
use nihilo_types::id::NodeId;
use nihilo_types::node_config::{AccessLogTo, NodeConfig};

use crate::ports::ScaleUpPort;

/// # Errors
/// A setting cannot be used, or a port is taken.
pub(crate) async fn start(
    config: &NodeConfig,
    host: &Host,
    local: &LocalInstances,
    control: &Arc<OnceLock<Control>>,
) -> anyhow::Result<Gateway> {
    let scale_up = Arc::new(ScaleUpPort(control.clone()));
    Ok(Gateway::start(&settings(config)?, host, local.clone(), scale_up).await?)
}

/// Whether [`start`] could use its settings and certificates.
///
/// # Errors
/// It could not.
pub(crate) fn check(config: &NodeConfig) -> anyhow::Result<()> {
    if let Some((_, directory)) = settings(config)?.tls {
        Tls::open(&directory)?;
    }
    Ok(())
}

/// What may change while it runs: whom it believes, and its certificates.
///
/// # Errors
/// One of them cannot be used; then nothing changes.
pub(crate) fn follow(gateway: &Gateway, config: &NodeConfig) -> anyhow::Result<()> {
    let trust = trust(config)?;
    gateway.reload_certificates()?;
    gateway.trust(trust, probe_agents(config));
    Ok(())
}

fn trust(config: &NodeConfig) -> anyhow::Result<Trust> {
    let ranges = |texts: &[String], key: &str| {
        let ranges: Result<Vec<Cidr>, String> =
            texts.iter().map(|text| Cidr::parse(text)).collect();
        ranges.map_err(|why| anyhow::anyhow!("gateway: {key}: {why}"))
    };
    let given = &config.gateway;
    Ok(Trust {
        proxies: ranges(&given.trusted_proxies, "trusted-proxies")?,
        proxy_protocol: ranges(&given.proxy_protocol_from, "proxy-protocol-from")?,
    })
}

fn probe_agents(config: &NodeConfig) -> ProbeAgents {
    ProbeAgents::new(config.gateway.probe_user_agents())
}

fn settings(config: &NodeConfig) -> anyhow::Result<GatewayConfig> {
    let text = format!("{}:{}", config.listen, config.gateway_port);
    let listen = address(&text, "listen")?;
    let given = &config.gateway;
    let private = given.private_listen.as_deref();
    let tls = given.tls_listen.as_deref().zip(given.certificates.as_ref());
    Ok(GatewayConfig {
        private_listen: private
            .map(|text| address(text, "private-listen"))
            .transpose()?,
        tls: match tls {
            Some((text, directory)) => Some((address(text, "tls-listen")?, directory.clone())),
            None => None,
        },
        trust: trust(config)?,
        access_log: match given.access_log {
            AccessLogTo::Off => Destination::Off,
            AccessLogTo::Stdout => Destination::Stdout,
            AccessLogTo::File => Destination::File(config.data_dir.join("access.log")),
        },
        cluster: config.cluster.clone(),
        probe_agents: probe_agents(config),
        ..GatewayConfig::plain(listen, NodeId(config.node_id), &config.name)
    })
}

fn address(text: &str, key: &str) -> anyhow::Result<SocketAddr> {
    text.parse()
        .with_context(|| format!("{key} = `{text}` is no address with a port"))
}
