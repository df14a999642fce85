//! The other end: writes bytes as they are and reads answers by the letter.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use crate::backend::fields_of;

/// For everything that is not a case's own limit.
pub const LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Default)]
pub struct Response {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    pub is_whole: bool,
}

pub struct Client {
    socket: TcpStream,
    buffer: Vec<u8>,
}

/// What the next read showed.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Bytes,
    Closed,
    Silent,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        Self::of(TcpStream::connect(address).expect("the gateway accepts"))
    }

    /// From a loopback address that no other client of this process has: the backend can tell its
    /// requests from those that an earlier client left behind.
    pub fn connect_alone(address: SocketAddr) -> (Self, Ipv4Addr) {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let source = Ipv4Addr::new(127, 1, high, low);
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.expect("a socket");
        let from = SocketAddr::from((source, 0));
        socket.bind(&from.into()).expect("a loopback address");
        socket
            .connect(&address.into())
            .expect("the gateway accepts");
        (Self::of(socket.into()), source)
    }

    fn of(socket: TcpStream) -> Self {
        socket.set_nodelay(true).expect("nodelay");
        socket.set_write_timeout(Some(LIMIT)).expect("a limit");
        let buffer = Vec::new();
        Self { socket, buffer }
    }

    /// The gateway may close before it has taken all.
    pub fn send(&mut self, bytes: &[u8], one_by_one: bool) {
        match one_by_one {
            false => drop(self.socket.write_all(bytes)),
            true => {
                for byte in bytes {
                    if self.socket.write_all(&[*byte]).is_err() {
                        return;
                    }
                }
            }
        }
    }

    pub fn half_close(&self) {
        drop(self.socket.shutdown(Shutdown::Write));
    }

    pub fn more(&mut self, limit: Duration) -> Next {
        let mut buffer = [0; 16 * 1024];
        let limit = limit.max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(limit)).expect("a limit");
        match self.socket.read(&mut buffer) {
            Ok(0) => Next::Closed,
            Ok(n) => {
                self.buffer.extend_from_slice(&buffer[..n]);
                Next::Bytes
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Next::Silent,
                _ => Next::Closed,
            },
        }
    }

    /// Exactly so many bytes; `None` = the connection ended before.
    pub fn exactly(&mut self, n: usize, limit: Duration) -> Option<Vec<u8>> {
        let deadline = Instant::now() + limit;
        while self.buffer.len() < n {
            let left = deadline.saturating_duration_since(Instant::now());
            if self.more(left) != Next::Bytes {
                return None;
            }
        }
        Some(self.buffer.drain(..n).collect())
    }

    fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|part| part == end) {
                let found = self.buffer[..at].to_vec();
                self.buffer.drain(..at + end.len());
                return Some(found);
            }
            if self.more(LIMIT) != Next::Bytes {
                return None;
            }
        }
    }

    /// The next answer; `has_body` is false for answers to HEAD.
    pub fn response(&mut self, has_body: bool) -> Result<Response, String> {
        let head = self.until(b"\r\n\r\n");
        let head = head.ok_or_else(|| format!("no answer, but {:?}", self.text()))?;
        let text = String::from_utf8_lossy(&head).into_owned();
        let mut lines = text.split("\r\n");
        let status = lines.next().unwrap_or_default();
        let status = status
            .strip_prefix("HTTP/1.1 ")
            .or(status.strip_prefix("HTTP/1.0 "));
        let status = status.and_then(|status| status.get(..3)?.parse().ok());
        let mut response = Response {
            status: status.ok_or_else(|| format!("no status in {text:?}"))?,
            fields: fields_of(lines),
            is_whole: true,
            ..Response::default()
        };
        let bodiless = !has_body || matches!(response.status, 100..200 | 204 | 304);
        if !bodiless {
            response.is_whole = self.body(&mut response).is_some();
        }
        Ok(response)
    }

    fn body(&mut self, response: &mut Response) -> Option<()> {
        if response.field("transfer-encoding") == Some("chunked") {
            loop {
                let size = String::from_utf8(self.until(b"\r\n")?).ok()?;
                let size = usize::from_str_radix(&size, 16).ok()?;
                if size == 0 {
                    break;
                }
                let data = self.exactly(size, LIMIT)?;
                response.body.extend(data);
                self.exactly(2, LIMIT)?;
            }
            loop {
                let line = String::from_utf8(self.until(b"\r\n")?).ok()?;
                if line.is_empty() {
                    return Some(());
                }
                response
                    .trailers
                    .extend(fields_of(std::iter::once(line.as_str())));
            }
        }
        if let Some(length) = response.field("content-length") {
            let length: usize = length.parse().ok()?;
            match self.exactly(length, LIMIT) {
                Some(body) => response.body = body,
                None => {
                    response.body = std::mem::take(&mut self.buffer);
                    return None;
                }
            }
            return Some(());
        }
        while self.more(LIMIT) == Next::Bytes {}
        response.body = std::mem::take(&mut self.buffer);
        Some(())
    }

    /// Bytes that were read and belong to no answer.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }

    /// Whether the connection ends without another byte.
    pub fn ends(&mut self) -> Result<(), String> {
        match self.more(LIMIT) {
            Next::Closed if self.buffer.is_empty() => Ok(()),
            Next::Closed => Err(format!("more bytes: {:?}", self.text())),
            Next::Bytes => Err(format!("more bytes: {:?}", self.text())),
            Next::Silent => Err("still open".to_owned()),
        }
    }
}

impl Response {
    pub fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}
