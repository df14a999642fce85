//! Sends one request to one gateway, once, and says exactly what came of it.
//!
//! Never repeats anything: whoever repeats hides what this is here to see.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Idle connections kept per gateway.
const MAX_IDLE: usize = 64;
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

type Connection = SendRequest<Full<Bytes>>;

/// What one request is.
#[derive(Debug, Clone)]
pub struct Sent {
    pub method: Method,
    pub host: String,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What came of it.
#[derive(Debug, Clone)]
pub enum Reply {
    /// A whole answer.
    Whole(StatusCode, HeaderMap, Bytes),
    /// The head of an answer and a part of its body, then an unclean end.
    Cut(StatusCode, HeaderMap, String),
    /// No connection, so nothing was sent.
    Refused(String),
    /// Sent, at least in part, and the connection ended without an answer.
    Broken(String),
    /// Neither an answer nor an end within the limit.
    Hung,
}

/// Connections to one gateway.
#[derive(Debug)]
pub struct GatewayClient {
    pub address: String,
    idle: Mutex<Vec<Connection>>,
}

impl GatewayClient {
    pub fn new(address: String) -> Self {
        Self {
            address,
            idle: Mutex::default(),
        }
    }

    /// Sends `sent` and waits for its end, at most `limit`.
    pub async fn send(&self, sent: Sent, limit: Duration) -> Reply {
        let exchange = tokio::time::timeout(limit, self.exchange(sent));
        exchange.await.unwrap_or(Reply::Hung)
    }

    async fn exchange(&self, sent: Sent) -> Reply {
        let mut request = Request::new(Full::new(sent.body));
        *request.method_mut() = sent.method;
        *request.headers_mut() = sent.headers;
        let (Ok(uri), Ok(host)) = (sent.path.parse(), sent.host.parse()) else {
            return Reply::Refused("the request is not valid".into());
        };
        *request.uri_mut() = uri;
        request.headers_mut().insert(header::HOST, host);
        loop {
            let (mut connection, is_new) = match self.connection().await {
                Ok(connection) => connection,
                Err(why) => return Reply::Refused(why),
            };
            match connection.try_send_request(request).await {
                Ok(response) => return self.read(response, connection).await,
                Err(mut failed) => match failed.take_message() {
                    // A kept connection that the gateway had closed: nothing was sent over it.
                    Some(unsent) if !is_new => request = unsent,
                    _ => return Reply::Broken(failed.into_error().to_string()),
                },
            }
        }
    }

    async fn read(
        &self,
        response: http::Response<hyper::body::Incoming>,
        connection: Connection,
    ) -> Reply {
        let (head, body) = response.into_parts();
        match body.collect().await {
            Ok(body) => {
                self.keep(connection);
                Reply::Whole(head.status, head.headers, body.to_bytes())
            }
            Err(error) => Reply::Cut(head.status, head.headers, error.to_string()),
        }
    }

    async fn connection(&self) -> Result<(Connection, bool), String> {
        while let Some(connection) = self.pop() {
            if connection.is_ready() {
                return Ok((connection, false));
            }
        }
        let connect = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(&self.address));
        let stream = match connect.await {
            Ok(connected) => connected.map_err(|error| error.to_string())?,
            Err(_elapsed) => return Err("no connection in time".into()),
        };
        let (sender, driver) = handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        // It ends with its connection; what went wrong reaches the sender as well.
        tokio::spawn(async move { drop(driver.await) });
        Ok((sender, true))
    }

    fn pop(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.pop()
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE && !connection.is_closed() {
            idle.push(connection);
        }
    }
}
