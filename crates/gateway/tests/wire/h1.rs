//! Runs cases of HTTP/1.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::backend::{AFTER, BEFORE, Request};
use crate::case::{Answer, Case, Seen, Step, Want};
use crate::client::Client;
use crate::rig::Rig;

/// How a case's bytes reach the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Whole,
    ByteByByte,
    BehindAGoodOne,
}

/// More is not sent byte by byte: it would only take long.
pub const MAX_SINGLE: usize = 3_000;
const ARRIVAL: Duration = Duration::from_secs(20);

pub fn run(rig: &Rig, case: &Case, way: Way) -> Result<(), String> {
    let backend = rig.backend(&case.service);
    let (mut client, source) = Client::connect_alone(rig.address);
    backend.reset_for(source, case.scripts.clone());
    let before = format!("GET {BEFORE} HTTP/1.1\r\nHost: echo.test\r\n\r\n");
    let mut is_first = true;
    for step in &case.steps {
        match step {
            Step::Send(bytes) => {
                let bytes = match way == Way::BehindAGoodOne && is_first {
                    true => [before.as_bytes(), bytes].concat(),
                    false => bytes.clone(),
                };
                client.send(&bytes, way == Way::ByteByByte);
                is_first = false;
            }
            Step::HalfClose => client.half_close(),
        }
    }
    if way == Way::BehindAGoodOne {
        let response = client.response(true)?;
        expect(response.status == 200, || {
            format!("the good request before: {response:?}")
        })?;
    }
    for want in &case.wants {
        check(&mut client, case, want)?;
    }
    let wanted = case.seen.iter().find_map(|seen| match seen {
        Seen::Number(n) => Some(*n),
        _ => None,
    });
    let is_any = !case.seen.is_empty();
    let n = wanted.unwrap_or(usize::from(is_any));
    let requests = backend.requests(n, ARRIVAL);
    judge(case, &requests, source)
}

fn expect(is_so: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if is_so { Ok(()) } else { Err(otherwise()) }
}

fn check(client: &mut Client, case: &Case, want: &Want) -> Result<(), String> {
    match want {
        Want::Answer(answer) => check_answer(client, case, answer),
        Want::Close => client.ends(),
        Want::Open => {
            let after = format!("GET {AFTER} HTTP/1.1\r\nHost: echo.test\r\n\r\n");
            client.send(after.as_bytes(), false);
            let response = client.response(true)?;
            let is_fine = response.status == 200 && response.body == b"echo";
            expect(is_fine, || format!("the request after: {response:?}"))
        }
        other => Err(format!("{other:?} is for HTTP/2")),
    }
}

fn check_answer(client: &mut Client, case: &Case, want: &Answer) -> Result<(), String> {
    let is_head = case.steps.iter().any(|step| match step {
        Step::Send(bytes) => bytes.starts_with(b"HEAD "),
        Step::HalfClose => false,
    });
    let response = client.response(!is_head)?;
    expect(want.statuses.contains(&response.status), || {
        format!("{:?} is wanted, not {response:?}", want.statuses)
    })?;
    expect(response.is_whole != want.is_cut, || {
        format!("wholly or cut? {response:?}")
    })?;
    for (name, value) in &want.fields {
        let given = response.field(name);
        let fits = given.is_some_and(|given| value == "*" || given == value);
        expect(fits, || {
            format!("`{name}: {value}` is wanted in {response:?}")
        })?;
    }
    for name in &want.absent {
        let is_absent = response.field(name).is_none();
        expect(is_absent, || {
            format!("`{name}` is unwanted in {response:?}")
        })?;
    }
    if let Some(body) = &want.body {
        expect(response.body == *body, || {
            format!("another body: {response:?}")
        })?;
    }
    for trailer in &want.trailers {
        let is_there = response.trailers.contains(trailer);
        expect(is_there, || {
            format!("trailer {trailer:?} is wanted in {response:?}")
        })?;
    }
    Ok(())
}

pub fn judge(case: &Case, requests: &[Request], source: Ipv4Addr) -> Result<(), String> {
    for seen in &case.seen {
        if let Seen::Number(n) = seen {
            let fits = requests.len() == *n;
            expect(fits, || {
                format!("{n} requests are wanted, not {requests:?}")
            })?;
            continue;
        }
        let first = requests.first().ok_or("the backend saw nothing")?;
        let values = |name: &str| -> Vec<String> {
            let fields = first.fields.iter().filter(|(known, _)| known == name);
            fields.map(|(_, value)| value.clone()).collect()
        };
        let fits = match seen {
            Seen::Number(_) => true,
            Seen::Line(line) => first.line == *line,
            Seen::Header(name, value) => {
                let values = values(name);
                let value = value.replace("CLIENT", &source.to_string());
                values.contains(&value) || (value == "*" && !values.is_empty())
            }
            Seen::No(name) => values(name).is_empty(),
            Seen::Count(name, n) => values(name).len() == *n,
            Seen::Body(body) => first.body == *body && first.is_whole,
            Seen::Cut => !first.is_whole,
            Seen::Trailer(name, value) => first.trailers.contains(&(name.clone(), value.clone())),
        };
        expect(fits, || format!("{seen:?} is wanted in {first:?}"))?;
    }
    Ok(())
}
