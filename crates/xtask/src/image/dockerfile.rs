//! Which lines of a Dockerfile say something about the image and not about its files.

/// What `docker import --change` takes.
const METADATA: [&str; 8] = [
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "USER",
    "WORKDIR",
];

/// The metadata instructions of the last stage, each one line.
pub(crate) fn metadata(text: &str) -> Vec<&str> {
    let is_from = |line: &&str| instruction(line) == "FROM";
    let last_stage = text.lines().rev().take_while(|line| !is_from(line));
    let mut lines: Vec<_> = last_stage
        .filter(|line| METADATA.contains(&instruction(line)))
        .collect();
    lines.reverse();
    lines
}

fn instruction(line: &str) -> &str {
    line.split_ascii_whitespace().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_stage_counts_and_only_its_metadata() {
        let text = "FROM a AS build\nUSER root\nRUN make\n\nFROM scratch\nCOPY --from=build / /\n# \
                    USER comment\nUSER 1:1\nENTRYPOINT [\"/x\"]\n";
        assert_eq!(metadata(text), ["USER 1:1", "ENTRYPOINT [\"/x\"]"]);
    }

    #[test]
    fn ours_runs_a_node_as_nobody_in_particular() {
        let text = include_str!("../../../../cluster/Dockerfile");
        let lines = metadata(text);
        for wanted in [
            "USER 65532:65532",
            "ENTRYPOINT [\"/nihilo\"]",
            "CMD [\"node\", \"start\"]",
        ] {
            assert!(lines.contains(&wanted), "{wanted} in {lines:?}");
        }
        // A continued line would be cut in two.
        assert!(lines.iter().all(|line| !line.ends_with('\\')), "{lines:?}");
    }
}
