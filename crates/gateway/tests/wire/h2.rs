//! Runs cases of HTTP/2.

use std::time::{Duration, Instant};

use crate::case::{Case, Opening, Seen, Step, Want};
use crate::client::{Client, LIMIT, Next};
use crate::frames::SETTINGS;
use crate::frames::{self, ACK, DATA, END_HEADERS, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM};
use crate::h1::{Way, judge};
use crate::rig::Rig;

const ARRIVAL: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// What came so far, and whether the connection has ended.
struct Reader {
    client: Client,
    decoder: hpack::Decoder<'static>,
    frames: Vec<Frame>,
    statuses: Vec<(u32, u16)>,
    has_ended: bool,
}

pub fn run(rig: &Rig, case: &Case, way: Way) -> Result<(), String> {
    let backend = rig.backend(&case.service);
    let (mut client, source) = Client::connect_alone(rig.address);
    backend.reset_for(source, case.scripts.clone());
    let opening = match case.h2 {
        Some(Opening::Whole) => [PREFACE, &frames::frame(SETTINGS, 0, 0, &[])].concat(),
        _ => Vec::new(),
    };
    client.send(&opening, false);
    for step in &case.steps {
        match step {
            Step::Send(bytes) => client.send(bytes, way == Way::ByteByByte),
            Step::HalfClose => client.half_close(),
        }
    }
    let mut reader = Reader {
        client,
        decoder: hpack::Decoder::new(),
        frames: Vec::new(),
        statuses: Vec::new(),
        has_ended: false,
    };
    for want in &case.wants {
        reader.check(want)?;
    }
    let wanted = case.seen.iter().find_map(|seen| match seen {
        Seen::Number(n) => Some(*n),
        _ => None,
    });
    let n = wanted.unwrap_or(usize::from(!case.seen.is_empty()));
    judge(case, &backend.requests(n, ARRIVAL), source)
}

impl Reader {
    /// Reads until `fits` finds what it wants, or the connection or the time ends.
    fn wait(&mut self, mut fits: impl FnMut(&Self) -> bool) -> bool {
        let deadline = Instant::now() + LIMIT;
        loop {
            if fits(self) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if self.has_ended || left.is_zero() {
                return false;
            }
            self.read(left);
        }
    }

    fn read(&mut self, limit: Duration) {
        let Some(head) = self.client.exactly(9, limit) else {
            self.has_ended = self.client.more(Duration::from_millis(1)) == Next::Closed;
            return;
        };
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let length = usize::try_from(length).expect("a length");
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        let Some(payload) = self.client.exactly(length, limit) else {
            self.has_ended = true;
            return;
        };
        let (kind, flags) = (head[3], head[4]);
        if kind == SETTINGS && flags & ACK == 0 {
            self.client
                .send(&frames::frame(SETTINGS, ACK, 0, &[]), false);
        }
        if kind == HEADERS {
            assert!(flags & END_HEADERS != 0, "a head in one frame");
            let fields = self.decoder.decode(&payload).expect("a sound head");
            let status = fields.iter().find(|(name, _)| name == b":status");
            if let Some((_, status)) = status {
                let status = String::from_utf8_lossy(status).parse().expect("a status");
                self.statuses.push((stream, status));
            }
        }
        self.frames.push(Frame {
            kind,
            flags,
            stream,
            payload,
        });
    }

    fn code_of(frame: &Frame) -> u32 {
        let at = if frame.kind == GOAWAY { 4 } else { 0 };
        let bytes = frame.payload.get(at..at + 4).expect("a code");
        u32::from_be_bytes(bytes.try_into().expect("four bytes"))
    }

    fn said(&self, kind: u8, stream: u32) -> Option<u32> {
        let found = self
            .frames
            .iter()
            .find(|f| f.kind == kind && f.stream == stream);
        found.map(Self::code_of)
    }

    fn seen(&self) -> String {
        let frame = |frame: &Frame| match frame.kind {
            RST_STREAM | GOAWAY => {
                format!(
                    "{}:{}:{}",
                    frame.kind,
                    frame.stream,
                    frames::code_name(Self::code_of(frame))
                )
            }
            kind => format!("{kind}:{}", frame.stream),
        };
        let frames: Vec<_> = self.frames.iter().map(frame).collect();
        format!("{frames:?} {:?} ended: {}", self.statuses, self.has_ended)
    }

    fn check(&mut self, want: &Want) -> Result<(), String> {
        let is_met = match want {
            Want::H2Headers(stream, status) => {
                self.wait(|r| r.statuses.iter().any(|(s, _)| s == stream));
                let found = self.statuses.iter().rfind(|(s, _)| s == stream);
                found.is_some_and(|(_, given)| given == status)
            }
            Want::H2Data(stream, text) => self.wait(|r| {
                let of_stream = r
                    .frames
                    .iter()
                    .filter(|f| f.kind == DATA && f.stream == *stream);
                let data: Vec<u8> = of_stream.flat_map(|f| f.payload.clone()).collect();
                data == *text
            }),
            Want::H2Rst(stream, codes) => {
                self.wait(|r| r.said(RST_STREAM, *stream).is_some());
                let code = self.said(RST_STREAM, *stream);
                code.is_some_and(|code| codes.contains(&code)) && self.said(GOAWAY, 0).is_none()
            }
            Want::H2GoAway(codes) => {
                self.wait(|r| r.has_ended || r.said(GOAWAY, 0).is_some());
                match self.said(GOAWAY, 0) {
                    Some(code) => codes.contains(&code) && self.wait(|r| r.has_ended),
                    None => self.has_ended,
                }
            }
            Want::H2GoAwaySaid(code) => self.wait(|r| r.said(GOAWAY, 0) == Some(*code)),
            Want::H2Error(stream, codes) => {
                self.wait(|r| {
                    r.has_ended
                        || r.said(GOAWAY, 0).is_some()
                        || r.said(RST_STREAM, *stream).is_some()
                });
                let said = [self.said(RST_STREAM, *stream), self.said(GOAWAY, 0)];
                let mut said = said.into_iter().flatten().peekable();
                match said.peek() {
                    Some(_) => said.all(|code| codes.contains(&code)),
                    None => self.has_ended,
                }
            }
            Want::H2Frame(kind, flags, stream) => self.wait(|r| {
                let is_it =
                    |f: &Frame| f.kind == *kind && f.flags & flags == *flags && f.stream == *stream;
                r.frames.iter().any(is_it)
            }),
            Want::H2Alive => {
                self.client
                    .send(&frames::frame(PING, 0, 0, b"alive?!?"), false);
                self.wait(|r| {
                    let is_it = |f: &Frame| f.kind == PING && f.flags & ACK != 0;
                    r.frames
                        .iter()
                        .any(|f| is_it(f) && f.payload == b"alive?!?")
                })
            }
            Want::Close => self.wait(|r| r.has_ended),
            Want::Answer(_) | Want::Open => return Err(format!("{want:?} is for HTTP/1")),
        };
        match is_met {
            true => Ok(()),
            false => Err(format!("{want:?} is wanted, not {}", self.seen())),
        }
    }
}
