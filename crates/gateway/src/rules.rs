//! What a request must look like, and which of its fields go on (RFC 9110 §7.6.1, RFC 9112).

use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Request, Version};

use crate::rescue::Cause;

const OURS: &str = "nihilo-";
const HOP_BY_HOP: [&str; 6] = [
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "http2-settings",
    "trailer",
];

/// Returns the host of a valid request.
///
/// # Errors
/// What is wrong with it.
pub fn check<B>(request: &Request<B>) -> Result<String, Cause> {
    if request.method() == Method::CONNECT {
        return Err(Cause::NotAllowed("CONNECT is not supported"));
    }
    if request.method() == Method::TRACE {
        return Err(Cause::NotAllowed("TRACE is not supported"));
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(Cause::BadRequest("more than one Host"));
    }
    let host = match (request.uri().authority(), first) {
        (Some(authority), _) => authority.as_str().to_owned(),
        (None, Some(host)) => {
            let text = host
                .to_str()
                .map_err(|_| Cause::BadRequest("invalid Host"))?;
            text.to_owned()
        }
        (None, None) => return Err(Cause::BadRequest("no Host")),
    };
    let valid = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    if host.is_empty() || !host.chars().all(valid) {
        return Err(Cause::BadRequest("invalid Host"));
    }
    if request.version() == Version::HTTP_10 && request.headers().contains_key(TRANSFER_ENCODING) {
        return Err(Cause::BadRequest("Transfer-Encoding in HTTP/1.0"));
    }
    Ok(host)
}

/// Removes what concerns only the connection it came by, and everything that is ours to say.
pub fn strip(headers: &mut HeaderMap) {
    let nominated: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| name != HOST && name != CONTENT_LENGTH)
        .collect();
    for name in nominated {
        headers.remove(name);
    }
    for name in [CONNECTION, TE, UPGRADE, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    let ours: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(OURS))
        .cloned()
        .collect();
    for name in ours {
        headers.remove(name);
    }
}

/// Prepares a client's request for an instance.
pub fn forward(headers: &mut HeaderMap, host: &str, client: IpAddr) {
    strip(headers);
    headers.remove(EXPECT);
    if let Ok(host) = HeaderValue::from_str(host) {
        headers.insert(HOST, host);
    }
    let forwarded = match client {
        IpAddr::V4(ip) => format!("for={ip};proto=http"),
        IpAddr::V6(ip) => format!("for=\"[{ip}]\";proto=http"),
    };
    for (name, value) in [
        ("x-forwarded-for", client.to_string()),
        ("x-forwarded-proto", "http".to_owned()),
        ("forwarded", forwarded),
    ] {
        // Replaced, not appended: nobody in front of us is trusted yet.
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// Whether repeating the request is harmless (RFC 9110 §9.2.2).
pub fn is_idempotent(method: &Method) -> bool {
    method.is_idempotent()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(
        build: impl FnOnce(http::request::Builder) -> http::request::Builder,
    ) -> Request<()> {
        build(Request::builder().uri("/")).body(()).unwrap()
    }

    #[test]
    fn hosts_are_demanded_and_checked() {
        assert_eq!(
            check(&request(|r| r.header("host", "a.b:80"))).unwrap(),
            "a.b:80"
        );
        assert!(check(&request(|r| r)).is_err());
        assert!(check(&request(|r| r.header("host", "a").header("host", "b"))).is_err());
        assert!(check(&request(|r| r.header("host", "a/b"))).is_err());
        assert!(check(&request(|r| r.header("host", "a").method("CONNECT"))).is_err());
    }

    #[test]
    fn connection_fields_and_our_own_do_not_pass() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-secret"),
            ("x-secret", "1"),
            ("transfer-encoding", "chunked"),
            ("nihilo-mesh-instance", "forged"),
            ("x-kept", "1"),
            ("host", "old"),
            ("x-forwarded-for", "6.6.6.6"),
        ] {
            headers.insert(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        forward(&mut headers, "new", IpAddr::from([127, 0, 0, 1]));
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "forwarded",
                "host",
                "x-forwarded-for",
                "x-forwarded-proto",
                "x-kept"
            ]
        );
        assert_eq!(headers["host"], "new");
        assert_eq!(headers["x-forwarded-for"], "127.0.0.1");
    }
}
