//! What backend and client see through the gateway is what they see without it, but for the
//! documented fields.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::backend::Request;
use crate::case::Script;
use crate::client::{Client, Response};
use crate::rig::Rig;

const CASES: u32 = 96;
const ARRIVAL: Duration = Duration::from_secs(20);
/// Added or rewritten on the way to the instance (05-gateway §8).
const ADDED: [&str; 10] = [
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "forwarded",
    "via",
    "traceparent",
    "x-request-id",
    "knative-serving-default-route",
    "te",
];
/// Of one connection, on any way.
const FRAMING: [&str; 4] = [
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
];

#[derive(Debug, Clone)]
struct Body {
    pieces: Vec<Vec<u8>>,
    is_chunked: bool,
}

#[derive(Debug, Clone)]
struct Exchange {
    method: &'static str,
    target: String,
    fields: Vec<(String, String)>,
    body: Body,
    status: u16,
    answer_fields: Vec<(String, String)>,
    answer: Body,
    ends_with_connection: bool,
}

fn body() -> impl Strategy<Value = Body> {
    let piece = prop::collection::vec(any::<u8>(), 1..300);
    (prop::collection::vec(piece, 0..4), any::<bool>())
        .prop_map(|(pieces, is_chunked)| Body { pieces, is_chunked })
}

/// Names that no rule speaks of.
fn fields() -> impl Strategy<Value = Vec<(String, String)>> {
    let name = "z[a-z0-9_.!#$%&'*+^`|~-]{0,12}|accept|cookie|x-[a-e]{1,6}|range|if-none-match";
    let value = "[!-~]([ -~\\t]{0,30}[!-~])?|";
    prop::collection::vec((name, value), 0..12)
}

fn exchange() -> impl Strategy<Value = Exchange> {
    let method = prop::sample::select(vec!["GET", "POST", "PUT", "DELETE", "PATCH", "BREW"]);
    let target = "/[a-zA-Z0-9._~/;:@!$&'()*+,=-]{0,30}(\\?[a-zA-Z0-9&=%/?-]{0,20})?";
    let status = prop::sample::select(vec![200_u16, 201, 206, 301, 400, 404, 418, 500, 503]);
    (
        method,
        target,
        fields(),
        body(),
        status,
        fields(),
        body(),
        any::<bool>(),
    )
        .prop_map(
            |(method, target, fields, body, status, answer_fields, answer, ends)| Exchange {
                method,
                target,
                fields,
                body,
                status,
                answer_fields,
                answer,
                ends_with_connection: ends,
            },
        )
}

fn lines(fields: &[(String, String)]) -> Vec<u8> {
    let line = |(name, value): &(String, String)| format!("{name}: {value}\r\n").into_bytes();
    fields.iter().flat_map(line).collect()
}

fn coded(body: &Body) -> Vec<u8> {
    if !body.is_chunked {
        let whole = body.pieces.concat();
        let head = format!("Content-Length: {}\r\n\r\n", whole.len());
        return [head.into_bytes(), whole].concat();
    }
    let mut bytes = b"Transfer-Encoding: chunked\r\n\r\n".to_vec();
    for piece in &body.pieces {
        bytes.extend(format!("{:x}\r\n", piece.len()).into_bytes());
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

impl Exchange {
    fn request(&self) -> Vec<u8> {
        let head = format!(
            "{} {} HTTP/1.1\r\nHost: scripted.test\r\n",
            self.method, self.target
        );
        [head.into_bytes(), lines(&self.fields), coded(&self.body)].concat()
    }

    fn script(&self) -> Script {
        let head = format!("HTTP/1.1 {} Anything\r\n", self.status).into_bytes();
        let ends = self.ends_with_connection;
        let rest = match ends {
            true => [b"\r\n".to_vec(), self.answer.pieces.concat()].concat(),
            false => coded(&self.answer),
        };
        Script {
            bytes: [head, lines(&self.answer_fields), rest].concat(),
            closes: ends,
            is_early: false,
        }
    }
}

fn without(fields: &[(String, String)], unwanted: &[&[&str]]) -> Vec<(String, String)> {
    let stays = |(name, _): &&(String, String)| {
        let is_ours = name.starts_with("nihilo-") || name == "date";
        !is_ours && !unwanted.concat().contains(&name.as_str())
    };
    let mut fields: Vec<_> = fields.iter().filter(stays).cloned().collect();
    // Order matters within a name only; sorting by name keeps it.
    fields.sort_by(|one, other| one.0.cmp(&other.0));
    fields
}

fn seen(rig: &Rig, address: std::net::SocketAddr, exchange: &Exchange) -> (Request, Response) {
    rig.scripted.reset(vec![exchange.script()]);
    let mut client = Client::connect(address);
    client.send(&exchange.request(), false);
    let response = client.response(true).expect("an answer");
    let requests = rig.scripted.requests(1, ARRIVAL);
    (requests.into_iter().next().expect("a request"), response)
}

#[test]
fn with_the_gateway_and_without_it_both_ends_see_the_same() {
    let rig = Rig::start(false);
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    let check = |exchange: Exchange| {
        let (straight_request, straight_answer) = seen(&rig, rig.scripted.address, &exchange);
        let (request, answer) = seen(&rig, rig.address, &exchange);
        prop_assert_eq!(&request.line, &straight_request.line);
        prop_assert_eq!(&request.body, &straight_request.body);
        prop_assert_eq!(
            without(&request.fields, &[&ADDED, &FRAMING]),
            without(&straight_request.fields, &[&ADDED, &FRAMING])
        );
        prop_assert_eq!(answer.status, straight_answer.status);
        prop_assert_eq!(&answer.body, &straight_answer.body);
        prop_assert_eq!(answer.is_whole, straight_answer.is_whole);
        prop_assert_eq!(
            without(&answer.fields, &[&["x-request-id"], &FRAMING]),
            without(&straight_answer.fields, &[&["x-request-id"], &FRAMING])
        );
        Ok(())
    };
    let result = TestRunner::new(config).run(&exchange(), check);
    if let Err(error) = result {
        panic!("{error}");
    }
}
