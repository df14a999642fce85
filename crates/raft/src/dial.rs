//! Connections of gRPC clients over the node's network.

use std::io;

use hyper_util::rt::TokioIo;
use nihilo_host::{Net, Stream};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// A channel that connects when it is first used, and again after a loss.
pub fn connect_lazily(net: &Net, endpoint: &Endpoint) -> Channel {
    if net.is_system() {
        return endpoint.connect_lazy();
    }
    let net = net.clone();
    endpoint.connect_with_connector_lazy(service_fn(move |uri: Uri| dial(net.clone(), uri)))
}

async fn dial(net: Net, uri: Uri) -> io::Result<TokioIo<Stream>> {
    let address = uri.authority().map_or("", |authority| authority.as_str());
    let stream = net.dial(address).await;
    // The words of the system's connector, by which callers know that nothing was sent.
    stream
        .map(TokioIo::new)
        .map_err(|error| io::Error::new(error.kind(), format!("{TCP_CONNECT_ERROR}: {error}")))
}

/// What the text of a status contains when the dial itself failed.
pub(crate) const TCP_CONNECT_ERROR: &str = "tcp connect error";
