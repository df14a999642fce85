//! W3C trace context and request ids: passed on, or made.

use http::header::{HeaderMap, HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_REQUEST_ID: usize = 128;
/// Bytes of a version 00 `traceparent`.
const LENGTH: usize = 55;

/// Whether it reads as W3C Trace Context level 1, §3.2: `00-…32 hex…-…16 hex…-…2 hex…`, neither
/// id all zero. Later versions may be longer, version ff is none.
fn is_valid(text: &[u8]) -> bool {
    let hex = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let some = |part: &[u8]| part.iter().any(|b| *b != b'0');
    text.len() >= LENGTH
        && [2, 35, 52].iter().all(|at| text[*at] == b'-')
        && hex(&text[..2])
        && &text[..2] != b"ff"
        && hex(&text[3..35])
        && some(&text[3..35])
        && hex(&text[36..52])
        && some(&text[36..52])
        && hex(&text[53..55])
        && match &text[..2] {
            b"00" => text.len() == LENGTH,
            _ => text.len() == LENGTH || text[LENGTH] == b'-',
        }
}

/// Two digits for each byte. Ids are made for every request, and formatting costs ten times this.
fn write_hex(to: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in to.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

/// Passes a valid context on, or makes one that is not sampled.
pub fn ensure(headers: &mut HeaderMap) {
    let mut given = headers.get_all(&TRACEPARENT).iter();
    let (first, second) = (given.next(), given.next());
    if second.is_none() && first.is_some_and(|value| is_valid(value.as_bytes())) {
        return;
    }
    headers.remove(&TRACESTATE);
    // Zero has a chance of 2^-64 and would only be made anew by the next.
    let (trace, span): ([u8; 16], [u8; 8]) = (rand::random(), rand::random());
    let mut text = *b"00-................................-................-00";
    write_hex(&mut text[3..35], &trace);
    write_hex(&mut text[36..52], &span);
    if let Ok(value) = HeaderValue::from_bytes(&text) {
        headers.insert(TRACEPARENT, value);
    }
}

/// The trace id of a context that [`ensure`] left.
pub fn trace_id(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(TRACEPARENT).cloned()
}

/// Keeps the id of a trusted peer if it is up to 128 visible ASCII, else makes one.
pub fn request_id(headers: &mut HeaderMap, is_trusted: bool) -> HeaderValue {
    let is_fine = |id: &&HeaderValue| {
        !id.is_empty()
            && id.len() <= MAX_REQUEST_ID
            && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    if is_trusted && let Some(id) = headers.get(REQUEST_ID).filter(is_fine) {
        return id.clone();
    }
    let mut text = [0; 32];
    write_hex(&mut text, &rand::random::<[u8; 16]>());
    let id = HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("0"));
    headers.insert(REQUEST_ID, id.clone());
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn contexts_are_judged_by_the_letter() {
        assert!(is_valid(GOOD.as_bytes()));
        let later = GOOD.replacen("00", "01", 1) + "-more";
        assert!(is_valid(later.as_bytes()));
        for bad in [
            "".to_owned(),
            GOOD.to_uppercase(),
            GOOD.replacen("00", "ff", 1),
            format!("{GOOD}-more"),
            GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            GOOD.replace('-', "_"),
        ] {
            assert!(!is_valid(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn a_context_is_passed_or_made() {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::from_static(GOOD));
        headers.insert(TRACESTATE, HeaderValue::from_static("a=b"));
        ensure(&mut headers);
        assert_eq!(headers[TRACEPARENT], GOOD);
        assert_eq!(headers[TRACESTATE], "a=b");
        headers.insert(TRACEPARENT, HeaderValue::from_static("nonsense"));
        ensure(&mut headers);
        assert!(is_valid(headers[TRACEPARENT].as_bytes()));
        assert!(!headers.contains_key(TRACESTATE));
    }

    #[test]
    fn only_a_trusted_peer_names_requests() {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_static("mine"));
        assert_eq!(request_id(&mut headers, true), "mine");
        let id = request_id(&mut headers, false);
        assert!(id != "mine" && headers[REQUEST_ID] == id && id.len() == 32);
    }
}
