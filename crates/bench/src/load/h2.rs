//! HTTP/2 by prior knowledge: one thread drives all connections, each with some streams at a time.

use std::thread;
use std::time::Instant;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::{Load, Outcome, Pace, Schedule};
use crate::proc;

/// Streams under way on each connection.
const STREAMS: usize = 4;

type Connection = SendRequest<Empty<Bytes>>;

pub(super) fn run(
    load: &Load,
    pace: impl FnOnce(Instant) -> Pace + Send,
) -> anyhow::Result<Outcome> {
    // A thread of its own: the caller's runtime must neither carry this load nor end this one.
    thread::scope(|scope| {
        let driving = scope.spawn(|| drive(load, pace));
        driving
            .join()
            .map_err(|_| anyhow!("the generator panicked"))?
    })
}

fn drive(load: &Load, pace: impl FnOnce(Instant) -> Pace) -> anyhow::Result<Outcome> {
    proc::pin_this_thread(load.core)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let connections = runtime.block_on(connect(load))?;
    let start = Instant::now();
    let (pace, end) = (pace(start), start + load.lasts);
    let due = Semaphore::new(0);
    let mut total = thread::scope(|scope| {
        if let Pace::Open(schedule) = &pace {
            let due = &due;
            scope.spawn(move || announce(schedule, due, end, load.n_clients));
        }
        runtime.block_on(clients(connections, load, &pace, &due, end))
    })?;
    total.elapsed = start.elapsed();
    Ok(total)
}

async fn connect(load: &Load) -> anyhow::Result<Vec<Connection>> {
    let mut connections = Vec::new();
    for _ in 0..load.n_clients.div_ceil(STREAMS) {
        let stream = TcpStream::connect(load.address).await;
        let stream = stream.with_context(|| format!("connect to {}", load.address))?;
        stream.set_nodelay(true)?;
        let (sender, driver) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        // What goes wrong on it reaches its requests.
        tokio::spawn(async move { drop(driver.await) });
        connections.push(sender);
    }
    Ok(connections)
}

/// Gives leave for each request when it is due: tokio's own clock ticks in milliseconds. On the
/// core of the thread that started it.
fn announce(schedule: &Schedule, due: &Semaphore, end: Instant, n_clients: usize) {
    proc::wake_this_thread_on_time();
    for n in 0.. {
        let at = schedule.due(n);
        if at >= end {
            break;
        }
        thread::sleep(at.saturating_duration_since(Instant::now()));
        due.add_permits(1);
    }
    // So that each client sees the end.
    due.add_permits(n_clients);
}

async fn clients(
    connections: Vec<Connection>,
    load: &Load,
    pace: &Pace,
    due: &Semaphore,
    end: Instant,
) -> anyhow::Result<Outcome> {
    let uri = format!("http://{}/", load.host);
    let mut clients: FuturesUnordered<_> = (0..load.n_clients)
        .map(|n| {
            let connection = connections[n % connections.len()].clone();
            client(connection, &uri, pace, due, end)
        })
        .collect();
    let mut total = Outcome::empty()?;
    while let Some(outcome) = clients.next().await {
        total.add(outcome?)?;
    }
    Ok(total)
}

/// One stream after the other until the end, or until the connection breaks.
async fn client(
    mut connection: Connection,
    uri: &str,
    pace: &Pace,
    due: &Semaphore,
    end: Instant,
) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::empty()?;
    loop {
        if let Pace::Open(_) = pace {
            due.acquire().await?.forget();
        }
        let due = pace.take();
        if due >= end {
            return Ok(outcome);
        }
        let status = exchange(&mut connection, uri).await;
        if !outcome.file(due, status.map(|status| status.as_u16())) {
            return Ok(outcome);
        }
    }
}

/// To the last byte of the answer.
async fn exchange(connection: &mut Connection, uri: &str) -> anyhow::Result<StatusCode> {
    let request = Request::get(uri).body(Empty::new())?;
    connection.ready().await?;
    let mut answer = connection.send_request(request).await?;
    while let Some(frame) = answer.body_mut().frame().await {
        frame?;
    }
    Ok(answer.status())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::SocketAddr;
    use std::time::Duration;

    use http_body_util::Full;
    use hyper::Response;
    use hyper::body::Incoming;
    use hyper::server::conn::http2;
    use hyper::service::service_fn;

    use super::super::{Protocol, closed, open};
    use super::*;

    async fn answer(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        Ok(Response::new(Full::new(Bytes::from_static(b"ok"))))
    }

    async fn serve(listener: std::net::TcpListener) {
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let served = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(socket), service_fn(answer));
            // A client that leaves ends its connection as it likes.
            tokio::spawn(async move { drop(served.await) });
        }
    }

    fn server() -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(serve(listener));
        });
        address
    }

    fn load() -> Load {
        Load {
            protocol: Protocol::H2,
            address: server(),
            host: "a".into(),
            n_clients: 6,
            lasts: Duration::from_millis(300),
            core: 0,
        }
    }

    #[test]
    fn an_open_loop_sends_all_that_is_due() {
        let outcome = open(&load(), 1_000.0).unwrap();
        assert_eq!(outcome.must_be_whole("test").unwrap().n_answered, 300);
    }

    #[test]
    fn a_closed_loop_keeps_every_stream_busy() {
        let outcome = closed(&load()).unwrap();
        assert!(outcome.n_answered > 10 && outcome.n_failed == 0);
    }
}
