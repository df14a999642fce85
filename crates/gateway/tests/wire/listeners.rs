//! The listeners beside the plain one: TLS, behind load balancers, for this cluster only; and the
//! end of all of them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nihilo_gateway::rules::Cidr;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::client::{Client, LIMIT};
use crate::rig::Rig;

const GET: &str = "GET / HTTP/1.1\r\nHost: echo.test\r\n\r\n";

fn loopback() -> Vec<Cidr> {
    vec![Cidr::parse("127.0.0.0/8").expect("a range")]
}

/// Looks until it is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Writes a pair for `names` and returns the certificate.
fn write_pair(directory: &Path, file: &str, names: &[&str]) -> CertificateDer<'static> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let pair = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let path = directory.join(file);
    std::fs::write(path.with_extension("key"), pair.signing_key.serialize_pem()).expect("a key");
    std::fs::write(path.with_extension("crt"), pair.cert.pem()).expect("a certificate");
    pair.cert.der().clone()
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

fn tls(rig: &Rig, host: &str, alpn: &[&str], roots: &[CertificateDer<'static>]) -> Option<Tls> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).expect("a root");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(host.to_owned()).expect("a name");
    let session = ClientConnection::new(Arc::new(config), name).expect("a session");
    let address = *rig.gateway.addresses().last().expect("a TLS listener");
    let socket = TcpStream::connect(address).expect("the gateway accepts");
    socket.set_read_timeout(Some(LIMIT)).expect("a limit");
    let mut stream = StreamOwned::new(session, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).ok()?;
    }
    Some(stream)
}

fn answer(stream: &mut impl Read) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&text).contains("\r\n\r\n") {
        let n = stream.read(&mut buffer).expect("an answer");
        assert!(n > 0, "the connection ended");
        text.extend_from_slice(&buffer[..n]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn certificates_are_chosen_by_name_and_exchanged_without_a_drop() {
    let directory = tempfile::tempdir().expect("a directory");
    let echo = write_pair(directory.path(), "echo", &["echo.test", "*.wild.test"]);
    let other = write_pair(directory.path(), "other", &["h2c.test"]);
    let listen = "127.0.0.1:0".parse().expect("an address");
    let path = directory.path().to_owned();
    let rig = Rig::with(|config| config.tls = Some((listen, path)));
    let roots = [echo.clone(), other.clone()];

    let mut first = tls(&rig, "echo.test", &["http/1.1"], &roots).expect("a handshake");
    assert_eq!(first.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    let leaf = first.conn.peer_certificates().expect("a chain")[0].clone();
    assert_eq!(leaf, echo);
    first.write_all(GET.as_bytes()).expect("a request");
    assert!(answer(&mut first).starts_with("HTTP/1.1 200"));
    let seen = rig.echo.requests(1, LIMIT);
    let proto = ("x-forwarded-proto".to_owned(), "https".to_owned());
    assert!(seen[0].fields.contains(&proto), "{seen:?}");

    let wild = tls(&rig, "any.wild.test", &["h2"], &roots).expect("a handshake");
    assert_eq!(wild.conn.alpn_protocol(), Some(&b"h2"[..]));
    let second = tls(&rig, "h2c.test", &["http/1.1"], &roots).expect("a handshake");
    assert_eq!(second.conn.peer_certificates().expect("a chain")[0], other);
    assert!(
        tls(&rig, "unknown.test", &[], &roots).is_none(),
        "no certificate covers it"
    );

    // H2-19: a host that the connection's certificate does not stand for.
    let mut misled = tls(&rig, "h2c.test", &["http/1.1"], &roots).expect("a handshake");
    misled.write_all(GET.as_bytes()).expect("a request");
    assert!(answer(&mut misled).starts_with("HTTP/1.1 421"));

    // KI-15: the next handshake uses the new one, what is open goes on.
    let renewed = write_pair(directory.path(), "echo", &["echo.test", "*.wild.test"]);
    let roots = [renewed.clone(), other];
    until("a new certificate", || {
        let stream = tls(&rig, "echo.test", &[], &roots);
        stream.is_some_and(|s| s.conn.peer_certificates().expect("a chain")[0] == renewed)
    });
    first.write_all(GET.as_bytes()).expect("a request");
    assert!(answer(&mut first).starts_with("HTTP/1.1 200"));
}

#[test]
fn a_proxy_header_is_mandatory_where_it_is_configured() {
    let rig = Rig::with(|config| config.trust.proxy_protocol = loopback());
    let forwarded_for = |header: &[u8]| {
        rig.echo.reset(Vec::new());
        let mut client = Client::connect(rig.address);
        client.send(&[header, GET.as_bytes()].concat(), false);
        let response = client.response(true).ok()?;
        assert_eq!(response.status, 200);
        let request = rig.echo.requests(1, LIMIT).remove(0);
        let field = request
            .fields
            .into_iter()
            .find(|(name, _)| name == "x-forwarded-for");
        field.map(|(_, value)| value)
    };
    let seen = forwarded_for(b"PROXY TCP4 203.0.113.9 192.0.2.1 1000 80\r\n");
    assert_eq!(seen.as_deref(), Some("203.0.113.9"));
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x0a\xc0\0\x02\x01\x03\xe8\0\x50";
    assert_eq!(forwarded_for(v2).as_deref(), Some("203.0.113.10"));
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    assert_eq!(forwarded_for(local).as_deref(), Some("127.0.0.1"));
    assert_eq!(
        forwarded_for(b"PROXY UNKNOWN\r\n").as_deref(),
        Some("127.0.0.1")
    );
    assert_eq!(
        forwarded_for(b""),
        None,
        "without a header the connection ends"
    );
    assert_eq!(forwarded_for(b"PROXY TCP4 x y 1 2\r\n"), None);
    // On a plain listener it is no request.
    let plain = Rig::start(false);
    let mut client = Client::connect(plain.address);
    client.send(
        b"PROXY TCP4 203.0.113.9 192.0.2.1 1000 80\r\nGET / HTTP/1.1\r\n\r\n",
        false,
    );
    assert_eq!(client.response(true).expect("an answer").status, 400);
}

#[test]
fn a_trusted_peers_word_is_kept_and_extended() {
    let rig = Rig::with(|config| config.trust.proxies = loopback());
    let mut client = Client::connect(rig.address);
    let request = "GET / HTTP/1.1\r\nHost: echo.test\r\nX-Forwarded-For: 203.0.113.9\r\n\
                   X-Forwarded-Proto: https\r\nX-Request-Id: mine\r\nX_Forwarded_For: 6.6.6.6\r\n\
                   K-Proxy-Request: activator\r\n\r\n";
    client.send(request.as_bytes(), false);
    let response = client.response(true).expect("an answer");
    assert_eq!(response.field("x-request-id"), Some("mine"));
    let seen = rig.echo.requests(1, LIMIT).remove(0);
    for (name, value) in [
        ("x-forwarded-for", "203.0.113.9, 127.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-request-id", "mine"),
        (
            "forwarded",
            "for=203.0.113.9, for=127.0.0.1;host=echo.test;proto=http",
        ),
    ] {
        let field = (name.to_owned(), value.to_owned());
        assert!(seen.fields.contains(&field), "{field:?} in {seen:?}");
    }
    let is_absent = |name: &str| seen.fields.iter().all(|(known, _)| known != name);
    assert!(is_absent("x_forwarded_for") && is_absent("k-proxy-request"));
}

#[test]
fn private_hosts_are_served_on_the_private_listener() {
    let listen = "127.0.0.1:0".parse().expect("an address");
    let rig = Rig::with(|config| config.private_listen = Some(listen));
    let private = rig.gateway.addresses()[1];
    for (host, address, status) in [
        ("private.test", private, 200),
        ("private.test", rig.address, 404),
        ("echo.test", private, 200),
        ("unknown.test", private, 404),
    ] {
        let mut client = Client::connect(address);
        client.send(
            format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes(),
            false,
        );
        assert_eq!(
            client.response(true).expect("an answer").status,
            status,
            "{host}"
        );
    }
}

#[test]
fn a_drain_lets_what_runs_end_and_tells_websockets_to_go() {
    let rig = Rig::start(false);
    let mut idle = Client::connect(rig.address);
    idle.send(GET.as_bytes(), false);
    assert_eq!(idle.response(true).expect("an answer").status, 200);
    let mut running = Client::connect(rig.address);
    running.send(b"GET / HTTP/1.1\r\nHost: pausing.test\r\n\r\n", false);
    let mut socket = Client::connect(rig.address);
    let upgrade = "GET / HTTP/1.1\r\nHost: ws.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    socket.send(upgrade.as_bytes(), false);
    assert_eq!(socket.response(true).expect("an answer").status, 101);
    until("a request under way", || {
        rig.gateway.metrics_text().contains("\"pausing\"")
    });
    let gateway = rig.gateway.clone();
    let drain = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let started = Instant::now();
        runtime
            .expect("a runtime")
            .block_on(gateway.drain(Duration::from_secs(4)));
        started.elapsed()
    });
    let response = running.response(true).expect("an answer");
    assert_eq!(response.status, 200);
    assert_eq!(response.field("connection"), Some("close"));
    idle.ends().expect("an idle connection ends");
    // Not before its time, and with a frame that says why.
    let frame = socket.exactly(4, LIMIT).expect("a close frame");
    assert_eq!(frame, [0x88, 2, 0x03, 0xe9]);
    let took = drain.join().expect("the drain ends");
    assert!(took >= Duration::from_secs(2), "{took:?}");
    until("a closed door", || TcpStream::connect(rig.address).is_err());
}

#[test]
fn a_balancer_sees_the_end_before_the_door_closes() {
    let rig = Rig::start(false);
    let asked = || {
        let mut client = Client::connect(rig.address);
        client.send(
            b"GET /.well-known/nihilo/gateway HTTP/1.1\r\nHost: any\r\n\r\n",
            false,
        );
        client.response(true).expect("an answer").status
    };
    assert_eq!(asked(), 200);
    let (gateway, grace) = (rig.gateway.clone(), Duration::from_secs(6));
    let end = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let started = Instant::now();
        runtime.block_on(gateway.announce_end(grace));
        let took = started.elapsed();
        runtime.block_on(gateway.drain(grace));
        took
    });
    until("a refusal by the health answer", || asked() == 503);
    // It is the balancer that sends nobody any more; who comes is served, on a new connection too.
    let mut late = Client::connect(rig.address);
    late.send(GET.as_bytes(), false);
    let response = late.response(true).expect("an answer");
    assert_eq!(response.status, 200);
    assert_eq!(response.field("connection"), None);
    let took = end.join().expect("the end");
    assert!(took >= Duration::from_secs(1), "{took:?}");
    until("a closed door", || TcpStream::connect(rig.address).is_err());
}

#[test]
fn metrics_have_knatives_names_and_the_log_knatives_shape() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("access.log");
    let to = nihilo_gateway::access_log::Destination::File(path.clone());
    let rig = Rig::with(|config| config.access_log = to);
    let mut client = Client::connect(rig.address);
    client.send(
        b"GET /path?secret=1 HTTP/1.1\r\nHost: echo.test\r\nUser-Agent: me\r\n\r\n",
        false,
    );
    assert_eq!(client.response(true).expect("an answer").status, 200);
    client.send(b"GET / HTTP/1.1\r\nHost: unknown.test\r\n\r\n", false);
    assert_eq!(client.response(true).expect("an answer").status, 404);
    let text = || std::fs::read_to_string(&path).unwrap_or_default();
    until("two lines", || text().lines().count() == 2);
    let text = text();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let line = &lines[0];
    assert_eq!(line["httpRequest"]["requestUrl"], "/path");
    assert_eq!(line["httpRequest"]["status"], 200);
    assert_eq!(line["httpRequest"]["userAgent"], "me");
    assert_eq!(line["httpRequest"]["responseSize"], "4");
    assert_eq!(line["revision"], "echo");
    assert_eq!(line["attempts"], 1);
    assert!(line["traceId"].as_str().is_some_and(|id| id.len() == 32));
    assert!(!text.contains("secret"), "{text}");
    assert_eq!(lines[1]["reason"], "unknown_host");
    let metrics = rig.gateway.metrics_text();
    for series in [
        "http_server_request_duration_seconds_count{k8s_namespace_name=\"default\"",
        "kn_serving_invocation_duration_seconds_count",
        "kn_revision_request_queued",
        "nihilo_gateway_answers_total{code=\"404\",reason=\"unknown_host\"} 1",
        "nihilo_connections{listener=\"public\"} 1",
        "# EOF",
    ] {
        assert!(metrics.contains(series), "{series} in {metrics}");
    }
    let has_waited =
        |line: &str| line.starts_with("nihilo_queue_wait_seconds_count{") && line.ends_with(" 1");
    assert!(metrics.lines().any(has_waited), "{metrics}");
}
