//! C6: two replicas that applied the same index hold the same state, by its digest.

use std::collections::BTreeMap;

use crate::checker::verdict::{Evidence, Findings, Verdict};

pub const NAME: &str = "C6 replica equality";

/// A replica's digest at an applied index, taken in one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    pub node: String,
    pub at_ns: u64,
    pub applied_index: u64,
    pub digest: String,
}

/// Compares all digests of each index, of one node with itself too (apply is a function of the
/// log). Unknown when no two could be compared, or a node never could.
pub fn check(digests: &[Digest]) -> Verdict {
    let mut first: BTreeMap<u64, &Digest> = BTreeMap::new();
    let mut compared: BTreeMap<&str, u64> = BTreeMap::new();
    let mut findings = Findings::default();
    let mut n_compared = 0;
    for digest in digests {
        compared.entry(&digest.node).or_default();
        let Some(known) = first.get(&digest.applied_index) else {
            first.insert(digest.applied_index, digest);
            continue;
        };
        if known.node != digest.node {
            n_compared += 1;
            *compared.entry(&known.node).or_default() += 1;
            *compared.entry(&digest.node).or_default() += 1;
        }
        if known.digest != digest.digest {
            let object = format!("applied index {}", digest.applied_index);
            findings.add(
                Evidence::new(object, "replicas differ at one applied index")
                    .at(digest.at_ns)
                    .witness(format!("node `{}`: {}", known.node, known.digest))
                    .witness(format!("node `{}`: {}", digest.node, digest.digest)),
            );
        }
    }
    for (node, n) in compared {
        if n == 0 {
            findings.unknown(format!(
                "node `{node}` shares no applied index with another"
            ));
        }
    }
    findings.into_verdict(n_compared)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::verdict::Class;

    fn class(given: &[(&str, u64, &str)]) -> Class {
        let digests: Vec<Digest> = given
            .iter()
            .map(|&(node, applied_index, digest)| Digest {
                node: node.to_owned(),
                at_ns: 1,
                applied_index,
                digest: digest.to_owned(),
            })
            .collect();
        check(&digests).class()
    }

    #[test]
    fn equal_digests_at_equal_indexes_pass() {
        let given = [
            ("n1", 5, "a"),
            ("n2", 5, "a"),
            ("n1", 6, "b"),
            ("n3", 6, "b"),
        ];
        assert_eq!(class(&given), Class::Pass);
    }

    #[test]
    fn planted_apply_not_atomic_with_its_index() {
        assert_eq!(class(&[("n1", 5, "a"), ("n2", 5, "b")]), Class::Violation);
    }

    #[test]
    fn planted_apply_reads_a_clock() {
        // One node, restarted, replays the same entries to another state.
        assert_eq!(class(&[("n1", 5, "a"), ("n1", 5, "b")]), Class::Violation);
    }

    #[test]
    fn nothing_compared_is_unknown() {
        assert_eq!(class(&[("n1", 5, "a"), ("n2", 6, "b")]), Class::Unknown);
        assert_eq!(
            class(&[("n1", 5, "a"), ("n2", 5, "a"), ("n3", 6, "b")]),
            Class::Unknown
        );
        assert_eq!(class(&[]), Class::Unknown);
    }
}
