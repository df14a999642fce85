//! The stages of the demo: each is brought about, and left at the moment that a fault shall hit.

use std::fmt;
use std::time::Duration;

use nihilo_client::Client;
use nihilo_types::route::TrafficTarget;
use nihilo_types::template::EnvVar;
use tokio::task::JoinHandle;

use super::load::{Load, Mix};
use super::services::{self, NAMESPACE, Scaling};
use crate::clock::{self, pause};
use crate::seed::Random;
use crate::trial::Trial;

/// Load that makes several instances: 12 requests in flight at a target of 5.
const BURST_PER_SECOND: u64 = 40;
const BURST_APP_MS: (u64, u64) = (150, 400);
const TRICKLE_PER_SECOND: u64 = 8;
const STEADY_AFTER: Duration = Duration::from_secs(4);
const DRAIN_LIMIT: Duration = Duration::from_secs(25);
const LOOK_EVERY: Duration = Duration::from_millis(30);
const TO_READY: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Deploying,
    AtZero,
    ColdStart,
    ScalingUp,
    BurstSteady,
    CanarySplit,
    TrafficShifting,
    ScalingDown,
    Idle,
}

/// What goes on while the fault hits.
#[derive(Debug, Default)]
pub struct Underway {
    pub loads: Vec<Load>,
    /// A change by an operator, which must succeed in spite of the fault.
    pub change: Option<JoinHandle<Result<(), String>>>,
    /// A service that exists only once the change has succeeded.
    pub deployed: Option<String>,
}

impl Stage {
    pub const ALL: [Stage; 9] = [
        Stage::Deploying,
        Stage::AtZero,
        Stage::ColdStart,
        Stage::ScalingUp,
        Stage::BurstSteady,
        Stage::CanarySplit,
        Stage::TrafficShifting,
        Stage::ScalingDown,
        Stage::Idle,
    ];

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|stage| stage.to_string() == text)
    }

    /// Whether instances run then, so that there is a node that hosts them.
    pub fn has_instances(self) -> bool {
        !matches!(
            self,
            Stage::Deploying | Stage::AtZero | Stage::ColdStart | Stage::Idle
        )
    }

    /// Brings the stage about for the service `focus`, everything else being at zero.
    ///
    /// # Errors
    /// It does not come about although nothing is wrong yet.
    pub async fn begin(
        self,
        trial: &Trial,
        focus: &str,
        number: usize,
        random: &mut Random,
    ) -> anyhow::Result<Underway> {
        let mut underway = Underway::default();
        let client = trial.admin()?;
        match self {
            Stage::AtZero | Stage::Idle => {}
            Stage::Deploying => {
                let name = format!("{focus}-{number}");
                let service = services::echo(&name, &trial.ledger, Scaling::default());
                underway.loads.push(trickle(trial, focus, random));
                underway.change = Some(tokio::spawn(async move {
                    services::deploy(&client, &service).await.map(drop)
                }));
                underway.deployed = Some(name);
                pause(random.within(Duration::from_millis(800))).await;
            }
            Stage::ColdStart => {
                underway.loads.push(burst(trial, focus, random));
                pause(random.within(Duration::from_millis(200))).await;
            }
            Stage::ScalingUp => {
                underway.loads.push(burst(trial, focus, random));
                pause(Duration::from_millis(random.between(200, 2_000))).await;
            }
            Stage::BurstSteady => {
                underway.loads.push(burst(trial, focus, random));
                pause(STEADY_AFTER + random.within(Duration::from_secs(1))).await;
            }
            Stage::CanarySplit | Stage::TrafficShifting => {
                underway.loads.push(trickle(trial, focus, random));
                let (old, new) = second_revision(&client, focus, number).await?;
                let shares: &'static [u32] = match self {
                    Stage::CanarySplit => &[10],
                    _ => &[10, 30, 50, 70, 90, 100],
                };
                let (service, within) = (focus.to_owned(), 150 * shares.len() as u64);
                underway.change = Some(tokio::spawn(async move {
                    for share in shares {
                        split(&client, &service, &old, &new, *share).await?;
                    }
                    Ok(())
                }));
                pause(random.within(Duration::from_millis(within))).await;
            }
            Stage::ScalingDown => {
                let load = burst(trial, focus, random);
                pause(STEADY_AFTER).await;
                // Whatever was open is over before the scale falls.
                load.stop().await;
                underway.loads.push(slow(trial, focus, random));
                until_draining(trial, &client, focus).await;
                pause(random.within(Duration::from_millis(300))).await;
            }
        }
        Ok(underway)
    }
}

fn load(trial: &Trial, focus: &str, rate: u64, app_ms: (u64, u64), random: &mut Random) -> Load {
    let mix = Mix {
        services: vec![focus.to_owned()],
        per_second: rate,
        app_ms,
    };
    trial.clients.start(mix, random.fork())
}

fn burst(trial: &Trial, focus: &str, random: &mut Random) -> Load {
    load(trial, focus, BURST_PER_SECOND, BURST_APP_MS, random)
}

fn trickle(trial: &Trial, focus: &str, random: &mut Random) -> Load {
    load(trial, focus, TRICKLE_PER_SECOND, (0, 100), random)
}

/// Few requests, each long enough to meet a drain.
fn slow(trial: &Trial, focus: &str, random: &mut Random) -> Load {
    load(trial, focus, 2, (1_000, 2_500), random)
}

/// Waits until an instance is being drained; says so if that does not come.
async fn until_draining(trial: &Trial, client: &Client, focus: &str) {
    let draining = clock::until(DRAIN_LIMIT, LOOK_EVERY, || async {
        let told = client.instances(Some(NAMESPACE), focus).await;
        let items = told.map_err(|error| error.to_string())?.items;
        let drains = |state: &str| matches!(state, "Draining" | "Stopping");
        let found = items.iter().any(|item| drains(&item.state));
        if found {
            Ok(())
        } else {
            Err("no instance drains".to_owned())
        }
    });
    if let Err(why) = draining.await {
        trial.say(&format!("scaling down: {why}; going on"));
    }
}

/// Makes a second revision that gets no traffic yet; returns the names of both.
async fn second_revision(
    client: &Client,
    focus: &str,
    number: usize,
) -> anyhow::Result<(String, String)> {
    let found = client.service(NAMESPACE, focus).await?.object;
    let old = found.status.latest_ready_revision_name.clone();
    let written = client
        .set_traffic(NAMESPACE, focus, &[TrafficTarget::revision(&old, 100)])
        .await?;
    let ready = services::until_ready(client, &written).await;
    let mut service = ready.map_err(anyhow::Error::msg)?;
    let container = service.spec.template.spec.containers.first_mut();
    let env = &mut container
        .ok_or_else(|| anyhow::anyhow!("no container"))?
        .env;
    env.retain(|variable| variable.name != "NUMBER");
    env.push(EnvVar {
        name: "NUMBER".into(),
        value: number.to_string(),
        ..EnvVar::default()
    });
    service.metadata.resource_version.clear();
    let updated = services::deploy(client, &service).await;
    let updated = updated.map_err(anyhow::Error::msg)?;
    let new = updated.status.latest_ready_revision_name;
    anyhow::ensure!(new != old, "the update made no new revision");
    Ok((old, new))
}

/// Gives `share` percent to the new revision and waits until every gateway serves that.
async fn split(
    client: &Client,
    service: &str,
    old: &str,
    new: &str,
    share: u32,
) -> Result<(), String> {
    let mut traffic = vec![TrafficTarget::revision(new, share)];
    if share < 100 {
        traffic.push(TrafficTarget::revision(old, 100 - share));
    }
    let client = client.with_timeout(TO_READY);
    let written = client.set_traffic(NAMESPACE, service, &traffic).await;
    let written = written.map_err(|error| services::shown(&error))?;
    services::until_ready(&client, &written).await.map(drop)
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Deploying => "deploying",
            Stage::AtZero => "at-zero",
            Stage::ColdStart => "cold-start",
            Stage::ScalingUp => "scaling-up",
            Stage::BurstSteady => "burst-steady",
            Stage::CanarySplit => "canary-split",
            Stage::TrafficShifting => "traffic-shifting",
            Stage::ScalingDown => "scaling-down",
            Stage::Idle => "idle",
        })
    }
}
