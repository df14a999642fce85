//! What instances take out of Secrets and ConfigMaps, through the agent that looks it up: variables
//! and files, by every driver that can.

use std::collections::BTreeMap;
use std::future::Future;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Mutex;

use nihilo_runtime::config::{ConfigSource, Content};
use nihilo_types::id::LogIndex;
use nihilo_types::instance_config::Holder;
use nihilo_types::probe::{ExecAction, Probe};
use nihilo_types::secret_value::SecretValue;

use super::*;

type All = BTreeMap<(Holder, String), (LogIndex, Content)>;

/// The objects of a cluster, without one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Objects(Arc<Mutex<All>>);

impl Objects {
    pub(crate) fn put(&self, holder: Holder, name: &str, pairs: &[(&str, &str)]) {
        let mut all = self.0.lock().unwrap();
        let version = LogIndex(
            all.values()
                .map(|(version, _)| version.0)
                .max()
                .unwrap_or(0)
                + 1,
        );
        let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), SecretValue::new(*value));
        let content = pairs.iter().map(pair).collect();
        all.insert((holder, name.into()), (version, content));
    }

    /// A secret `db` and a configmap `app`.
    pub(crate) fn some() -> Self {
        let objects = Self::default();
        objects.put(
            Holder::Secret,
            "db",
            &[("password", "hunter2"), ("user", "admin")],
        );
        objects.put(Holder::ConfigMap, "app", &[("mode", "fast")]);
        objects
    }

    fn get(&self, holder: Holder, key: &ObjectKey) -> Option<(LogIndex, Content)> {
        let place = (holder, key.name.to_string());
        self.0.lock().unwrap().get(&place).cloned()
    }
}

impl ConfigSource for Objects {
    fn reached(&self, index: LogIndex) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(std::future::ready(index < LogIndex(1_000)))
    }

    fn version(&self, holder: Holder, key: &ObjectKey) -> Option<LogIndex> {
        self.get(holder, key).map(|(version, _)| version)
    }

    fn find(&self, holder: Holder, key: &ObjectKey) -> Result<Option<Content>, String> {
        Ok(self.get(holder, key).map(|(_, content)| content))
    }
}

fn harness(driver: DriverConfig, objects: &Objects, image: Option<String>) -> Harness {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let mut harness = Harness::with(dir, driver, objects.clone());
    harness.image = image;
    harness
}

fn programs(objects: &Objects) -> Harness {
    harness(
        Harness::real(DockerSettings::default(), false),
        objects,
        None,
    )
}

/// What a template asks for, as an owner sends it.
pub(crate) fn configured(mut spec: InstanceSpec, template: &str) -> InstanceSpec {
    (spec.config, spec.env) = InstanceConfig::of(&serde_json::from_str(template).unwrap());
    spec
}

/// Directories that mounts are shown at, for this test alone; gone when it is over.
pub(crate) struct MountPoint(tempfile::TempDir);

impl MountPoint {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }
}

/// Only root shows a program what others do not see.
pub(crate) fn may_mount() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = u64::from_str_radix(effective.unwrap().trim(), 16).unwrap();
    let may = effective & (1 << 21) != 0;
    if !may {
        eprintln!("skipped: this user may not mount");
    }
    may
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_may_not_mount_refuses_volumes_and_nothing_else() {
    if may_mount() {
        return;
    }
    let (harness, at) = (programs(&Objects::some()), MountPoint::new());
    let report = harness
        .run(&configured(spec("demo/hello", 1), &volumes(&at)))
        .await;
    let Some(Exit::StartFailed { stage, cause }) = report.exit else {
        panic!("{report:?}");
    };
    assert_eq!(stage, "volumes");
    assert!(cause.contains("CAP_SYS_ADMIN"), "{cause}");
    harness.ready(&configured(spec("demo/hello", 2), ENV)).await;
}

fn files_of(harness: &Harness) -> PathBuf {
    let mark = std::fs::read_to_string(harness.dir.path().join("mark")).unwrap();
    PathBuf::from("/dev/shm").join(format!("nihilo-{}", mark.trim()))
}

fn lines(harness: &Harness, id: &InstanceId) -> Vec<String> {
    let lines = harness.output(id).into_iter();
    lines.map(|line| String::from_utf8(line).unwrap()).collect()
}

const ENV: &str = r#"{"containers":[{
    "envFrom":[{"prefix":"APP_","configMapRef":{"name":"app"}},
               {"secretRef":{"name":"nobody","optional":true}}],
    "env":[{"name":"PASSWORD","valueFrom":{"secretKeyRef":{"name":"db","key":"password"}}},
           {"name":"NONE","valueFrom":{"secretKeyRef":{"name":"db","key":"x","optional":true}}},
           {"name":"PLAIN","value":"as written"}]}]}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variables_are_what_secrets_and_configmaps_say() {
    let harness = programs(&Objects::some());
    let script = "echo \"$PASSWORD $APP_mode ${NONE-absent} $PLAIN\"";
    let spec = configured(shell(script, 1), ENV);
    harness.run(&spec).await;
    assert_eq!(
        lines(&harness, &spec.id),
        ["hunter2 fast absent as written"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_lacks_something_fails_and_says_what() {
    let (min_ms, max_ms) = (5, 20);
    let fake = DriverConfig::Fake(FakeConfig {
        boot: BootDelay { min_ms, max_ms },
        listener: None,
    });
    let objects = Objects::some();
    for harness in [programs(&objects), harness(fake, &objects, None)] {
        let reference = |name: &str, key: &str| {
            format!(
                r#"{{"containers":[{{"env":[{{"name":"A","valueFrom":
                   {{"secretKeyRef":{{"name":"{name}","key":"{key}"}}}}}}]}}]}}"#
            )
        };
        let cases = [
            (reference("nobody", "k"), "secret \"nobody\" not found"),
            (reference("db", "k"), "key \"k\" not found in secret \"db\""),
        ];
        for (counter, (template, want)) in (1..).zip(cases) {
            let spec = configured(spec("demo/hello", counter), &template);
            let report = harness.run(&spec).await;
            let Some(Exit::StartFailed { stage, cause }) = report.exit else {
                panic!("{report:?}");
            };
            assert_eq!((stage.as_str(), cause.as_str()), ("config", want));
        }
        let mut early = configured(spec("demo/hello", 9), ENV);
        early.config.min_index = LogIndex(1_000);
        let report = harness.run(&early).await;
        let text = format!("{:?}", report.exit);
        assert!(
            text.contains("has not applied the log up to 1000"),
            "{text}"
        );
    }
}

pub(crate) fn volumes(at: &MountPoint) -> String {
    format!(
        r#"{{"containers":[{{"volumeMounts":[
             {{"name":"db","mountPath":"{}"}},{{"name":"both","mountPath":"{}"}},
             {{"name":"disk","mountPath":"{}"}},{{"name":"memory","mountPath":"{}"}}]}}],
           "volumes":[{{"name":"db","secret":{{"secretName":"db"}}}},
             {{"name":"both","projected":{{"sources":[{{"configMap":{{"name":"app"}}}},
               {{"secret":{{"name":"db","items":[{{"key":"user","path":"sub/user"}}]}}}}]}}}},
             {{"name":"disk","emptyDir":{{}}}},
             {{"name":"memory","emptyDir":{{"medium":"Memory","sizeLimit":"1Mi"}}}}]}}"#,
        at.path("db"),
        at.path("both"),
        at.path("disk"),
        at.path("memory"),
    )
}

/// The same, and one variable beside it.
pub(crate) fn volumes_and_variable(at: &MountPoint) -> String {
    volumes(at).replace(
        r#""volumeMounts""#,
        r#""env":[{"name":"PASSWORD","valueFrom":{"secretKeyRef":{"name":"db","key":"password"}}}],
           "volumeMounts""#,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_seen_by_their_instance_alone_and_go_with_it() {
    if !may_mount() {
        return;
    }
    let (harness, at) = (programs(&Objects::some()), MountPoint::new());
    let script = format!(
        "cd '{0}'; cat db/password; echo; cat both/mode; echo; cat both/sub/user; echo; \
         echo x > db/x || echo read-only; stat -Lc %a db/password both/mode; \
         echo kept > disk/f && cat disk/f; head -c 2097152 /dev/zero > memory/f; \
         stat -c %s memory/f; echo $NIHILO_VOLUME_DB",
        at.0.path().display()
    );
    let spec = configured(shell(&script, 1), &volumes(&at));
    harness.run(&spec).await;
    let said = lines(&harness, &spec.id);
    let db = at.path("db");
    for wanted in [
        "hunter2",
        "fast",
        "admin",
        "read-only",
        "400",
        "444",
        "kept",
        "1048576",
        &db,
    ] {
        assert!(
            said.iter().any(|line| line == wanted),
            "{wanted} in {said:?}"
        );
    }
    // The host has the places, and nothing in them.
    for name in ["db", "both", "disk", "memory"] {
        assert_eq!(
            std::fs::read_dir(at.path(name)).unwrap().count(),
            0,
            "{name}"
        );
    }
    let left = std::fs::read_dir(files_of(&harness)).unwrap().count();
    assert_eq!(left, 0);
    let text = format!("{:?}", harness.agent.instances()[0].0);
    assert!(!text.contains("hunter2"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_follow_their_objects_while_the_instance_runs() {
    if !may_mount() {
        return;
    }
    let (objects, at) = (Objects::some(), MountPoint::new());
    let harness = programs(&objects);
    let script = format!(
        "cd '{0}/db'; echo started; while ! test -e new; do :; done; cat password; echo; ls; \
         echo $PASSWORD",
        at.0.path().display()
    );
    let template = volumes_and_variable(&at);
    let spec = configured(shell(&script, 1), &template);
    let mut events = harness.agent.subscribe();
    harness.start(&spec).unwrap();
    reached(&mut events, &spec.id, InstanceState::Booting).await;
    objects.put(
        Holder::Secret,
        "db",
        &[("password", "changed"), ("new", "1"), ("user", "u")],
    );
    reached(&mut events, &spec.id, InstanceState::Destroyed).await;
    // All of it changed at once; the environment is that of the start.
    assert_eq!(
        lines(&harness, &spec.id),
        ["started", "changed", "new", "password", "user", "hunter2"]
    );
}

/// A probe that passes once the shell says so, inside the instance.
pub(crate) fn asks(check: &str) -> Probe {
    let command = ["/bin/sh", "-c", check].map(str::to_owned);
    Probe {
        exec: Some(ExecAction {
            command: command.into(),
        }),
        period_seconds: Some(1),
        timeout_seconds: Some(10),
        failure_threshold: Some(30),
        success_threshold: Some(1),
        ..Probe::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_user_reads_its_files_and_so_do_commands_inside() {
    if !may_mount() {
        return;
    }
    let (harness, at) = (programs(&Objects::some()), MountPoint::new());
    let check = format!(
        "test \"$(cat '{}')\" = hunter2 && test \"$PASSWORD\" = hunter2 && test $(id -u) = 65532",
        at.path("db/password")
    );
    let template = volumes_and_variable(&at);
    // The binary under test is not everybody's to run.
    let mut spec = configured(
        shell(&format!("{check} && exec tail -f /dev/null"), 1),
        &template,
    );
    spec.run_as.user = Some(65_532);
    spec.probes.readiness = Some(Box::new(asks(&check)));
    harness.ready(&spec).await;
    let own = files_of(&harness).join(spec.id.as_str());
    let found = std::fs::metadata(&own).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o777), (0, 0o700));
    let found = std::fs::metadata(own.join("db/password")).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o777), (65_532, 0o400));
    harness.drain(&spec.id);
}

/// Where an engine answers; its image is made by the caller.
pub(crate) async fn containers_get_variables_and_files(image: &TestImage) {
    let objects = Objects::some();
    let docker = Harness::real(DockerSettings::default(), false);
    let harness = harness(docker, &objects, Some(image.name().into()));
    let template = r#"{"containers":[{
        "env":[{"name":"TARGET","valueFrom":{"secretKeyRef":{"name":"db","key":"password"}}}],
        "volumeMounts":[{"name":"db","mountPath":"/etc/db"},{"name":"e","mountPath":"/cache"},
                        {"name":"d","mountPath":"/var/lib/app"},
                        {"name":"two","mountPath":"/a"},{"name":"two","mountPath":"/b"}]}],
      "volumes":[{"name":"db","secret":{"secretName":"db"}},{"name":"d","emptyDir":{}},
                 {"name":"two","emptyDir":{}},
                 {"name":"e","emptyDir":{"medium":"Memory","sizeLimit":"1Mi"}}]}"#;
    let spec = configured(spec("demo/hello", 1), template);
    harness.ready(&spec).await;
    let of_instance = format!("label=nihilo.dev/instance={}", spec.id);
    let id = must(docker_ps(&of_instance));
    let format = "{{json .Config.Env}} {{json .Mounts}}";
    let inspected = must(super::docker(&["inspect", "--format", format, id.trim()]));
    for wanted in ["TARGET=hunter2", "/etc/db", "/dev/shm/nihilo-"] {
        assert!(inspected.contains(wanted), "{wanted} in {inspected}");
    }
    let read = super::docker(&["cp", &format!("{}:/etc/db/..data/password", id.trim()), "-"]);
    assert!(must(read).contains("hunter2"));
    // A volume of the engine's own, which anybody in the container may write to.
    let of_disk = r#"{{range .Mounts}}{{if eq .Destination "/var/lib/app"}}{{.Type}} {{.Name}} {{.Source}}{{end}}{{end}}"#;
    let shown = must(super::docker(&["inspect", "--format", of_disk, id.trim()]));
    let [kind, name, source] =
        <[&str; 3]>::try_from(shown.trim().split(' ').collect::<Vec<_>>()).unwrap();
    assert_eq!(kind, "volume", "{shown}");
    if let Ok(found) = std::fs::metadata(source) {
        assert_eq!(found.mode() & 0o777, 0o777);
    }
    // One that is mounted twice is one.
    let written = harness.dir.path().join("written");
    std::fs::write(&written, "at one path").unwrap();
    let written = written.to_str().unwrap();
    must(super::docker(&[
        "cp",
        written,
        &format!("{}:/a/f", id.trim()),
    ]));
    let read = super::docker(&["cp", &format!("{}:/b/f", id.trim()), "-"]);
    assert!(must(read).contains("at one path"));
    let named = || must(docker_volumes(&of_instance)).lines().count();
    // Its name, and the one that the engine has given to the other.
    assert_eq!(named(), 2);
    harness.agent.shutdown(LIMIT).await;
    assert_eq!(image.containers(), Vec::<String>::new());
    assert_eq!(named(), 0);
    let gone = super::docker(&["volume", "inspect", name]);
    assert!(gone.is_err(), "{gone:?}");
}

/// Where an engine answers, which makes a volume before it finds that it does not like the next one.
pub(crate) async fn a_container_that_is_refused_leaves_no_volume(image: &TestImage) {
    let objects = Objects::some();
    let docker = Harness::real(DockerSettings::default(), false);
    let harness = harness(docker, &objects, Some(image.name().into()));
    let template = r#"{"containers":[{
        "volumeMounts":[{"name":"two","mountPath":"/a"},{"name":"two","mountPath":"/b"},
                        {"name":"d","mountPath":"/a"}]}],
      "volumes":[{"name":"two","emptyDir":{}},{"name":"d","emptyDir":{}}]}"#;
    let spec = configured(spec("demo/hello", 1), template);
    let report = harness.run(&spec).await;
    let Some(Exit::StartFailed { stage, cause }) = report.exit else {
        panic!("{report:?}");
    };
    assert_eq!(stage, "create", "{cause}");
    let of_instance = format!("label=nihilo.dev/instance={}", spec.id);
    assert_eq!(must(docker_volumes(&of_instance)).lines().count(), 0);
}

fn docker_volumes(filter: &str) -> Result<String, String> {
    super::docker(&["volume", "ls", "--quiet", "--filter", filter])
}

fn docker_ps(filter: &str) -> Result<String, String> {
    super::docker(&["ps", "--quiet", "--filter", filter])
}
