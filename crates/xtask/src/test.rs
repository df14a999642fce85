//! `check` and `test`.

use std::process::Command;

use crate::run::cargo;
use crate::{deps, tidy};

pub(crate) fn check() -> anyhow::Result<()> {
    cargo(&["fmt", "--all", "--check"])?;
    deps::check()?;
    tidy::check()?;
    cargo(&[
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ])
}

/// The tests that the gate has no time for, each ignored with the reason (`tidy` wants one).
pub(crate) fn long() -> anyhow::Result<()> {
    let args = match has_nextest() {
        true => vec![
            "nextest",
            "run",
            "--locked",
            "--no-fail-fast",
            "--workspace",
        ],
        false => vec!["test", "--locked", "--no-fail-fast", "--workspace"],
    };
    let only = match has_nextest() {
        true => &["--run-ignored", "only"][..],
        false => &["--", "--ignored"],
    };
    cargo(&[&args, only].concat())
}

pub(crate) fn test(package: Option<&str>) -> anyhow::Result<()> {
    let package = package.map(|name| format!("nihilo-{name}"));
    let mut args = match has_nextest() {
        true => vec!["nextest", "run", "--locked", "--no-fail-fast"],
        false => vec!["test", "--locked", "--no-fail-fast"],
    };
    match &package {
        Some(package) => args.extend(["--package", package]),
        None => {
            check()?;
            args.push("--workspace");
        }
    }
    cargo(&args)
}

fn has_nextest() -> bool {
    Command::new("cargo")
        .args(["nextest", "--version"])
        .output()
        .is_ok_and(|o| o.status.success())
}
