//! `sim`: the simulated cluster, in release mode: a seed is cheap there; and the shells' simulation,
//! as the tests build it.

use std::process::Command;

use anyhow::{Context, ensure};

use crate::run::{cargo, root, target_dir};

/// Seeds of the gate.
const N_SEEDS: u64 = 2_000;
const N_SHELL_SEEDS: u64 = 40;

/// Runs one seed with its trace, or the seeds `0..n_seeds`.
pub(crate) fn sim(seed: Option<u64>, n_seeds: Option<u64>, trace: bool) -> anyhow::Result<()> {
    let range = format!("0..{}", n_seeds.unwrap_or(N_SEEDS));
    let seed = seed.map(|seed| seed.to_string());
    let mut args = vec![
        "run",
        "--release",
        "--locked",
        "--quiet",
        "--package",
        "nihilo-sim",
        "--",
    ];
    match &seed {
        Some(seed) => args.extend(["run", "--seed", seed]),
        None => args.extend(["many", "--seeds", &range]),
    }
    if trace && seed.is_some() {
        args.push("--trace");
    }
    cargo(&args)
}

/// Runs one seed of the shells' simulation, or the seeds `0..n_seeds`.
pub(crate) fn shell(seed: Option<u64>, n_seeds: Option<u64>, trace: bool) -> anyhow::Result<()> {
    // With the features that the tests have, so that nothing is built twice.
    cargo(&["test", "--locked", "--quiet", "--workspace", "--no-run"])?;
    let directory = target_dir()?.join("debug");
    let range = format!("0..{}", n_seeds.unwrap_or(N_SHELL_SEEDS));
    let seed = seed.map(|seed| seed.to_string());
    let mut program = Command::new(directory.join("nihilo-sim-shell"));
    match &seed {
        Some(seed) => program.args(["run", "--seed", seed]),
        None => program.args(["many", "--seeds", &range]),
    };
    if trace && seed.is_some() {
        program.args(["--trace", "/dev/stdout"]);
    }
    let status = program.current_dir(root()).status();
    let status = status.context("the simulation does not start")?;
    ensure!(status.success(), "not every seed passed");
    Ok(())
}
