//! WebSockets: an upgrade of HTTP/1.1 (RFC 6455) or an extended CONNECT of HTTP/2 (RFC 8441), and
//! the bytes after it.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::body::{Held, RequestBody};
use crate::record::Record;
use crate::rules;

/// Bytes moved at a time.
const CHUNK: usize = 16 * 1024;
/// What RFC 6455 §1.3 has a server append to the key.
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// A close frame with status 1001, "going away" (RFC 6455 §7.4.1).
const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];
/// For the peer's own close frame after ours.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// A client's wish to talk WebSocket.
#[derive(Debug)]
pub struct Wanted {
    on: OnUpgrade,
    /// The key of the client, or the one that was made in its place.
    key: Option<HeaderValue>,
    is_h2: bool,
}

impl Wanted {
    /// Takes it from a request that has one.
    pub fn of(request: &mut Request<Incoming>) -> Option<Self> {
        let is_h2 = *request.method() == Method::CONNECT;
        let asks = |headers: &HeaderMap| {
            let upgrade = headers.get(UPGRADE);
            request.version() == Version::HTTP_11
                && *request.method() == Method::GET
                && rules::hop::nominates(headers, "upgrade")
                && upgrade.is_some_and(|u| u.as_bytes().eq_ignore_ascii_case(b"websocket"))
        };
        if !is_h2 && !asks(request.headers()) {
            return None;
        }
        let key = request.headers().get(SEC_WEBSOCKET_KEY).cloned();
        let on = hyper::upgrade::on(request);
        Some(Self { on, key, is_h2 })
    }

    /// Writes it into the request for an instance, whose connection fields are gone by then.
    pub fn write(&mut self, request: &mut Request<RequestBody>) {
        *request.method_mut() = Method::GET;
        request.extensions_mut().clear();
        let headers = request.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        if self.is_h2 && self.key.is_none() {
            let key = STANDARD.encode(rand::random::<[u8; 16]>());
            self.key = HeaderValue::try_from(key).ok();
        }
        if let Some(key) = &self.key {
            headers.insert(SEC_WEBSOCKET_KEY, key.clone());
        }
        headers
            .entry(SEC_WEBSOCKET_VERSION)
            .or_insert(HeaderValue::from_static("13"));
    }

    /// Whether the instance's word proves that it read this very request.
    fn is_accepted(&self, headers: &HeaderMap) -> bool {
        let accept = self.key.as_ref().and_then(accept_of);
        headers.get(SEC_WEBSOCKET_ACCEPT) == accept.as_ref()
    }

    /// The answer to the client, once the instance has switched; `None` = it did not agree to this
    /// upgrade. An instance that speaks HTTP/2 gives no proof of its own.
    pub fn answer(&self, given: &mut Response<()>, is_from_h2: bool) -> Option<Response<()>> {
        let headers = given.headers_mut();
        if is_from_h2
            && !headers.contains_key(SEC_WEBSOCKET_ACCEPT)
            && let Some(accept) = self.key.as_ref().and_then(accept_of)
        {
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        if !self.is_accepted(headers) {
            return None;
        }
        let mut answer = Response::new(());
        *answer.headers_mut() = std::mem::take(headers);
        let headers = answer.headers_mut();
        rules::hop::strip(headers);
        if self.is_h2 {
            headers.remove(SEC_WEBSOCKET_ACCEPT);
        } else {
            *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let headers = answer.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        }
        Some(answer)
    }

    pub fn is_h2(&self) -> bool {
        self.is_h2
    }

    pub fn into_parts(self) -> OnUpgrade {
        self.on
    }
}

/// The proof that belongs to a key (RFC 6455 §4.2.2).
pub fn accept_of(key: &HeaderValue) -> Option<HeaderValue> {
    // No secret hangs on it: it shows that the key was read.
    let sha1 = &ring::digest::SHA1_FOR_LEGACY_USE_ONLY;
    let digest = ring::digest::digest(sha1, &[key.as_bytes(), MAGIC].concat());
    HeaderValue::try_from(STANDARD.encode(digest)).ok()
}

/// Whether the instance switched: 101 of HTTP/1.1, 2xx of HTTP/2.
pub fn has_switched<B>(response: &Response<B>) -> bool {
    match response.version() {
        Version::HTTP_2 => response.status().is_success(),
        _ => {
            let upgrade = response.headers().get(UPGRADE);
            response.status() == StatusCode::SWITCHING_PROTOCOLS
                && upgrade.is_some_and(|u| u.as_bytes().eq_ignore_ascii_case(b"websocket"))
        }
    }
}

/// How long a tunnel may live.
#[derive(Debug, Clone, Copy)]
pub struct TunnelLimits {
    pub total: Option<Instant>,
    /// Without a byte either way.
    pub idle: Option<Duration>,
}

/// Both ends of a tunnel, and what is held while it lives.
#[derive(Debug)]
pub struct Tunnel {
    pub client: OnUpgrade,
    pub instance: OnUpgrade,
    pub limits: TunnelLimits,
    pub held: Held,
    pub record: Option<Box<Record>>,
    /// Turns true when the gateway leaves.
    pub leaving: watch::Receiver<bool>,
    /// The gateway's drain waits for it.
    pub alive: watch::Receiver<()>,
}

impl Tunnel {
    /// Moves bytes until both directions have ended, or a limit passes.
    pub async fn run(mut self) {
        let ends = tokio::try_join!(self.client, self.instance);
        // A tunnel that could not be opened has ended: what it held is free.
        if let Ok((client, instance)) = ends {
            pump(client, instance, self.limits, &mut self.leaving).await;
        }
        drop((self.held, self.record, self.alive));
    }
}

async fn pump(
    client: Upgraded,
    instance: Upgraded,
    limits: TunnelLimits,
    leaving: &mut watch::Receiver<bool>,
) {
    let (client_in, mut client_out) = tokio::io::split(TokioIo::new(client));
    let (instance_in, mut instance_out) = tokio::io::split(TokioIo::new(instance));
    let moved = Moved::default();
    let mut frames = Frames::default();
    let mut down = std::pin::pin!(copy(
        instance_in,
        &mut client_out,
        &moved,
        Some(&mut frames)
    ));
    let mut up = std::pin::pin!(copy(client_in, &mut instance_out, &moved, None));
    let (mut is_down_over, mut is_up_over) = (false, false);
    let mut is_leaving = false;
    while !(is_down_over && is_up_over) {
        // Bytes before limits: what came in time is delivered.
        tokio::select! {
            biased;
            ended = &mut down, if !is_down_over => match ended {
                Ok(()) => is_down_over = true,
                Err(_) => return,
            },
            ended = &mut up, if !is_up_over => match ended {
                Ok(()) => is_up_over = true,
                Err(_) => return,
            },
            () = over(limits, &moved) => return,
            changed = leaving.wait_for(|leaving| *leaving), if !is_leaving => {
                is_leaving = changed.is_ok();
                moved.leaving.store(true, std::sync::atomic::Ordering::Relaxed);
                moved.waker.notify_one();
            }
        }
    }
}

/// Resolves when the tunnel has lived, or been silent, too long.
async fn over(limits: TunnelLimits, moved: &Moved) {
    loop {
        let idle = limits.idle.map(|idle| moved.last() + idle);
        let Some(next) = [idle, limits.total].into_iter().flatten().min() else {
            return std::future::pending().await;
        };
        tokio::time::sleep_until(next).await;
        let is_silent = limits
            .idle
            .is_some_and(|idle| Instant::now() >= moved.last() + idle);
        if is_silent || limits.total.is_some_and(|total| Instant::now() >= total) {
            return;
        }
    }
}

/// When the last byte went either way.
#[derive(Debug)]
struct Moved {
    start: Instant,
    at_ms: std::sync::atomic::AtomicU64,
    leaving: std::sync::atomic::AtomicBool,
    waker: tokio::sync::Notify,
}

impl Default for Moved {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            at_ms: 0.into(),
            leaving: false.into(),
            waker: tokio::sync::Notify::new(),
        }
    }
}

impl Moved {
    fn note(&self) {
        let ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.at_ms.store(ms, std::sync::atomic::Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        let ms = self.at_ms.load(std::sync::atomic::Ordering::Relaxed);
        self.start + Duration::from_millis(ms)
    }

    fn is_leaving(&self) -> bool {
        self.leaving.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// One direction, to its end; the way to the client ends with a close frame when the gateway
/// leaves, between two frames.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    to: &mut (impl AsyncWrite + Unpin),
    moved: &Moved,
    mut frames: Option<&mut Frames>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let may_leave = frames.as_ref().is_some_and(|frames| frames.is_between());
        if may_leave && moved.is_leaving() {
            to.write_all(&GOING_AWAY).await?;
            to.flush().await?;
            // The client answers with its own close frame, which goes to the instance.
            tokio::time::sleep(CLOSE_LIMIT).await;
            return Err(std::io::Error::other("the gateway leaves"));
        }
        let n = tokio::select! {
            biased;
            n = from.read(&mut buffer) => n?,
            () = moved.waker.notified(), if frames.is_some() => continue,
        };
        if n == 0 {
            to.shutdown().await?;
            return Ok(());
        }
        moved.note();
        let mut rest = &buffer[..n];
        if let Some(frames) = &mut frames
            && moved.is_leaving()
        {
            // No further than to the end of the frame that is under way.
            rest = &rest[..frames.length_to_boundary(rest)];
        }
        if let Some(frames) = &mut frames {
            frames.advance(rest);
        }
        write_through(to, rest).await?;
    }
}

async fn write_through(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

/// Where in the instance's sequence of WebSocket frames its bytes stand (RFC 6455 §5.2). Payloads
/// are not looked at.
#[derive(Debug, Default)]
struct Frames {
    head: [u8; 14],
    n_head: usize,
    left: u64,
}

impl Frames {
    fn is_between(&self) -> bool {
        self.n_head == 0 && self.left == 0
    }

    fn advance(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() {
            at += self.step(&bytes[at..]);
        }
    }

    /// Bytes up to the end of the frame that is under way, at most all of them.
    fn length_to_boundary(&self, bytes: &[u8]) -> usize {
        let mut ahead = Self { ..*self };
        let mut at = 0;
        while at < bytes.len() && !(ahead.is_between() && at > 0) {
            if ahead.is_between() {
                return 0;
            }
            at += ahead.step(&bytes[at..]);
        }
        at
    }

    fn step(&mut self, bytes: &[u8]) -> usize {
        if self.left > 0 {
            let n = usize::try_from(self.left)
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            self.left -= n as u64;
            return n;
        }
        self.head[self.n_head] = bytes[0];
        self.n_head += 1;
        if let Some(length) = self.length() {
            (self.n_head, self.left) = (0, length);
        }
        1
    }

    /// Of the payload, once the whole head is there.
    fn length(&self) -> Option<u64> {
        if self.n_head < 2 {
            return None;
        }
        let is_masked = self.head[1] & 0x80 != 0;
        let short = self.head[1] & 0x7f;
        let n_long = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if self.n_head < 2 + n_long + if is_masked { 4 } else { 0 } {
            return None;
        }
        let long = &self.head[2..2 + n_long];
        Some(match n_long {
            0 => u64::from(short),
            _ => long.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_rfc_is_accepted_as_there() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        let accept = HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(accept_of(&key), Some(accept));
    }

    #[test]
    fn frames_are_followed_across_any_cuts() {
        let small = [vec![0x81, 3], vec![7; 3]].concat();
        let medium = [vec![0x82, 126, 1, 0], vec![0; 256]].concat();
        let large = [vec![0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0], vec![0; 65_536]].concat();
        let masked = [vec![0x81, 0x82, 1, 2, 3, 4], vec![0; 2]].concat();
        let all = [small, medium, large, masked].concat();
        for cut in [1, 2, 7, 1000] {
            let mut frames = Frames::default();
            let mut n_between = 0;
            for bytes in all.chunks(cut) {
                frames.advance(bytes);
                n_between += usize::from(frames.is_between());
            }
            assert!(frames.is_between(), "{cut}");
            if cut == 1 {
                assert_eq!(n_between, 4);
            }
        }
    }

    #[test]
    fn the_end_of_a_frame_under_way_is_found() {
        let mut frames = Frames::default();
        assert_eq!(frames.length_to_boundary(&[0x81, 1, 7]), 0);
        frames.advance(&[0x81]);
        assert_eq!(frames.length_to_boundary(&[1, 7, 0x81, 1, 8]), 2);
        assert_eq!(frames.length_to_boundary(&[1]), 1);
        frames.advance(&[1, 7]);
        assert!(frames.is_between());
    }
}
