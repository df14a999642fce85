//! `nihilo cluster digests`: whether the replicas hold the same state.

use std::time::Duration;

use nihilo_wire::cluster as pb;
use serde::Serialize;

use crate::context::Context;
use crate::failure::{Failure, Result, exit};
use crate::output::{self, OutputArgs};

const HEAD: [&str; 3] = ["NODE", "APPLIED", "DIGEST"];
/// A busy cluster may never be seen at one index; then it is asked this often, and said so.
const MAX_TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Digest {
    node: String,
    applied: u64,
    digest: String,
}

pub(crate) async fn run(context: &Context, output: OutputArgs) -> Result<()> {
    let mut digests = ask(context).await?;
    let mut differs = difference(&digests);
    for _ in 1..MAX_TRIES {
        if differs.is_some() || are_comparable(&digests) {
            break;
        }
        tokio::time::sleep(PAUSE).await;
        digests = ask(context).await?;
        differs = difference(&digests);
    }
    output::list(output.output, &digests, name, |digests| {
        output::table(&HEAD, &digests.iter().map(row).collect::<Vec<_>>())
    })?;
    if let Some(failure) = differs {
        return Err(failure);
    }
    if digests.len() < 2 {
        output::note("warning: no other node answered, so nothing was compared");
    } else if !are_comparable(&digests) {
        output::note(
            "warning: the nodes were not seen at one index; ask again when less is written",
        );
    }
    Ok(())
}

async fn ask(context: &Context) -> Result<Vec<Digest>> {
    let answer = context.client.digests().await?;
    Ok(answer.into_iter().map(Digest::from).collect())
}

impl From<pb::NodeDigest> for Digest {
    fn from(digest: pb::NodeDigest) -> Self {
        Self {
            node: digest.node,
            applied: digest.applied,
            digest: digest.digest,
        }
    }
}

fn name(digest: &Digest) -> String {
    format!("node/{}", digest.node)
}

fn row(digest: &Digest) -> Vec<String> {
    let applied = digest.applied.to_string();
    vec![digest.node.clone(), applied, digest.digest.clone()]
}

/// All that answered are at one index.
fn are_comparable(digests: &[Digest]) -> bool {
    digests
        .windows(2)
        .all(|two| two[0].applied == two[1].applied)
}

fn difference(digests: &[Digest]) -> Option<Failure> {
    let of = |digest: &Digest| format!("{}: {}", digest.node, digest.digest);
    for (k, one) in digests.iter().enumerate() {
        let differs = |other: &&Digest| other.applied == one.applied && other.digest != one.digest;
        let Some(other) = digests[..k].iter().find(differs) else {
            continue;
        };
        let what = format!("the replicas differ at index {}", one.applied);
        return Some(
            Failure::new(exit::OTHER, what)
                .because(of(other))
                .because(of(one))
                .hint("take a backup of every node's directory before anything else is tried"),
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(given: &[(&str, u64, &str)]) -> Vec<Digest> {
        let digest = |(node, applied, digest): &(&str, u64, &str)| Digest {
            node: (*node).into(),
            applied: *applied,
            digest: (*digest).into(),
        };
        given.iter().map(digest).collect()
    }

    #[test]
    fn replicas_are_compared_at_one_index_only() {
        let ahead = digests(&[("node1", 7, "a"), ("node2", 8, "b")]);
        assert!(difference(&ahead).is_none() && !are_comparable(&ahead));
        let equal = digests(&[("node1", 7, "a"), ("node2", 7, "a")]);
        assert!(difference(&equal).is_none() && are_comparable(&equal));
        let damaged = digests(&[("node1", 7, "a"), ("node2", 8, "b"), ("node3", 7, "c")]);
        let text = difference(&damaged).unwrap().to_string();
        assert!(text.contains("index 7"), "{text}");
        assert!(
            text.contains("node1: a") && text.contains("node3: c"),
            "{text}"
        );
    }
}
