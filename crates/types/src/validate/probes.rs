//! Validation of probes: one action, a port of the instance's own, and times that fit together.

use super::Invalid;
use crate::image::Image;
use crate::instance::DEFAULT_PORT;
use crate::probe::{HttpGetAction, HttpHeader, Probe, ProbePort};
use crate::template::Container;

/// As upstream, of every number.
const MAX_NUMBER: u32 = 2_147_483_647;
pub const MAX_PROBE_HEADERS: usize = 64;
/// What a probe may name as its host: all of them are the instance.
const OWN_HOSTS: [&str; 3] = ["", "localhost", "127.0.0.1"];
/// In the order of upstream's message.
const ACTIONS: [&str; 4] = ["exec", "grpc", "httpGet", "tcpSocket"];

pub(super) fn probes(container: &Container, path: &str, invalid: &mut Invalid) {
    if let Some(readiness) = &container.readiness_probe {
        let path = format!("{path}.readinessProbe");
        probe(container, readiness, &path, invalid);
        if readiness.is_aggressive() {
            without_period(readiness, &path, invalid);
        }
    }
    let others = [
        (&container.liveness_probe, "livenessProbe"),
        (&container.startup_probe, "startupProbe"),
    ];
    for (other, field) in others {
        let Some(other) = other else { continue };
        let path = format!("{path}.{field}");
        probe(container, other, &path, invalid);
        if let Some(n) = other.success_threshold.filter(|n| *n != 1) {
            let text = format!("invalid value: {n}");
            invalid.add_with(text, format!("{path}.successThreshold"), "must be 1");
        }
    }
}

/// It is asked without a pause until it passes, so that neither has a meaning.
fn without_period(readiness: &Probe, path: &str, invalid: &mut Invalid) {
    for (value, field) in [
        (readiness.failure_threshold, "failureThreshold"),
        (readiness.timeout_seconds, "timeoutSeconds"),
    ] {
        if value.is_some_and(|value| value != 0) {
            let text = format!("{field} is disallowed when periodSeconds is zero");
            invalid.add(text, format!("{path}.{field}"));
        }
    }
}

fn probe(container: &Container, probe: &Probe, path: &str, invalid: &mut Invalid) {
    match probe.actions().as_slice() {
        [] => expected_one("neither", &ACTIONS, path, invalid),
        [_] => {}
        many => expected_one("both", many, path, invalid),
    }
    for (number, field) in [
        (probe.initial_delay_seconds, "initialDelaySeconds"),
        (probe.timeout_seconds, "timeoutSeconds"),
        (probe.period_seconds, "periodSeconds"),
        (probe.success_threshold, "successThreshold"),
        (probe.failure_threshold, "failureThreshold"),
    ] {
        if let Some(number) = number.filter(|number| *number > MAX_NUMBER) {
            let text = format!("expected 0 <= {number} <= {MAX_NUMBER}");
            invalid.add(text, format!("{path}.{field}"));
        }
    }
    if probe
        .exec
        .as_ref()
        .is_some_and(|exec| exec.command.is_empty())
    {
        invalid.add("missing field(s)", format!("{path}.exec.command"));
    }
    if let Some(grpc) = &probe.grpc {
        port(
            container,
            grpc.port.as_ref(),
            &format!("{path}.grpc"),
            invalid,
        );
    }
    if let Some(http) = &probe.http_get {
        http_get(container, http, &format!("{path}.httpGet"), invalid);
    }
    if let Some(tcp) = &probe.tcp_socket {
        let path = format!("{path}.tcpSocket");
        port(container, tcp.port.as_ref(), &path, invalid);
        host(&tcp.host, &path, invalid);
    }
}

fn expected_one(got: &str, actions: &[&str], path: &str, invalid: &mut Invalid) {
    for action in actions {
        let text = format!("expected exactly one, got {got}");
        invalid.add(text, format!("{path}.{action}"));
    }
}

fn http_get(container: &Container, http: &HttpGetAction, path: &str, invalid: &mut Invalid) {
    port(container, http.port.as_ref(), path, invalid);
    host(&http.host, path, invalid);
    if !["", "HTTP"].contains(&http.scheme.as_str()) {
        let details = "Instances are spoken to in plain HTTP";
        let text = format!("invalid value: {}", http.scheme);
        invalid.add_with(text, format!("{path}.scheme"), details);
    }
    let is_in_uri = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
    if !http.path.bytes().all(is_in_uri) {
        invalid.add(
            format!("invalid value: {}", http.path),
            format!("{path}.path"),
        );
    }
    let n = http.http_headers.len();
    if n > MAX_PROBE_HEADERS {
        let text = format!("too many headers: found {n}, at most {MAX_PROBE_HEADERS}");
        invalid.add(text, format!("{path}.httpHeaders"));
    }
    for (i, HttpHeader { name, value }) in http.http_headers.iter().enumerate() {
        let path = format!("{path}.httpHeaders[{i}]");
        if name.is_empty() || !name.bytes().all(is_token) {
            invalid.add(format!("invalid value: {name}"), format!("{path}.name"));
        }
        if !value
            .bytes()
            .all(|byte| matches!(byte, b' '..=b'~' | b'\t'))
        {
            invalid.add(format!("invalid value: {value:?}"), format!("{path}.value"));
        }
    }
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Nobody's probes reach what is not theirs.
fn host(host: &str, path: &str, invalid: &mut Invalid) {
    if !OWN_HOSTS.contains(&host) {
        let details = "Probes ask the instance itself; to send it another host, name `Host` in \
                       httpHeaders";
        invalid.add_with(
            format!("invalid value: {host}"),
            format!("{path}.host"),
            details,
        );
    }
}

/// A program of the host shares its loopback with whoever else is there: another number than its
/// own would ask them. A container has an address of its own.
fn port(container: &Container, port: Option<&ProbePort>, path: &str, invalid: &mut Invalid) {
    let own = container.ports.first();
    let details = match port {
        None | Some(ProbePort::Number(0)) => return,
        Some(ProbePort::Name(name)) => match own {
            Some(own) if !name.is_empty() && own.name == *name => return,
            _ => "Probe port must match container port",
        },
        Some(ProbePort::Number(number)) => {
            let own = own.and_then(|own| own.container_port);
            if *number == own.unwrap_or(DEFAULT_PORT) || Image::is_container(&container.image) {
                return;
            }
            "Probe port must match container port, since a program has only the port that its \
             node gives it as $PORT"
        }
    };
    let shown = port.map(ToString::to_string).unwrap_or_default();
    invalid.add_with(
        format!("invalid value: {shown}"),
        format!("{path}.port"),
        details,
    );
}
