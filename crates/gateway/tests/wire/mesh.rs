//! What another node's gateway sees of this one.

use std::convert::Infallible;
use std::time::Duration;

use futures_util::stream;
use http::{Method, Request, Response};
use http_body_util::{Empty, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nihilo_gateway::{Gateway, Unanswered};
use nihilo_host::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::rig::Rig;

const LIMIT: Duration = Duration::from_secs(10);
/// What an HTTP/2 client says first: its preface, and settings that change nothing (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Goodbye is said two seconds before its end.
const GRACE: Duration = Duration::from_secs(3);
/// "Going away" (RFC 6455 §7.4.1).
const CLOSE_1001: [u8; 4] = [0x88, 2, 0x03, 0xe9];

async fn connect(gateway: &Gateway) -> SendRequest<Empty<Bytes>> {
    let ours = TokioIo::new(socket_to(gateway).await);
    let (sender, connection) = handshake(TokioExecutor::new(), ours).await.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

/// To a gateway that has read the preamble.
async fn socket_to(gateway: &Gateway) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let ours = TcpStream::connect(listener.local_addr().expect("an address"));
    let (ours, theirs) = tokio::join!(ours, listener.accept());
    gateway.serve_mesh(Stream::System(theirs.expect("a connection").0));
    ours.expect("a connection")
}

async fn ask(
    sender: &mut SendRequest<Empty<Bytes>>,
    request: http::request::Builder,
) -> Response<Incoming> {
    ask_of(sender, "ws", request).await
}

async fn ask_of(
    sender: &mut SendRequest<Empty<Bytes>>,
    instance: &str,
    request: http::request::Builder,
) -> Response<Incoming> {
    let request = request
        .uri(format!("http://{instance}.test/"))
        .header("nihilo-mesh-instance", instance);
    let request = request.body(Empty::new()).expect("a request");
    sender.send_request(request).await.expect("an answer")
}

#[tokio::test]
async fn a_websocket_of_another_gateway_is_told_when_its_instances_node_leaves() {
    let rig = tokio::task::spawn_blocking(|| Rig::start(false))
        .await
        .expect("a rig");
    let mut sender = connect(&rig.gateway).await;
    // Its answer follows the settings, which allow what comes next.
    ask(
        &mut sender,
        Request::get("/").header("nihilo-mesh-reserve", "?"),
    )
    .await;
    let wish = Request::builder()
        .method(Method::CONNECT)
        .extension(Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let answer = ask(&mut sender, wish).await;
    assert_eq!(answer.status(), 200);
    let mut tunnel = TokioIo::new(hyper::upgrade::on(answer).await.expect("a tunnel"));
    let mut said = [0; 4];
    let heard = tokio::time::timeout(LIMIT, tunnel.read_exact(&mut said));
    let (_, heard) = tokio::join!(rig.gateway.drain(GRACE), heard);
    heard.expect("it was told nothing").expect("a close frame");
    assert_eq!(said, CLOSE_1001);
    tokio::task::spawn_blocking(|| drop(rig))
        .await
        .expect("the rig ends");
}

#[tokio::test]
async fn a_gateway_that_steps_aside_answers_what_other_gateways_have_sent_and_refuses_the_rest() {
    let rig = tokio::task::spawn_blocking(|| Rig::start(false))
        .await
        .expect("a rig");
    let mut sender = connect(&rig.gateway).await;
    let reserve = || Request::get("/").header("nihilo-mesh-reserve", "?");
    let place = ask_of(&mut sender, "echo", reserve()).await;
    let place = place.headers()["nihilo-mesh-reserve"].clone();
    let (mut running, mut held) = (sender.clone(), sender.clone());
    let slow = tokio::spawn(async move {
        let answer = ask_of(&mut running, "pausing", Request::get("/")).await;
        answer.status()
    });
    let is_running = || rig.gateway.metrics_text().contains("answer=\"accept\"} 1");
    let begun = tokio::time::timeout(LIMIT, async {
        while !is_running() {
            tokio::task::yield_now().await;
        }
    });
    begun.await.expect("it does not begin");
    let gateway = rig.gateway.clone();
    let aside = tokio::spawn(async move { gateway.step_aside(LIMIT).await });
    let refused = tokio::time::timeout(LIMIT, async {
        loop {
            let answer = ask_of(&mut sender, "echo", Request::get("/")).await;
            if let Some(why) = answer.headers().get("nihilo-mesh-answer") {
                return why.clone();
            }
        }
    });
    assert_eq!(refused.await.expect("it refuses nothing"), "draining");
    assert_eq!(rig.gateway.n_refused(), 1);
    // Who has a place keeps it.
    let with_place = Request::get("/").header("nihilo-mesh-reserve", place);
    let answer = ask_of(&mut held, "echo", with_place).await;
    assert_eq!(answer.status(), 200);
    drop(answer);
    assert_eq!(slow.await.expect("an answer"), 200);
    assert_eq!(aside.await.expect("its end"), Unanswered::default());
    // And nothing goes by the old connection any more.
    let ended = tokio::time::timeout(LIMIT, async {
        while held.ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    ended.await.expect("the connection is there still");
    tokio::task::spawn_blocking(|| drop(rig))
        .await
        .expect("the rig ends");
}

#[tokio::test]
async fn what_is_not_answered_in_time_is_counted_and_does_not_hold_the_node() {
    let rig = tokio::task::spawn_blocking(|| Rig::start(false))
        .await
        .expect("a rig");
    let mut sender = connect(&rig.gateway).await;
    let reserve = Request::get("/").header("nihilo-mesh-reserve", "?");
    ask_of(&mut sender, "echo", reserve).await;
    let left = rig.gateway.step_aside(Duration::from_millis(1)).await;
    assert_eq!((left.n_clients, left.n_requests), (0, 1));
    assert_eq!(left.n_gateways, 1);
    tokio::task::spawn_blocking(|| drop(rig))
        .await
        .expect("the rig ends");
}

#[tokio::test]
async fn gateways_that_are_not_there_any_more_are_not_waited_for() {
    let rig = tokio::task::spawn_blocking(|| Rig::start(false))
        .await
        .expect("a rig");
    let silent = socket_to(&rig.gateway).await;
    let mut deaf = socket_to(&rig.gateway).await;
    deaf.write_all(PREFACE).await.expect("a preface");
    // What is asked is sent, and from then on nothing is read nor written.
    let socket = TokioIo::new(socket_to(&rig.gateway).await);
    let (mut sender, mut connection) = handshake(TokioExecutor::new(), socket)
        .await
        .expect("HTTP/2");
    // Its body never ends, and so no answer begins.
    let body = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
    let request = Request::post("http://echo.test/").header("nihilo-mesh-instance", "echo");
    let _unanswered = sender.send_request(request.body(body).expect("a request"));
    let is_running = || rig.gateway.metrics_text().contains("answer=\"accept\"} 1");
    let sent = tokio::time::timeout(LIMIT, async {
        while !is_running() {
            tokio::select! {
                biased;
                ended = &mut connection => panic!("{ended:?}"),
                () = tokio::task::yield_now() => {}
            }
        }
    });
    sent.await.expect("it does not begin");
    let left = rig.gateway.step_aside(LIMIT).await;
    assert_eq!(left, Unanswered::default());
    drop((silent, deaf, connection));
    tokio::task::spawn_blocking(|| drop(rig))
        .await
        .expect("the rig ends");
}
