//! `nihilo service create|update|list|describe|delete|wait`.

use clap::Subcommand;
use nihilo_client::{Change, Written};
use nihilo_types::condition::ConditionStatus;
use nihilo_types::revision::Revision;
use nihilo_types::service::{Service, ServiceStatus};

use super::{Scope, worst};
use crate::context::Context;
use crate::failure::{Failure, Result, exit};
use crate::flags::ServiceFlags;
use crate::output::{self, Format, OutputArgs, age_of, condition_cells};
use crate::sharing;
use crate::wait::{self, Progress, WaitArgs, WaitLimit};

/// Times an update is made again on what somebody else has written meanwhile.
const MAX_CONFLICTS: usize = 5;

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// Create a service and wait until it is ready.
    Create {
        name: String,
        #[command(flatten)]
        flags: Box<ServiceFlags>,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Change a service and wait until the change serves.
    Update {
        name: String,
        #[command(flatten)]
        flags: Box<ServiceFlags>,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// List services.
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        scope: Scope,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show one service with its revisions.
    #[command(visible_alias = "get")]
    Describe {
        name: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Delete services with all they own.
    Delete {
        #[arg(required = true)]
        name: Vec<String>,
    },
    /// Wait until a service is ready.
    Wait {
        name: String,
        #[command(flatten)]
        limit: WaitLimit,
    },
}

pub(crate) async fn run(context: &Context, command: ServiceCommand) -> Result<()> {
    match command {
        ServiceCommand::Create { name, flags, wait } => create(context, &name, &flags, &wait).await,
        ServiceCommand::Update { name, flags, wait } => update(context, &name, &flags, &wait).await,
        ServiceCommand::List { scope, output } => list(context, scope, output.output).await,
        ServiceCommand::Describe { name, output } => describe(context, &name, output.output).await,
        ServiceCommand::Delete { name } => delete(context, &name).await,
        ServiceCommand::Wait { name, limit } => wait_for(context, &name, limit).await,
    }
}

async fn create(
    context: &Context,
    name: &str,
    flags: &ServiceFlags,
    wait: &WaitArgs,
) -> Result<()> {
    let service = flags.create(&context.namespace, name)?;
    announce(context, "Creating", name).await?;
    let mut progress = Progress::start();
    share_new(context, &service, &progress).await;
    let written = context
        .client
        .create_service(&service)
        .await
        .map_err(|error| {
            let exists = error.exit_code() == exit::CONFLICT;
            let failure = Failure::from(error);
            if exists {
                failure.hint(format!("nihilo service update {name}"))
            } else {
                failure
            }
        })?;
    finish(context, written, wait, "created", &mut progress).await
}

/// Nothing goes anywhere for a service that is there already, which is about to be told.
async fn share_new(context: &Context, service: &Service, progress: &Progress) {
    if sharing::images(service).is_empty() {
        return;
    }
    let Context { client, namespace } = context;
    let there = client.service(namespace, &service.metadata.name).await;
    if there.is_err() {
        sharing::images_of(client, namespace, service, progress).await;
    }
}

async fn update(
    context: &Context,
    name: &str,
    flags: &ServiceFlags,
    wait: &WaitArgs,
) -> Result<()> {
    announce(context, "Updating", name).await?;
    let mut progress = Progress::start();
    let written = modify(context, name, &progress, |service| flags.change(service)).await?;
    finish(context, written, wait, "updated", &mut progress).await
}

/// Makes the service, or changes it where there is one: what it runs is all that the flags say.
pub(crate) async fn deploy(
    context: &Context,
    name: &str,
    flags: &ServiceFlags,
    wait: &WaitArgs,
) -> Result<()> {
    match context.client.service(&context.namespace, name).await {
        Err(error) if error.is_not_found() => return create(context, name, flags, wait).await,
        found => drop(found?),
    }
    announce(context, "Updating", name).await?;
    let mut progress = Progress::start();
    let written = modify(context, name, &progress, |service| {
        // Of what it ran before.
        for container in &mut service.spec.template.spec.containers {
            container.command.clear();
            container.args.clear();
        }
        flags.change(service)
    });
    finish(context, written.await?, wait, "updated", &mut progress).await
}

/// Reads, changes and writes a Service; again if somebody else wrote in between. Images of a revision that
/// this makes are shared first.
pub(crate) async fn modify(
    context: &Context,
    name: &str,
    progress: &Progress,
    change: impl Fn(&mut Service) -> Result<()>,
) -> Result<Written> {
    let mut n_conflicts = 0;
    loop {
        let stored = context.client.service(&context.namespace, name).await?;
        let mut service = stored.object;
        service.status = ServiceStatus::default();
        let before = service.spec.template.clone();
        change(&mut service)?;
        if service.spec.template != before {
            let Context { client, namespace } = context;
            sharing::images_of(client, namespace, &service, progress).await;
        }
        match context.client.update_service(&service, &stored.etag).await {
            Err(error) if error.is_conflict() && n_conflicts < MAX_CONFLICTS => n_conflicts += 1,
            outcome => return Ok(outcome?),
        }
    }
}

/// The headline; the cluster is asked for its name and leader, and must answer.
async fn announce(context: &Context, doing: &str, name: &str) -> Result<()> {
    let status = context.client.cluster_status().await?;
    let leader = match status.leader {
        0 => "no leader".to_owned(),
        _ => format!("leader {}, term {}", status.leader_name, status.term),
    };
    output::data(&format!(
        "{doing} service '{name}' in namespace '{}' on cluster '{}' ({leader}):\n",
        context.namespace, status.cluster,
    ));
    Ok(())
}

/// Waits for what was written, and says where it serves.
async fn finish(
    context: &Context,
    written: Written,
    wait: &WaitArgs,
    verb: &str,
    progress: &mut Progress,
) -> Result<()> {
    let unchanged = written.change == Change::Unchanged;
    if unchanged {
        progress.say("No changes to apply.");
    } else {
        progress.say(&format!("Accepted at log index {}.", written.index));
    }
    if wait.no_wait {
        return Ok(());
    }
    let Written { service, index, .. } = written;
    let ready = wait::until_ready(&context.client, service, index, wait.limit, progress).await?;
    output::data(&wait::available(&ready, verb, unchanged));
    Ok(())
}

async fn wait_for(context: &Context, name: &str, limit: WaitLimit) -> Result<()> {
    let mut progress = Progress::start();
    // Before the object: a watch from here misses nothing.
    let from = context
        .client
        .services(Some(&context.namespace), name)
        .await?
        .resource_version;
    let service = context
        .client
        .service(&context.namespace, name)
        .await?
        .object;
    let ready = wait::until_ready(&context.client, service, from, limit, &mut progress).await?;
    output::data(&ready.status.url);
    Ok(())
}

async fn delete(context: &Context, names: &[String]) -> Result<()> {
    let mut failures = Vec::new();
    for name in names {
        match context
            .client
            .delete_service(&context.namespace, name)
            .await
        {
            Ok(_) => output::data(&format!(
                "Service '{name}' successfully deleted in namespace '{}'.",
                context.namespace
            )),
            Err(error) => failures.push(error.into()),
        }
    }
    worst(failures)
}

async fn list(context: &Context, scope: Scope, format: Format) -> Result<()> {
    let services = context
        .client
        .services(scope.namespace(context), "")
        .await?
        .items;
    output::list(format, &services, short_name, |services| {
        let rows = services
            .iter()
            .map(|s| (s.metadata.namespace.clone(), row(s)));
        let head = [
            "NAME",
            "URL",
            "LATEST",
            "AGE",
            "CONDITIONS",
            "READY",
            "REASON",
        ];
        scope.table(&head, rows.collect())
    })
}

fn short_name(service: &Service) -> String {
    format!("service.serving.knative.dev/{}", service.metadata.name)
}

fn row(service: &Service) -> Vec<String> {
    let (meta, status) = (&service.metadata, &service.status);
    let mut row = vec![
        meta.name.clone(),
        status.url.clone(),
        status.latest_ready_revision_name.clone(),
        age_of(&meta.creation_timestamp),
    ];
    row.extend(condition_cells(&status.conditions));
    row
}

async fn describe(context: &Context, name: &str, format: Format) -> Result<()> {
    let service = context
        .client
        .service(&context.namespace, name)
        .await?
        .object;
    let mut revisions = context
        .client
        .revisions(Some(&context.namespace), name)
        .await?
        .items;
    revisions.sort_by_key(|revision| std::cmp::Reverse(revision.configuration_generation()));
    output::one(format, &service, short_name, |service| {
        description(service, &revisions)
    })
}

fn description(service: &Service, revisions: &[Revision]) -> String {
    let (meta, status) = (&service.metadata, &service.status);
    let mut lines = vec![
        output::heading(meta, status.observed_generation),
        format!("URL:  {}", status.url),
        "Traffic".into(),
    ];
    for revision in revisions {
        lines.push(revision_line(service, revision));
        lines.extend(failure_lines(revision));
    }
    lines.push(output::conditions_line(&status.conditions));
    lines
        .iter()
        .map(|line| output::plain(line))
        .collect::<Vec<_>>()
        .join("\n")
}

/// What a failed revision says, its last output included, below its line.
fn failure_lines(revision: &Revision) -> Vec<String> {
    let ready = revision.status.conditions.get("Ready");
    let Some(failed) = ready.filter(|ready| ready.status == ConditionStatus::False) else {
        return Vec::new();
    };
    let lines = failed.message.lines().filter(|line| !line.is_empty());
    lines.map(|line| format!("       | {line}")).collect()
}

/// `NNN%` serving share, `+` ready without traffic, `!` failed, `?` unknown.
fn revision_line(service: &Service, revision: &Revision) -> String {
    let (meta, status) = (&revision.metadata, &revision.status);
    let mine = || {
        service
            .status
            .traffic
            .iter()
            .filter(|t| t.revision_name == meta.name)
    };
    let share: u32 = mine().map(nihilo_types::route::TrafficTarget::share).sum();
    let bullet = match (share, status.conditions.status("Ready")) {
        (_, ConditionStatus::False) => "!".into(),
        (0, ConditionStatus::True) => "+".into(),
        (0, ConditionStatus::Unknown) => "?".into(),
        (share, _) => format!("{share}%"),
    };
    let latest = if meta.name == service.status.latest_created_revision_name {
        "@latest "
    } else {
        ""
    };
    let tags: String = mine()
        .filter(|t| !t.tag.is_empty())
        .map(|t| format!(" #{}", t.tag))
        .collect();
    let replicas = |n: Option<u32>| n.map_or_else(|| "-".into(), |n: u32| n.to_string());
    let [_, _, explained] = condition_cells(&status.conditions);
    let ready = status.conditions.get("Ready");
    // A failure's message stands on lines of its own.
    let failed = ready.filter(|ready| ready.status == ConditionStatus::False);
    let reason = failed.map_or(explained, |failed| failed.reason.clone());
    let line = format!(
        "{bullet:>5}  {latest}{}{tags} [{}] ({})  {}/{} ready  {reason}",
        meta.name,
        revision.configuration_generation(),
        age_of(&meta.creation_timestamp),
        replicas(status.actual_replicas),
        replicas(status.desired_replicas),
    );
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use nihilo_types::condition::Assertion;
    use nihilo_types::meta::keys;
    use nihilo_types::route::TrafficTarget;

    use super::*;

    fn revision(name: &str, generation: &str, ready: &Assertion) -> Revision {
        let mut revision = Revision::default();
        revision.metadata.name = name.into();
        let label = keys::CONFIGURATION_GENERATION.to_owned();
        revision.metadata.labels.insert(label, generation.into());
        revision.status.conditions.set(ready, "now");
        revision
    }

    #[test]
    fn describe_marks_what_serves_and_what_failed() {
        let mut service = Service::default();
        service.metadata.name = "hello".into();
        service.metadata.namespace = "default".into();
        service.metadata.generation = 3;
        service.metadata.resource_version = "218".into();
        service.status.observed_generation = 3;
        service.status.url = "http://hello.default.localhost:8080".into();
        service.status.latest_created_revision_name = "hello-00003".into();
        service
            .status
            .conditions
            .set(&Assertion::truth("Ready"), "now");
        let tagged = TrafficTarget {
            tag: "stable".into(),
            ..TrafficTarget::revision("hello-00002", 100)
        };
        service.status.traffic = vec![tagged];
        let said = "Container failed with: starting\nno database\nfailed 3 times in a row, not \
                    started again for 2 s";
        let broken = Assertion::falsity("Ready", "ExitCode1", said);
        let mut serving = revision("hello-00002", "2", &Assertion::truth("Ready"));
        serving.status.actual_replicas = Some(1);
        serving.status.desired_replicas = Some(2);
        let revisions = [
            revision("hello-00003", "3", &broken),
            serving,
            revision("hello-00001", "1", &Assertion::truth("Ready")),
        ];
        let want = "\
Name: hello   Namespace: default   Age: ?   Generation: 3 (observed 3)   etag \"218\"
URL:  http://hello.default.localhost:8080
Traffic
    !  @latest hello-00003 [3] (?)  -/- ready  ExitCode1
       | Container failed with: starting
       | no database
       | failed 3 times in a row, not started again for 2 s
 100%  hello-00002 #stable [2] (?)  1/2 ready
    +  hello-00001 [1] (?)  -/- ready
Conditions:  ++ Ready";
        assert_eq!(description(&service, &revisions), want);
    }
}
