//! The two calls of etcd's API that are needed, written down by hand.

use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

/// Client of `etcdserverpb.KV`.
#[derive(Debug, Clone)]
pub(crate) struct Kv(Grpc<Channel>);

/// What a linearizable read has found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) values: Vec<Vec<u8>>,
    /// Of the member that answered.
    pub(crate) term: u64,
}

/// `etcdserverpb.PutRequest`; as all below, as far as it is used.
#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

/// `etcdserverpb.RangeRequest`: keys from `key` until before `range_end`, or `key` alone.
#[derive(Clone, PartialEq, prost::Message)]
struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    range_end: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "4")]
    raft_term: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(bytes = "vec", tag = "5")]
    value: Vec<u8>,
}

impl Kv {
    pub(crate) fn new(channel: Channel) -> Self {
        Self(Grpc::new(channel))
    }

    pub(crate) async fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), Status> {
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
        let _: PutResponse = self.call(path, PutRequest { key, value }).await?;
        Ok(())
    }

    /// Linearizable, as etcd reads by default. An empty `range_end` reads `key` alone.
    pub(crate) async fn range(&mut self, key: &[u8], range_end: &[u8]) -> Result<Found, Status> {
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Range");
        let request = RangeRequest {
            key: key.to_vec(),
            range_end: range_end.to_vec(),
        };
        let answer: RangeResponse = self.call(path, request).await?;
        Ok(Found {
            values: answer.kvs.into_iter().map(|kv| kv.value).collect(),
            term: answer.header.map_or(0, |header| header.raft_term),
        })
    }

    async fn call<Q, A>(&mut self, path: PathAndQuery, request: Q) -> Result<A, Status>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let not_ready = |error: tonic::transport::Error| Status::unavailable(error.to_string());
        self.0.ready().await.map_err(not_ready)?;
        let codec = ProstCodec::<Q, A>::default();
        let answer = self.0.unary(Request::new(request), path, codec).await?;
        Ok(answer.into_inner())
    }
}
