//! Fields that only this cluster may say, and imitations of fields that mean something.

use http::header::{HeaderMap, HeaderName};

/// Prefixes of names that clients cannot send; `knative-serving-tag` is theirs to choose by.
const OURS: [&str; 3] = ["k-", "knative-", "nihilo-"];
const TAG: &str = "knative-serving-tag";
/// What a proxy in front says of the client: believed from trusted peers only.
const FORWARDING: [&str; 2] = ["forwarded", "x-real-ip"];
const FORWARDING_PREFIX: &str = "x-forwarded-";
/// CGI-like apps read `_` as `-`: spelt so, these are refused a way through.
const IMITATED: [&str; 8] = [
    "transfer-encoding",
    "content-length",
    "host",
    "connection",
    "authorization",
    "upgrade",
    "x-request-id",
    "proxy-authorization",
];

fn same(name: u8, pattern: u8) -> bool {
    name == pattern || (name == b'_' && pattern == b'-')
}

fn equals(name: &[u8], pattern: &str) -> bool {
    name.len() == pattern.len() && begins(name, pattern)
}

fn begins(name: &[u8], pattern: &str) -> bool {
    name.len() >= pattern.len() && name.iter().zip(pattern.bytes()).all(|(n, p)| same(*n, p))
}

/// Whether a client's field of this lower-case name is dropped.
fn is_dropped(name: &str, is_trusted: bool) -> bool {
    let bytes = name.as_bytes();
    // Most names begin otherwise.
    if !matches!(
        bytes.first(),
        Some(b'k' | b'n' | b'f' | b'x' | b't' | b'c' | b'h' | b'a' | b'u' | b'p')
    ) {
        return false;
    }
    if OURS.iter().any(|prefix| begins(bytes, prefix)) {
        return name != TAG;
    }
    let is_forwarding =
        FORWARDING.iter().any(|known| equals(bytes, known)) || begins(bytes, FORWARDING_PREFIX);
    let has_underscore = bytes.contains(&b'_');
    if is_forwarding {
        return !is_trusted || has_underscore;
    }
    has_underscore && IMITATED.iter().any(|known| equals(bytes, known))
}

/// Removes them from what a client sent.
pub fn strip(headers: &mut HeaderMap, is_trusted: bool) {
    let dropped: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_dropped(name.as_str(), is_trusted))
        .cloned()
        .collect();
    for name in dropped {
        headers.remove(name);
    }
}

/// Removes an app's own `nihilo-*`: they are ours to say.
pub fn strip_answer(headers: &mut HeaderMap) {
    let ours = |name: &&HeaderName| begins(name.as_str().as_bytes(), "nihilo-");
    if headers.keys().any(|name| ours(&name)) {
        let names: Vec<HeaderName> = headers.keys().filter(ours).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_and_imitations_go_and_the_rest_stays() {
        for (name, from_anyone, from_trusted) in [
            ("k-proxy-request", true, true),
            ("k_proxy_request", true, true),
            ("knative-serving-revision", true, true),
            ("knative-serving-tag", false, false),
            ("knative_serving_tag", true, true),
            ("nihilo-mesh-instance", true, true),
            ("x-forwarded-for", true, false),
            ("x_forwarded_for", true, true),
            ("x-forwarded_for", true, true),
            ("forwarded", true, false),
            ("x-real-ip", true, false),
            ("transfer_encoding", true, true),
            ("transfer-encoding", false, false),
            ("content_length", true, true),
            ("kind", false, false),
            ("x-custom_name", false, false),
            ("accept", false, false),
        ] {
            assert_eq!(is_dropped(name, false), from_anyone, "{name}");
            assert_eq!(is_dropped(name, true), from_trusted, "{name}, trusted");
        }
    }
}
