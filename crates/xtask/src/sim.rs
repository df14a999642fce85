//! `sim`: the simulated cluster, in release mode: a seed is cheap there.

use crate::run::cargo;

/// Runs one seed with its trace, or the seeds `0..n_seeds`.
pub(crate) fn sim(seed: Option<u64>, n_seeds: u64, trace: bool) -> anyhow::Result<()> {
    let range = format!("0..{n_seeds}");
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
