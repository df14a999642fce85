//! Requests through the gateways, open loop, each sent once and never repeated.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{HeaderMap, Method, Request, Response, body::Incoming, header};
use hyper_util::rt::TokioIo;
use nihilo_host::Net;
use nihilo_sim::history::ledger::{ClientOutcome, ClientRecord, Ended, Sent};
use nihilo_sim::world::Random;

use crate::book::{Book, now_ns};
use crate::clients::Stage;
use crate::node::{GATEWAY_PORT, N_NODES, name};
use crate::services::{NAMESPACE, TIMEOUT_SECONDS};

/// Between two requests of the load.
const BETWEEN_MS: u64 = 500;
/// Between two times of load; what has no load goes to zero.
const REST_MS: (u64, u64) = (2_000, 9_000);
const LOAD_MS: (u64, u64) = (1_000, 4_000);
const MAX_BODY: u64 = 4_000;
const MAX_APP_MS: u64 = 400;
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// After the gateway's own limit there must be an outcome.
const HANG_LIMIT: Duration = Duration::from_secs(TIMEOUT_SECONDS as u64 + 5);

/// Loads one service in turns of load and rest.
pub(crate) async fn load(stage: Stage, net: Net, service: String, mut random: Random) {
    let mut number = 0;
    let mut open = tokio::task::JoinSet::new();
    while stage.is_open() {
        let until = now_ns() + random.between(LOAD_MS.0, LOAD_MS.1) * 1_000_000;
        while stage.is_open() && now_ns() < until {
            number += 1;
            let wanted = Wanted::draw(&service, number, &mut random);
            let (book, net) = (stage.book.clone(), net.clone());
            open.spawn(async move {
                wanted.send(&book, &net).await;
            });
            tokio::time::sleep(Duration::from_millis(random.between(1, BETWEEN_MS))).await;
        }
        let rest = random.between(REST_MS.0, REST_MS.1);
        stage.rest(Duration::from_millis(rest)).await;
    }
    while open.join_next().await.is_some() {}
}

/// One request.
pub(crate) struct Wanted {
    id: String,
    service: String,
    gateway: usize,
    is_post: bool,
    n_bytes: usize,
    app_ms: u64,
}

impl Wanted {
    pub(crate) fn draw(service: &str, number: u64, random: &mut Random) -> Self {
        let is_post = random.chance(500);
        Self {
            id: format!("{service}-{number}"),
            service: service.to_owned(),
            gateway: random.index(N_NODES),
            is_post,
            n_bytes: if is_post {
                usize::try_from(random.below(MAX_BODY)).unwrap_or(0)
            } else {
                0
            },
            app_ms: random.skewed(0, MAX_APP_MS),
        }
    }

    /// A GET through one gateway.
    pub(crate) fn get(service: &str, id: String, gateway: usize) -> Self {
        Self {
            id,
            service: service.to_owned(),
            gateway,
            is_post: false,
            n_bytes: 0,
            app_ms: 0,
        }
    }

    /// Sends it, writes both ends into the ledger, and returns the outcome.
    pub(crate) async fn send(&self, book: &Arc<Book>, net: &Net) -> ClientOutcome {
        book.client.lock().push(ClientRecord::Sent(Sent {
            request: self.id.clone(),
            at_ns: now_ns(),
            node: name(self.gateway),
            may_repeat: !self.is_post,
            want_body: None,
            deadline_ns: u64::from(TIMEOUT_SECONDS) * 1_000_000_000,
        }));
        book.trace(format_args!("{} sent to {}", self.id, name(self.gateway)));
        let exchange = tokio::time::timeout(HANG_LIMIT, self.exchange(net));
        let outcome = exchange.await.unwrap_or(ClientOutcome::GaveUp);
        book.trace(format_args!("{} ended: {outcome:?}", self.id));
        book.client.lock().push(ClientRecord::Ended(Ended {
            request: self.id.clone(),
            at_ns: now_ns(),
            outcome: outcome.clone(),
        }));
        outcome
    }

    async fn exchange(&self, net: &Net) -> ClientOutcome {
        let address = format!("{}:{GATEWAY_PORT}", name(self.gateway));
        let dialled = tokio::time::timeout(CONNECT_LIMIT, net.dial(&address));
        let Ok(Ok(stream)) = dialled.await else {
            return ClientOutcome::NotAccepted;
        };
        let Ok((mut sender, connection)) = http1::handshake(TokioIo::new(stream)).await else {
            return ClientOutcome::NotAccepted;
        };
        // What went wrong with it reaches the sender as well.
        let connection = tokio::spawn(async move { drop(connection.await) });
        let outcome = match sender.send_request(self.request()).await {
            Ok(response) => self.read(response).await,
            Err(_) => ClientOutcome::Cut { head_seen: false },
        };
        connection.abort();
        outcome
    }

    fn request(&self) -> Request<Full<Bytes>> {
        let body = Bytes::from(vec![b'x'; self.n_bytes]);
        let host = format!("{}.{NAMESPACE}.localhost", self.service);
        let method = if self.is_post {
            Method::POST
        } else {
            Method::GET
        };
        Request::builder()
            .method(method)
            .uri("/")
            .header(header::HOST, host)
            .header("x-demo-nonce", &self.id)
            .header("x-demo-ms", self.app_ms)
            .body(Full::new(body))
            .expect("every part is valid")
    }

    async fn read(&self, response: Response<Incoming>) -> ClientOutcome {
        let (head, body) = response.into_parts();
        let Ok(body) = body.collect().await else {
            return ClientOutcome::Cut { head_seen: true };
        };
        let status = head.status.as_u16();
        let cause = text(&head.headers, "nihilo-reason");
        if !cause.is_empty() {
            return ClientOutcome::GatewayError {
                status,
                has_retry_after: head.headers.contains_key(header::RETRY_AFTER),
                cause: cause.replace('_', "-"),
            };
        }
        ClientOutcome::Response {
            status,
            instance: text(&head.headers, "nihilo-instance"),
            echoed: Some(text(&head.headers, "x-demo-nonce")),
            body: None,
            mistake: self.mistake(&head.headers, &body.to_bytes()),
        }
    }

    /// What is wrong with an instance's answer; empty = nothing.
    fn mistake(&self, headers: &HeaderMap, body: &Bytes) -> String {
        let (by, named) = (
            text(headers, "x-demo-instance"),
            text(headers, "nihilo-instance"),
        );
        if by != named {
            return format!("the gateway names `{named}`, it was `{by}`");
        }
        let want = format!("{}\n", self.n_bytes);
        if body != want.as_bytes() {
            return format!("the instance read {body:?} bytes of {want:?}");
        }
        String::new()
    }
}

fn text(headers: &HeaderMap, name: &str) -> String {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}
