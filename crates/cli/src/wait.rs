//! Waiting until a Service is ready, with a line for each thing that happens on the way.

use std::collections::BTreeMap;
use std::time::Duration;

use nihilo_client::{Client, Watch};
use nihilo_types::condition::{Condition, ConditionStatus, Conditions, types};
use nihilo_types::meta::keys;
use nihilo_types::revision::Revision;
use nihilo_types::route::Route;
use nihilo_types::service::Service;
use nihilo_wire::serving as pb;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::failure::{Failure, Result, exit};
use crate::output::{self, explained};
use crate::traffic_spec;

/// A Service may pass through Ready=False on its way; longer than this and it is meant.
const FALSE_GRACE: Duration = Duration::from_secs(2);
/// A wait without news says so often what it waits for.
const REPORT_EVERY: Duration = Duration::from_secs(5);
const REPORT_LIMIT: Duration = Duration::from_secs(2);
/// Lines of output shown of an instance that failed.
const LAST_LINES: usize = 10;
/// Lines and time spent on finding them.
const MAX_LINES_READ: usize = 10_000;
const OUTPUT_LIMIT: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct WaitArgs {
    /// Return as soon as the change is accepted.
    #[arg(long)]
    pub no_wait: bool,
    #[command(flatten)]
    pub limit: WaitLimit,
}

#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct WaitLimit {
    /// Seconds to wait until it is ready; the cluster goes on by itself after that.
    // Two boots that end at their deadline, and their failure told.
    #[arg(long, default_value_t = 150, value_name = "SECONDS")]
    pub wait_timeout: u64,
}

/// Prints `%7.3fs  message` lines, each change once.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
    quiet: bool,
    last: BTreeMap<String, String>,
}

impl Progress {
    pub(crate) fn start() -> Self {
        Self {
            started: Instant::now(),
            quiet: false,
            last: BTreeMap::new(),
        }
    }

    /// Waits without a word.
    pub(crate) fn quiet() -> Self {
        Self {
            quiet: true,
            ..Self::start()
        }
    }

    pub(crate) fn say(&self, message: &str) {
        if self.quiet {
            return;
        }
        output::data(&progress_line(self.started.elapsed(), message));
    }

    /// Says something about `subject` unless it was the last thing said about it.
    fn report(&mut self, subject: &str, message: Option<String>) {
        let Some(message) = message else { return };
        if self.last.get(subject) != Some(&message) {
            self.say(&message);
            self.last.insert(subject.into(), message);
        }
    }
}

fn progress_line(elapsed: Duration, message: &str) -> String {
    format!("{:7.3}s  {}", elapsed.as_secs_f64(), output::plain(message))
}

/// Waits until `service` (as of log index `from`) is ready in its generation, or a later one.
///
/// # Errors
/// Exit 6: it failed, with its last output. Exit 5: not ready within `limit`. Exit 130:
/// interrupted; the cluster goes on. Exit 3: deleted meanwhile.
pub(crate) async fn until_ready(
    client: &Client,
    service: Service,
    from: u64,
    limit: WaitLimit,
    progress: &mut Progress,
) -> Result<Service> {
    let deadline = Instant::now() + Duration::from_secs(limit.wait_timeout);
    let mut waiter = Waiter::new(client, service, from);
    tokio::select! {
        result = waiter.run(deadline, progress) => result,
        interrupted = tokio::signal::ctrl_c() => {
            let name = &waiter.service.metadata.name;
            let what = match interrupted {
                Ok(()) => "still rolling out on the server".into(),
                Err(error) => format!("cannot wait for interrupts: {error}"),
            };
            Err(Failure::new(exit::INTERRUPTED, what).hint(format!("nihilo service wait {name}")))
        }
    }
}

struct Waiter<'a> {
    client: &'a Client,
    service: Service,
    generation: u64,
    watch: Watch,
}

impl<'a> Waiter<'a> {
    fn new(client: &'a Client, service: Service, from: u64) -> Self {
        let watch = open_watch(client, &service, from);
        Self {
            client,
            generation: service.metadata.generation,
            service,
            watch,
        }
    }

    async fn run(&mut self, deadline: Instant, progress: &mut Progress) -> Result<Service> {
        let mut failing_since = None;
        let mut report_at = Instant::now() + REPORT_EVERY;
        loop {
            let mut wake = deadline.min(report_at);
            match verdict(&self.service, self.generation) {
                Verdict::Ready => {
                    progress.report("Service", Some("Ready to serve.".into()));
                    return Ok(self.service.clone());
                }
                Verdict::Progressing => failing_since = None,
                Verdict::Failed(condition) => {
                    let since = *failing_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= FALSE_GRACE {
                        return Err(self.failed(&condition).await);
                    }
                    wake = wake.min(since + FALSE_GRACE);
                }
            }
            if Instant::now() >= deadline {
                return Err(self.timed_out());
            }
            if Instant::now() >= report_at {
                report_at = Instant::now() + REPORT_EVERY;
                self.report_boots(progress).await;
                continue;
            }
            // Running into `wake` is no event: the loop looks again.
            if let Ok(event) = tokio::time::timeout_at(wake, self.watch.next()).await {
                self.take(event, progress).await?;
            }
        }
    }

    async fn take(
        &mut self,
        event: std::result::Result<pb::WatchEvent, nihilo_client::Error>,
        progress: &mut Progress,
    ) -> Result<()> {
        match event {
            Ok(event) => self.observe(&event, progress),
            Err(error) if error.reason == "VERSION_COMPACTED" => self.list_again().await,
            Err(error) => Err(error.into()),
        }
    }

    fn observe(&mut self, event: &pb::WatchEvent, progress: &mut Progress) -> Result<()> {
        let name = self.service.metadata.name.clone();
        let deleted = event.r#type() == pb::watch_event::Type::Deleted;
        match event.kind.as_str() {
            "Service" => {
                let service: Service = decoded(&event.json)?;
                if service.metadata.name == name {
                    if deleted {
                        return Err(deleted_meanwhile(&name));
                    }
                    self.service = service;
                }
            }
            "Revision" if !deleted => {
                let revision: Revision = decoded(&event.json)?;
                if revision.metadata.label(keys::SERVICE) == Some(name.as_str()) {
                    progress.report(&revision.metadata.name, revision_message(&revision));
                }
            }
            "Route" if !deleted => {
                let route: Route = decoded(&event.json)?;
                if route.metadata.name == name {
                    progress.report("Route", route_message(&route));
                }
            }
            _ => {}
        }
        Ok(())
    }

    async fn list_again(&mut self) -> Result<()> {
        let meta = &self.service.metadata;
        let (namespace, name) = (meta.namespace.clone(), meta.name.clone());
        let list = self.client.services(Some(&namespace), &name).await?;
        let found = list
            .items
            .into_iter()
            .find(|service| service.metadata.name == name);
        self.service = found.ok_or_else(|| deleted_meanwhile(&name))?;
        self.watch = open_watch(self.client, &self.service, list.resource_version);
        Ok(())
    }

    /// Says what the newest revision's instances are doing; nothing when that cannot be had.
    async fn report_boots(&self, progress: &Progress) {
        let meta = &self.service.metadata;
        let client = self.client.with_timeout(REPORT_LIMIT);
        let answer = client.instances(Some(&meta.namespace), &meta.name).await;
        let Ok(answer) = answer else { return };
        let newest = &self.service.status.latest_created_revision_name;
        answer
            .items
            .iter()
            .filter(|instance| instance.revision == *newest)
            .filter_map(boot_message)
            .for_each(|message| progress.say(&message));
    }

    async fn failed(&self, condition: &Condition) -> Failure {
        let name = &self.service.metadata.name;
        let revision = &self.service.status.latest_created_revision_name;
        // The revision's own words are nearer to the cause than the Service's roll-up of them.
        let nearest = self.revision_failure().await;
        let condition = nearest.as_ref().unwrap_or(condition);
        let reason = if condition.reason.is_empty() {
            "no reason given"
        } else {
            &condition.reason
        };
        let mut failure = Failure::new(
            exit::NOT_READY,
            format!("service '{name}' is not ready: {reason}"),
        )
        .because(format!("revision  {revision}"));
        let mut label = "message ";
        for line in condition.message.lines() {
            failure = failure.because(format!("{label:<10}{}", output::plain(line)));
            label = "";
        }
        let lines = last_output(
            self.client,
            &self.service.metadata.namespace,
            name,
            revision,
        )
        .await;
        if !lines.is_empty() {
            failure = failure.because(format!("last output ({} lines):", lines.len()));
            for line in &lines {
                failure = failure.because(format!("  | {line}"));
            }
        }
        failure.hint(format!("nihilo logs {name} --previous"))
    }

    /// Why the newest revision is not ready, if it has failed.
    async fn revision_failure(&self) -> Option<Condition> {
        let namespace = &self.service.metadata.namespace;
        let name = &self.service.status.latest_created_revision_name;
        let stored = self.client.revision(namespace, name).await.ok()?;
        let ready = stored.object.status.conditions.get(types::READY)?;
        (ready.status == ConditionStatus::False).then(|| ready.clone())
    }

    fn timed_out(&self) -> Failure {
        let name = &self.service.metadata.name;
        let failure = Failure::new(
            exit::STILL_PROGRESSING,
            format!("service '{name}' is not ready yet"),
        );
        let failure = match self.service.status.conditions.get(types::READY) {
            Some(condition) if !explained(condition).is_empty() => {
                failure.because(output::plain(&explained(condition)))
            }
            _ => failure,
        };
        failure
            .because("it goes on on the server")
            .hint(format!("nihilo service wait {name}"))
    }
}

fn open_watch(client: &Client, service: &Service, from: u64) -> Watch {
    client.watch(pb::WatchRequest {
        namespace: service.metadata.namespace.clone(),
        resource_version: from,
        ..pb::WatchRequest::default()
    })
}

fn deleted_meanwhile(name: &str) -> Failure {
    Failure::new(
        exit::NOT_FOUND,
        format!("service '{name}' was deleted meanwhile"),
    )
}

fn decoded<T: DeserializeOwned>(json: &[u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|error| {
        Failure::new(
            exit::OTHER,
            format!("the server's event is not understood: {error}"),
        )
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Ready,
    Failed(Condition),
    Progressing,
}

/// Conditions count only once they speak of the generation asked for.
fn verdict(service: &Service, generation: u64) -> Verdict {
    let observed = service.status.observed_generation;
    if observed < generation || observed != service.metadata.generation {
        return Verdict::Progressing;
    }
    match service.status.conditions.get(types::READY) {
        Some(ready) if ready.status == ConditionStatus::True => Verdict::Ready,
        Some(ready) if ready.status == ConditionStatus::False => Verdict::Failed(ready.clone()),
        _ => Verdict::Progressing,
    }
}

fn revision_message(revision: &Revision) -> Option<String> {
    let name = &revision.metadata.name;
    let conditions = &revision.status.conditions;
    if conditions.is_true(types::READY) {
        return Some(format!("Revision {name}: ready."));
    }
    let text = obstacle(
        conditions,
        &[
            types::RESOURCES_AVAILABLE,
            types::CONTAINER_HEALTHY,
            types::READY,
        ],
    )?;
    let text: Vec<_> = text.lines().collect();
    Some(format!("Revision {name}: {}", text.join(" | ")))
}

/// What keeps an instance from being ready, as far as its state tells.
fn boot_message(instance: &pb::Instance) -> Option<String> {
    let (id, node, seconds) = (&instance.id, &instance.node, instance.age_ms / 1_000);
    match instance.state.as_str() {
        "Preparing" | "Starting" => Some(format!(
            "Instance {id}: starting on {node} for {seconds} s."
        )),
        "Booting" => {
            let port = instance.address.rsplit(':').next().unwrap_or_default();
            Some(format!(
                "Instance {id}: runs on {node} for {seconds} s and is not ready yet: it does not \
                 listen on $PORT ({port}), or a probe of it does not pass."
            ))
        }
        _ => None,
    }
}

fn route_message(route: &Route) -> Option<String> {
    let conditions = &route.status.conditions;
    if conditions.is_true(types::READY) {
        return Some(format!(
            "Route: {}.",
            traffic_spec::describe(&route.status.traffic)
        ));
    }
    let kinds = [
        types::ALL_TRAFFIC_ASSIGNED,
        types::INGRESS_READY,
        types::READY,
    ];
    Some(format!("Route: {}", obstacle(conditions, &kinds)?))
}

/// The first condition of `kinds` that is not true and says something.
fn obstacle(conditions: &Conditions, kinds: &[&str]) -> Option<String> {
    kinds
        .iter()
        .filter_map(|kind| conditions.get(kind))
        .filter(|condition| condition.status != ConditionStatus::True)
        .map(|c| {
            if c.message.is_empty() {
                c.reason.clone()
            } else {
                c.message.clone()
            }
        })
        .find(|text| !text.is_empty())
}

/// The last lines of a revision's ended instances, else of its running ones. Empty when there
/// are none or they cannot be had: they only illustrate a failure.
async fn last_output(
    client: &Client,
    namespace: &str,
    service: &str,
    revision: &str,
) -> Vec<String> {
    for previous in [true, false] {
        let request = pb::LogsRequest {
            namespace: namespace.into(),
            service: service.into(),
            revision: revision.into(),
            previous,
            ..pb::LogsRequest::default()
        };
        let lines = tokio::time::timeout(OUTPUT_LIMIT, tail(client, request)).await;
        if let Ok(lines) = lines
            && !lines.is_empty()
        {
            return lines;
        }
    }
    Vec::new()
}

async fn tail(client: &Client, request: pb::LogsRequest) -> Vec<String> {
    let mut last = std::collections::VecDeque::new();
    let Ok(mut stream) = client.with_timeout(OUTPUT_LIMIT).logs(request).await else {
        return Vec::new();
    };
    for _ in 0..MAX_LINES_READ {
        let Ok(Some(line)) = stream.next().await else {
            break;
        };
        if last.len() == LAST_LINES {
            last.pop_front();
        }
        last.push_back(output::plain(
            String::from_utf8_lossy(&line.line).trim_end(),
        ));
    }
    last.into()
}

/// The two last lines of every command that changed a Service.
pub(crate) fn available(service: &Service, verb: &str, unchanged: bool) -> String {
    let remark = if unchanged { " (unchanged)" } else { "" };
    format!(
        "\nService '{}' {verb} to latest revision '{}'{remark} is available at URL:\n{}",
        service.metadata.name, service.status.latest_ready_revision_name, service.status.url,
    )
}

#[cfg(test)]
mod tests {
    use nihilo_types::condition::Assertion;

    use super::*;

    fn service(generation: u64, observed: u64, ready: &Assertion) -> Service {
        let mut service = Service::default();
        service.metadata.name = "hello".into();
        service.metadata.generation = generation;
        service.status.observed_generation = observed;
        service.status.conditions.set(ready, "now");
        service
    }

    #[test]
    fn a_stale_observation_decides_nothing() {
        let truth = Assertion::truth("Ready");
        assert_eq!(verdict(&service(2, 2, &truth), 2), Verdict::Ready);
        assert_eq!(verdict(&service(2, 1, &truth), 2), Verdict::Progressing);
        // Somebody else changed it since: their generation counts.
        assert_eq!(verdict(&service(3, 2, &truth), 2), Verdict::Progressing);
        assert_eq!(verdict(&service(3, 3, &truth), 2), Verdict::Ready);
        let falsity = Assertion::falsity("Ready", "ExitCode1", "");
        assert!(matches!(
            verdict(&service(2, 2, &falsity), 2),
            Verdict::Failed(_)
        ));
    }

    #[test]
    fn progress_tells_what_is_in_the_way() {
        let mut revision = Revision::default();
        revision.metadata.name = "hello-00001".into();
        assert_eq!(revision_message(&revision), None);
        let waiting = Assertion::unknown("ContainerHealthy", "Deploying", "instance is starting");
        revision.status.conditions.set(&waiting, "now");
        let text = revision_message(&revision).unwrap();
        assert_eq!(text, "Revision hello-00001: instance is starting");
        revision
            .status
            .conditions
            .set(&Assertion::truth("Ready"), "now");
        assert_eq!(
            revision_message(&revision).unwrap(),
            "Revision hello-00001: ready."
        );
    }

    #[test]
    fn a_boot_that_takes_long_is_told_with_the_port_it_lacks() {
        let instance = pb::Instance {
            id: "hello-00001-a-1".into(),
            node: "node2".into(),
            state: "Booting".into(),
            address: "127.0.0.1:20017".into(),
            age_ms: 5_400,
            ..pb::Instance::default()
        };
        let want = "Instance hello-00001-a-1: runs on node2 for 5 s and is not ready yet: it does \
                    not listen on $PORT (20017), or a probe of it does not pass.";
        assert_eq!(boot_message(&instance).unwrap(), want);
        let ready = pb::Instance {
            state: "Ready".into(),
            ..instance
        };
        assert_eq!(boot_message(&ready), None);
    }

    #[test]
    fn lines_have_the_agreed_look() {
        let line = progress_line(Duration::from_millis(151), "Ready to serve.");
        assert_eq!(line, "  0.151s  Ready to serve.");
        let mut hello = service(1, 1, &Assertion::truth("Ready"));
        hello.status.latest_ready_revision_name = "hello-00001".into();
        hello.status.url = "http://hello.default.localhost:8080".into();
        let text = "\nService 'hello' created to latest revision 'hello-00001' is available at \
                    URL:\nhttp://hello.default.localhost:8080";
        assert_eq!(available(&hello, "created", false), text);
        assert!(available(&hello, "updated", true).contains("'hello-00001' (unchanged) is"));
    }
}
