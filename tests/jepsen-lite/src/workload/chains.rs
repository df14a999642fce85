//! W8 by itself: counters under one kind of fault, with the longest time without an acknowledged
//! write under each single one.

use std::sync::Arc;
use std::time::Duration;

use nihilo_sim::checker::{Report, Verdict, write_chain};
use tokio::time::Instant;

use super::counters::{Counters, N_WRITERS};
use crate::clock::pause;
use crate::judge::verdict;
use crate::nemesis::faults::Nemesis;
use crate::seed::Random;
use crate::tally::{ClassTally, Tally};
use crate::trial::Trial;

/// Longer than the writers need to be at their full rate again.
const BETWEEN_FAULTS_MIN_MS: u64 = 3_000;
const BETWEEN_FAULTS_MAX_MS: u64 = 6_000;

/// Writes for `length` while `nemesis` strikes, then looks at every key on every node.
///
/// # Errors
/// The harness broke, or the cluster did not become whole again.
pub async fn run(
    trial: &mut Trial,
    nemesis: Nemesis,
    length: Duration,
    random: &mut Random,
) -> anyhow::Result<Report> {
    let tally = Arc::new(Tally::default());
    let clients: Result<Vec<_>, _> = (0..N_WRITERS).map(|_| trial.admin()).collect();
    let mut counters = Counters::start(clients?, tally.clone(), &trial.ledger, random).await?;
    let end = Instant::now() + length;
    let mut number = 0;
    while Instant::now() < end {
        let between = random.between(BETWEEN_FAULTS_MIN_MS, BETWEEN_FAULTS_MAX_MS);
        pause(Duration::from_millis(between)).await;
        number += 1;
        tally.fault(&class(nemesis, number));
        nemesis.strike(trial, "c0", random).await?;
        tally.healed();
    }
    counters.stop().await;
    counters
        .rest()
        .await
        .look_everywhere(&trial.cluster)
        .await?;
    let classes = tally.classes();
    let notes = (1..=number).filter_map(|number| {
        let class = class(nemesis, number);
        classes
            .get(&class)
            .map(|of_class| silence(&class, of_class))
    });
    let notes: Vec<_> = notes.collect();
    for note in &notes {
        trial.say(note);
    }
    let mut report = Report::default();
    report.add(write_chain::NAME, judged(&counters, notes));
    Ok(report)
}

fn class(nemesis: Nemesis, number: u32) -> String {
    format!("{nemesis} {number}")
}

fn silence(class: &str, of_class: &ClassTally) -> String {
    let ms = of_class.longest_without_ack_ms;
    format!("{class}: at most {ms} ms without an acknowledged write")
}

fn judged(counters: &Counters, mut notes: Vec<String>) -> Verdict {
    let found = counters.take_found();
    let (n_acked, n_proven) = counters.proven();
    if found.is_empty() && n_proven < n_acked {
        let n = n_acked - n_proven;
        return Verdict::unknown(format!("{n} acknowledged writes were never looked at"));
    }
    notes.insert(0, format!("{n_acked} acknowledged"));
    verdict(found, n_proven, notes)
}
