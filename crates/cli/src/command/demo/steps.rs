//! The steps of the demo, in order.

use std::time::Duration;

use http::StatusCode;
use nihilo_types::route::TrafficTarget;
use nihilo_types::service::Service;
use tokio::time::Instant;

use super::fault;
use super::load::{self, Load, Poll};
use super::report::{grouped, phases, share, sparkline};
use super::stage::{HELLO, SLEEP, Stage};
use crate::command::service::modify;
use crate::dev::ready;
use crate::failure::{Failure, Result, exit};
use crate::flags::ServiceFlags;
use crate::http::{Answer, host_of};
use crate::wait::Progress;

const N_CLIENTS: u32 = 60;
/// What one request of the burst takes in the app.
const SLEEP_PATH: &str = "/?ms=100";
const BURST: Duration = Duration::from_secs(12);
const KILL_AFTER: Duration = Duration::from_secs(5);
const N_CANARY: u32 = 1_000;
const N_CANARY_CLIENTS: u32 = 16;
/// Percent of the canary, and how far the measured share may be off.
const CANARY: u32 = 10;
const CANARY_TOLERANCE: f64 = 3.0;
const MIN_NODES: usize = 3;

pub(crate) async fn all(stage: &mut Stage) -> Result<()> {
    cluster(stage)?;
    let (hello, sleep) = deploy(stage).await?;
    to_zero(stage, "scaling to zero for the first time").await?;
    from_zero(stage, &host(stage, &hello)?).await?;
    burst(stage, &host(stage, &sleep)?).await?;
    back(stage).await?;
    canary(stage, &hello).await?;
    to_zero(stage, "scaling to zero when idle").await?;
    stage.begin("deleting the services");
    stage.delete_services().await?;
    stage.say(&format!("deleted services {HELLO} and {SLEEP}"));
    Ok(())
}

fn cluster(stage: &mut Stage) -> Result<()> {
    stage.begin("looking at the cluster");
    let status = &stage.status;
    let n_nodes = status.nodes.len();
    if n_nodes < MIN_NODES {
        let what = format!("the demo needs {MIN_NODES} nodes, this cluster has {n_nodes}");
        return Err(Failure::new(exit::CONFLICT, what).hint("nihilo dev --nodes 3 --detach"));
    }
    if let Some(missing) = ready::missing(Some(status), n_nodes) {
        return Err(Failure::new(
            exit::UNREACHABLE,
            format!("the cluster is not whole: {missing}"),
        )
        .hint("nihilo cluster status"));
    }
    // Found out now, not when the demo is half over.
    for node in &status.nodes {
        fault::local_process(stage, node)?;
    }
    stage.say(&format!(
        "cluster ready: {n_nodes} nodes, leader {} (term {})",
        status.leader_name, status.term
    ));
    Ok(())
}

async fn deploy(stage: &mut Stage) -> Result<(Service, Service)> {
    stage.begin("deploying");
    let hello = stage.deploy(HELLO, &flags("demo/hello")).await?;
    stage.say(&format!(
        "deployed demo/hello (min 0, max 9, target 10) → {}",
        hello.status.url
    ));
    let sleep = stage.deploy(SLEEP, &flags("demo/sleep")).await?;
    stage.say(&format!(
        "deployed demo/sleep (min 0, max 9, target 10) → {}",
        sleep.status.url
    ));
    Ok((hello, sleep))
}

/// Small targets and short windows, so that everything can be watched in a minute.
fn flags(image: &str) -> ServiceFlags {
    ServiceFlags {
        image: Some(image.into()),
        scale: Some("0..9".into()),
        scale_target: Some("10".into()),
        scale_window: Some("6s".into()),
        concurrency_limit: Some(20),
        annotation: vec!["autoscaling.knative.dev/scale-to-zero-pod-retention-period=0s".into()],
        ..ServiceFlags::default()
    }
}

fn host(stage: &Stage, service: &Service) -> Result<String> {
    let url = &service.status.url;
    host_of(url)
        .map(Into::into)
        .ok_or_else(|| stage.failed(format!("`{url}` has no host")))
}

async fn to_zero(stage: &mut Stage, doing: &'static str) -> Result<()> {
    stage.begin(doing);
    let took = stage.until_at_zero().await?;
    stage.say(&format!(
        "idle → no instance left, {:.1} s later",
        took.as_secs_f64()
    ));
    Ok(())
}

async fn from_zero(stage: &mut Stage, host: &str) -> Result<()> {
    stage.begin("sending the first request from zero");
    let cold = get(stage, host, "cold").await?;
    let body = String::from_utf8_lossy(&cold.body);
    stage.say(&format!(
        "GET / → {} {:?}   cold start, {:.1} ms in all ({} ms)",
        cold.status.as_u16(),
        body.trim(),
        milliseconds(&cold),
        phases(cold.header("nihilo-cold-start")),
    ));
    stage.begin("sending a second request");
    let warm = get(stage, host, "warm").await?;
    stage.say(&format!(
        "GET / → {}   warm, {:.1} ms",
        warm.status.as_u16(),
        milliseconds(&warm)
    ));
    Ok(())
}

fn milliseconds(answer: &Answer) -> f64 {
    answer.took.as_secs_f64() * 1000.0
}

/// Gets `/`, which must answer 200 from a `start` (`cold` or `warm`).
async fn get(stage: &Stage, host: &str, start: &str) -> Result<Answer> {
    let answer = stage
        .http
        .get(host, "/")
        .await
        .map_err(|why| stage.failed(why))?;
    if answer.status != StatusCode::OK {
        let body = String::from_utf8_lossy(&answer.body);
        return Err(stage.failed(format!("the answer is {}: {}", answer.status, body.trim())));
    }
    let found = answer.header("nihilo-start");
    if found != start {
        return Err(stage.failed(format!("nihilo-start is `{found}`, expected `{start}`")));
    }
    Ok(answer)
}

async fn burst(stage: &mut Stage, host: &str) -> Result<()> {
    stage.begin("serving a burst while the leader is killed");
    stage.say(&format!(
        "{N_CLIENTS} clients send through all gateways for {} s",
        BURST.as_secs()
    ));
    let started = Instant::now();
    let load = Load::start(&stage.http, host, SLEEP_PATH, N_CLIENTS);
    let poll = Poll::start(&stage.client, stage.namespace(), SLEEP);
    tokio::time::sleep_until(started + KILL_AFTER).await;
    let killed = fault::kill_leader(stage).await?;
    stage.say(&format!(
        "kill -9 of the leader ({})   new leader {} after {} ms",
        killed.name,
        killed.successor,
        killed.leaderless.as_millis()
    ));
    tokio::time::sleep_until(started + BURST).await;
    let (totals, scale) = (load.stop().await, poll.stop().await);
    stage.say(&format!(
        "ready instances {}  peak {} on {} nodes",
        sparkline(&scale.ready),
        scale.peak(),
        scale.nodes.len()
    ));
    stage.say(&format!(
        "sent {}, answered {}, failed {}   p50 {} ms, p99 {} ms   resent by the client when the \
         killed gateway broke off: {}",
        grouped(totals.sent),
        grouped(totals.answered),
        totals.failed,
        totals.latency_ms(0.5),
        totals.latency_ms(0.99),
        totals.resent,
    ));
    if totals.failed > 0 {
        let first = totals.first_failure.unwrap_or_default();
        let what = format!("{} of {} requests failed", totals.failed, totals.sent);
        return Err(stage.failed(what).because(format!("the first: {first}")));
    }
    if scale.peak() < 2 {
        return Err(stage.failed("the burst did not scale the service beyond one instance"));
    }
    Ok(())
}

async fn back(stage: &mut Stage) -> Result<()> {
    stage.begin("restarting the killed node");
    let name = stage
        .killed
        .as_ref()
        .map(|config| config.name.clone())
        .unwrap_or_default();
    let took = fault::restart(stage).await?;
    stage.say(&format!(
        "{name} restarted and back after {:.1} s",
        took.as_secs_f64()
    ));
    Ok(())
}

async fn canary(stage: &mut Stage, hello: &Service) -> Result<()> {
    stage.begin("rolling out a canary");
    let stable = hello.status.latest_ready_revision_name.clone();
    share_out(stage, &[TrafficTarget::revision(&stable, 100)]).await?;
    let context = stage.context();
    let flags = ServiceFlags {
        env: vec!["TARGET=Canary".into()],
        ..ServiceFlags::default()
    };
    let change = |service: &mut Service| flags.change(service);
    let written = modify(&context, HELLO, &Progress::quiet(), change).await?;
    let updated = stage.until_ready(written.service, written.index).await?;
    let canary = updated.status.latest_ready_revision_name;
    if canary == stable {
        return Err(stage.failed("the update made no new revision"));
    }
    let traffic = [
        TrafficTarget::revision(&stable, 100 - CANARY),
        TrafficTarget::latest(CANARY),
    ];
    share_out(stage, &traffic).await?;
    let host = host(stage, hello)?;
    let counts = load::by_revision(&stage.http, &host, N_CANARY, N_CANARY_CLIENTS)
        .await
        .map_err(|why| stage.failed(why))?;
    let measured = share(&counts, &canary);
    stage.say(&format!(
        "canary {canary} {CANARY} %   measured {measured:.1} % of {} requests",
        grouped(N_CANARY.into())
    ));
    if (measured - f64::from(CANARY)).abs() > CANARY_TOLERANCE {
        return Err(stage.failed(format!("the canary got {measured:.1} %, not {CANARY} %")));
    }
    Ok(())
}

async fn share_out(stage: &Stage, traffic: &[TrafficTarget]) -> Result<()> {
    let written = stage
        .client
        .set_traffic(stage.namespace(), HELLO, traffic)
        .await?;
    stage.until_ready(written.service, written.index).await?;
    Ok(())
}
