//! N37: far more requests at one gateway than may wait there.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinSet;

use crate::backend::NodeIndex;
use crate::clock::pause;
use crate::record::RequestRecord;
use crate::seed::Random;
use crate::trial::Trial;
use crate::workload::load::Wanted;
use crate::workload::services::{self, Scaling};

/// The service that is asked too much; the others of the gateway go on as if nothing were.
const BURST: &str = "burst";
const SCALING: Scaling = Scaling {
    max_scale: 1,
    target: 2,
    concurrency: 2,
};
/// Requests that may wait at a gateway.
const QUEUE_DEPTH: usize = 20;
/// Requests at once: ten times of that.
const N_AT_ONCE: usize = 200;
/// The first finds the service at zero.
const N_WAVES: usize = 3;
const BETWEEN: Duration = Duration::from_millis(500);
const APP_MIN_MS: u64 = 50;
const APP_MAX_MS: u64 = 200;
/// What waits has been served within a second or two; an instance may have to start.
const RECOVERY_LIMIT: Duration = Duration::from_secs(30);
const FAULT: &str = "gateway-overload";
const QUEUE_FULL: &str = "503 queue_full";

/// # Errors
/// The service is not deployed, or the cluster is not whole afterwards.
pub(super) async fn strike(trial: &mut Trial, random: &mut Random) -> anyhow::Result<()> {
    trial.expect_fault(FAULT.to_owned());
    deploy(trial).await?;
    let gateways = trial.clients.in_use();
    let gateway = *random.pick(&gateways).context("a gateway")?;
    trial.say(&format!(
        "{N_AT_ONCE} requests at once, {N_WAVES} times, at node{}",
        gateway + 1
    ));
    trial.recorder.fault("overload", Some(gateway));
    trial.strain(BURST);
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..N_WAVES {
        for request in wave(trial, gateway, random).await {
            *outcomes.entry(request.outcome.name()).or_default() += 1;
        }
        pause(BETWEEN).await;
    }
    let shown: Vec<_> = outcomes
        .iter()
        .map(|(name, n)| format!("{n}× {name}"))
        .collect();
    trial.say(&format!("overload: {}", shown.join(", ")));
    // Otherwise all found a place: nothing was too much.
    if outcomes.contains_key(QUEUE_FULL) {
        trial.fault_happened(FAULT.to_owned(), false);
    }
    trial.until_it_serves(BURST, RECOVERY_LIMIT).await;
    trial.calm("overload is over").await
}

async fn deploy(trial: &Trial) -> anyhow::Result<()> {
    let mut service = services::echo(BURST, &trial.ledger, SCALING);
    let annotations = &mut service.spec.template.metadata.annotations;
    annotations.insert("autoscaling.knative.dev/initial-scale".into(), "0".into());
    annotations.insert("nihilo.dev/queue-depth".into(), QUEUE_DEPTH.to_string());
    let deployed = services::deploy(&trial.admin()?, &service).await;
    deployed.map(drop).map_err(anyhow::Error::msg)
}

/// All at once; returns what came of each.
async fn wave(trial: &Trial, gateway: NodeIndex, random: &mut Random) -> Vec<RequestRecord> {
    let mut asked = JoinSet::new();
    for number in 0..N_AT_ONCE {
        let wanted = Wanted {
            service: BURST.to_owned(),
            gateway,
            is_post: number % 2 == 0,
            body_bytes: 100,
            app_ms: random.between(APP_MIN_MS, APP_MAX_MS),
        };
        let clients = trial.clients.clone();
        asked.spawn(async move { clients.request(wanted).await });
    }
    let mut over = Vec::new();
    while let Some(one) = asked.join_next().await {
        // A panic of the harness: seen as a request that is in no ledger.
        over.extend(one.ok());
    }
    over
}
