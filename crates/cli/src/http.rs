//! A small HTTP/1.1 client for the gateways: keep-alive pools, several gateways, GET only.
//!
//! A gateway that cannot be reached, or that breaks off, is left alone for a moment and the
//! request goes to another one: GET is idempotent. A status is an answer, never repeated.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Idle connections kept per gateway.
const MAX_IDLE: usize = 128;
/// Times one request is sent at most.
const MAX_SENDS: u32 = 6;
/// How long a gateway that failed is left alone.
const DOWN_FOR: Duration = Duration::from_millis(500);
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
const MAX_BODY: usize = 1024 * 1024;

type Connection = SendRequest<Empty<Bytes>>;

/// Shared by all tasks of a load.
#[derive(Debug)]
pub(crate) struct HttpClient {
    gateways: Vec<Gateway>,
    next: AtomicUsize,
    limit: Duration,
}

#[derive(Debug)]
struct Gateway {
    address: String,
    idle: Mutex<Vec<Connection>>,
    down_until: Mutex<Option<Instant>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// From the first send to the last byte.
    pub took: Duration,
    /// Times it was sent again because a gateway broke off.
    pub n_resent: u32,
}

impl Answer {
    /// A header's value; empty when absent or not text.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }
}

impl HttpClient {
    /// `gateways` are `host:port`; `limit` bounds one request with all its sends.
    pub(crate) fn new(gateways: impl IntoIterator<Item = String>, limit: Duration) -> Self {
        let gateways = gateways.into_iter().map(|address| Gateway {
            address,
            idle: Mutex::default(),
            down_until: Mutex::default(),
        });
        Self {
            gateways: gateways.collect(),
            next: AtomicUsize::new(0),
            limit,
        }
    }

    /// Gets `path` of the site `host` through the next gateway in turn.
    ///
    /// # Errors
    /// Why the last send failed, with the gateway.
    pub(crate) async fn get(&self, host: &str, path: &str) -> Result<Answer, String> {
        let started = Instant::now();
        let limit = started + self.limit;
        let mut last = "no gateway is known".to_owned();
        for n_resent in 0..MAX_SENDS {
            let Some(gateway) = self.pick() else { break };
            let sent = tokio::time::timeout_at(limit, gateway.get(host, path)).await;
            match sent {
                Ok(Ok((status, headers, body))) => {
                    let took = started.elapsed();
                    return Ok(Answer {
                        status,
                        headers,
                        body,
                        took,
                        n_resent,
                    });
                }
                Ok(Err(why)) => {
                    gateway.leave_alone();
                    last = format!("gateway {}: {why}", gateway.address);
                }
                Err(_elapsed) => {
                    return Err(format!(
                        "gateway {}: no answer within {} s",
                        gateway.address,
                        self.limit.as_secs()
                    ));
                }
            }
        }
        Err(last)
    }

    /// The next gateway in turn that is not known to be down, else simply the next.
    fn pick(&self) -> Option<&Gateway> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let n = self.gateways.len();
        let in_turn = || (0..n).map(|step| &self.gateways[(turn + step) % n]);
        in_turn()
            .find(|gateway| gateway.is_up())
            .or_else(|| in_turn().next())
    }
}

impl Gateway {
    async fn get(&self, host: &str, path: &str) -> Result<(StatusCode, HeaderMap, Bytes), String> {
        let request = Request::get(path)
            .header(header::HOST, host)
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        let mut connection = self.connection().await?;
        let response = connection
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_BODY);
        let body = body
            .collect()
            .await
            .map_err(|error| error.to_string())?
            .to_bytes();
        self.keep(connection);
        Ok((head.status, head.headers, body))
    }

    async fn connection(&self) -> Result<Connection, String> {
        while let Some(mut connection) = self.pop() {
            if connection.ready().await.is_ok() {
                return Ok(connection);
            }
        }
        let connect = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(&self.address));
        let stream = match connect.await {
            Ok(connected) => connected.map_err(|error| error.to_string())?,
            Err(_elapsed) => return Err("no connection in time".into()),
        };
        stream
            .set_nodelay(true)
            .map_err(|error| error.to_string())?;
        let (sender, driver) = handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        // It ends with its connection; what went wrong reaches the sender as well.
        tokio::spawn(async move { drop(driver.await) });
        Ok(sender)
    }

    fn pop(&self) -> Option<Connection> {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE && !connection.is_closed() {
            idle.push(connection);
        }
    }

    fn leave_alone(&self) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        *self
            .down_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + DOWN_FOR);
    }

    fn is_up(&self) -> bool {
        let down_until = self
            .down_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        down_until.is_none_or(|until| Instant::now() >= until)
    }
}

/// Host of a URL such as `http://hello.default.localhost:8080`, without the port.
pub(crate) fn host_of(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("http://")?;
    let authority = rest.split('/').next().unwrap_or(rest);
    let host = authority.split(':').next().unwrap_or(authority);
    (!host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers every request with 200 `ok`; returns its address.
    async fn gateway() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut buffer = [0; 1024];
                    while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {
                        let head =
                            b"HTTP/1.1 200 OK\r\nnihilo-start: warm\r\ncontent-length: 2\r\n\r\nok";
                        if stream.write_all(head).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn a_request_moves_on_from_a_gateway_that_is_gone() {
        let gone = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let client = HttpClient::new([gone.to_string(), gateway().await], Duration::from_secs(5));
        let first = client.get("hello.default.localhost", "/").await.unwrap();
        assert_eq!((first.n_resent, &first.body[..]), (1, &b"ok"[..]));
        assert_eq!(
            (first.header("nihilo-start"), first.header("absent")),
            ("warm", "")
        );
        // Left alone for a while: the next goes to the other one at once.
        assert_eq!(
            client
                .get("hello.default.localhost", "/")
                .await
                .unwrap()
                .n_resent,
            0
        );
    }

    #[tokio::test]
    async fn with_no_gateway_left_the_error_names_it() {
        let gone = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let client = HttpClient::new([gone.to_string()], Duration::from_secs(5));
        let error = client.get("x", "/").await.unwrap_err();
        assert!(error.contains(&gone.to_string()), "{error}");
    }

    #[test]
    fn the_host_of_a_url_has_no_port() {
        assert_eq!(
            host_of("http://hello.default.localhost:8080"),
            Some("hello.default.localhost")
        );
        assert_eq!(host_of("http://a/b"), Some("a"));
        assert_eq!(host_of(""), None);
    }
}
