//! One node of either store, as the writer sees it: it takes a service, and gives all of them back.
//!
//! etcd gets the very bytes that ours gets, under the service's name.

use std::time::Duration;

use anyhow::Context;
use nihilo_client::Client;
use nihilo_types::service::Service;
use nihilo_wire::serving::WriteRequest;
use nihilo_wire::serving::serving_service_client::ServingServiceClient;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::SLOT_PREFIX;
use crate::cluster::NAMESPACE;
use crate::etcd::kv::Kv;

const CONNECT_LIMIT: Duration = Duration::from_millis(100);
const CHECK_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub(super) enum Node {
    Ours {
        api: ServingServiceClient<Channel>,
        reader: Client,
    },
    Etcd(Kv),
}

/// One write, however often it is tried.
#[derive(Debug, Clone)]
pub(super) struct Write {
    pub(super) name: String,
    pub(super) json: Vec<u8>,
    /// By this ours knows that it is the same write; to etcd a put of the same value is.
    pub(super) request_id: String,
}

impl Node {
    /// By its admin address.
    pub(super) fn ours(address: &str) -> anyhow::Result<Self> {
        let reader = Client::connect_lazy(vec![address.to_owned()])?;
        Ok(Node::Ours {
            api: ServingServiceClient::new(channel(address)?),
            reader: reader.with_timeout(CHECK_LIMIT),
        })
    }

    /// By its client address.
    pub(super) fn etcd(address: &str) -> anyhow::Result<Self> {
        Ok(Node::Etcd(Kv::new(channel(address)?)))
    }

    /// Tries it once.
    pub(super) async fn put(self, write: Write) -> Result<(), Status> {
        let Write {
            name,
            json,
            request_id,
        } = write;
        match self {
            Node::Ours { mut api, .. } => {
                let request = WriteRequest {
                    json: json.into(),
                    request_id,
                    ..WriteRequest::default()
                };
                api.apply_service(request).await.map(drop)
            }
            Node::Etcd(mut kv) => kv.put(name.into_bytes(), json).await,
        }
    }

    /// All that are stored, by a linearizable read.
    pub(super) async fn services(&self) -> anyhow::Result<Vec<Service>> {
        match self {
            Node::Ours { reader, .. } => {
                // A list is answered by what this node has; to read one object asks the leader first.
                reader
                    .service(NAMESPACE, &format!("{SLOT_PREFIX}0"))
                    .await?;
                Ok(reader.services(Some(NAMESPACE), "").await?.items)
            }
            Node::Etcd(kv) => {
                let mut kv = kv.clone();
                let (from, until) = range();
                let found = tokio::time::timeout(CHECK_LIMIT, kv.range(&from, &until)).await;
                let found = found.context("etcd does not answer")??;
                let parsed = found.values.iter().map(|json| serde_json::from_slice(json));
                Ok(parsed.collect::<Result<_, _>>()?)
            }
        }
    }
}

fn channel(address: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    Ok(endpoint.connect_timeout(CONNECT_LIMIT).connect_lazy())
}

/// All keys of slots: from the prefix until before the next one.
fn range() -> (Vec<u8>, Vec<u8>) {
    let from = SLOT_PREFIX.as_bytes().to_vec();
    let mut until = from.clone();
    if let Some(last) = until.last_mut() {
        *last += 1;
    }
    (from, until)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_holds_every_slot_and_nothing_else() {
        let (from, until) = range();
        let holds = |key: &str| from.as_slice() <= key.as_bytes() && key.as_bytes() < &until[..];
        assert!(holds("slot-0") && holds("slot-63"));
        assert!(!holds("slot") && !holds("slots") && !holds("slot.0"));
    }
}
