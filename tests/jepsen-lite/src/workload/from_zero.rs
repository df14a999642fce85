//! W4 and W5: services at zero that are woken, loaded in steps, and left alone again.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::load::{Clients, Load, Mix};
use super::services::{self, Scaling};
use crate::backend::{LocalCluster, N_NODES};
use crate::clock::{at, pause};
use crate::seed::Random;
use crate::trial::Trial;

/// How long one step of the load lasts.
const STEP_MIN_MS: u64 = 500;
const STEP_MAX_MS: u64 = 20_000;
/// Between two faults, so that some fall into a recovery and some into rest.
const BETWEEN_MIN_MS: u64 = 3_000;
const BETWEEN_MAX_MS: u64 = 15_000;

/// What is under load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// W4: five services, most of them at zero at any time.
    FromZero,
    /// W5: one service that is pressed against its max-scale.
    Steps,
}

/// Loads the services in steps and strikes again and again for `length`.
///
/// # Errors
/// The harness broke, or the cluster did not become whole again.
pub async fn run(
    trial: &mut Trial,
    kind: Kind,
    nemesis: crate::nemesis::faults::Nemesis,
    length: Duration,
    random: &mut Random,
) -> anyhow::Result<()> {
    let services = deploy(trial, kind).await?;
    trial.until_zero().await?;
    let end = Instant::now() + length;
    let load = start(trial, kind, &services, end, random);
    while Instant::now() < end {
        pause(Duration::from_millis(
            random.between(BETWEEN_MIN_MS, BETWEEN_MAX_MS),
        ))
        .await;
        nemesis.strike(trial, &services[0], random).await?;
    }
    load.await?;
    trial.ask_everywhere(&services).await;
    let took = trial.until_zero().await?;
    trial.say(&format!("at zero after {:.1} s", took.as_secs_f64()));
    Ok(())
}

/// Loads the services in steps until `end`.
pub fn start(
    trial: &Trial,
    kind: Kind,
    services: &[String],
    end: Instant,
    random: &mut Random,
) -> JoinHandle<()> {
    let (clients, mut random) = (trial.clients.clone(), random.fork());
    let services = services.to_vec();
    tokio::spawn(async move {
        while Instant::now() < end {
            step(&clients, kind, &services, end, &mut random).await;
        }
    })
}

/// Deploys what is loaded; returns the names.
///
/// # Errors
/// A service does not become Ready.
pub async fn deploy(trial: &Trial, kind: Kind) -> anyhow::Result<Vec<String>> {
    let client = trial.admin()?;
    let (letter, n, scaling) = match kind {
        Kind::FromZero => ('z', 5, Scaling::default()),
        Kind::Steps => (
            's',
            1,
            Scaling {
                max_scale: 3,
                target: 2,
                concurrency: 4,
            },
        ),
    };
    let mut names = Vec::new();
    for number in 0..n {
        let owner = number % N_NODES;
        let name = LocalCluster::name_owned_by(&format!("{letter}{number}-"), owner);
        let service = services::echo(&name, &trial.ledger, scaling);
        let deployed = services::deploy(&client, &service).await;
        deployed.map_err(anyhow::Error::msg)?;
        names.push(name);
    }
    Ok(names)
}

/// One step: some services get some load for some time.
async fn step(
    clients: &Arc<Clients>,
    kind: Kind,
    services: &[String],
    end: Instant,
    random: &mut Random,
) {
    let (services, per_second, app_ms) = match kind {
        Kind::FromZero => {
            let two = [random.pick(services), random.pick(services)];
            let two = two.into_iter().flatten().cloned().collect();
            (two, random.between(2, 30), (0, 300))
        }
        Kind::Steps => {
            // Now and then nothing, so that it falls; now and then more than the cap can take.
            let per_second = [1, 4, 10, 25][random.between(0, 4) as usize];
            (services.to_vec(), per_second, (50, 800))
        }
    };
    let mix = Mix {
        services,
        per_second,
        app_ms,
    };
    let load: Load = clients.start(mix, random.fork());
    let length = Duration::from_millis(random.between(STEP_MIN_MS, STEP_MAX_MS));
    at((Instant::now() + length).min(end)).await;
    load.stop().await;
}
