//! What a request must look like, and what of it goes on (RFC 9110, 9112, 9113; 05-gateway §8).
//!
//! Pure. Strict: what two readers could read in two ways is refused, or read in one way for both.

pub mod forwarded;
pub mod hop;
pub mod host;
pub mod owned;
pub mod target;
pub mod trace;

use http::header::{
    COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, MAX_FORWARDS, TE, TRANSFER_ENCODING,
    VIA,
};
use http::{Method, Request, Version};
use hyper::ext::Protocol;

use crate::rescue::Cause;

pub use forwarded::{Cidr, Hop};

/// Times a request may have passed this cluster before it counts as caught in a loop.
const MAX_PASSES: usize = 8;
/// Trailer bytes, at most (05-gateway §20).
pub const MAX_TRAILERS: usize = 8 * 1024;

/// Returns the host of a valid request, as received.
///
/// # Errors
/// What is wrong with it.
pub fn check<B>(request: &Request<B>) -> Result<HeaderValue, Cause> {
    check_method(request)?;
    target::check(request.method(), request.uri())?;
    if request.version() == Version::HTTP_2 {
        check_h2(request)?;
    } else {
        check_framing(request)?;
    }
    check_expectation(request.headers())?;
    host_of(request)
}

fn check_method<B>(request: &Request<B>) -> Result<(), Cause> {
    match *request.method() {
        Method::CONNECT => match request.extensions().get::<Protocol>() {
            Some(protocol) if protocol.as_str() == "websocket" => Ok(()),
            Some(_) => Err(Cause::NotImplemented("no such protocol")),
            None => Err(Cause::NotAllowed("CONNECT is not supported")),
        },
        Method::TRACE => Err(Cause::NotAllowed("TRACE is not supported")),
        _ => Ok(()),
    }
}

/// One coding in one line, or none. The parser has dropped Content-Length beside it.
fn check_framing<B>(request: &Request<B>) -> Result<(), Cause> {
    let mut codings = request.headers().get_all(TRANSFER_ENCODING).iter();
    let Some(first) = codings.next() else {
        return Ok(());
    };
    if request.version() != Version::HTTP_11 {
        return Err(Cause::BadRequest("Transfer-Encoding in HTTP/1.0"));
    }
    if codings.next().is_some() {
        return Err(Cause::BadRequest("more than one Transfer-Encoding"));
    }
    let coding = first.as_bytes().trim_ascii();
    if coding.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let mut list = coding.rsplit(|b| *b == b',').map(<[u8]>::trim_ascii);
    let is_last = |name: &[u8]| name.eq_ignore_ascii_case(b"chunked");
    match list.next().is_some_and(is_last) && !list.any(is_last) {
        true => Err(Cause::NotImplemented("no transfer coding but chunked")),
        false => Err(Cause::BadRequest("invalid Transfer-Encoding")),
    }
}

fn check_expectation(headers: &HeaderMap) -> Result<(), Cause> {
    let mut expected = headers.get_all(EXPECT).iter();
    match (expected.next(), expected.next()) {
        (None, _) => Ok(()),
        (Some(one), None) if one.as_bytes().eq_ignore_ascii_case(b"100-continue") => Ok(()),
        _ => Err(Cause::ExpectationFailed),
    }
}

/// What the HTTP/2 codec leaves to its user.
fn check_h2<B>(request: &Request<B>) -> Result<(), Cause> {
    let is_blank = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    let has_blanks = |value: &HeaderValue| {
        is_blank(value.as_bytes().first()) || is_blank(value.as_bytes().last())
    };
    if request.headers().values().any(has_blanks) {
        return Err(Cause::BadRequest("a value begins or ends with a blank"));
    }
    let (authority, host) = (request.uri().authority(), request.headers().get(HOST));
    match (authority, host) {
        (Some(authority), Some(host))
            if !authority
                .as_str()
                .as_bytes()
                .eq_ignore_ascii_case(host.as_bytes()) =>
        {
            Err(Cause::BadRequest("Host is not the authority"))
        }
        _ => Ok(()),
    }
}

/// The target's authority wins over the field (RFC 9112 §3.2.2).
fn host_of<B>(request: &Request<B>) -> Result<HeaderValue, Cause> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (field, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(Cause::BadRequest("more than one Host"));
    }
    let is_valid = |host: &HeaderValue| host.to_str().is_ok_and(host::is_valid);
    if field.is_some_and(|field| !is_valid(field)) {
        return Err(Cause::BadRequest("invalid Host"));
    }
    if field.is_none() && request.version() == Version::HTTP_11 {
        return Err(Cause::BadRequest("no Host"));
    }
    let Some(authority) = request.uri().authority() else {
        return field.cloned().ok_or(Cause::UnknownHost);
    };
    HeaderValue::from_str(authority.as_str())
        .ok()
        .filter(is_valid)
        .ok_or(Cause::BadRequest("invalid authority"))
}

/// What this gateway calls itself in `Via`, per version received (RFC 9110 §7.6.3).
#[derive(Debug, Clone)]
pub struct Via {
    pseudonym: String,
    v10: HeaderValue,
    v11: HeaderValue,
    v20: HeaderValue,
}

impl Via {
    pub fn new(cluster: &str) -> Self {
        let is_plain = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
        let pseudonym: String = format!("nihilo-{cluster}")
            .chars()
            .filter(is_plain)
            .collect();
        let value = |version: &str| {
            HeaderValue::try_from(format!("{version} {pseudonym}"))
                .unwrap_or(HeaderValue::from_static("1.1 nihilo"))
        };
        let (v10, v11, v20) = (value("1.0"), value("1.1"), value("2.0"));
        Self {
            pseudonym,
            v10,
            v11,
            v20,
        }
    }

    /// # Errors
    /// The request has passed this cluster too often.
    pub fn add(&self, headers: &mut HeaderMap, version: Version) -> Result<(), Cause> {
        let passes = headers
            .get_all(VIA)
            .iter()
            .filter_map(|via| via.to_str().ok())
            .flat_map(|via| via.split(','))
            .filter(|hop| hop.split_ascii_whitespace().nth(1) == Some(self.pseudonym.as_str()));
        if passes.count() >= MAX_PASSES {
            return Err(Cause::Loop);
        }
        let value = match version {
            Version::HTTP_10 => &self.v10,
            Version::HTTP_2 => &self.v20,
            _ => &self.v11,
        };
        headers.append(VIA, value.clone());
        Ok(())
    }
}

/// Counts OPTIONS down (RFC 9110 §7.6.2); `false` = this gateway is the last recipient.
pub fn count_down(method: &Method, headers: &mut HeaderMap) -> bool {
    if *method != Method::OPTIONS {
        return true;
    }
    let left = headers
        .get(MAX_FORWARDS)
        .and_then(|left| left.to_str().ok());
    match left.and_then(|left| left.parse::<u32>().ok()) {
        Some(0) => false,
        Some(left) => {
            headers.insert(MAX_FORWARDS, HeaderValue::from(left - 1));
            true
        }
        None => true,
    }
}

/// Removes what does not go on to an instance. `TE: trailers` stays towards HTTP/2.
pub fn strip_request(headers: &mut HeaderMap, is_trusted: bool) {
    let wants_trailers = headers
        .get_all(TE)
        .iter()
        .flat_map(|te| te.as_bytes().split(|b| *b == b','))
        .any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"));
    hop::strip(headers);
    owned::strip(headers, is_trusted);
    headers.remove(EXPECT);
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// HTTP/2 may split cookies; HTTP/1.1 has one field (RFC 9113 §8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let Some(first) = crumbs.next() else { return };
    let mut whole = first.as_bytes().to_vec();
    let mut is_split = false;
    for crumb in crumbs {
        is_split = true;
        whole.extend_from_slice(b"; ");
        whole.extend_from_slice(crumb.as_bytes());
    }
    if is_split && let Ok(whole) = HeaderValue::from_bytes(&whole) {
        headers.insert(COOKIE, whole);
    }
}

/// Whether a field may not stand in trailers: framing, routing, authority (RFC 9110 §6.5.1).
pub fn is_forbidden_trailer(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(
        name,
        "transfer-encoding"
            | "content-length"
            | "content-type"
            | "content-encoding"
            | "content-range"
            | "host"
            | "connection"
            | "te"
            | "trailer"
            | "upgrade"
            | "expect"
            | "authorization"
            | "proxy-authorization"
            | "cookie"
            | "set-cookie"
            | "cache-control"
            | "max-forwards"
            | "forwarded"
            | "via"
    ) || ["x-forwarded-", "k-", "knative-", "nihilo-"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Whether repeating the request is harmless (RFC 9110 §9.2.2).
pub fn is_idempotent(method: &Method) -> bool {
    method.is_idempotent()
}

pub fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(http::header::CONTENT_TYPE);
    kind.is_some_and(|kind| {
        let rest = kind.as_bytes().strip_prefix(b"application/grpc");
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    })
}

/// `grpc-timeout`: up to eight digits and a unit, in microseconds at the finest.
pub fn grpc_timeout(headers: &HeaderMap) -> Option<std::time::Duration> {
    use std::time::Duration;
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

#[cfg(test)]
#[path = "rules_test.rs"]
mod tests;
