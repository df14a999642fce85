//! Validation in Knative's words: all errors are reported, `message: path`, sorted.

mod domain;
mod probes;
mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub use domain::{domain_claim, domain_mapping};

use crate::image::Image;
use crate::isolation::Isolation;
use crate::meta::{ObjectMeta, keys};
use crate::names::{MAX_LABEL, check_dns1035, check_dns1123, nearest};
use crate::probe_paths::ProbePaths;
use crate::quantity::Quantity;
use crate::route::TrafficTarget;
use crate::service::Service;
use crate::template::{Container, MIN_MEMORY_BYTES, Resources, RevisionSpec, RevisionTemplate};
use crate::time::{parse_go_duration_ms, parse_go_duration_ns};

pub use probes::MAX_PROBE_HEADERS;
pub use sources::{MAX_ENV_FROM, MAX_ITEMS, MAX_MOUNTS, MAX_VOLUMES};

pub const MAX_TRAFFIC_TARGETS: usize = 100;
pub const MAX_ENV: usize = 1_000;
pub const MAX_CONCURRENCY: u32 = 1_000;
pub const MAX_TIMEOUT_SECONDS: u32 = 600;
/// As upstream.
pub const MAX_USER_ID: u32 = 2_147_483_647;
pub const MAX_ANNOTATION_BYTES: usize = 256 * 1024;

/// Names that the system sets.
pub const RESERVED_ENV: [&str; 4] = ["PORT", "K_SERVICE", "K_CONFIGURATION", "K_REVISION"];
const RESERVED_PORTS: [u16; 6] = [8008, 8012, 8013, 8022, 9090, 9091];
/// Extensions of ours that this version honours.
const OUR_KEYS: [&str; 9] = [
    "nihilo.dev/fast-scale",
    "nihilo.dev/max-scale-on-partition",
    keys::QUEUE_DEPTH,
    keys::PROBE_PATHS,
    keys::SOCKET_ACTIVATION,
    keys::IDLE,
    keys::MIN_ISOLATION,
    "nihilo.dev/ramp",
    "nihilo.dev/termination-grace-period",
];
/// Waiting requests per revision and gateway that may be asked for.
pub const MAX_QUEUE_DEPTH: u32 = 10_000;

/// One complaint: what is wrong, where, and more about it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldError {
    pub message: String,
    pub details: String,
    pub path: String,
}

/// Everything that is wrong with an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Invalid(pub Vec<FieldError>);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut merged: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
        for error in &self.0 {
            merged
                .entry((&error.message, &error.details))
                .or_default()
                .insert(&error.path);
        }
        for (i, ((message, details), paths)) in merged.into_iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            let paths: Vec<_> = paths.into_iter().collect();
            write!(f, "{message}: {}", paths.join(", "))?;
            if !details.is_empty() {
                write!(f, "\n{details}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

impl Invalid {
    fn add(&mut self, message: impl Into<String>, path: impl Into<String>) {
        self.add_with(message, path, "");
    }

    fn add_with(
        &mut self,
        message: impl Into<String>,
        path: impl Into<String>,
        details: impl Into<String>,
    ) {
        let (message, path, details) = (message.into(), path.into(), details.into());
        self.0.push(FieldError {
            message,
            details,
            path,
        });
    }

    fn into_result(self) -> Result<(), Invalid> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

/// Checks a defaulted Service.
///
/// # Errors
/// Everything that is wrong with it.
pub fn service(service: &Service) -> Result<(), Invalid> {
    let mut invalid = Invalid::default();
    metadata(&service.metadata, &mut invalid);
    let name = &service.metadata.name;
    template(name, &service.spec.template, &mut invalid);
    traffic(name, &service.spec.traffic, &mut invalid);
    invalid.into_result()
}

/// Checks an update against what is stored.
///
/// # Errors
/// A changed template under an unchanged own revision name.
pub fn update(stored: &Service, wanted: &Service) -> Result<(), Invalid> {
    let mut invalid = Invalid::default();
    let (old, new) = (&stored.spec.template, &wanted.spec.template);
    if !new.metadata.name.is_empty() && old.metadata.name == new.metadata.name && old != new {
        invalid.add(
            "Saw the following changes without a name change (-old +new)",
            "spec.template.metadata.name",
        );
    }
    invalid.into_result()
}

fn metadata(meta: &ObjectMeta, invalid: &mut Invalid) {
    if meta.name.is_empty() {
        invalid.add("name or generateName is required", "metadata.name");
    } else if let Err(why) = check_dns1035(&meta.name) {
        invalid.add(format!("not a DNS 1035 label: [{why}]"), "metadata.name");
    }
    if let Err(why) = check_dns1123(&meta.namespace) {
        invalid.add(
            format!("not a DNS 1123 label: [{why}]"),
            "metadata.namespace",
        );
    }
    for key in meta
        .annotations
        .keys()
        .filter(|key| key.starts_with("autoscaling.knative.dev"))
    {
        invalid.add_with(
            format!("invalid key name {key:?}"),
            "metadata.annotations",
            "autoscaling annotations must be put under \"spec.template.metadata.annotations\" to \
             work",
        );
    }
    annotations(&meta.annotations, "metadata.annotations", invalid);
    rollout_duration(meta, invalid);
}

/// Whole seconds, from 0 on; in upstream's words.
fn rollout_duration(meta: &ObjectMeta, invalid: &mut Invalid) {
    for key in [keys::ROLLOUT_DURATION, keys::ROLLOUT_DURATION_OLD] {
        let Some(text) = meta.annotation(key) else {
            continue;
        };
        let message = match parse_go_duration_ns(text) {
            None => format!("invalid value: {text}"),
            Some(ns) if ns % 1_000_000_000 != 0 => {
                format!("rollout-duration={text} is not at second precision")
            }
            Some(ns) if ns < 0 => format!("rollout-duration={text} must be positive"),
            Some(_) => continue,
        };
        invalid.add(message, format!("metadata.annotations.{key}"));
    }
}

fn annotations(annotations: &BTreeMap<String, String>, path: &str, invalid: &mut Invalid) {
    let size: usize = annotations
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if size > MAX_ANNOTATION_BYTES {
        invalid.add(
            format!("too many bytes: found {size}, at most {MAX_ANNOTATION_BYTES}"),
            path,
        );
    }
    for (key, value) in annotations
        .iter()
        .filter(|(k, _)| k.starts_with(keys::OURS_PREFIX))
    {
        our_annotation(key, value, path, invalid);
    }
}

fn our_annotation(key: &str, value: &str, path: &str, invalid: &mut Invalid) {
    let path = format!("{path}.{key}");
    let good = match key {
        "nihilo.dev/fast-scale" | keys::SOCKET_ACTIVATION => value.parse::<bool>().is_ok(),
        "nihilo.dev/termination-grace-period" => parse_go_duration_ms(value).is_some(),
        "nihilo.dev/max-scale-on-partition" if value == "hold" || value == "fence" => {
            let warden = if value == "fence" {
                " and a warden"
            } else {
                ""
            };
            let text = format!(
                "max-scale-on-partition: {value} needs slot grants{warden}, which this version \
                 does not have"
            );
            return invalid.add(text, path);
        }
        "nihilo.dev/max-scale-on-partition" => value == "replace",
        keys::QUEUE_DEPTH => value
            .parse::<u32>()
            .is_ok_and(|depth| (1..=MAX_QUEUE_DEPTH).contains(&depth)),
        keys::RAMP => check_dns1035(value).is_ok(),
        keys::IDLE => matches!(value, keys::IDLE_STOP | keys::IDLE_FREEZE),
        // To ask for none is to ask for nothing, and no mistake.
        keys::MIN_ISOLATION => value.parse::<Isolation>().is_ok(),
        keys::PROBE_PATHS => ProbePaths::parse(value).is_some(),
        unknown => {
            let hint = nearest(unknown, OUR_KEYS).map(|near| format!("did you mean `{near}`?"));
            let text = format!("invalid key name {unknown:?}");
            return invalid.add_with(text, path, hint.unwrap_or_default());
        }
    };
    if !good {
        invalid.add(format!("invalid value: {value}"), path);
    }
}

fn template(service: &str, template: &RevisionTemplate, invalid: &mut Invalid) {
    let name = &template.metadata.name;
    if !name.is_empty() {
        let path = "spec.template.metadata.name";
        if let Err(why) = check_dns1035(name) {
            invalid.add(format!("not a DNS 1035 label: [{why}]"), path);
        }
        if !name.starts_with(&format!("{service}-")) {
            let text = format!("invalid value: {name:?} must have prefix \"{service}-\"");
            invalid.add(text, path);
        }
    }
    annotations(
        &template.metadata.annotations,
        "spec.template.metadata.annotations",
        invalid,
    );
    limits(&template.spec, invalid);
    match template.spec.containers.as_slice() {
        [] => invalid.add("missing field(s)", "spec.template.spec.containers"),
        [one] => {
            container(one, "spec.template.spec.containers[0]", invalid);
            sources::volumes(&template.spec, one, invalid);
        }
        many => invalid.add(
            format!(
                "multi-container is off, but found {} containers",
                many.len()
            ),
            "spec.template.spec.containers",
        ),
    }
}

fn limits(spec: &RevisionSpec, invalid: &mut Invalid) {
    let path = |field: &str| format!("spec.template.spec.{field}");
    let mut bounded = |value: Option<u32>, max: u32, field: &str| {
        if let Some(value) = value.filter(|value| *value > max) {
            invalid.add(format!("expected 0 <= {value} <= {max}"), path(field));
        }
    };
    bounded(
        spec.container_concurrency,
        MAX_CONCURRENCY,
        "containerConcurrency",
    );
    bounded(spec.timeout_seconds, MAX_TIMEOUT_SECONDS, "timeoutSeconds");
    let total = spec.timeout();
    bounded(
        spec.response_start_timeout_seconds,
        total,
        "responseStartTimeoutSeconds",
    );
    bounded(spec.idle_timeout_seconds, total, "idleTimeoutSeconds");
}

fn container(container: &Container, path: &str, invalid: &mut Invalid) {
    if let Err(why) = Image::parse(&container.image) {
        let message = match container.image.is_empty() {
            true => "missing field(s)".to_owned(),
            false => "Failed to parse image reference".to_owned(),
        };
        invalid.add_with(message, format!("{path}.image"), why);
    }
    if container.name == "queue-proxy" {
        let text = format!("{:?} is a reserved container name", container.name);
        invalid.add(text, format!("{path}.name"));
    }
    if container.env.len() > MAX_ENV {
        let text = format!(
            "too many variables: found {}, at most {MAX_ENV}",
            container.env.len()
        );
        invalid.add(text, format!("{path}.env"));
    }
    for (i, variable) in container.env.iter().enumerate() {
        let path = format!("{path}.env[{i}].name");
        if variable.name.is_empty() || variable.name.contains(['=', '\0']) {
            invalid.add("missing field(s)", path);
        } else if RESERVED_ENV.contains(&variable.name.as_str()) {
            invalid.add(
                format!("{:?} is a reserved environment variable", variable.name),
                path,
            );
        }
    }
    sources::env(container, path, invalid);
    ports(container, path, invalid);
    resources(&container.resources, &format!("{path}.resources"), invalid);
    probes::probes(container, path, invalid);
    let ids = &container.security_context;
    for (id, field) in [
        (ids.run_as_user, "runAsUser"),
        (ids.run_as_group, "runAsGroup"),
    ] {
        if let Some(id) = id.filter(|id| *id > MAX_USER_ID) {
            let text = format!("expected 0 <= {id} <= {MAX_USER_ID}");
            invalid.add(text, format!("{path}.securityContext.{field}"));
        }
    }
}

/// Every quantity is one, none of a limit is too small to run in, and no request is above its limit.
fn resources(resources: &Resources, path: &str, invalid: &mut Invalid) {
    type Read = fn(&Quantity) -> Option<u64>;
    let (limits, requests) = (&resources.limits, &resources.requests);
    let (milli, units) = (Quantity::milli as Read, Quantity::units as Read);
    let (min_cpu, min_memory) = ((1, "1m"), (MIN_MEMORY_BYTES, "4Mi"));
    let kinds = [
        ("cpu", &limits.cpu, &requests.cpu, milli, min_cpu),
        (
            "memory",
            &limits.memory,
            &requests.memory,
            units,
            min_memory,
        ),
    ];
    for (kind, limit, request, read, (min, min_text)) in kinds {
        let mut parsed = |quantity: &Option<Quantity>, list: &str| {
            let quantity = quantity.as_ref()?;
            let value = read(quantity);
            if value.is_none() {
                let details = "A quantity is a number with an optional suffix: 500m, 2, 128Mi, 1G";
                let text = format!("invalid value: {quantity}");
                invalid.add_with(text, format!("{path}.{list}.{kind}"), details);
            }
            value
        };
        let (most, wanted) = (parsed(limit, "limits"), parsed(request, "requests"));
        let shown = |quantity: &Option<Quantity>| quantity.clone().unwrap_or_default();
        if most.is_some_and(|most| most < min) {
            let text = format!("expected {min_text} <= {}", shown(limit));
            invalid.add(text, format!("{path}.limits.{kind}"));
        }
        if let (Some(most), Some(wanted)) = (most, wanted)
            && wanted > most
        {
            let text = format!(
                "invalid value: {} must be less than or equal to the limit of {}",
                shown(request),
                shown(limit)
            );
            invalid.add(text, format!("{path}.requests.{kind}"));
        }
    }
}

fn ports(container: &Container, path: &str, invalid: &mut Invalid) {
    if container.ports.len() > 1 {
        let details = "Only a single port is allowed across all containers";
        let path = format!("{path}.ports");
        invalid.add_with("more than one container port is set", path, details);
    }
    for (i, port) in container.ports.iter().enumerate() {
        let path = format!("{path}.ports[{i}]");
        if !["", "http1", "h2c"].contains(&port.name.as_str()) {
            let details = "Name must be empty, or one of: 'h2c', 'http1'";
            let text = format!("Port name {} is not allowed", port.name);
            invalid.add_with(text, format!("{path}.name"), details);
        }
        if !["", "TCP"].contains(&port.protocol.as_str()) {
            invalid.add(
                format!("invalid value: {}", port.protocol),
                format!("{path}.protocol"),
            );
        }
        if let Some(number) = port.container_port.filter(|p| RESERVED_PORTS.contains(p)) {
            let text = format!("invalid value: {number} is a reserved port");
            invalid.add(text, format!("{path}.containerPort"));
        }
    }
}

fn traffic(service: &str, targets: &[TrafficTarget], invalid: &mut Invalid) {
    let path = "spec.traffic";
    if targets.len() > MAX_TRAFFIC_TARGETS {
        let text = format!(
            "too many targets: found {}, at most {MAX_TRAFFIC_TARGETS}",
            targets.len()
        );
        invalid.add(text, path);
    }
    let sum: u64 = targets.iter().map(|target| u64::from(target.share())).sum();
    if sum != 100 {
        invalid.add(format!("Traffic targets sum to {sum}, want 100"), path);
    }
    let mut tags: BTreeMap<&str, usize> = BTreeMap::new();
    for (i, target) in targets.iter().enumerate() {
        traffic_target(service, target, &format!("{path}[{i}]"), invalid);
        if target.tag.is_empty() {
            continue;
        }
        if let Some(first) = tags.insert(&target.tag, i) {
            let text = format!("Multiple definitions for {:?}", target.tag);
            invalid.add(text, format!("{path}[{first}].tag, {path}[{i}].tag"));
        }
    }
}

fn traffic_target(service: &str, target: &TrafficTarget, path: &str, invalid: &mut Invalid) {
    if !target.configuration_name.is_empty() {
        invalid.add(
            "must not set the field(s)",
            format!("{path}.configurationName"),
        );
    }
    if !target.url.is_empty() {
        invalid.add("must not set the field(s)", format!("{path}.url"));
    }
    if target.share() > 100 {
        let text = format!("expected 0 <= {} <= 100", target.share());
        invalid.add(text, format!("{path}.percent"));
    }
    if target.latest_revision == Some(true) && !target.revision_name.is_empty() {
        let text = format!(
            "may not set revisionName {:?} when latestRevision is true",
            target.revision_name
        );
        invalid.add(text, format!("{path}.latestRevision"));
    }
    if target.latest_revision == Some(false) && target.revision_name.is_empty() {
        let text = "may not set latestRevision to false when revisionName is empty";
        invalid.add(text, format!("{path}.latestRevision"));
    }
    if target.tag.is_empty() {
        return;
    }
    let path = format!("{path}.tag");
    if let Err(why) = check_dns1035(&target.tag) {
        invalid.add(format!("not a DNS 1035 label: [{why}]"), path);
    } else if target.tag.len() + 1 + service.len() > MAX_LABEL {
        invalid.add(
            "the tag's host label must be no more than 63 characters",
            path,
        );
    }
}

#[cfg(test)]
#[path = "validate_test.rs"]
mod tests;
