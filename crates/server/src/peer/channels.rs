//! One lazily dialled gRPC channel per peer address.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nihilo_host::Net;
use nihilo_raft::dial::connect_lazily;
use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};

/// Bound of a dial; a dead host must not hold a call longer.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Channels are made on first use and kept; tonic re-dials by itself.
#[derive(Debug, Clone, Default)]
pub struct Channels {
    net: Net,
    known: Arc<Mutex<BTreeMap<String, Channel>>>,
}

impl Channels {
    pub fn new(net: Net) -> Self {
        Self {
            net,
            known: Arc::default(),
        }
    }

    /// # Errors
    /// An address that is not `host:port`.
    pub fn to(&self, address: &str) -> Result<Channel, tonic::transport::Error> {
        let mut channels = self.known.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_EVERY)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let channel = connect_lazily(&self.net, &endpoint);
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}
