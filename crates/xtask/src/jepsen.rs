//! `cargo xtask jepsen`: builds the binary under test and the harness, and hands over to it.

use std::process::Command;

use anyhow::{Context, bail};

use crate::run::{cargo, root, target_dir};

const RELEASE: &str = "--release";
const PACKAGES: [&str; 4] = ["-p", "nihilo-server", "-p", "nihilo-jepsen-lite"];

/// Runs the harness with `arguments`; without a command of its own they are those of `run`. A soak
/// and whatever `--release` stands before is built optimised.
///
/// Ends this process with the harness's exit code: 0 pass, 1 violation, 2 usage, 3 unknown,
/// 4 harness fault.
pub(crate) fn jepsen(arguments: &[String]) -> anyhow::Result<()> {
    // One call, so that both are built with the same features.
    let first = arguments.first().map(String::as_str);
    let is_release = matches!(first, Some("soak" | RELEASE));
    let arguments = match first {
        Some(RELEASE) => &arguments[1..],
        _ => arguments,
    };
    let mut build = vec!["build", "--locked"];
    build.extend(is_release.then_some(RELEASE));
    build.extend(PACKAGES);
    build.extend(["--bin", "nihilo", "--bin", "nihilo-jepsen-lite"]);
    cargo(&build)?;
    if needs_chaos(arguments) {
        // By name only: `nihilo` stays the binary that is shipped (docs/decisions/0030).
        let mut build = vec!["build", "--locked"];
        build.extend(is_release.then_some(RELEASE));
        build.extend(PACKAGES);
        build.extend(["--features", "nihilo-server/chaos", "--bin", "nihilo-chaos"]);
        cargo(&build)?;
    }
    let directory = target_dir()?.join(match is_release {
        true => "release",
        false => "debug",
    });
    let mut harness = Command::new(directory.join("nihilo-jepsen-lite"));
    if arguments.first().is_none_or(|first| first.starts_with('-')) {
        harness.arg("run");
    }
    let status = harness.args(arguments).current_dir(root()).status();
    match status.context("the harness does not start")?.code() {
        Some(code) => std::process::exit(code),
        None => bail!("the harness was killed"),
    }
}

/// Whether a failpoint or a planted bug is asked for. `points` only reads what runs have left.
fn needs_chaos(arguments: &[String]) -> bool {
    let asks = |argument: &String| {
        let (name, _) = argument.split_once('=').unwrap_or((argument, ""));
        matches!(
            name,
            "headline" | "canary" | "--bug" | "--bugs" | "--failpoints"
        )
    };
    arguments.first().is_some_and(|first| first != "points") && arguments.iter().any(asks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_plants_or_stops_needs_the_chaos_binary() {
        let table = [
            ("headline --cells f1:owner", true),
            ("canary", true),
            ("run --bug=ack-before-sync", true),
            ("--workload register --failpoints DIR", true),
            ("points --failpoints DIR", false),
            ("matrix --cells ci", false),
            ("", false),
        ];
        for (line, expected) in table {
            let arguments: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
            assert_eq!(needs_chaos(&arguments), expected, "{line}");
        }
    }
}
