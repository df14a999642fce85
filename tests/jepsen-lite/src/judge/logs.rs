//! C15: no panic and no failed assertion in any node's output, and no end that nobody wanted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use nihilo_sim::checker::{Evidence, Verdict};

use super::verdict;
use crate::backend::log_of;

pub(super) const NAME: &str = "C15 assertion";

const MARKS: [&str; 3] = ["panicked at", "assertion failed", "stack overflow"];

/// `from`: bytes of a node's output that were judged before; `expected`: texts of panics that the
/// trial caused itself.
pub(super) fn check(
    nodes: &[(String, PathBuf)],
    from: &BTreeMap<PathBuf, u64>,
    crashes: &[String],
    expected: &[String],
) -> Verdict {
    let (mut found, mut n_lines) = (Vec::new(), 0);
    for crash in crashes {
        found.push(Evidence::new(crash, "a process ended that nobody ended"));
    }
    for (node, data_dir) in nodes {
        let from = from.get(data_dir).copied().unwrap_or(0);
        let Ok(text) = read_from(&log_of(data_dir), from) else {
            return Verdict::harness_fault(format!("the output of {node} cannot be read"));
        };
        let lines: Vec<_> = text.lines().collect();
        n_lines += lines.len() as u64;
        for (number, line) in lines.iter().enumerate() {
            let says = lines.get(number + 1).copied().unwrap_or_default();
            if expected.iter().any(|text| says.contains(text)) {
                continue;
            }
            if MARKS.iter().any(|mark| line.contains(mark)) {
                let object = format!("{node} line {}", number + 1);
                let mut evidence = Evidence::new(object, (*line).to_owned());
                for next in lines.iter().skip(number + 1).take(3) {
                    evidence = evidence.witness(next);
                }
                found.push(evidence);
            }
        }
    }
    verdict(found, n_lines, Vec::new())
}

fn read_from(path: &Path, from: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use nihilo_sim::checker::verdict::Class;

    use super::*;

    #[test]
    fn a_panic_is_found_with_what_follows() {
        let dir = tempfile::tempdir().unwrap();
        let nodes = [("node1".to_owned(), dir.path().to_owned())];
        let log = log_of(dir.path());
        std::fs::write(&log, "INFO gateway open\n").unwrap();
        let check = |crashes: &[String], from: u64, expected: &[String]| {
            let from = BTreeMap::from([(dir.path().to_owned(), from)]);
            check(&nodes, &from, crashes, expected)
        };
        assert_eq!(check(&[], 0, &[]).class(), Class::Pass);
        assert_eq!(check(&["node2".into()], 0, &[]).class(), Class::Violation);
        let text = "thread 'main' panicked at x.rs:1:\nwhy\nbecause\n";
        std::fs::write(&log, text).unwrap();
        assert!(check(&[], 0, &[]).to_string().contains("why"));
        assert_eq!(check(&[], 0, &["why".into()]).class(), Class::Pass);
        let n_before = text.find("because").unwrap() as u64;
        assert_eq!(check(&[], n_before, &[]).class(), Class::Pass);
    }

    #[test]
    fn a_node_that_took_anothers_name_is_read_from_its_own_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let of = |dir_name: &str| ("node1".to_owned(), dir.path().join(dir_name));
        let nodes = [of("node1"), of("node1-join1")];
        let panic = "thread 'main' panicked at x.rs:1:\nwhy\n";
        std::fs::write(log_of(&nodes[0].1), panic).unwrap();
        std::fs::write(log_of(&nodes[1].1), "INFO node started\n").unwrap();
        let judged = BTreeMap::from([(nodes[0].1.clone(), panic.len() as u64)]);
        assert_eq!(check(&nodes, &judged, &[], &[]).class(), Class::Pass);
        std::fs::write(log_of(&nodes[1].1), panic).unwrap();
        assert_eq!(check(&nodes, &judged, &[], &[]).class(), Class::Violation);
    }
}
