//! Many seeds, each in a process of its own: libraries keep state per process, and what one run
//! leaves behind must not reach the next.

use std::ops::Range;
use std::process::{Command, ExitCode, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Context;

use crate::plant::Plant;

/// How one seed's process ended.
struct Ended {
    seed: u64,
    output: Output,
}

impl Ended {
    fn passed(&self) -> bool {
        self.output.status.success()
    }

    /// Found by a checker; anything else that is no pass is the harness's fault.
    fn is_violation(&self) -> bool {
        self.output.status.code() == Some(1)
    }

    fn text(&self) -> String {
        let streams = [&self.output.stdout, &self.output.stderr];
        streams.map(|bytes| String::from_utf8_lossy(bytes)).concat()
    }
}

/// Runs a seed in a process of its own.
pub(crate) fn process(seed: u64, arguments: &[&str]) -> anyhow::Result<Output> {
    Command::new(std::env::current_exe()?)
        .args(["run", "--seed", &seed.to_string()])
        .args(arguments)
        .output()
        .context("a seed's process does not start")
}

/// Runs seeds on all cores; `stops` may end it early.
fn on_all_cores(
    seeds: &Range<u64>,
    plant: Option<Plant>,
    stops: impl Fn(&Ended) -> bool + Sync,
) -> anyhow::Result<Vec<Ended>> {
    let plant = plant.map(Plant::name);
    let arguments: Vec<&str> = plant
        .iter()
        .flat_map(|name| ["--plant", name.as_str()])
        .collect();
    let next = AtomicU64::new(seeds.start);
    let all = Mutex::new(Vec::new());
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let worker = || -> anyhow::Result<()> {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end {
                    return Ok(());
                }
                let output = process(seed, &arguments)?;
                let ended = Ended { seed, output };
                if stops(&ended) {
                    next.store(seeds.end, Ordering::Relaxed);
                }
                all.lock().expect("no worker panics").push(ended);
            }
        };
        let workers: Vec<_> = (0..n_threads).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().expect("no worker panics"))
    })?;
    let mut all = all.into_inner().expect("no worker panics");
    all.sort_by_key(|ended| ended.seed);
    Ok(all)
}

/// Runs all seeds and tells of those that do not pass.
pub(crate) fn many(seeds: &Range<u64>, plant: Option<Plant>) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let all = on_all_cores(seeds, plant, |_| false)?;
    let failed: Vec<_> = all.iter().filter(|ended| !ended.passed()).collect();
    for ended in &failed {
        println!("{}", ended.text());
    }
    let took = started.elapsed().as_secs_f64();
    println!(
        "{} seeds, {} failed, in {took:.0} s",
        all.len(),
        failed.len()
    );
    Ok(match failed.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Every required bug, or the one asked for, must be found within `seeds`.
pub(crate) fn plants(seeds: &Range<u64>, only: Option<Plant>) -> anyhow::Result<ExitCode> {
    let mut n_missed = 0;
    for plant in only.map_or(Plant::REQUIRED.to_vec(), |only| vec![only]) {
        let runs = on_all_cores(seeds, Some(plant), Ended::is_violation)?;
        let found = runs.iter().find(|ended| ended.is_violation());
        match found {
            Some(ended) => {
                let text = ended.text();
                let line = text.lines().find(|line| line.contains("VIOLATION"));
                let line = line.unwrap_or_default().trim();
                println!("{}: found by seed {}: {line}", plant.name(), ended.seed);
            }
            None => {
                n_missed += 1;
                println!("{}: NOT FOUND within {} seeds", plant.name(), runs.len());
            }
        }
    }
    Ok(match n_missed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}
