//! A request's form on HTTP/2 and back. Everywhere else it has HTTP/1.1's: a path as its target, a
//! `Host` field, and an upgrade for a tunnel.

use http::header::{CONNECTION, HOST, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::{Method, Request, Uri, Version};

const WEBSOCKET: &str = "websocket";

/// HTTP/2 has the host in its target, and an upgrade is a method (RFC 8441).
pub(crate) fn to_h2<B>(request: &mut Request<B>) {
    request.headers_mut().remove(TRANSFER_ENCODING);
    let host = request.headers_mut().remove(HOST);
    let host = host.as_ref().and_then(|host| host.to_str().ok());
    let uri = Uri::builder()
        .scheme("http")
        .authority(host.unwrap_or("localhost"))
        .path_and_query(path_of(request.uri()))
        .build();
    if let Ok(uri) = uri {
        *request.uri_mut() = uri;
    }
    *request.version_mut() = Version::HTTP_2;
    if request.headers_mut().remove(UPGRADE).is_some() {
        request.headers_mut().remove(CONNECTION);
        *request.method_mut() = Method::CONNECT;
        let protocol = hyper::ext::Protocol::from_static(WEBSOCKET);
        request.extensions_mut().insert(protocol);
    }
}

/// The authority becomes the `Host` field again, and an extended CONNECT an upgrade.
pub(crate) fn from_h2<B>(request: &mut Request<B>) {
    if let Some(authority) = request.uri().authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(HOST, host);
    }
    if let Ok(uri) = path_of(request.uri()).parse() {
        *request.uri_mut() = uri;
    }
    *request.version_mut() = Version::HTTP_11;
    if *request.method() == Method::CONNECT {
        *request.method_mut() = Method::GET;
        request.extensions_mut().clear();
        let headers = request.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
    }
}

fn path_of(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |path| path.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(request: &Request<()>) -> String {
        format!(
            "{} {} {:?} {:?}",
            request.method(),
            request.uri(),
            request.version(),
            request.headers()
        )
    }

    #[test]
    fn what_could_not_be_sent_on_http2_is_again_what_it_was() {
        let plain = Request::get("/a?b=c").header(HOST, "hello.test:8080");
        let upgrade = Request::get("/chat")
            .header(HOST, "hello.test")
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, WEBSOCKET);
        for request in [plain, upgrade] {
            let mut request = request.body(()).expect("a request");
            let before = head(&request);
            to_h2(&mut request);
            assert!(!request.headers().contains_key(HOST), "{request:?}");
            assert_eq!(request.version(), Version::HTTP_2);
            from_h2(&mut request);
            assert_eq!(head(&request), before);
        }
    }
}
