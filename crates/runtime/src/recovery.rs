//! What the agent does at its start with the instances of the node's earlier process.
//!
//! ```text
//! handle  Booting, Ready, Draining ─ its process is there ─> adopted: Ready after one good look
//!         Frozen                   ─ its process is there ─> adopted frozen, and not looked at
//!         Stopping                 ─ its process is there ─> adopted, and stopped
//!         any                      ─ only others of it are, or it is not known which ─> destroyed
//!         any                      ─ nothing is there ─> ended, nobody knows how
//! none    a start was noted        ─ nothing is there ─> its end is noted: it was never begun
//! ```
//!
//! A container is found by its label, once its engine answers: until then it counts as booting.
//!
//! ```text
//! handle  Booting, Ready, Draining ─ its container runs ──> adopted: Ready after one good look
//!         Frozen                   ─ its container runs ──> adopted frozen, and not looked at
//!         Stopping                 ─ its container runs ──> adopted, and stopped
//!         any                      ─ it has ended ────────> ended as the engine says
//!         any                      ─ there is none ───────> ended, nobody knows how
//!         any, where instances are to end with the node ──> Stopping until the engine has removed it
//! ```
//!
//! Whatever may still run is in the table before the first owner asks, so that a count is never too
//! low. What belongs to no handle at all is the sweep's ([`crate::sweep`]).

use std::collections::BTreeSet;
use std::sync::Arc;

use nihilo_types::id::InstanceId;
use nihilo_types::image::Image;
use nihilo_types::instance::{Exit, InstanceReport, InstanceState};
use tracing::{info, warn};

use crate::agent::Inner;
use crate::driver::{Driver, Started};
use crate::handle::{Left, Record};
use crate::life::{self, Found};
use crate::logs::Output;
use crate::process::{Process, ProcessDriver};

/// Goes on with everything that has a handle; `noted` are the starts that have no end yet.
pub(crate) fn recover(
    inner: &Arc<Inner>,
    driver: &Arc<ProcessDriver>,
    left: Vec<Left>,
    mut noted: BTreeSet<InstanceId>,
) {
    if left.is_empty() && noted.is_empty() {
        return;
    }
    let running = driver.found();
    noted.retain(|id| !running.contains(id) && left.iter().all(|left| left.id != *id));
    for id in &noted {
        inner.log_end(id);
    }
    let (mut n_adopted, mut n_gone) = (0, 0);
    for Left { id, record } in left {
        match record {
            Ok(record) if inner.container_driver(&record.spec).is_some() => {
                take_in_container(inner, record);
                n_adopted += 1;
            }
            Ok(record) => match take_in(inner, driver, record, &running) {
                true => n_adopted += 1,
                false => n_gone += 1,
            },
            Err(error) => {
                warn!(instance = %id, %error, "handle unusable, whatever runs is destroyed");
                inner.handles().ended(&id);
                let is_left = running.contains(&id);
                tokio::spawn(end_unknown(inner.clone(), driver.clone(), id, is_left));
            }
        }
    }
    info!(
        n_adopted,
        n_gone, "instances of this node's earlier process"
    );
}

/// Returns whether it was adopted.
fn take_in(
    inner: &Arc<Inner>,
    driver: &Arc<ProcessDriver>,
    mut record: Record,
    running: &BTreeSet<InstanceId>,
) -> bool {
    let spec = record.spec.clone();
    let output = Output::new(inner.handles().dir_of(&spec.id));
    let trace = record.trace;
    let found: Option<Started<Process>> =
        trace.and_then(|trace| driver.recover(&spec, &trace, &output));
    let how = how_found(&record.report);
    record.report.state = match (&found, how) {
        (None, _) | (_, Found::Stopping) => InstanceState::Stopping,
        (Some(_), Found::Frozen) => InstanceState::Frozen,
        (Some(_), _) => InstanceState::Booting,
    };
    if let Some(started) = found.as_ref().filter(|_| how != Found::Frozen) {
        driver.let_run(&started.handle);
    }
    let pid = record.report.pid;
    if found.is_none() {
        // Whatever has this number is not watched by a life, which would reap it.
        record.trace = None;
    }
    let orders = inner.insert(record, output);
    let Some(started) = found else {
        let is_left = running.contains(&spec.id);
        let ended = gone(inner.clone(), driver.clone(), spec.id, pid, is_left);
        tokio::spawn(ended);
        return false;
    };
    info!(instance = %spec.id, pid, "adopted");
    tokio::spawn(life::go_on(
        inner.clone(),
        driver.clone(),
        spec,
        started,
        how,
        orders,
    ));
    true
}

/// Instances whose containers are gone on with.
pub(crate) fn kept(left: &[Left], adopts: bool) -> BTreeSet<InstanceId> {
    let records = left.iter().filter_map(|left| left.record.as_ref().ok());
    let containers = records.filter(|record| adopts && Image::is_container(&record.spec.image));
    containers.map(|record| record.spec.id.clone()).collect()
}

/// It is counted until the engine has answered for it.
fn take_in_container(inner: &Arc<Inner>, mut record: Record) {
    let spec = record.spec.clone();
    let Some((driver, adopts)) = inner.container_driver(&spec) else {
        return;
    };
    let how = how_found(&record.report);
    record.report.state = match (adopts, how) {
        (false, _) | (_, Found::Stopping) => InstanceState::Stopping,
        (true, Found::Frozen) => InstanceState::Frozen,
        (true, _) => InstanceState::Booting,
    };
    // Of the one that was started: it is the engine's to say now.
    (record.report.address, record.report.pid) = (None, None);
    let output = Output::new(inner.handles().dir_of(&spec.id));
    let orders = inner.insert(record, output.clone());
    let inner = inner.clone();
    tokio::spawn(async move {
        let found = match adopts {
            true => driver.adopt(&spec, &output).await,
            false => None,
        };
        let Some(started) = found else {
            driver.swept(&spec.id).await;
            inner.log("exit", &spec.id, None);
            inner.take_back(&spec.id).await;
            inner.exited(&spec.id, Exit::Unknown, Vec::new());
            return inner.enter(&spec.id, InstanceState::Destroyed);
        };
        info!(instance = %spec.id, pid = started.pid, "container adopted");
        if how != Found::Frozen {
            driver.let_run(&started.handle).await;
        }
        match how {
            Found::Stopping => {}
            Found::Frozen => inner.found(&spec.id, &started),
            Found::Started | Found::Booting | Found::WasReady => {
                inner.booting(&spec.id, &started);
            }
        }
        life::go_on(inner, driver, spec, started, how, orders).await;
    });
}

fn how_found(report: &InstanceReport) -> Found {
    match report.state {
        InstanceState::Stopping => Found::Stopping,
        InstanceState::Frozen => Found::Frozen,
        _ if report.ready_after_ms > 0 => Found::WasReady,
        _ => Found::Booting,
    }
}

/// Its program is gone, or nobody knows which process it is.
async fn gone(
    inner: Arc<Inner>,
    driver: Arc<ProcessDriver>,
    id: InstanceId,
    pid: Option<u32>,
    is_left: bool,
) {
    if is_left {
        driver.destroy_unknown(&id).await;
    }
    inner.log("exit", &id, pid);
    inner.take_back(&id).await;
    inner.exited(&id, Exit::Unknown, Vec::new());
    inner.enter(&id, InstanceState::Destroyed);
}

/// As [`gone`], where not even the handle says what it was: nobody can ask for its output.
async fn end_unknown(inner: Arc<Inner>, driver: Arc<ProcessDriver>, id: InstanceId, is_left: bool) {
    if is_left {
        driver.destroy_unknown(&id).await;
    }
    inner.handles().forget(&id);
    inner.log_end(&id);
}
