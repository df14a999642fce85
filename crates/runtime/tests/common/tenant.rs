//! What an instance is asked for as, where only its program matters.

use nihilo_types::id::{Epoch, InstanceId, ObjectKey};
use nihilo_types::instance::{DEFAULT_PORT, InstanceSpec, Limits, Probes, RunAs};
use nihilo_types::instance_config::InstanceConfig;
use nihilo_types::isolation::Isolation;
use nihilo_types::template::PullPolicy;

/// A script of the host's shell; the counter tells instances apart.
pub(crate) fn shell(counter: u64, script: &str) -> InstanceSpec {
    InstanceSpec {
        id: InstanceId::new("tenant-00001", Epoch(11), counter),
        revision: ObjectKey::new("default", "tenant-00001"),
        revision_uid: "uid".into(),
        service: "tenant".into(),
        configuration: "tenant".into(),
        image: "file:///bin/sh".into(),
        command: Vec::new(),
        args: vec!["-c".into(), script.into()],
        env: Vec::new(),
        working_dir: String::new(),
        h2c: false,
        container_concurrency: 0,
        boot_deadline_ms: 20_000,
        drain_deadline_ms: 20_000,
        termination_grace_ms: 1_000,
        pull_policy: PullPolicy::default(),
        container_port: DEFAULT_PORT,
        limits: Limits::default(),
        run_as: RunAs::default(),
        probes: Probes::default(),
        socket_activation: false,
        min_isolation: Isolation::None,
        config: InstanceConfig::default(),
    }
}
