//! Fields that concern one connection only (RFC 9110 §7.6.1).

use http::header::{
    CONNECTION, HeaderMap, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE,
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const ALL: [HeaderName; 9] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HTTP2_SETTINGS,
];

/// Fields that nobody may nominate away: routing, framing, authority, and what we vouch for.
fn is_protected(name: &str) -> bool {
    matches!(
        name,
        "host"
            | "content-length"
            | "transfer-encoding"
            | "authorization"
            | "cookie"
            | "forwarded"
            | "via"
            | "expect"
            | "max-forwards"
    ) || ["x-forwarded-", "k-", "knative-", "nihilo-"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Removes hop-by-hop fields and those that any `Connection` line nominates.
pub fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let nominated: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|b| *b == b','))
            .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
            .filter(|name| !is_protected(name.as_str()))
            .collect();
        for name in nominated {
            headers.remove(name);
        }
    }
    for name in &ALL {
        headers.remove(name);
    }
}

/// Whether `Connection` nominates `token`, in any line.
pub fn nominates(headers: &HeaderMap, token: &str) -> bool {
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .any(|name| name.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn every_connection_line_counts_and_some_names_are_nobodys_to_drop() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-a"),
            ("connection", "X-B,host,authorization, k-x"),
            ("x-a", "1"),
            ("x-b", "1"),
            ("x-c", "1"),
            ("host", "h"),
            ("authorization", "a"),
            ("te", "gzip"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("keep-alive", "5"),
            ("trailer", "x-t"),
        ] {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        strip(&mut headers);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["authorization", "host", "trailer", "x-c"]);
    }
}
