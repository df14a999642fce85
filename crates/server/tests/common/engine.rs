//! A Docker engine for tests, and an image of the binary under test.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test binary uses its part of it")]

use std::path::{Path, PathBuf};
use std::process::Command;

const NIHILO: &str = env!("CARGO_BIN_EXE_nihilo");

/// Removed with every container of it when dropped.
#[derive(Debug)]
pub(crate) struct TestImage(String);

impl TestImage {
    /// `None`, with a printed reason, where no engine answers.
    pub(crate) fn make(what: &str) -> Option<Self> {
        if let Err(why) = docker(&["version", "--format", "{{.Server.Version}}"]) {
            eprintln!("skipped: no Docker engine answers: {why}");
            return None;
        }
        let image = Self(format!("nihilo-test-{what}:{}", std::process::id()));
        let mut xtask = Command::new("cargo");
        xtask
            .args(["xtask", "image", "--binary", NIHILO, "--tag", image.name()])
            .current_dir(root());
        must(run(&mut xtask));
        Some(image)
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// Ids of its containers, running or not.
    pub(crate) fn containers(&self) -> Vec<String> {
        let filter = format!("ancestor={}", self.0);
        let shown = docker(&["ps", "--all", "--quiet", "--filter", &filter]);
        shown
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for TestImage {
    fn drop(&mut self) {
        for container in self.containers() {
            drop(docker(&["rm", "--force", "--volumes", &container]));
        }
        if let Err(why) = docker(&["image", "rm", "--force", &self.0]) {
            eprintln!("image {} is left: {why}", self.0);
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub(crate) fn docker(args: &[&str]) -> Result<String, String> {
    run(Command::new("docker").args(args))
}

/// What the command printed, or everything it said if it failed.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(format!(
            "{command:?}: {}\n{}{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        )),
    }
}

pub(crate) fn must(outcome: Result<String, String>) -> String {
    outcome.unwrap_or_else(|why| panic!("{why}"))
}
