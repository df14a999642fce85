//! One row per rule: a good Service, one change, the exact words.

use super::*;
use crate::defaults;
use crate::probe::{ExecAction, HttpGetAction, HttpHeader, Probe, ProbePort, TcpSocketAction};
use crate::template::{Amounts, ContainerPort, EnvVar};

fn good() -> Service {
    let mut service = Service::default();
    service.metadata.name = "hello".into();
    service.spec.template.spec.containers = vec![Container {
        image: "demo/hello".into(),
        ..Container::default()
    }];
    defaults::service(&mut service);
    service
}

fn limits(service: &mut Service) -> &mut Amounts {
    &mut service.spec.template.spec.containers[0].resources.limits
}

#[test]
fn a_defaulted_service_is_valid_and_stays_as_it_is() {
    let mut again = good();
    defaults::service(&mut again);
    assert_eq!(again, good());
    assert_eq!(super::service(&good()), Ok(()));
}

#[test]
fn each_mistake_is_named_with_its_path() {
    type Change = fn(&mut Service);
    let cases: &[(Change, &str)] = &[
        (
            |s| s.metadata.name = String::new(),
            "name or generateName is required: metadata.name",
        ),
        (
            |s| s.spec.template.spec.containers.clear(),
            "missing field(s): spec.template.spec.containers",
        ),
        (
            |s| s.spec.template.spec.container_concurrency = Some(1001),
            "expected 0 <= 1001 <= 1000: spec.template.spec.containerConcurrency",
        ),
        (
            |s| s.spec.template.spec.timeout_seconds = Some(601),
            "expected 0 <= 601 <= 600: spec.template.spec.timeoutSeconds",
        ),
        (
            |s| s.spec.template.spec.idle_timeout_seconds = Some(301),
            "expected 0 <= 301 <= 300: spec.template.spec.idleTimeoutSeconds",
        ),
        (
            |s| {
                s.spec.template.spec.containers[0].env = vec![EnvVar {
                    name: "PORT".into(),
                    value: "1".into(),
                    ..EnvVar::default()
                }];
            },
            "\"PORT\" is a reserved environment variable: \
             spec.template.spec.containers[0].env[0].name",
        ),
        (
            |s| {
                s.spec.template.spec.containers[0].ports = vec![ContainerPort {
                    name: "grpc".into(),
                    ..ContainerPort::default()
                }];
            },
            "Port name grpc is not allowed: spec.template.spec.containers[0].ports[0].name\n\
             Name must be empty, or one of: 'h2c', 'http1'",
        ),
        (
            |s| limits(s).cpu = Some(Quantity::new("half")),
            "invalid value: half: spec.template.spec.containers[0].resources.limits.cpu\n\
             A quantity is a number with an optional suffix: 500m, 2, 128Mi, 1G",
        ),
        (
            |s| limits(s).memory = Some(Quantity::new("1Mi")),
            "expected 4Mi <= 1Mi: spec.template.spec.containers[0].resources.limits.memory",
        ),
        (
            |s| {
                limits(s).memory = Some(Quantity::new("64Mi"));
                let requests = &mut s.spec.template.spec.containers[0].resources.requests;
                requests.memory = Some(Quantity::new("0.1Gi"));
            },
            "invalid value: 0.1Gi must be less than or equal to the limit of 64Mi: \
             spec.template.spec.containers[0].resources.requests.memory",
        ),
        (
            |s| {
                let context = &mut s.spec.template.spec.containers[0].security_context;
                context.run_as_user = Some(2_147_483_648);
            },
            "expected 0 <= 2147483648 <= 2147483647: \
             spec.template.spec.containers[0].securityContext.runAsUser",
        ),
        (
            |s| s.spec.traffic = vec![TrafficTarget::latest(90)],
            "Traffic targets sum to 90, want 100: spec.traffic",
        ),
        (
            |s| s.spec.template.metadata.name = "other-1".into(),
            "invalid value: \"other-1\" must have prefix \"hello-\": spec.template.metadata.name",
        ),
    ];
    for (change, want) in cases {
        let mut service = good();
        change(&mut service);
        assert_eq!(super::service(&service).unwrap_err().to_string(), *want);
    }
}

#[test]
fn autoscaling_keys_belong_to_the_template() {
    let mut service = good();
    service
        .metadata
        .annotations
        .insert("autoscaling.knative.dev/min-scale".into(), "1".into());
    let text = super::service(&service).unwrap_err().to_string();
    assert!(
        text.contains("must be put under \"spec.template.metadata.annotations\""),
        "{text}"
    );
}

#[test]
fn policies_that_need_slot_grants_are_refused() {
    let mut service = good();
    let annotations = &mut service.spec.template.metadata.annotations;
    annotations.insert("nihilo.dev/max-scale-on-partition".into(), "hold".into());
    let text = super::service(&service).unwrap_err().to_string();
    assert!(
        text.contains("hold needs slot grants, which this version does not have"),
        "{text}"
    );
}

#[test]
fn an_unknown_key_of_ours_gets_a_suggestion() {
    let mut service = good();
    let annotations = &mut service.spec.template.metadata.annotations;
    annotations.insert("nihilo.dev/fast-scal".into(), "true".into());
    let text = super::service(&service).unwrap_err().to_string();
    assert!(
        text.contains("did you mean `nihilo.dev/fast-scale`?"),
        "{text}"
    );
}

#[test]
fn what_becomes_of_an_idle_instance_is_one_of_two_words() {
    for (value, is_good) in [
        ("freeze", true),
        ("stop", true),
        ("Freeze", false),
        ("", false),
    ] {
        let mut service = good();
        let annotations = &mut service.spec.template.metadata.annotations;
        annotations.insert("nihilo.dev/idle".into(), value.into());
        let checked = super::service(&service).map_err(|invalid| invalid.to_string());
        let complaint = format!("invalid value: {value}");
        match is_good {
            true => assert_eq!(checked, Ok(())),
            false => assert!(checked.unwrap_err().contains(&complaint)),
        }
    }
}

#[test]
fn isolation_is_asked_for_by_its_level_and_is_of_version_2() {
    for (level, is_good) in [("full", true), ("landlock", true), ("most", false)] {
        let mut service = good();
        assert!(!service.is_of_version_2());
        let annotations = &mut service.spec.template.metadata.annotations;
        annotations.insert("nihilo.dev/min-isolation".into(), level.into());
        assert!(service.is_of_version_2());
        assert_eq!(super::service(&service).is_ok(), is_good, "{level}");
    }
}

#[test]
fn an_own_revision_name_must_change_with_the_template() {
    let mut stored = good();
    stored.spec.template.metadata.name = "hello-a".into();
    let mut wanted = stored.clone();
    assert_eq!(update(&stored, &wanted), Ok(()));
    wanted.spec.template.spec.timeout_seconds = Some(5);
    let text = update(&stored, &wanted).unwrap_err().to_string();
    assert!(
        text.starts_with("Saw the following changes without a name change"),
        "{text}"
    );
}

#[test]
fn percents_that_add_up_beyond_32_bits_are_refused() {
    let mut service = good();
    service.spec.traffic = vec![TrafficTarget::latest(u32::MAX), TrafficTarget::latest(101)];
    let text = super::service(&service).unwrap_err().to_string();
    assert!(
        text.contains("Traffic targets sum to 4294967396, want 100"),
        "{text}"
    );
}

#[test]
fn every_form_of_a_bad_name_is_refused_where_it_stands() {
    let long = "a".repeat(64);
    let bad = [
        "Hello",
        "1hello",
        "-hello",
        "hello-",
        "hello_1",
        "hello.1",
        "hello 1",
        "h\u{e9}llo",
        &long,
    ];
    for name in bad {
        let mut service = good();
        service.metadata.name = name.into();
        let text = super::service(&service).unwrap_err().to_string();
        assert!(
            text.contains("not a DNS 1035 label") && text.contains(": metadata.name"),
            "{text}"
        );

        let mut service = good();
        service.spec.template.metadata.name = format!("hello-{name}");
        // Behind the prefix a name may begin as it likes.
        let begins_badly = ["1hello", "-hello"].contains(&name);
        assert_eq!(super::service(&service).is_ok(), begins_badly, "{name}");

        let mut service = good();
        service.spec.traffic = vec![TrafficTarget {
            tag: name.into(),
            ..TrafficTarget::latest(100)
        }];
        let text = super::service(&service).unwrap_err().to_string();
        assert!(text.contains("spec.traffic[0].tag"), "{text}");
    }
    for namespace in ["Not-Good", "a_b", "-a", "", &long] {
        let mut service = good();
        service.metadata.namespace = namespace.into();
        let text = super::service(&service).unwrap_err().to_string();
        assert!(text.contains(": metadata.namespace"), "{text}");
    }
}

type ChangeOfContainer = fn(&mut Container);

fn http(change: impl FnOnce(&mut HttpGetAction)) -> Option<Box<Probe>> {
    let mut http = HttpGetAction::default();
    change(&mut http);
    Some(Box::new(Probe {
        http_get: Some(http),
        ..Probe::default()
    }))
}

fn tcp(port: ProbePort) -> Option<Box<Probe>> {
    let tcp = TcpSocketAction {
        port: Some(port),
        ..TcpSocketAction::default()
    };
    Some(Box::new(Probe {
        tcp_socket: Some(tcp),
        ..Probe::default()
    }))
}

fn exec(words: &[&str]) -> ExecAction {
    ExecAction {
        command: words.iter().map(|word| (*word).to_owned()).collect(),
    }
}

/// What is said of a container after defaulting, with `PATH` for the path of it.
fn said_of(change: ChangeOfContainer) -> String {
    let mut service = good();
    change(&mut service.spec.template.spec.containers[0]);
    defaults::service(&mut service);
    match super::service(&service) {
        Ok(()) => String::new(),
        Err(invalid) => invalid
            .to_string()
            .replace("spec.template.spec.containers[0]", "PATH"),
    }
}

#[test]
fn each_mistake_in_a_probe_is_named_with_its_path() {
    let cases: &[(ChangeOfContainer, &str)] = &[
        (
            |c| c.liveness_probe = Some(Box::default()),
            "expected exactly one, got neither: PATH.livenessProbe.exec, PATH.livenessProbe.grpc, \
             PATH.livenessProbe.httpGet, PATH.livenessProbe.tcpSocket",
        ),
        (
            |c| {
                c.readiness_probe = http(|_| {});
                c.readiness_probe.as_mut().unwrap().exec = Some(exec(&["true"]));
            },
            "expected exactly one, got both: PATH.readinessProbe.exec, PATH.readinessProbe.httpGet",
        ),
        (
            |c| {
                c.readiness_probe = http(|_| {});
                c.readiness_probe.as_mut().unwrap().failure_threshold = Some(2);
                c.readiness_probe.as_mut().unwrap().timeout_seconds = Some(2);
            },
            "failureThreshold is disallowed when periodSeconds is zero: \
             PATH.readinessProbe.failureThreshold\n\
             timeoutSeconds is disallowed when periodSeconds is zero: \
             PATH.readinessProbe.timeoutSeconds",
        ),
        (
            |c| {
                c.startup_probe = http(|_| {});
                c.startup_probe.as_mut().unwrap().success_threshold = Some(2);
            },
            "invalid value: 2: PATH.startupProbe.successThreshold\nmust be 1",
        ),
        (
            |c| {
                c.startup_probe = http(|_| {});
                c.startup_probe.as_mut().unwrap().period_seconds = Some(2_147_483_648);
            },
            "expected 0 <= 2147483648 <= 2147483647: PATH.startupProbe.periodSeconds",
        ),
        (
            |c| {
                c.readiness_probe = Some(Box::default());
                c.readiness_probe.as_mut().unwrap().exec = Some(exec(&[]));
            },
            "missing field(s): PATH.readinessProbe.exec.command",
        ),
        (
            |c| c.liveness_probe = tcp(ProbePort::Name("imap".into())),
            "invalid value: imap: PATH.livenessProbe.tcpSocket.port\n\
             Probe port must match container port",
        ),
        (
            |c| c.liveness_probe = tcp(ProbePort::Number(7_070)),
            "invalid value: 7070: PATH.livenessProbe.tcpSocket.port\n\
             Probe port must match container port, since a program has only the port that its node \
             gives it as $PORT",
        ),
        (
            |c| c.readiness_probe = http(|http| http.host = "10.0.0.1".into()),
            "invalid value: 10.0.0.1: PATH.readinessProbe.httpGet.host\n\
             Probes ask the instance itself; to send it another host, name `Host` in httpHeaders",
        ),
        (
            |c| c.readiness_probe = http(|http| http.scheme = "HTTPS".into()),
            "invalid value: HTTPS: PATH.readinessProbe.httpGet.scheme\n\
             Instances are spoken to in plain HTTP",
        ),
        (
            |c| c.readiness_probe = http(|http| http.path = "/a b".into()),
            "invalid value: /a b: PATH.readinessProbe.httpGet.path",
        ),
        (
            |c| {
                c.readiness_probe = http(|http| {
                    let (name, value) = ("X Y".into(), "a\nb".into());
                    http.http_headers = vec![HttpHeader { name, value }];
                });
            },
            "invalid value: \"a\\nb\": PATH.readinessProbe.httpGet.httpHeaders[0].value\n\
             invalid value: X Y: PATH.readinessProbe.httpGet.httpHeaders[0].name",
        ),
        (
            |c| {
                c.readiness_probe = http(|http| {
                    let (name, value) = ("a".into(), "b".into());
                    http.http_headers = vec![HttpHeader { name, value }; 65];
                });
            },
            "too many headers: found 65, at most 64: PATH.readinessProbe.httpGet.httpHeaders",
        ),
    ];
    for (change, want) in cases {
        assert_eq!(said_of(*change), *want);
    }
}

#[test]
fn probes_that_upstream_takes_are_taken() {
    let cases: &[ChangeOfContainer] = &[
        |c| c.readiness_probe = Some(Box::default()),
        |c| c.readiness_probe = http(|http| http.port = Some(ProbePort::Number(0))),
        |c| c.readiness_probe = http(|http| http.port = Some(ProbePort::Number(8_080))),
        |c| {
            c.readiness_probe = http(|http| http.port = Some(ProbePort::Name("h2c".into())));
            c.ports = vec![ContainerPort {
                name: "h2c".into(),
                ..ContainerPort::default()
            }];
        },
        |c| {
            c.liveness_probe = tcp(ProbePort::Number(9_000));
            c.ports = vec![ContainerPort {
                container_port: Some(9_000),
                ..ContainerPort::default()
            }];
        },
        // A container's other port is its own all the same.
        |c| {
            c.liveness_probe = tcp(ProbePort::Number(9_000));
            c.image = "registry.example/app:1".into();
        },
        |c| {
            let mut probe = Probe {
                exec: Some(exec(&["test", "-f", "/tmp/ready"])),
                ..Probe::default()
            };
            (probe.period_seconds, probe.failure_threshold) = (Some(1), Some(5));
            (c.readiness_probe, c.startup_probe) = (Some(probe.clone().into()), Some(probe.into()));
        },
    ];
    for (n, change) in cases.iter().enumerate() {
        assert_eq!(said_of(*change), "", "case {n}");
    }
}

#[test]
fn defaults_of_probes_are_filled_in_where_there_are_probes() {
    let mut service = good();
    defaults::service(&mut service);
    let container = &mut service.spec.template.spec.containers[0];
    assert_eq!(container.probes().count(), 0);
    container.readiness_probe = Some(Box::default());
    container.liveness_probe = http(|_| {});
    container.startup_probe = http(|_| {});
    container.startup_probe.as_mut().unwrap().period_seconds = Some(2);
    defaults::service(&mut service);
    let container = &service.spec.template.spec.containers[0];
    let json = |probe: &Option<Box<Probe>>| serde_json::to_string(probe).unwrap();
    let readiness = r#"{"tcpSocket":{},"successThreshold":1}"#;
    assert_eq!(json(&container.readiness_probe), readiness);
    let liveness = r#"{"httpGet":{},"timeoutSeconds":1,"periodSeconds":10,"successThreshold":1,"failureThreshold":3}"#;
    assert_eq!(json(&container.liveness_probe), liveness);
    let startup = liveness.replace("10", "2");
    assert_eq!(json(&container.startup_probe), startup);
    let once = service.clone();
    defaults::service(&mut service);
    assert_eq!(service, once);
}
