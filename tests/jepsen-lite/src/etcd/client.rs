//! One member's API, one call at a time. Nothing is repeated.

use std::time::Duration;

use anyhow::Context;
use prost::Message;
use tokio::sync::mpsc;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Error};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::messages::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest,
    RangeResponse, RequestOp, ResponseHeader, StatusRequest, StatusResponse, TxnRequest,
    TxnResponse, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};

const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// A member that is silent for twice as long is taken for dead.
const KEEPALIVE: Duration = Duration::from_secs(2);
/// The first request of a watch, and marks that were asked for and not yet sent.
const MAX_WATCH_REQUESTS: usize = 4;

/// Whose state answers a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reads {
    /// A quorum has said that it is the newest.
    Linearizable,
    /// The member's own, however old.
    Serializable,
}

/// A value, and the revision that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) value: String,
    pub(super) version: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Member(Channel);

impl Member {
    /// # Errors
    /// Not an address.
    pub(super) fn connect_lazy(address: &str, limit: Duration) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).context("an address")?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_LIMIT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true)
            .timeout(limit);
        Ok(Self(endpoint.connect_lazy()))
    }

    async fn call<Q, A>(&self, path: &'static str, question: Q) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = Grpc::new(self.0.clone());
        grpc.ready().await.map_err(not_ready)?;
        let path = PathAndQuery::from_static(path);
        let codec = ProstCodec::<Q, A>::default();
        let answer = grpc.unary(Request::new(question), path, codec).await?;
        Ok(answer.into_inner())
    }

    /// `None` = there is no such key.
    pub(super) async fn get(&self, key: &str, reads: Reads) -> Result<Option<Found>, Status> {
        let question = RangeRequest {
            key: key.into(),
            serializable: reads == Reads::Serializable,
        };
        let answer: RangeResponse = self.call("/etcdserverpb.KV/Range", question).await?;
        let found = answer.kvs.into_iter().next().map(|kv| Found {
            value: String::from_utf8_lossy(&kv.value).into_owned(),
            version: positive(kv.mod_revision),
        });
        Ok(found)
    }

    /// The revision of the write.
    pub(super) async fn put(&self, key: &str, value: &str) -> Result<u64, Status> {
        let answer: PutResponse = self.call("/etcdserverpb.KV/Put", put(key, value)).await?;
        Ok(revision(answer.header.as_ref()))
    }

    /// Writes if the key's last write is `expected`, 0 for no such key; `None` = it is not.
    pub(super) async fn compare_and_put(
        &self,
        key: &str,
        expected: u64,
        value: &str,
    ) -> Result<Option<u64>, Status> {
        let compare = Compare {
            result: 0,
            target: Compare::MOD,
            key: key.into(),
            mod_revision: Some(i64::try_from(expected).unwrap_or(i64::MAX)),
        };
        let question = TxnRequest {
            compare: vec![compare],
            success: vec![RequestOp {
                put: Some(put(key, value)),
            }],
        };
        let answer: TxnResponse = self.call("/etcdserverpb.KV/Txn", question).await?;
        Ok(answer.succeeded.then(|| revision(answer.header.as_ref())))
    }

    /// `None` = there was no such key.
    pub(super) async fn delete(&self, key: &str) -> Result<Option<u64>, Status> {
        let question = DeleteRangeRequest { key: key.into() };
        let answer: DeleteRangeResponse =
            self.call("/etcdserverpb.KV/DeleteRange", question).await?;
        let revision = revision(answer.header.as_ref());
        Ok((answer.deleted > 0).then_some(revision))
    }

    /// Whether this member leads; `None` = it knows no leader.
    pub(super) async fn leads(&self) -> Result<Option<bool>, Status> {
        let path = "/etcdserverpb.Maintenance/Status";
        let answer: StatusResponse = self.call(path, StatusRequest {}).await?;
        let own = answer.header.map_or(0, |header| header.member_id);
        Ok((answer.leader != 0).then_some(answer.leader == own))
    }

    /// Watches all keys that begin with `prefix`, from a revision on.
    pub(super) async fn watch(&self, prefix: &str, from: u64) -> Result<Watch, Status> {
        let (requests, queue) = mpsc::channel(MAX_WATCH_REQUESTS);
        let create = WatchRequest {
            create: Some(WatchCreateRequest {
                key: prefix.into(),
                range_end: end_of(prefix),
                start_revision: i64::try_from(from).unwrap_or(i64::MAX),
            }),
            ..WatchRequest::default()
        };
        // The queue is empty, so there is room.
        drop(requests.try_send(create));
        let mut grpc = Grpc::new(self.0.clone());
        grpc.ready().await.map_err(not_ready)?;
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
        let queue = Request::new(ReceiverStream::new(queue));
        let answers = grpc.streaming(queue, path, codec).await?.into_inner();
        Ok(Watch { answers, requests })
    }
}

/// An open watch; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) answers: Streaming<WatchResponse>,
    requests: mpsc::Sender<WatchRequest>,
}

impl Watch {
    /// Asks for a mark of how far this watch is; one too many at once is left out.
    pub(super) fn ask_for_progress(&self) {
        let ask = WatchRequest {
            progress: Some(WatchProgressRequest {}),
            ..WatchRequest::default()
        };
        drop(self.requests.try_send(ask));
    }
}

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: key.into(),
        value: value.into(),
    }
}

/// The first key after all that begin with `prefix`, which ends in ASCII.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

pub(super) fn revision(header: Option<&ResponseHeader>) -> u64 {
    positive(header.map_or(0, |header| header.revision))
}

/// Revisions begin with 1.
pub(super) fn positive(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}

fn not_ready(error: Error) -> Status {
    Status::unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_letter() {
        let end = end_of("r0");
        assert_eq!(end, b"r1");
        assert!(b"r0-9".as_slice() < end.as_slice() && b"r1".as_slice() >= end.as_slice());
    }
}
