//! What is asked of the engine for an instance. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, MountTmpfsOptions,
    MountType, MountVolumeOptions, RestartPolicy, RestartPolicyNameEnum,
};
use nihilo_types::id::InstanceId;
use nihilo_types::instance::{InstanceSpec, Limits, RunAs};

use crate::config::{Mount, MountSource, Provided};
use crate::process::cgroup::{CPU_PERIOD_US, quota_us, shares};
use crate::process::mark::Mark;

/// Prefix of all our labels.
const LABELS: &str = "nihilo.dev/";
/// How names of our containers and volumes begin.
pub(super) const NAMES: &str = "nihilo-";
/// Of a node's mark, in a container's name: enough for people, the label has all of it.
const NAME_MARK: usize = 8;
/// Privileges of a container's root that no server needs.
const DROPPED: [&str; 4] = ["AUDIT_WRITE", "MKNOD", "NET_RAW", "SETFCAP"];
/// Everybody's, as an `emptyDir` is in Kubernetes.
const VOLUME_MODE: u32 = 0o777;
/// The engine's own copy of the output, which ours is read from.
const LOG_FILES: [(&str, &str); 2] = [("max-size", "5m"), ("max-file", "2")];

/// A label as filters take it.
pub(super) fn label(key: &str, value: &str) -> String {
    format!("{LABELS}{key}={value}")
}

/// The instance that a container's labels name; empty for one that has none.
pub(super) fn instance_of(labels: &HashMap<String, String>) -> InstanceId {
    let instance = labels.get(&format!("{LABELS}instance"));
    InstanceId::from(instance.map_or("", String::as_str))
}

pub(super) fn name(mark: &Mark, id: &InstanceId) -> String {
    let mark: String = mark.as_str().chars().take(NAME_MARK).collect();
    format!("{NAMES}{mark}-{id}")
}

/// The engine's name of a volume of an instance. No volume's own name has a dot: what is before the last one
/// is one instance's.
fn volume_name(mark: &Mark, id: &InstanceId, volume: &str) -> String {
    format!("{}.{volume}", name(mark, id))
}

/// Volumes of the engine that are to have names: those that are mounted at more than one path, which are one
/// directory all the same. They do not go with their container: see [`shared_volumes`].
fn is_shared(mounts: &[Mount], mount: &Mount) -> bool {
    let same = mounts.iter().filter(|other| other.volume == mount.volume);
    mount.source == MountSource::Engine && same.count() > 1
}

/// Names of the engine's volumes that have to be removed after the instance's container.
pub(super) fn shared_volumes(mark: &Mark, id: &InstanceId, mounts: &[Mount]) -> BTreeSet<String> {
    let shared = mounts.iter().filter(|mount| is_shared(mounts, mount));
    shared
        .map(|mount| volume_name(mark, id, &mount.volume))
        .collect()
}

pub(super) fn container(
    spec: &InstanceSpec,
    provided: &Provided,
    image: &str,
    node_name: &str,
    mark: &Mark,
    network: &str,
) -> ContainerCreateBody {
    let given = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    ContainerCreateBody {
        image: Some(image.into()),
        // As Kubernetes: a command is instead of the image's program and of its arguments.
        entrypoint: given(&spec.command),
        cmd: given(&spec.args),
        env: Some(environment(spec, provided, node_name)),
        user: user(spec.run_as),
        working_dir: Some(spec.working_dir.clone()).filter(|dir| !dir.is_empty()),
        labels: Some(labels(spec, mark)),
        // As Kubernetes, which knows its own probes only: the image's would be run for nobody.
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".into()]),
            ..HealthConfig::default()
        }),
        host_config: Some(HostConfig {
            mounts: mounts(spec, mark, &provided.mounts),
            ..host_config(network, &spec.limits)
        }),
        ..ContainerCreateBody::default()
    }
}

/// On top of the image's own. A name given twice would be the program's to choose from, so the
/// user's replace ours here; what the user may not set has been refused before.
fn environment(spec: &InstanceSpec, provided: &Provided, node_name: &str) -> Vec<String> {
    let own = [
        ("PORT", spec.container_port.to_string()),
        // The container's loopback is out of reach for everybody else.
        ("HOST", "0.0.0.0".into()),
        ("K_SERVICE", spec.service.to_string()),
        ("K_CONFIGURATION", spec.configuration.to_string()),
        ("K_REVISION", spec.revision.name.to_string()),
        ("NIHILO_INSTANCE", spec.id.to_string()),
        ("NIHILO_NODE", node_name.to_owned()),
    ];
    let own = own.map(|(key, value)| (key.to_owned(), value));
    let looked_up = provided.env.iter().map(|(key, value)| {
        // Text, as whoever looked it up has seen.
        let text = String::from_utf8_lossy(value.expose()).into_owned();
        (key.clone(), text)
    });
    let written = spec.env.iter().cloned();
    let all: BTreeMap<_, _> = own.into_iter().chain(written).chain(looked_up).collect();
    all.into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect()
}

fn labels(spec: &InstanceSpec, mark: &Mark) -> HashMap<String, String> {
    let labels = [
        ("mark", mark.as_str().to_owned()),
        ("instance", spec.id.to_string()),
        ("service", spec.service.to_string()),
        ("revision", spec.revision.to_string()),
        ("revision-uid", spec.revision_uid.to_string()),
    ];
    let named = labels.map(|(key, value)| (format!("{LABELS}{key}"), value));
    named.into()
}

/// `None` = the image's own. A group alone goes with root, as it does on a node that runs as root.
fn user(run_as: RunAs) -> Option<String> {
    match (run_as.user, run_as.group) {
        (None, None) => None,
        (Some(user), group) => Some(format!("{user}:{}", group.unwrap_or(user))),
        (None, Some(group)) => Some(format!("0:{group}")),
    }
}

fn mounts(
    spec: &InstanceSpec,
    mark: &Mark,
    mounts: &[Mount],
) -> Option<Vec<bollard::models::Mount>> {
    let asked = |mount: &Mount| {
        let (typ, source, tmpfs_options) = match &mount.source {
            MountSource::Directory(dir) => {
                let source = dir.to_string_lossy().into_owned();
                (MountType::BIND, Some(source), None)
            }
            MountSource::Memory { max_bytes } => {
                let options = MountTmpfsOptions {
                    size_bytes: max_bytes.and_then(|max| i64::try_from(max).ok()),
                    mode: Some(0o777),
                    ..MountTmpfsOptions::default()
                };
                (MountType::TMPFS, None, Some(options))
            }
            MountSource::Engine if is_shared(mounts, mount) => {
                let name = volume_name(mark, &spec.id, &mount.volume);
                (MountType::VOLUME, Some(name), None)
            }
            // Without a name, so it goes with the container.
            MountSource::Engine => (MountType::VOLUME, None, None),
            // Refused before.
            MountSource::Earlier(_) => return None,
        };
        Some(bollard::models::Mount {
            target: Some(mount.path.clone()),
            source,
            typ: Some(typ),
            read_only: Some(mount.read_only),
            tmpfs_options,
            volume_options: (typ == MountType::VOLUME).then(|| MountVolumeOptions {
                // Empty, whatever the image has there.
                no_copy: Some(true),
                // Of a named one, by which it is found again.
                labels: Some(labels(spec, mark)),
                ..MountVolumeOptions::default()
            }),
            ..bollard::models::Mount::default()
        })
    };
    (!mounts.is_empty()).then(|| mounts.iter().filter_map(asked).collect())
}

/// An archive that opens the engine's volumes among `mounts` to everybody, as a node's own are; `None` =
/// there are none that could be written to. An engine makes them root's alone.
pub(super) fn opened_volumes(mounts: &[Mount]) -> Option<Vec<u8>> {
    let is_to_open = |mount: &&Mount| mount.source == MountSource::Engine && !mount.read_only;
    let mut tar = tar::Builder::new(Vec::new());
    let mut n_volumes = 0;
    for mount in mounts.iter().filter(is_to_open) {
        let path = mount.path.trim_matches('/');
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(VOLUME_MODE);
        header.set_size(0);
        // Longer paths than a header has room for are written before it.
        tar.append_data(&mut header, path, std::io::empty()).ok()?;
        n_volumes += 1;
    }
    let archive = tar.into_inner().ok()?;
    (n_volumes > 0).then_some(archive)
}

fn host_config(network: &str, limits: &Limits) -> HostConfig {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let memory = limits.memory_bytes.map(number);
    let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    HostConfig {
        network_mode: Some(network.into()),
        // Not as a number of cores: the engine refuses more than the host has.
        cpu_period: limits.cpu_milli.map(|_| number(CPU_PERIOD_US)),
        cpu_quota: limits.cpu_milli.map(|milli| number(quota_us(milli))),
        cpu_shares: limits.cpu_request_milli.map(|milli| number(shares(milli))),
        memory,
        // Memory and swap together: none to swap to.
        memory_swap: memory,
        // As process 1 an app would ignore SIGTERM unless it says otherwise, and keep its zombies.
        init: Some(true),
        // The owner decides about restarts.
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        // It would race with reading the exit and the last words.
        auto_remove: Some(false),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".into()),
            config: Some(LOG_FILES.map(owned).into()),
        }),
        security_opt: Some(vec!["no-new-privileges".into()]),
        cap_drop: Some(DROPPED.map(str::to_owned).into()),
        ..HostConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> InstanceSpec {
        InstanceSpec {
            args: vec!["-v".into()],
            env: vec![("HOST".into(), "::".into()), ("A".into(), "b=c".into())],
            container_port: 9000,
            limits: Limits {
                cpu_milli: Some(500),
                cpu_request_milli: Some(250),
                memory_bytes: Some(64 << 20),
            },
            run_as: RunAs {
                user: Some(65_532),
                group: None,
            },
            ..crate::handle::specification()
        }
    }

    #[test]
    fn a_container_is_asked_for_as_the_template_says() {
        let dir = tempfile::tempdir().unwrap();
        let mark = Mark::of(dir.path()).unwrap();
        let secret = |text: &str| nihilo_types::secret_value::SecretValue::new(text);
        let mount = |source, path: &str| Mount {
            volume: path.trim_start_matches('/').into(),
            source,
            path: path.into(),
            read_only: path == "/etc/db",
        };
        let shared = |path: &str| Mount {
            volume: "both".into(),
            ..mount(MountSource::Engine, path)
        };
        let max_bytes = Some(7);
        let provided = Provided {
            env: vec![("PASSWORD".into(), secret("p w"))],
            mounts: vec![
                mount(MountSource::Directory("/dev/shm/x".into()), "/etc/db"),
                mount(MountSource::Memory { max_bytes }, "/cache"),
                mount(MountSource::Engine, "/data"),
                shared("/a"),
                shared("/b"),
            ],
        };
        let asked = container(&spec(), &provided, "nginx:latest", "node1", &mark, "bridge");
        assert_eq!(asked.image.as_deref(), Some("nginx:latest"));
        assert_eq!(asked.entrypoint, None);
        assert_eq!(asked.cmd, Some(vec!["-v".into()]));
        assert_eq!(asked.working_dir, None);
        assert_eq!(asked.user.as_deref(), Some("65532:65532"));
        let host = asked.host_config.unwrap();
        assert_eq!(
            (host.cpu_period, host.cpu_quota, host.cpu_shares),
            (Some(100_000), Some(50_000), Some(256))
        );
        assert_eq!(
            (host.memory, host.memory_swap),
            (Some(64 << 20), Some(64 << 20))
        );
        let mounts = host.mounts.unwrap();
        let both = format!("{}.both", name(&mark, &spec().id));
        let shown: Vec<_> = mounts
            .iter()
            .map(|m| (m.source.as_deref(), m.target.as_deref(), m.read_only))
            .collect();
        assert_eq!(
            shown,
            [
                (Some("/dev/shm/x"), Some("/etc/db"), Some(true)),
                (None, Some("/cache"), Some(false)),
                (None, Some("/data"), Some(false)),
                (Some(both.as_str()), Some("/a"), Some(false)),
                (Some(both.as_str()), Some("/b"), Some(false)),
            ]
        );
        let to_remove = shared_volumes(&mark, &spec().id, &provided.mounts);
        assert_eq!(to_remove, BTreeSet::from([both]));
        assert_eq!(
            mounts[1].tmpfs_options.as_ref().unwrap().size_bytes,
            Some(7)
        );
        assert_eq!(mounts[2].typ, Some(MountType::VOLUME));
        let env = asked.env.unwrap();
        for wanted in [
            "PASSWORD=p w",
            "PORT=9000",
            "HOST=::",
            "A=b=c",
            "K_REVISION=r",
        ] {
            assert!(env.iter().any(|one| one == wanted), "{wanted} in {env:?}");
        }
        assert_eq!(env.iter().filter(|one| one.starts_with("HOST=")).count(), 1);
        let labels = asked.labels.unwrap();
        assert_eq!(labels["nihilo.dev/mark"], mark.as_str());
        assert_eq!(labels["nihilo.dev/revision"], "default/r");
        let name = name(&mark, &spec().id);
        assert!(
            name.starts_with("nihilo-") && name.ends_with(spec().id.as_str()),
            "{name}"
        );
    }
}
