//! C15: no panic and no failed assertion in any node's output, and no end that nobody wanted.

use std::path::PathBuf;

use nihilo_sim::checker::{Evidence, Verdict};

use super::verdict;

pub(super) const NAME: &str = "C15 assertion";

const MARKS: [&str; 3] = ["panicked at", "assertion failed", "stack overflow"];

/// `expected`: texts of panics that the trial caused itself.
pub(super) fn check(
    nodes: &[(String, PathBuf)],
    crashes: &[String],
    expected: &[String],
) -> Verdict {
    let (mut found, mut n_lines) = (Vec::new(), 0);
    for crash in crashes {
        found.push(Evidence::new(crash, "a process ended that nobody ended"));
    }
    for (node, data_dir) in nodes {
        let Ok(text) = std::fs::read_to_string(data_dir.join("node.log")) else {
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

#[cfg(test)]
mod tests {
    use nihilo_sim::checker::verdict::Class;

    use super::*;

    #[test]
    fn a_panic_is_found_with_what_follows() {
        let dir = tempfile::tempdir().unwrap();
        let nodes = [("node1".to_owned(), dir.path().to_owned())];
        let log = dir.path().join("node.log");
        std::fs::write(&log, "INFO gateway open\n").unwrap();
        assert_eq!(check(&nodes, &[], &[]).class(), Class::Pass);
        let crashed = check(&nodes, &["node2".into()], &[]);
        assert_eq!(crashed.class(), Class::Violation);
        std::fs::write(&log, "thread 'main' panicked at x.rs:1:\nwhy\n").unwrap();
        assert!(check(&nodes, &[], &[]).to_string().contains("why"));
        let expected = check(&nodes, &[], &["why".into()]);
        assert_eq!(expected.class(), Class::Pass);
    }
}
