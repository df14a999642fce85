//! Secrets on real nodes: a random value is written, used, refused, described, backed up and
//! looked for everywhere; a node with another key; a newcomer.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use common::{Cluster, get, must, text, wait_for};
use nihilo_client::Client;
use nihilo_server::wiring::{Ground, Node};
use nihilo_types::node_config::{DriverKind, Member, NodeConfig};
use nihilo_types::secret::Secret;
use nihilo_types::secret_value::SecretValue;

/// A value that is nowhere else.
fn canary() -> String {
    let random = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
    format!("canary{}", random.trim().replace('-', ""))
}

/// Whatever of it would be recognised: itself, and its base64 at each of the three places at which
/// it may begin in a longer text.
fn traces(canary: &str) -> Vec<String> {
    let mut traces = vec![canary.to_owned()];
    for skip in 0..3 {
        let part = &canary[skip..];
        let encoded = SecretValue::new(&part[..part.len() / 3 * 3]).to_base64();
        traces.push(String::from_utf8(encoded.expose().to_vec()).unwrap());
    }
    traces
}

fn holds(bytes: &[u8], traces: &[String]) -> bool {
    let has = |trace: &String| {
        bytes
            .windows(trace.len())
            .any(|part| part == trace.as_bytes())
    };
    traces.iter().any(has)
}

/// Files below `dir` that hold a trace.
fn found_in(dir: &Path, traces: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(found_in(&path, traces));
        } else if kind.is_file() && std::fs::read(&path).is_ok_and(|read| holds(&read, traces)) {
            found.push(path.display().to_string());
        }
    }
    found
}

/// Runs commands and sees that none repeats the value.
struct Listener<'a> {
    cluster: &'a Cluster,
    traces: Vec<String>,
}

impl Listener<'_> {
    fn cli(&self, args: &[&str]) -> Output {
        let output = self.cluster.cli(args);
        let said = text(&output);
        assert!(
            !holds(said.as_bytes(), &self.traces),
            "{args:?} says {said}"
        );
        output
    }
}

fn condition(cluster: &Cluster, revision: &str, kind: &str) -> Option<(String, String)> {
    let output = cluster.cli(&["revision", "list", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let mut all = json["items"].as_array()?.iter();
    let one = all.find(|one| one["metadata"]["name"] == revision)?;
    let conditions = one["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|one| one["type"] == kind)?;
    let word = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
    Some((word("reason"), word("message")))
}

fn wait_condition(cluster: &Cluster, revision: &str, reason: &str, message: &str) {
    wait_for(&format!("{reason} of {revision}: {message}"), || {
        let (found, said) = condition(cluster, revision, "ResourcesAvailable")?;
        (found == reason && said.contains(message)).then_some(())
    });
}

/// What the service answers, from zero if need be.
fn answer(cluster: &Cluster, service: &str) -> String {
    get(cluster.gateway(0), &format!("{service}.default.localhost")).unwrap()
}

#[test]
fn a_secret_is_in_its_instance_and_nowhere_else() {
    let cluster = Cluster::start(61);
    let canary = canary();
    let listener = Listener {
        cluster: &cluster,
        traces: traces(&canary),
    };
    // Outside the directory that is searched.
    let outside = tempfile::tempdir().unwrap();
    let file = outside.path().join("password");
    std::fs::write(&file, &canary).unwrap();
    let from = format!("password={}", file.display());
    must(listener.cli(&["secret", "create", "db", "--from-file", &from]));
    must(listener.cli(&["configmap", "create", "app", "--from-literal", "mode=fast"]));
    let again = listener.cli(&["secret", "create", "db", "--from-file", &from]);
    assert_eq!(again.status.code(), Some(4), "{}", text(&again));
    let at = outside.path().join("mounted");
    let mount = format!("{}=secret:db", at.display());
    let mut create = vec!["service", "create", "hello", "--image", "demo/hello"];
    create.extend(["--env-value-from", "TARGET=secret:db:password"]);
    create.extend(["--env-from", "cm:app"]);
    // Only root shows a program what others do not see.
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        create.extend(["--mount", &mount]);
    }
    must(listener.cli(&create));
    assert!(answer(&cluster, "hello").contains(&canary));
    if is_root {
        follows_a_change(&listener, &outside, &at);
    }
    missing_and_mistaken(&listener, outside.path());
    shown_everywhere(&listener);
    let backup = outside.path().join("backup");
    must(listener.cli(&["cluster", "backup", backup.to_str().unwrap()]));
    assert!(!holds(&std::fs::read(&backup).unwrap(), &listener.traces));
    let none = Vec::<String>::new();
    assert_eq!(found_in(cluster.path(), &listener.traces), none);
    newcomer_has_the_key(&cluster);
    must(cluster.stop());
    assert_eq!(found_in(cluster.path(), &listener.traces), none);
}

/// The files of the running instance, by its own view of the host.
fn follows_a_change(listener: &Listener<'_>, outside: &tempfile::TempDir, at: &Path) {
    let cluster = listener.cluster;
    answer(cluster, "hello");
    let pid = wait_for("an instance", || {
        let listed = must(listener.cli(&["instance", "list", "-o", "json"]));
        let json: serde_json::Value = serde_json::from_slice(&listed.stdout).ok()?;
        let items = json.as_array().or_else(|| json["items"].as_array())?;
        let one = items
            .iter()
            .find(|one| one["state"] == "Ready" || one["pid"].is_u64())?;
        one["pid"].as_u64().filter(|pid| *pid > 0)
    });
    let inside = format!("/proc/{pid}/root{}", at.display());
    let read = |name: &str| std::fs::read_to_string(format!("{inside}/{name}"));
    assert_eq!(read("password").unwrap(), listener.traces[0]);
    let manifest = outside.path().join("db.yaml");
    let with = |more: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata:\n  name: db\nstringData:\n  password: {}\n{more}",
            listener.traces[0]
        )
    };
    let apply = |text: &str| {
        std::fs::write(&manifest, text).unwrap();
        listener.cli(&["apply", "-f", manifest.to_str().unwrap()])
    };
    let said = text(&must(apply(&with(""))));
    assert!(said.contains("No changes to apply"), "{said}");
    must(apply(&with("  another: value\n")));
    wait_for("the new file", || {
        read("another").ok().filter(|text| text == "value")
    });
    for mistake in [
        "  [",
        "  password: twice\n",
        "  x: {y: z}\n",
        "immutabel: true\n",
    ] {
        let refused = apply(&with(mistake));
        assert!(!refused.status.success(), "{mistake}");
    }
}

fn missing_and_mistaken(listener: &Listener<'_>, outside: &Path) {
    let cluster = listener.cluster;
    must(listener.cli(&[
        "service",
        "create",
        "lacks",
        "--image",
        "demo/hello",
        "--env-value-from",
        "A=secret:later:k",
        "--no-wait",
    ]));
    let reason = "CreateContainerConfigError";
    wait_condition(cluster, "lacks-00001", reason, "secret \"later\" not found");
    must(listener.cli(&["secret", "create", "later", "--from-literal", "other=1"]));
    let missing = "key \"k\" not found in secret \"later\"";
    wait_condition(cluster, "lacks-00001", reason, missing);
    must(listener.cli(&["service", "describe", "lacks", "-o", "yaml"]));
    must(listener.cli(&["service", "delete", "lacks"]));
    let file = outside.join("password");
    let from = format!("k/k={}", file.display());
    let refused = listener.cli(&["secret", "create", "bad", "--from-file", &from]);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
    let from = format!("tls.crt={}", file.display());
    let tls = [
        "secret",
        "create",
        "bad",
        "--type",
        "kubernetes.io/tls",
        "--from-file",
        &from,
    ];
    assert!(text(&listener.cli(&tls)).contains("data[tls.key]"));
}

fn shown_everywhere(listener: &Listener<'_>) {
    let described = text(&must(listener.cli(&["secret", "describe", "db"])));
    let n_bytes = listener.traces[0].len().to_string();
    assert!(
        described.contains("password") && described.contains(&n_bytes),
        "{described}"
    );
    for format in ["table", "json", "yaml", "name"] {
        must(listener.cli(&["secret", "list", "-A", "-o", format]));
        must(listener.cli(&["secret", "describe", "db", "-o", format]));
        must(listener.cli(&["service", "describe", "hello", "-o", format]));
        must(listener.cli(&["revision", "list", "-o", format]));
    }
    must(listener.cli(&["ps"]));
    must(listener.cli(&["instance", "list"]));
    must(listener.cli(&["logs", "hello"]));
    must(listener.cli(&["cluster", "status", "-o", "json"]));
}

fn newcomer_has_the_key(cluster: &Cluster) {
    let token = cluster.join_token(&cluster.servers(), &[]);
    must(cluster.join(&token, "node4", cluster.ports(3)));
    let key = cluster.path().join("node4/secrets.key");
    let ours = std::fs::read(cluster.path().join("secrets.key")).unwrap();
    assert_eq!(std::fs::read(&key).unwrap(), ours);
    let mode = std::fs::metadata(&key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// In this process, so that snapshots come after a few entries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_holds_no_value() {
    let (dir, canary) = (tempfile::tempdir().unwrap(), canary());
    let free = || {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.local_addr().unwrap().port()
    };
    let mut config = NodeConfig::of_one("node1".into(), 1, dir.path().join("node1"));
    (config.gateway_port, config.admin_port, config.peer_port) = (free(), free(), free());
    config.driver = DriverKind::Fake;
    config.members = vec![Member {
        id: 1,
        name: "node1".into(),
        peer: config.peer_address(),
        admin: config.admin_address(),
    }];
    let ground = Ground {
        snapshot_every: Some(5),
        ..Ground::default()
    };
    let node = Node::start(config.clone(), ground).await.unwrap();
    node.found(&config).await.unwrap();
    let client = Client::connect_lazy(vec![config.admin_address()]).unwrap();
    let mut secret = Secret::default();
    secret.metadata.name = "db".into();
    let value = SecretValue::new(canary.as_str());
    secret.values.insert("password".into(), value);
    secret.default_fields();
    let written = client.apply_secret(&secret).await.unwrap();
    assert_eq!(written.object.bytes["password"], canary.len());
    let snapshots = config.data_dir.join("snapshots");
    let snapshot = |after: u64| {
        let files = std::fs::read_dir(&snapshots)
            .into_iter()
            .flatten()
            .flatten();
        let mut read = files.filter_map(|file| std::fs::read(file.path()).ok());
        // Names of objects are in it as they are.
        (after > 0).then(|| read.any(|bytes| holds(&bytes, &["sealedBy".into()])))
    };
    let mut n = 0;
    while snapshot(n) != Some(true) {
        assert!(n < 200, "no snapshot with the secret");
        n += 1;
        secret.metadata.labels.insert("n".into(), n.to_string());
        client.apply_secret(&secret).await.unwrap();
    }
    assert_eq!(found_in(dir.path(), &traces(&canary)), Vec::<String>::new());
    node.stop().await;
    assert_eq!(found_in(dir.path(), &traces(&canary)), Vec::<String>::new());
}

#[test]
fn a_node_with_another_key_says_so_and_does_the_rest() {
    let cluster = Cluster::start_one(62);
    must(cluster.cli(&["secret", "create", "db", "--from-literal", "password=x"]));
    let file = cluster.path().join("secrets.key");
    let right = std::fs::read(&file).unwrap();
    must(cluster.stop());
    let digits = "0".repeat(64);
    std::fs::write(&file, format!("nihilo-secrets-key-v1 {digits}\n")).unwrap();
    must(cluster.start_missing());
    wait_for("a warning", || {
        cluster.log(0).contains("is not the one that").then_some(())
    });
    let refused = cluster.cli(&["secret", "create", "new", "--from-literal", "a=b"]);
    let said = text(&refused);
    assert!(
        said.contains("are sealed by key") && said.contains("secrets-key-file"),
        "{said}"
    );
    let needs = |name: &str| {
        let from = "A=secret:db:password";
        must(cluster.cli(&[
            "service",
            "create",
            name,
            "--image",
            "demo/hello",
            "--env-value-from",
            from,
            "--no-wait",
        ]));
        format!("{name}-00001")
    };
    let reason = "CreateContainerConfigError";
    wait_condition(&cluster, &needs("other-key"), reason, "is sealed by key");
    // The rest goes on.
    must(cluster.cli(&["secret", "describe", "db"]));
    must(cluster.cli(&["service", "create", "hello", "--image", "demo/hello"]));
    must(cluster.stop());
    std::fs::remove_file(&file).unwrap();
    must(cluster.start_missing());
    let refused = text(&cluster.cli(&["secret", "create", "new", "--from-literal", "a=b"]));
    assert!(
        refused.contains("this node has no secrets key"),
        "{refused}"
    );
    wait_condition(
        &cluster,
        &needs("no-key"),
        reason,
        "this node has no secrets key",
    );
    // It is looked for again: no restart is needed.
    std::fs::write(&file, right).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    must(cluster.cli(&["secret", "create", "new", "--from-literal", "a=b"]));
}
