//! The services of a run, and the clients that ask for them.

use std::sync::Arc;
use std::time::Duration;

use nihilo_client::Client;
use nihilo_host::Net;
use nihilo_raft::dial::connect_lazily;
use nihilo_types::meta::{API_VERSION, DEFAULT_NAMESPACE};
use nihilo_types::service::Service;
use nihilo_types::template::Container;
use tonic::transport::Endpoint;

use crate::links::Links;
use crate::net::SimNet;
use crate::node::{ADMIN_PORT, name};

pub(crate) const NAMESPACE: &str = DEFAULT_NAMESPACE;
/// Until a gateway gives a request up.
pub(crate) const TIMEOUT_SECONDS: u32 = 10;
/// The host that all clients live on.
pub(crate) const CLIENTS: &str = "clients";
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
const KEEPALIVE: Duration = Duration::from_secs(2);

pub(crate) fn net(links: &Arc<Links>) -> Net {
    Net::Given(Arc::new(SimNet::new(CLIENTS, links.clone())))
}

/// The typed client over simulated connections to the nodes of these places.
pub(crate) fn client(net: &Net, places: &[usize]) -> anyhow::Result<Client> {
    let channel = |place: &usize| {
        let address = format!("{}:{ADMIN_PORT}", name(*place));
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(CONNECT_LIMIT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true);
        Ok((address, connect_lazily(net, &endpoint)))
    };
    let channels: anyhow::Result<Vec<_>> = places.iter().map(channel).collect();
    Ok(Client::over(channels?)?)
}

/// A service that is at zero until a request comes, or for ever with `None`.
pub(crate) fn service(name: &str, max_scale: Option<u32>) -> Service {
    let mut service = Service {
        api_version: API_VERSION.into(),
        kind: "Service".into(),
        ..Service::default()
    };
    service.metadata.name = name.into();
    service.metadata.namespace = NAMESPACE.into();
    let template = &mut service.spec.template;
    let annotations = [
        ("min-scale", "0".to_owned()),
        ("initial-scale", "0".to_owned()),
        ("max-scale", max_scale.unwrap_or(1).to_string()),
        ("target", "2".to_owned()),
        ("window", "6s".to_owned()),
        ("scale-to-zero-pod-retention-period", "0s".to_owned()),
    ];
    for (key, value) in annotations {
        let key = format!("autoscaling.knative.dev/{key}");
        template.metadata.annotations.insert(key, value);
    }
    template.spec.container_concurrency = Some(4);
    template.spec.timeout_seconds = Some(TIMEOUT_SECONDS);
    template.spec.containers = vec![Container {
        image: "demo/echo".into(),
        ..Container::default()
    }];
    service
}
