//! Cases of bytes against a real gateway; `tests/cases/README.md` describes them.
#![expect(
    unreachable_pub,
    reason = "modules of one test, each with its own surface"
)]

mod alike;
mod backend;
mod case;
mod client;
mod foreign;
mod frames;
mod h1;
mod h2;
mod h2c_backend;
mod listeners;
mod mesh;
mod probes;
mod rig;
mod ws_backend;

use std::path::Path;
use std::sync::Mutex;

use crate::case::{Case, Step};
use crate::h1::{MAX_SINGLE, Way};
use crate::rig::Rig;

/// Fewer would mean that files were lost.
const MIN_CASES: usize = 300;
/// Gateways that work side by side.
const WORKERS: usize = 4;

fn ways(case: &Case) -> Vec<Way> {
    let n_bytes: usize = case
        .steps
        .iter()
        .map(|step| match step {
            Step::Send(bytes) => bytes.len(),
            Step::HalfClose => 0,
        })
        .sum();
    let mut ways = vec![Way::Whole];
    if case.is_slow {
        return ways;
    }
    if n_bytes <= MAX_SINGLE {
        ways.push(Way::ByteByByte);
    }
    let begins_well = case
        .steps
        .first()
        .is_some_and(|step| matches!(step, Step::Send(_)));
    if case.h2.is_none() && !case.is_alone && begins_well {
        ways.push(Way::BehindAGoodOne);
    }
    ways
}

fn run(rig: &Rig, case: &Case, failures: &Mutex<Vec<String>>) {
    for way in ways(case) {
        let result = match case.h2 {
            Some(_) => h2::run(rig, case, way),
            None => h1::run(rig, case, way),
        };
        if let Err(why) = result {
            let failure = format!("{}: {} ({way:?}): {why}", case.file, case.name);
            failures.lock().expect("failures").push(failure);
        }
    }
}

#[test]
fn every_case_ends_as_it_must() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut cases = case::read_all(&directory);
    let filter = std::env::var("CASE").ok();
    let n_all = cases.len();
    cases.retain(|case| {
        filter
            .as_ref()
            .is_none_or(|text| case.name.contains(text.as_str()))
    });
    let failures = Mutex::new(Vec::new());
    let (slow, quick): (Vec<_>, Vec<_>) = cases.into_iter().partition(|case| case.is_slow);
    let n_run = slow.len() + quick.len();
    let quick = Mutex::new(quick.into_iter());
    std::thread::scope(|scope| {
        for case in &slow {
            scope.spawn(|| run(&Rig::start(true), case, &failures));
        }
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let rig = Rig::start(false);
                loop {
                    let case = quick.lock().expect("cases").next();
                    let Some(case) = case else { return };
                    run(&rig, &case, &failures);
                }
            });
        }
    });
    let failures = failures.into_inner().expect("failures");
    assert!(
        failures.is_empty(),
        "{} of {n_run} cases failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
    assert!(n_all >= MIN_CASES, "{n_all} cases");
}
