//! Defaults: filled in by the proposer for its answer and in `apply` for safety. Idempotent.

use crate::meta::{API_VERSION, DEFAULT_NAMESPACE};
use crate::probe::{Probe, TcpSocketAction};
use crate::route::TrafficTarget;
use crate::service::Service;
use crate::template::{Container, RevisionSpec, RevisionTemplate};

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
        probes(container);
    }
    mounts(spec);
}

/// Only an emptyDir is there to be written to.
fn mounts(spec: &mut RevisionSpec) {
    let volumes = &spec.volumes;
    let is_empty_dir = |name: &str| {
        let mut named = volumes.iter().filter(|volume| volume.name == name);
        named.any(|volume| volume.empty_dir.is_some())
    };
    for mount in spec
        .containers
        .iter_mut()
        .flat_map(|c| &mut c.volume_mounts)
    {
        if mount.read_only.is_none() && !is_empty_dir(&mount.name) {
            mount.read_only = Some(true);
        }
    }
}

/// Of those that are written: one that is not stays absent, so that a service without probes is the
/// object that builds before them know.
fn probes(container: &mut Container) {
    if let Some(readiness) = &mut container.readiness_probe {
        if readiness.actions().is_empty() {
            readiness.tcp_socket = Some(TcpSocketAction::default());
        }
        set(&mut readiness.success_threshold, 1);
        if !readiness.is_aggressive() {
            patience(readiness);
        }
    }
    for probe in [&mut container.liveness_probe, &mut container.startup_probe] {
        let Some(probe) = probe else { continue };
        set(&mut probe.period_seconds, Probe::DEFAULT_PERIOD_SECONDS);
        set(&mut probe.success_threshold, 1);
        patience(probe);
    }
}

fn patience(probe: &mut Probe) {
    set(&mut probe.timeout_seconds, Probe::DEFAULT_TIMEOUT_SECONDS);
    let n_failures = Probe::DEFAULT_FAILURE_THRESHOLD;
    set(&mut probe.failure_threshold, n_failures);
}

/// As Kubernetes, where 0 is what was not given.
fn set(field: &mut Option<u32>, default: u32) {
    if matches!(field, None | Some(0)) {
        *field = Some(default);
    }
}
