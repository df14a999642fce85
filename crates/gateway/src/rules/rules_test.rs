//! The rules, one table each.

use std::time::Duration;

use super::*;

fn request(version: Version, method: &str, uri: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut builder = Request::builder().version(version).method(method).uri(uri);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap()
}

fn judged(version: Version, method: &str, uri: &str, headers: &[(&str, &str)]) -> u16 {
    match check(&request(version, method, uri, headers)) {
        Ok(_) => 200,
        Err(cause) => cause.status().as_u16(),
    }
}

#[test]
fn requests_are_judged() {
    let h1 = Version::HTTP_11;
    let host = ("host", "a.b");
    let te = |value| ("transfer-encoding", value);
    for (want, method, uri, headers) in [
        (200, "GET", "/", vec![host]),
        (400, "GET", "/", vec![]),
        (400, "GET", "/", vec![host, ("host", "a.b")]),
        (400, "GET", "/", vec![("host", "a/b")]),
        (405, "CONNECT", "a.b:443", vec![host]),
        (405, "TRACE", "/", vec![host]),
        (400, "GET", "http://a.b/", vec![]),
        (200, "GET", "http://c.d/", vec![host]),
        (200, "POST", "/", vec![host, te("Chunked")]),
        (501, "POST", "/", vec![host, te("gzip, chunked")]),
        (400, "POST", "/", vec![host, te("chunked, chunked")]),
        (400, "POST", "/", vec![host, te("chunked, gzip")]),
        (400, "POST", "/", vec![host, te("chunked"), te("chunked")]),
        (417, "POST", "/", vec![host, ("expect", "200-ok")]),
        (200, "POST", "/", vec![host, ("expect", "100-Continue")]),
    ] {
        assert_eq!(
            judged(h1, method, uri, &headers),
            want,
            "{method} {uri} {headers:?}"
        );
    }
    assert_eq!(judged(Version::HTTP_10, "GET", "/", &[]), 404);
    assert_eq!(
        judged(Version::HTTP_10, "POST", "/", &[host, te("chunked")]),
        400
    );
}

#[test]
fn http2_requests_are_judged() {
    for (want, uri, headers) in [
        (200, "http://a.b/", vec![]),
        (200, "http://a.b/", vec![("host", "A.b")]),
        (400, "http://a.b/", vec![("host", "c.d")]),
        (400, "http://u@a.b/", vec![]),
        (400, "http://a.b/", vec![("x", " y")]),
        (400, "http://a.b/", vec![("x", "y\t")]),
    ] {
        let judged = judged(Version::HTTP_2, "GET", uri, &headers);
        assert_eq!(judged, want, "{uri} {headers:?}");
    }
}

#[test]
fn a_loop_is_seen_at_the_eighth_pass() {
    let via = Via::new("home");
    let mut headers = HeaderMap::new();
    for _ in 0..MAX_PASSES {
        via.add(&mut headers, Version::HTTP_11).unwrap();
    }
    assert_eq!(via.add(&mut headers, Version::HTTP_11), Err(Cause::Loop));
    let other = Via::new("other");
    other.add(&mut headers, Version::HTTP_2).unwrap();
    assert_eq!(
        headers.get_all(VIA).iter().next_back().unwrap(),
        "2.0 nihilo-other"
    );
}

#[test]
fn options_are_counted_down_to_us() {
    let mut headers = HeaderMap::new();
    headers.insert(MAX_FORWARDS, HeaderValue::from_static("1"));
    assert!(count_down(&Method::GET, &mut headers) && headers[MAX_FORWARDS] == "1");
    assert!(count_down(&Method::OPTIONS, &mut headers) && headers[MAX_FORWARDS] == "0");
    assert!(!count_down(&Method::OPTIONS, &mut headers));
}

#[test]
fn cookie_crumbs_become_one_field() {
    let mut headers = HeaderMap::new();
    for crumb in ["a=1", "b=2", "c=3"] {
        headers.append(COOKIE, HeaderValue::from_static(crumb));
    }
    join_cookies(&mut headers);
    assert_eq!(headers.get_all(COOKIE).iter().count(), 1);
    assert_eq!(headers[COOKIE], "a=1; b=2; c=3");
}

#[test]
fn grpc_is_known_by_its_type_and_its_timeout_read() {
    let mut headers = HeaderMap::new();
    for (kind, is) in [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("application/grpc;x", true),
        ("application/grpc-web", false),
        ("text/plain", false),
    ] {
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(kind));
        assert_eq!(is_grpc(&headers), is, "{kind}");
    }
    for (text, want) in [
        ("5S", Some(Duration::from_secs(5))),
        ("10m", Some(Duration::from_millis(10))),
        ("1H", Some(Duration::from_secs(3600))),
        ("S", None),
        ("123456789S", None),
        ("5", None),
        ("5x", None),
    ] {
        headers.insert("grpc-timeout", HeaderValue::from_static(text));
        assert_eq!(grpc_timeout(&headers), want, "{text}");
    }
}
