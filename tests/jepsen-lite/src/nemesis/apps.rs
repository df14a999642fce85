//! Apps that do not do what they must: N34, N36.

use std::collections::BTreeSet;
use std::time::Duration;

use nihilo_types::template::EnvVar;

use crate::app_fault::{AppFault, Wrong};
use crate::clock::{self, boottime_ns};
use crate::instance_ledger::{self, Step};
use crate::proc_scan;
use crate::trial::Trial;
use crate::workload::services::{self, Scaling, TERMINATION_GRACE_SECONDS};

/// The service whose instances never get ready; its others are in nobody's way.
const STUCK: &str = "stuck";
const STUCK_SCALING: Scaling = Scaling {
    max_scale: 2,
    target: 5,
    concurrency: 10,
};
/// A boot that takes longer is given up: shorter than a request's time, so that its cause is told.
const STUCK_BOOT: &str = "10s";
/// From the first that may boot: what still waits to be given up, the pause after failures in a row
/// (1 s doubling), a boot, on a machine that other work shares.
const RECOVERY_LIMIT: Duration = Duration::from_secs(90);
/// For the load to leave an instance without work.
const TOLD_LIMIT: Duration = Duration::from_secs(90);
/// On top of its grace; the drain's checker judges by a bound of its own.
const GONE_SLACK: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// N34: requests for a service that cannot start are refused in time, and it starts once it can.
///
/// # Errors
/// It is not deployed, or the cluster is not whole afterwards.
pub(super) async fn never_ready(trial: &mut Trial) -> anyhow::Result<()> {
    let name = Wrong::NeverReady.to_string();
    trial.expect_fault(name.clone());
    let file = AppFault::file(&trial.ledger, Some(STUCK));
    let fault = AppFault::begin(file, Wrong::NeverReady)?;
    trial.say("instances of one service never get ready");
    trial.recorder.fault("instances never get ready", None);
    deploy_stuck(trial).await?;
    trial.strain(STUCK);
    let asked = trial.ask_everywhere(&[STUCK.to_owned()]).await;
    let n_refused = asked.iter().filter(|request| !request.outcome.is_good());
    let (n_refused, n) = (n_refused.count(), asked.len());
    trial.say(&format!("{n_refused} of {n} requests were refused"));
    // One that was answered came from an instance: the fault was none.
    if n_refused == n && n > 0 {
        trial.fault_happened(name, false);
    }
    drop(fault);
    trial.recorder.fault("instances get ready", None);
    trial.until_it_serves(STUCK, RECOVERY_LIMIT).await;
    trial.calm("the service serves").await
}

/// Deploys a service that runs nothing yet and looks at a file of its own.
async fn deploy_stuck(trial: &Trial) -> anyhow::Result<()> {
    let mut service = services::echo(STUCK, &trial.ledger, STUCK_SCALING);
    let template = &mut service.spec.template;
    for (key, value) in [
        ("autoscaling.knative.dev/initial-scale", "0"),
        ("serving.knative.dev/progress-deadline", STUCK_BOOT),
    ] {
        let annotations = &mut template.metadata.annotations;
        annotations.insert(key.into(), value.into());
    }
    let file = AppFault::file(&trial.ledger, Some(STUCK));
    for container in &mut template.spec.containers {
        container
            .env
            .retain(|variable| variable.name != AppFault::ENV);
        container.env.push(EnvVar {
            name: AppFault::ENV.into(),
            value: file.display().to_string(),
            ..EnvVar::default()
        });
    }
    let deployed = services::deploy(&trial.admin()?, &service).await;
    deployed.map(drop).map_err(anyhow::Error::msg)
}

/// N36: whoever is told to end goes on; the drain's checker judges that each is gone with its grace,
/// and that nothing was cut.
///
/// # Errors
/// The cluster is not whole afterwards.
pub(super) async fn ignore_term(trial: &mut Trial) -> anyhow::Result<()> {
    let name = Wrong::IgnoreTerm.to_string();
    trial.expect_fault(name.clone());
    let file = AppFault::file(&trial.ledger, None);
    let fault = AppFault::begin(file, Wrong::IgnoreTerm)?;
    trial.say("instances ignore SIGTERM");
    let from_ns = trial.recorder.fault("instances ignore SIGTERM", None);
    let told = clock::until(TOLD_LIMIT, LOOK_EVERY, || {
        std::future::ready(told_to_end(trial, from_ns))
    });
    match told.await {
        Ok(told) => {
            let goes_on = n_running(trial, &told);
            let n = told.len();
            trial.say(&format!("{n} were told to end, {goes_on} of them go on"));
            if goes_on > 0 {
                trial.fault_happened(name, false);
            }
            until_gone(trial, &told).await;
        }
        Err(why) => trial.say(&why),
    }
    drop(fault);
    trial.calm("instances obey SIGTERM").await
}

/// Instances that were told to end since, by their own word.
fn told_to_end(trial: &Trial, since_ns: u64) -> Result<BTreeSet<String>, String> {
    let lines = instance_ledger::read(&trial.ledger).map_err(|error| format!("{error:#}"))?;
    let told = lines
        .into_iter()
        .filter(|line| line.step == Step::Terminating && line.at_ns >= since_ns);
    let told: BTreeSet<_> = told.map(|line| line.instance).collect();
    match told.is_empty() {
        true => Err("no instance was told to end".into()),
        false => Ok(told),
    }
}

fn n_running(trial: &Trial, instances: &BTreeSet<String>) -> usize {
    let running = proc_scan::instances(&trial.ledger).into_iter();
    running
        .filter(|process| instances.contains(&process.instance))
        .count()
}

async fn until_gone(trial: &Trial, instances: &BTreeSet<String>) {
    let since_ns = boottime_ns();
    let limit = Duration::from_secs(TERMINATION_GRACE_SECONDS.into()) + GONE_SLACK;
    let gone = clock::until(limit, LOOK_EVERY, || {
        std::future::ready(match n_running(trial, instances) {
            0 => Ok(()),
            n => Err(format!("{n} that were told to end still run")),
        })
    });
    let gone = gone.await;
    let seconds = (boottime_ns() - since_ns) / 1_000_000_000;
    match gone {
        Ok(()) => trial.say(&format!("gone {seconds} s later")),
        // Their drain's checker finds them.
        Err(why) => trial.say(&why),
    }
}
