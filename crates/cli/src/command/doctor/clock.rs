//! The machine's clock, and how far it is from the peers'.
//!
//! A peer's time is the `Date` of whatever it answers on its admin port: whole seconds, so that less than
//! a second apart cannot be told.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

use super::finding::Finding;

const CHECK: &str = "clock";
/// No binary is older than this: a machine that says so has no clock that runs without power.
const FIRST_SANE: &str = "2026-01-01T00:00:00Z";
const LIMIT: Duration = Duration::from_secs(2);
/// Head of an answer, at most.
const MAX_HEAD: usize = 16 * 1024;
/// Times and durations of the cluster's log jump by so much when another node leads.
const FAR_MS: i64 = 2_000;
/// Tokens to join by, which live an hour, and times in lists are wrong.
const TOO_FAR_MS: i64 = 60_000;
const FIX: &str = "let every node's clock follow the same time servers (chrony, systemd-timesyncd)";

pub(super) fn examine() -> Finding {
    judge(wall_ms(SystemTime::now()))
}

fn judge(now_ms: i64) -> Finding {
    let sane: Timestamp = FIRST_SANE.parse().unwrap_or(Timestamp::UNIX_EPOCH);
    let shown =
        Timestamp::from_millisecond(now_ms).map_or_else(|_| "?".into(), |at| at.to_string());
    if now_ms < sane.as_millisecond() {
        return Finding::fail(CHECK, format!("it is not {shown}"), FIX);
    }
    Finding::ok(CHECK, shown)
}

fn wall_ms(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// When a peer was asked, when it had answered, and what its clock said between the two, in milliseconds
/// of this machine's and of the peer's clock.
#[derive(Debug, Clone, Copy)]
struct Sample {
    asked_ms: i64,
    answered_ms: i64,
    /// The beginning of the peer's second.
    theirs_ms: i64,
}

pub(super) fn examine_peer(address: &str) -> Finding {
    judge_peer(address, &ask(address))
}

fn ask(address: &str) -> Result<Sample, String> {
    let asked_ms = wall_ms(SystemTime::now());
    let head = head_of(address).map_err(|error| error.to_string())?;
    let answered_ms = wall_ms(SystemTime::now());
    let date = date_in(&head).ok_or("its answer has no date")?;
    Ok(Sample {
        asked_ms,
        answered_ms,
        theirs_ms: date,
    })
}

fn head_of(address: &str) -> std::io::Result<String> {
    let nowhere = || std::io::Error::other("no such host");
    let target = address.to_socket_addrs()?.next().ok_or_else(nowhere)?;
    let mut stream = TcpStream::connect_timeout(&target, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    // In one piece: who has read the first line may answer, and close.
    let head = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut head = vec![0; MAX_HEAD];
    let n = stream.read(&mut head)?;
    Ok(String::from_utf8_lossy(&head[..n]).into_owned())
}

/// Milliseconds of the `Date` in the head of an answer.
fn date_in(head: &str) -> Option<i64> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(name, _)| name.eq_ignore_ascii_case("date"))?;
    let date = DateTimeParser::new().parse_timestamp(value.trim()).ok()?;
    Some(date.as_millisecond())
}

/// How far apart the clocks are at least, positive where the peer's is ahead.
fn apart_ms(sample: Sample) -> i64 {
    let least = sample.theirs_ms - sample.answered_ms;
    let most = sample.theirs_ms + 999 - sample.asked_ms;
    if least > 0 { least } else { most.min(0) }
}

fn judge_peer(address: &str, sample: &Result<Sample, String>) -> Finding {
    let check = format!("clock of {address}");
    let apart = match sample {
        Ok(sample) => apart_ms(*sample),
        Err(why) => {
            let fix =
                format!("see whether the node runs, and whether {address} is reached from here");
            return Finding::warn(check, format!("cannot be asked: {why}"), fix);
        }
    };
    let direction = if apart < 0 { "behind" } else { "ahead" };
    let found = format!("{:.1} s {direction}", apart.abs() as f64 / 1e3);
    match apart.abs() {
        TOO_FAR_MS.. => Finding::fail(check, found, FIX),
        FAR_MS..TOO_FAR_MS => Finding::warn(check, found, FIX),
        _ => Finding::ok(check, "the same, as far as whole seconds tell"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::command::doctor::finding::State;

    #[test]
    fn only_what_a_whole_second_proves_counts() {
        let s = |asked_ms, answered_ms, theirs_ms| Sample {
            asked_ms,
            answered_ms,
            theirs_ms,
        };
        let cases = [
            ("the same second", s(5_000, 5_010, 5_000), 0),
            ("its last millisecond", s(5_999, 5_999, 5_000), 0),
            ("the next second has begun there", s(5_999, 5_999, 6_000), 1),
            ("it was 4.999 there at most", s(5_000, 5_010, 4_000), -1),
            ("a slow answer proves less", s(5_000, 8_000, 7_000), 0),
            ("an hour", s(0, 10, 3_600_000), 3_599_990),
            ("an hour, behind", s(3_600_000, 3_600_010, 0), -3_599_001),
        ];
        for (name, sample, want) in cases {
            assert_eq!(apart_ms(sample), want, "{name}");
        }
    }

    #[test]
    fn clocks_that_are_apart_are_told() {
        let theirs = |theirs_ms| {
            Ok(Sample {
                asked_ms: 100_000,
                answered_ms: 100_000,
                theirs_ms,
            })
        };
        let cases = [
            (theirs(100_000), State::Ok, "the same"),
            (theirs(101_000), State::Ok, "the same"),
            (theirs(103_000), State::Warn, "3.0 s ahead"),
            (theirs(90_000), State::Warn, "9.0 s behind"),
            (theirs(200_000), State::Fail, "100.0 s ahead"),
            (theirs(0), State::Fail, "99.0 s behind"),
            (Err("refused".to_owned()), State::Warn, "refused"),
        ];
        for (sample, state, found) in cases {
            let finding = judge_peer("a:7070", &sample);
            assert_eq!(finding.state, state, "{finding:?}");
            assert!(finding.found.contains(found), "{finding:?}");
        }
    }

    #[test]
    fn a_machine_without_a_clock_is_found_out() {
        assert_eq!(judge(0).state, State::Fail);
        assert_eq!(examine().state, State::Ok);
    }

    #[test]
    fn the_date_is_read_off_an_answer() {
        let head = "HTTP/1.1 404 Not Found\r\ndate: Thu, 26 Nov 2026 18:32:01 GMT\r\n\r\n";
        assert_eq!(date_in(head), Some(1_795_717_921_000));
        assert_eq!(date_in("HTTP/1.1 200 OK\r\n\r\n"), None);
    }

    #[test]
    fn a_peer_is_really_asked() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let answering = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 1024];
            let n = stream.read(&mut head).unwrap();
            assert!(head[..n].starts_with(b"GET / HTTP/1.1\r\n"));
            let answer = b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n";
            stream.write_all(answer).unwrap();
        });
        let finding = examine_peer(&address);
        answering.join().unwrap();
        assert_eq!(finding.state, State::Fail, "{finding:?}");
        let nobody = examine_peer(&address);
        assert_eq!(nobody.state, State::Warn, "{nobody:?}");
    }
}
