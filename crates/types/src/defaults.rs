//! Defaults: filled in by the proposer for its answer and in `apply` for safety. Idempotent.

use crate::meta::{API_VERSION, DEFAULT_NAMESPACE};
use crate::route::TrafficTarget;
use crate::service::Service;
use crate::template::{RevisionSpec, RevisionTemplate};

pub const DEFAULT_CONTAINER_NAME: &str = "user-container";

pub fn service(service: &mut Service) {
    service.api_version = API_VERSION.into();
    service.kind = "Service".into();
    if service.metadata.namespace.is_empty() {
        service.metadata.namespace = DEFAULT_NAMESPACE.into();
    }
    template(&mut service.spec.template);
    if service.spec.traffic.is_empty() {
        service.spec.traffic = vec![TrafficTarget::latest(100)];
    }
    for target in &mut service.spec.traffic {
        target.latest_revision = Some(target.is_latest());
    }
}

fn template(template: &mut RevisionTemplate) {
    let spec = &mut template.spec;
    spec.container_concurrency.get_or_insert(0);
    if matches!(spec.timeout_seconds, None | Some(0)) {
        spec.timeout_seconds = Some(RevisionSpec::DEFAULT_TIMEOUT_SECONDS);
    }
    for container in &mut spec.containers {
        if container.name.is_empty() {
            container.name = DEFAULT_CONTAINER_NAME.into();
        }
    }
}
