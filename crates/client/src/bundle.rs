//! Bundles: pushed in chunks, to one server as long as it answers, so that what it has counts.

use std::io;
use std::time::Duration;

use nihilo_types::bundle::{BundleReference, BundleVersion, Digest, Manifest};
use nihilo_wire::serving as pb;
use pb::bundle_service_client::BundleServiceClient;
use pb::upload_request::Step;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::Bytes;
use tonic::{Request, Status};

use crate::call::{Client, FIRST_PAUSE, request_id, unary};
use crate::error::Error;

/// Bytes of one message.
const PIECE_BYTES: usize = 1024 * 1024;
/// Messages that wait for the connection.
const QUEUE: usize = 2;
/// Times a push is made again where it broke, all servers together.
const MAX_ATTEMPTS: u32 = 6;
/// The server proves what it has of an earlier attempt.
const HAVE_LIMIT: Duration = Duration::from_secs(60);

/// What is pushed, and under which name.
#[derive(Debug, Clone, Copy)]
pub struct Push<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    /// Empty = none.
    pub tag: &'a str,
    pub manifest: &'a Manifest,
}

/// What a push came to.
#[derive(Debug, Clone)]
pub struct Pushed {
    pub digest: Digest,
    pub index: u64,
    /// Nodes that have it.
    pub nodes: Vec<String>,
    /// Bytes that had to be sent, of the last attempt.
    pub n_sent: u64,
}

/// Where the bytes are, and who wants to know how it goes.
pub trait Upload: Sync {
    /// Reads `n` bytes from `at` on.
    ///
    /// # Errors
    /// The disk.
    fn read(&self, at: u64, n: u64) -> io::Result<Vec<u8>>;

    /// So many bytes of those that have to be sent are on their way to `server`.
    fn progress(&self, server: &str, n_sent: u64, n_to_send: u64);
}

impl Client {
    /// Pushes a bundle; what a server has of it already is not sent.
    ///
    /// # Errors
    /// Refused, unreadable here, or still failing after several attempts.
    pub async fn push_bundle(&self, push: Push<'_>, upload: &dyn Upload) -> Result<Pushed, Error> {
        let (id, mut pause) = (request_id(), FIRST_PAUSE);
        for attempt in 1.. {
            let server = self.current();
            let error = match self.try_push(server, push, upload, &id).await {
                Ok(pushed) => return Ok(pushed),
                Err(error) => error,
            };
            if attempt == MAX_ATTEMPTS || !error.is_retriable() {
                return Err(error);
            }
            // A server that still answers has what has come so far.
            if error.is_unreachable() || attempt % 2 == 0 {
                self.leave(server);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        unreachable!("the loop ends by itself")
    }

    async fn try_push(
        &self,
        server: usize,
        push: Push<'_>,
        upload: &dyn Upload,
        id: &str,
    ) -> Result<Pushed, Error> {
        let address = self.address(server);
        let failed = |status: &Status| Error::from_status(status, address);
        let mut client = BundleServiceClient::new(self.channel(server));
        let manifest = Bytes::from(push.manifest.to_bytes());
        let mut request = Request::new(pb::HaveRequest {
            manifest: manifest.clone(),
        });
        request.set_timeout(HAVE_LIMIT);
        let have = client
            .have(request)
            .await
            .map_err(|status| failed(&status))?;
        let missing = have.into_inner().missing;
        let begin = pb::UploadBegin {
            namespace: push.namespace.into(),
            name: push.name.into(),
            tag: push.tag.into(),
            manifest,
            request_id: id.into(),
        };
        let (sender, receiver) = mpsc::channel(QUEUE);
        let sending = async {
            let to = (&sender, address);
            let sent = send(to, begin, push.manifest, &missing, upload).await;
            // The end of the stream.
            drop(sender);
            sent
        };
        let call = client.upload(Request::new(ReceiverStream::new(receiver)));
        let (sent, answer) = tokio::join!(sending, call);
        let n_sent = sent.map_err(|error| {
            Error::new(
                tonic::Code::Internal,
                "",
                format!("the bundle cannot be read: {error}"),
            )
        })?;
        let answer = answer.map_err(|status| failed(&status))?.into_inner();
        Ok(Pushed {
            digest: answer.digest.parse().map_err(Error::bad_answer)?,
            index: answer.index,
            nodes: answer.nodes,
            n_sent,
        })
    }

    /// # Errors
    /// No server answered.
    pub async fn bundles(&self, namespace: Option<&str>) -> Result<Vec<pb::Bundle>, Error> {
        let request = pb::ListBundlesRequest {
            parent: crate::serving::parent(namespace),
        };
        let answer = unary!(self, BundleServiceClient, list_bundles, request)?;
        Ok(answer.items)
    }

    /// # Errors
    /// Not found, or no server answered.
    pub async fn bundle(
        &self,
        namespace: &str,
        which: &BundleReference,
    ) -> Result<pb::Bundle, Error> {
        let request = pb::DescribeBundleRequest {
            namespace: namespace.into(),
            reference: which.to_string(),
        };
        unary!(self, BundleServiceClient, describe_bundle, request)
    }

    /// Deletes a tag, a bundle, or (`None`) all of a name.
    ///
    /// # Errors
    /// Not found, run by revisions, or no server answered.
    pub async fn delete_bundle(
        &self,
        namespace: &str,
        name: &str,
        version: Option<&BundleVersion>,
    ) -> Result<u64, Error> {
        let (tag, digest) = match version {
            None => (String::new(), String::new()),
            Some(BundleVersion::Tag(tag)) => (tag.clone(), String::new()),
            Some(BundleVersion::Digest(digest)) => (String::new(), digest.to_string()),
        };
        let request = pb::DeleteBundleRequest {
            namespace: namespace.into(),
            name: name.into(),
            tag,
            digest,
            request_id: request_id(),
        };
        let answer = unary!(self, BundleServiceClient, delete_bundle, request)?;
        Ok(answer.index)
    }

    /// # Errors
    /// Not found, malformed, or no server answered.
    pub async fn tag_bundle(
        &self,
        namespace: &str,
        which: &BundleReference,
        tag: &str,
    ) -> Result<pb::TagBundleResponse, Error> {
        let request = pb::TagBundleRequest {
            namespace: namespace.into(),
            reference: which.to_string(),
            tag: tag.into(),
            request_id: request_id(),
        };
        unary!(self, BundleServiceClient, tag_bundle, request)
    }

    /// # Errors
    /// No server answered.
    pub async fn collect_bundles(&self, dry_run: bool) -> Result<Vec<pb::NodeBundles>, Error> {
        let request = pb::CollectBundlesRequest { dry_run };
        let answer = unary!(self, BundleServiceClient, collect_bundles, request)?;
        Ok(answer.nodes)
    }
}

/// Puts an upload into the stream; returns the bytes of chunks. A stream that nobody reads any more
/// has its error in the call's answer.
async fn send(
    (to, server): (&mpsc::Sender<pb::UploadRequest>, &str),
    begin: pb::UploadBegin,
    manifest: &Manifest,
    missing: &[u32],
    upload: &dyn Upload,
) -> io::Result<u64> {
    let step = |step| pb::UploadRequest { step: Some(step) };
    let ranges = missing.iter().filter_map(|chunk| {
        let (at, n) = manifest.blob.range_of(*chunk)?;
        Some((*chunk, at, n))
    });
    let ranges: Vec<_> = ranges.collect();
    let n_to_send = ranges.iter().map(|(_, _, n)| n).sum();
    let mut n_sent = 0;
    if to.send(step(Step::Begin(begin))).await.is_err() {
        return Ok(n_sent);
    }
    for (chunk, at, n) in ranges {
        let mut bytes = Bytes::from(upload.read(at, n)?);
        while !bytes.is_empty() {
            let data = bytes.split_to(PIECE_BYTES.min(bytes.len()));
            n_sent += data.len() as u64;
            let piece = Step::Piece(pb::UploadPiece { chunk, data });
            if to.send(step(piece)).await.is_err() {
                return Ok(n_sent);
            }
            upload.progress(server, n_sent, n_to_send);
        }
    }
    Ok(n_sent)
}
