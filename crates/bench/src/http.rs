//! The least of HTTP/1.1 that a load generator needs: GET over keep-alive connections, answers
//! with a `content-length`. The same code meets every proxy, so its own cost is the same for all.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest answer head that is read.
const MAX_HEAD: usize = 16 * 1024;
/// A benchmark that waits longer for one answer has failed.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
const HEAD_END: &[u8] = b"\r\n\r\n";

/// One connection, used for one request after the other.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    has_heard: bool,
}

/// The head of an answer; its body was read and dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
}

impl Answer {
    /// A header's value; empty when absent. `name` in lower case.
    pub(crate) fn header(&self, name: &str) -> &str {
        header_in(&self.head, name).unwrap_or_default()
    }

    /// The server closes the connection behind this answer.
    pub(crate) fn is_last(&self) -> bool {
        self.header("connection").eq_ignore_ascii_case("close")
    }
}

pub(crate) fn get(host: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nhost: {host}\r\nuser-agent: nihilo-bench\r\n\r\n").into_bytes()
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        Ok(Self {
            stream,
            buffer: vec![0; MAX_HEAD],
            has_heard: false,
        })
    }

    /// Whether the server has closed it, or said something that nobody asked for.
    pub(crate) fn is_stale(&self) -> bool {
        let looks = self.stream.set_nonblocking(true);
        let seen = self.stream.peek(&mut [0]);
        let looked = looks.and_then(|()| self.stream.set_nonblocking(false));
        let is_quiet = seen.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        !is_quiet || looked.is_err()
    }

    /// Whether a byte of an answer to the last request has come.
    pub(crate) fn has_heard(&self) -> bool {
        self.has_heard
    }

    /// Sends `request` as it is and reads the answer to its last byte.
    ///
    /// # Errors
    /// The connection broke, or the answer is none that this client reads.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.has_heard = false;
        self.stream.write_all(request)?;
        let mut n_read = 0;
        let end = loop {
            match self.stream.read(&mut self.buffer[n_read..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => n_read += n,
            }
            self.has_heard = true;
            if let Some(end) = end_of_head(&self.buffer[..n_read]) {
                break end;
            }
        };
        let (answer, n_body) = parse_head(&self.buffer[..end])?;
        self.skip_body(n_body, n_read - end)?;
        Ok(answer)
    }

    fn skip_body(&mut self, n_body: usize, n_have: usize) -> io::Result<()> {
        let mut missing = n_body
            .checked_sub(n_have)
            .ok_or_else(|| malformed("more bytes than announced"))?;
        while missing > 0 {
            let most = missing.min(self.buffer.len());
            match self.stream.read(&mut self.buffer[..most])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => missing -= n,
            }
        }
        Ok(())
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let start = bytes
        .windows(HEAD_END.len())
        .position(|window| window == HEAD_END)?;
    Some(start + HEAD_END.len())
}

/// The head, and how many bytes of body follow it.
fn parse_head(bytes: &[u8]) -> io::Result<(Answer, usize)> {
    let head = std::str::from_utf8(bytes).map_err(|_| malformed("a head that is no text"))?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| malformed("no status"))?;
    let length = header_in(head, "content-length")
        .and_then(|length| length.parse().ok())
        .ok_or_else(|| malformed("no content-length"))?;
    let head = head.to_owned();
    Ok((Answer { status, head }, length))
}

fn header_in<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn heads_are_read_whatever_their_spelling() {
        let head = b"HTTP/1.1 503 Busy\r\nContent-Length: 7\r\nNihilo-Start:cold\r\n\r\n";
        let (answer, length) = parse_head(head).unwrap();
        assert_eq!((answer.status, length), (503, 7));
        assert_eq!(
            (answer.header("nihilo-start"), answer.header("x")),
            ("cold", "")
        );
        assert!(parse_head(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }

    #[test]
    fn a_connection_carries_one_exchange_after_the_other() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            for body in ["one", "a longer one"] {
                let n = socket.read(&mut request).unwrap();
                assert!(request[..n].ends_with(HEAD_END));
                let length = body.len();
                // In pieces, as a network would.
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r");
                socket.write_all(head.as_bytes()).unwrap();
                socket.write_all(format!("\n{body}").as_bytes()).unwrap();
            }
        });
        let mut connection = Connection::open(address).unwrap();
        for _ in 0..2 {
            assert!(!connection.is_stale());
            assert_eq!(connection.exchange(&get("a")).unwrap().status, 200);
            assert!(connection.has_heard());
        }
        server.join().unwrap();
        assert!(connection.is_stale());
        assert!(connection.exchange(&get("a")).is_err());
        assert!(!connection.has_heard());
    }
}
