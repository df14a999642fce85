//! Who was declared down, and when it was heard again: the leaders' and the nodes' own words for it
//! in their output. A machine that other work shares has nodes fall silent whom nobody hurt.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use nihilo_sim::checker::instance_bound::DeclaredDown;
use nihilo_types::time::parse_rfc3339;

use crate::clock::boottime_ns;

const OPEN: &str = "session open";
const DOWN: &str = "node declared down";
const SESSION: &str = "session=";

/// A line about a session.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    at_ns: u64,
    session: u64,
    is_down: bool,
}

/// Reads the whole output of all nodes; `None` when one cannot be read.
pub(super) fn declared_down(
    logs: &[(String, impl AsRef<Path>)],
    adopts: bool,
) -> Option<Vec<DeclaredDown>> {
    let since_boot = boot_offset_ns();
    let mut opened: BTreeMap<u64, (String, u64)> = BTreeMap::new();
    let mut down: BTreeMap<u64, u64> = BTreeMap::new();
    for (node, log) in logs {
        let text = std::fs::read(log).ok()?;
        for line in String::from_utf8_lossy(&text).lines() {
            let Some(line) = parse(line, since_boot) else {
                continue;
            };
            if line.is_down {
                let first = down.entry(line.session).or_insert(line.at_ns);
                *first = line.at_ns.min(*first);
            } else {
                opened.insert(line.session, (node.clone(), line.at_ns));
            }
        }
    }
    Some(joined(&opened, &down, adopts))
}

/// A declaration counts once the node has another session, or for good if it never has.
fn joined(
    opened: &BTreeMap<u64, (String, u64)>,
    down: &BTreeMap<u64, u64>,
    adopts: bool,
) -> Vec<DeclaredDown> {
    let of = |(session, at_ns): (&u64, &u64)| {
        let (node, _) = opened.get(session)?;
        let mut later = opened.range(session + 1..).map(|(_, opened)| opened);
        let again = later.find(|(other, _)| other == node);
        Some(DeclaredDown {
            node: node.clone(),
            at_ns: *at_ns,
            heard_again_ns: again.map(|(_, at_ns)| *at_ns),
            adopts,
        })
    };
    down.iter().filter_map(of).collect()
}

fn parse(line: &str, since_boot: i128) -> Option<Line> {
    if !line.contains(OPEN) && !line.contains(DOWN) {
        return None;
    }
    let plain = plain(line);
    let at_ns = unix_ns(plain.split_whitespace().next()?)?;
    let digits = plain.split(SESSION).nth(1)?;
    let digits = digits.split(|c: char| !c.is_ascii_digit()).next()?;
    Some(Line {
        at_ns: u64::try_from(i128::from(at_ns) - since_boot).ok()?,
        session: digits.parse().ok()?,
        is_down: plain.contains(DOWN),
    })
}

/// `2026-11-26T05:50:47.435441Z`
pub(crate) fn unix_ns(text: &str) -> Option<u64> {
    let (seconds, fraction) = text.trim_end_matches('Z').split_once('.')?;
    let ms = parse_rfc3339(&format!("{seconds}Z"))?;
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    Some(ms * 1_000_000 + digits.parse::<u64>().ok()?)
}

/// Without the terminal's colours.
pub(crate) fn plain(line: &str) -> String {
    let mut parts = line.split('\u{1b}');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str(part.split_once('m').map_or(part, |(_, rest)| rest));
    }
    plain
}

/// What has to be taken from a time of day to have the time since the host's boot.
fn boot_offset_ns() -> i128 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_ns = now.map_or(0, |now| now.as_nanos());
    i128::try_from(now_ns).unwrap_or(0) - i128::from(boottime_ns())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_terminal_are_read() {
        let line = "\u{1b}[2m2026-11-26T05:50:47.435441Z\u{1b}[0m \u{1b}[32m INFO\u{1b}[0m \
                    nihilo_control::session: node declared down \u{1b}[3msession\u{1b}[0m\
                    \u{1b}[2m=\u{1b}[0m2747 cause=Silent";
        let boot = 1_795_672_200_000_000_000;
        let line = parse(line, boot).unwrap();
        assert_eq!((line.session, line.is_down), (2_747, true));
        assert_eq!(line.at_ns, 47_435_441_000);
        assert_eq!(
            parse("2026-11-26T05:50:47.4Z INFO instance drains", 0),
            None
        );
    }

    #[test]
    fn a_node_is_heard_again_with_its_next_session() {
        let opened = |node: &str, at_ns| (node.to_owned(), at_ns);
        let opened = BTreeMap::from([
            (5, opened("node1", 10)),
            (6, opened("node2", 11)),
            (9, opened("node1", 90)),
        ]);
        let down = BTreeMap::from([(5, 50), (6, 60)]);
        let joined = joined(&opened, &down, false);
        let shown: Vec<_> = joined
            .iter()
            .map(|down| (down.node.as_str(), down.at_ns, down.heard_again_ns))
            .collect();
        assert_eq!(shown, [("node1", 50, Some(90)), ("node2", 60, None)]);
    }
}
