//! The services under load: the demo's echo, with an instance-side ledger and short windows.

use std::path::Path;
use std::time::Duration;

use nihilo_client::{Client, Error, Written};
use nihilo_types::meta::{API_VERSION, DEFAULT_NAMESPACE};
use nihilo_types::service::Service;
use nihilo_types::template::{Container, EnvVar};

use crate::app_fault::AppFault;
use crate::clock;

/// Seconds until a gateway gives a request up.
pub const TIMEOUT_SECONDS: u32 = 30;
/// From SIGTERM to SIGKILL: more than the app's own eight.
pub const TERMINATION_GRACE_SECONDS: u32 = 10;
pub const NAMESPACE: &str = DEFAULT_NAMESPACE;
const READY_LIMIT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How a service scales.
#[derive(Debug, Clone, Copy)]
pub struct Scaling {
    pub max_scale: u32,
    /// Requests in flight per instance to aim for.
    pub target: u32,
    /// Hard limit of requests in flight per instance; 0 = none.
    pub concurrency: u32,
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            max_scale: 6,
            target: 5,
            concurrency: 10,
        }
    }
}

/// A service of `demo/echo` whose instances write their ledgers below `ledger`.
pub fn echo(name: &str, ledger: &Path, scaling: Scaling) -> Service {
    let mut service = Service {
        api_version: API_VERSION.into(),
        kind: "Service".into(),
        ..Service::default()
    };
    service.metadata.name = name.into();
    service.metadata.namespace = NAMESPACE.into();
    let template = &mut service.spec.template;
    let annotations = [
        ("min-scale", "0".to_owned()),
        ("max-scale", scaling.max_scale.to_string()),
        ("target", scaling.target.to_string()),
        ("window", "6s".into()),
        ("scale-to-zero-pod-retention-period", "0s".into()),
    ];
    for (key, value) in annotations {
        let key = format!("autoscaling.knative.dev/{key}");
        template.metadata.annotations.insert(key, value);
    }
    template.metadata.annotations.insert(
        "nihilo.dev/termination-grace-period".into(),
        format!("{TERMINATION_GRACE_SECONDS}s"),
    );
    template.spec.container_concurrency = Some(scaling.concurrency);
    template.spec.timeout_seconds = Some(TIMEOUT_SECONDS);
    template.spec.containers = vec![Container {
        image: "demo/echo".into(),
        env: vec![
            EnvVar {
                name: crate::instance_ledger::DIRECTORY_ENV.into(),
                value: ledger.display().to_string(),
                ..EnvVar::default()
            },
            EnvVar {
                name: AppFault::ENV.into(),
                value: AppFault::file(ledger, None).display().to_string(),
                ..EnvVar::default()
            },
        ],
        ..Container::default()
    }];
    service
}

pub fn host(service: &str) -> String {
    format!("{service}.{NAMESPACE}.localhost")
}

/// Creates or replaces `service` and waits until it is Ready in its newest generation.
///
/// # Errors
/// Refused, or not ready in time.
pub async fn deploy(client: &Client, service: &Service) -> Result<Service, String> {
    let written = client.apply_service(service).await.map_err(|e| shown(&e))?;
    until_ready(client, &written).await
}

/// Waits until a service is Ready as it was written, or newer.
///
/// # Errors
/// Not ready in time.
pub async fn until_ready(client: &Client, written: &Written) -> Result<Service, String> {
    // Not the entry's index: a write that changes nothing leaves the version as it is.
    let from = written.service.metadata.version();
    let name = written.service.metadata.name.as_str();
    let ready = clock::until(READY_LIMIT, LOOK_EVERY, || async {
        let found = client.service(NAMESPACE, name).await;
        let service = found.map_err(|error| shown(&error))?.object;
        let (generation, observed) = (
            service.metadata.generation,
            service.status.observed_generation,
        );
        let is_new = service.metadata.version() >= from && observed >= generation;
        if is_new && service.status.conditions.is_true("Ready") {
            return Ok(service);
        }
        Err(format!(
            "{name} is not ready: {:?}",
            service.status.conditions
        ))
    });
    ready.await
}

/// An error with its kind.
pub fn shown(error: &Error) -> String {
    format!("{:?} {}: {error}", error.code, error.reason)
}
