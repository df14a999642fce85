//! What holds for any bytes, shared by the fuzz targets and `tests/parsers.rs`.
#![allow(dead_code, reason = "each target uses one")]

use std::net::{IpAddr, SocketAddr};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};
use nihilo_gateway::listener::proxy_protocol::{parse_v1, parse_v2};
use nihilo_gateway::rules::{Hop, host as hosts, owned, target as targets};

/// A valid host is an authority for everybody else too, and its key is settled.
pub(crate) fn host(bytes: &[u8]) {
    let Ok(host) = std::str::from_utf8(bytes) else {
        return;
    };
    let key = hosts::table_key(host).into_owned();
    if !hosts::is_valid(host) {
        return;
    }
    let authority: http::uri::Authority = host.parse().expect("a valid host is an authority");
    assert!(!authority.as_str().contains('@'));
    assert!(HeaderValue::from_str(host).is_ok());
    assert!(!key.is_empty() || host.starts_with('.'), "{host}");
    assert!(!key.bytes().any(|byte| byte.is_ascii_uppercase()));
    if !key.ends_with('.') {
        assert_eq!(hosts::table_key(&key), key.as_str());
    }
}

/// What is let through has an origin form that reads back as itself.
pub(crate) fn target(bytes: &[u8]) {
    let Ok(uri) = Uri::try_from(bytes) else {
        return;
    };
    for method in [Method::GET, Method::OPTIONS] {
        if targets::check(&method, &uri).is_err() {
            continue;
        }
        let origin = targets::to_origin(&uri);
        let text = origin.to_string();
        assert!(text.starts_with('/') || text == "*", "{text}");
        assert!(origin.authority().is_none() && origin.scheme().is_none());
        assert_eq!(text.parse::<Uri>().expect("it reads back"), origin);
        assert!(
            !origin.path().contains(['\\', ' ', '\r', '\n', '\0']),
            "{text}"
        );
    }
}

/// Whatever a client says, the instance gets one line of each, and a stranger's word not at all.
pub(crate) fn forwarded(bytes: &[u8]) {
    let mut parts = bytes.split(|byte| *byte == b'\n');
    let mut value = || HeaderValue::from_bytes(parts.next().unwrap_or_default()).ok();
    let (first, second, forwarded, host) = (value(), value(), value(), value());
    let Some(host) = host.filter(|host| host.to_str().is_ok_and(hosts::is_valid)) else {
        return;
    };
    for is_trusted in [false, true] {
        let client = IpAddr::from([192, 0, 2, 7]);
        let hop = Hop::new(client, is_trusted, false, 8080);
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-forwarded-for", &first),
            ("x-forwarded-for", &second),
            ("x_forwarded_for", &first),
            ("forwarded", &forwarded),
        ] {
            if let Some(value) = value {
                headers.append(HeaderName::from_static(name), value.clone());
            }
        }
        owned::strip(&mut headers, is_trusted);
        let element = hop.element(&host).expect("a valid host has an element");
        hop.write(&mut headers, &host, element.clone());
        for name in ["x-forwarded-for", "forwarded"] {
            assert_eq!(headers.get_all(name).iter().count(), 1, "{name}");
        }
        assert!(!headers.contains_key("x_forwarded_for"));
        assert!(
            headers["x-forwarded-for"]
                .as_bytes()
                .ends_with(b"192.0.2.7")
        );
        assert!(
            headers["forwarded"]
                .as_bytes()
                .ends_with(element.as_bytes())
        );
        if !is_trusted {
            assert_eq!(headers["x-forwarded-for"], "192.0.2.7");
            assert_eq!(headers["forwarded"], element);
        }
    }
}

/// A header that is accepted says the same when it is written anew.
pub(crate) fn proxy(bytes: &[u8]) {
    if let Some(Some((from, to))) = parse_v1(bytes) {
        assert_eq!(parse_v1(line(from, to).as_bytes()), Some(Some((from, to))));
    }
    if let Some(Some((from, to))) = parse_v2(bytes) {
        assert_eq!(from.is_ipv4(), to.is_ipv4());
        assert_eq!(parse_v1(line(from, to).as_bytes()), Some(Some((from, to))));
    }
}

fn line(from: SocketAddr, to: SocketAddr) -> String {
    let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
    let (client, server) = (from.ip(), to.ip());
    format!(
        "PROXY {family} {client} {server} {} {}\r\n",
        from.port(),
        to.port()
    )
}
