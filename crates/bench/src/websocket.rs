//! As much of a WebSocket client (RFC 6455) as it takes to say when a socket ended and how: short
//! messages, echoed by the benchmark's app, and the close frame.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// The key of RFC 6455 §1.3: the app knows the answer to no other one.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// A client must mask; what with is open on loopback.
const MASK: [u8; 4] = [7, 5, 3, 1];
const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const FINAL: u8 = 0x80;
/// Longest head and longest message of the app.
const MAX_HEAD: usize = 4_096;
const MAX_MESSAGE: u8 = 125;
/// Between two messages of a socket.
const EVERY: Duration = Duration::from_millis(250);
const ECHO_LIMIT: Duration = Duration::from_secs(5);
const READ_LIMIT: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// How a socket ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// By a close frame with this status.
    Closed(u16),
    Broken(String),
    /// Not by the other side.
    StillOpen,
}

impl Socket {
    /// # Errors
    /// No connection, or no upgrade.
    pub(crate) fn open(address: SocketAddr, host: &str) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ECHO_LIMIT))?;
        let request = format!(
            "GET / HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\n\r\n"
        );
        stream.write_all(request.as_bytes())?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_HEAD {
            let mut byte = [0];
            stream.read_exact(&mut byte).context("no answer")?;
            head.extend(byte);
        }
        if !head.starts_with(b"HTTP/1.1 101 ") {
            let head = String::from_utf8_lossy(&head);
            bail!("no upgrade: {}", head.lines().next().unwrap_or_default());
        }
        stream.set_read_timeout(Some(READ_LIMIT))?;
        Ok(Self {
            stream,
            unread: Vec::new(),
        })
    }

    /// Sends a message again and again and wants it back, until the socket ends or `is_over`.
    pub(crate) fn hold(mut self, is_over: &AtomicBool) -> (End, Instant) {
        let end = self.held(is_over);
        let at = Instant::now();
        (
            end.unwrap_or_else(|error| End::Broken(error.to_string())),
            at,
        )
    }

    fn held(&mut self, is_over: &AtomicBool) -> io::Result<End> {
        let mut n_sent = 0_u64;
        let (mut awaited, mut sent_at) = (None, Instant::now());
        while !is_over.load(Ordering::Relaxed) {
            if awaited.is_none() && (n_sent == 0 || sent_at.elapsed() >= EVERY) {
                n_sent += 1;
                let message = n_sent.to_string().into_bytes();
                self.stream.write_all(&frame(TEXT, &message))?;
                (awaited, sent_at) = (Some(message), Instant::now());
            }
            match self.read()? {
                Some((CLOSE, said)) => {
                    let status = said.get(..2).and_then(|code| code.try_into().ok());
                    // 1005 stands for a close frame without one.
                    let status = status.map_or(1_005, u16::from_be_bytes);
                    // The other side may be gone already: it has said what there was to say.
                    drop(self.stream.write_all(&frame(CLOSE, &said)));
                    return Ok(End::Closed(status));
                }
                Some((TEXT, echo)) if Some(&echo) == awaited.as_ref() => awaited = None,
                Some(_) => return Err(io::Error::other("a frame that nobody asked for")),
                None if awaited.is_some() && sent_at.elapsed() > ECHO_LIMIT => {
                    return Err(io::Error::other("no echo"));
                }
                None => {}
            }
        }
        Ok(End::StillOpen)
    }

    /// The next frame, if one comes within [`READ_LIMIT`].
    fn read(&mut self) -> io::Result<Option<(u8, Vec<u8>)>> {
        if let Some(frame) = take_frame(&mut self.unread)? {
            return Ok(Some(frame));
        }
        let mut bytes = [0; 256];
        match self.stream.read(&mut bytes) {
            Ok(0) => Err(io::Error::other("it ended without a close frame")),
            Ok(n) => {
                self.unread.extend(&bytes[..n]);
                take_frame(&mut self.unread)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A masked frame with a payload of at most [`MAX_MESSAGE`] bytes.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let masked = payload.iter().zip(MASK.iter().cycle());
    let mut frame = vec![first, 0x80 | payload.len() as u8];
    frame.extend(MASK);
    frame.extend(masked.map(|(byte, mask)| byte ^ mask));
    frame
}

/// Takes the first whole frame off: its first byte and its payload.
fn take_frame(unread: &mut Vec<u8>) -> io::Result<Option<(u8, Vec<u8>)>> {
    let [first, length, ..] = unread[..] else {
        return Ok(None);
    };
    if length > MAX_MESSAGE || first & FINAL == 0 {
        return Err(io::Error::other("a frame that the app does not send"));
    }
    let end = 2 + usize::from(length);
    if unread.len() < end {
        return Ok(None);
    }
    let rest = unread.split_off(end);
    let frame = std::mem::replace(unread, rest);
    Ok(Some((first, frame[2..].to_vec())))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn frames_are_taken_one_by_one_however_they_arrive() {
        let mut unread = vec![TEXT, 2, b'h'];
        assert_eq!(take_frame(&mut unread).unwrap(), None);
        unread.extend([b'i', CLOSE, 2, 0x03, 0xe9, TEXT]);
        assert_eq!(
            take_frame(&mut unread).unwrap(),
            Some((TEXT, b"hi".to_vec()))
        );
        assert_eq!(
            take_frame(&mut unread).unwrap(),
            Some((CLOSE, vec![0x03, 0xe9]))
        );
        assert_eq!(unread, [TEXT]);
        assert!(take_frame(&mut vec![TEXT, 0x85]).is_err());
    }

    /// Answers the first request with `head`, and leaves the rest of its connection to `then`.
    fn server(head: &'static [u8], then: impl FnOnce(TcpStream) + Send + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let n = socket.read(&mut [0; 1024]).unwrap();
            assert!(n > 0);
            socket.write_all(head).unwrap();
            then(socket);
        });
        address
    }

    /// Switches, echoes one message of one byte, says `last` and closes.
    fn echo_once(last: &'static [u8]) -> SocketAddr {
        server(
            b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
            move |mut socket| {
                let mut message = [0; 7];
                socket.read_exact(&mut message).unwrap();
                assert_eq!(message[..6], [TEXT, 0x81, 7, 5, 3, 1]);
                socket.write_all(&[TEXT, 1, message[6] ^ MASK[0]]).unwrap();
                socket.write_all(last).unwrap();
            },
        )
    }

    #[test]
    fn a_close_frame_and_a_break_are_told_apart() {
        let ends = |last| {
            let socket = Socket::open(echo_once(last), "a").unwrap();
            socket.hold(&AtomicBool::new(false)).0
        };
        assert_eq!(ends(&[CLOSE, 2, 0x03, 0xe9]), End::Closed(1_001));
        assert!(matches!(ends(&[]), End::Broken(_)));
        assert!(matches!(ends(&[CLOSE, 2, 0x03]), End::Broken(_)));
    }

    #[test]
    fn what_is_no_upgrade_is_no_socket() {
        let address = server(b"HTTP/1.1 503 Service Unavailable\r\n\r\n", drop);
        let error = Socket::open(address, "a").unwrap_err().to_string();
        assert!(error.contains("503"), "{error}");
    }
}
