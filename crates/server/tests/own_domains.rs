//! Own domains on real nodes: a name is claimed, served from zero by every gateway, contested by a
//! second namespace, and taken over.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Cluster, get, must, text, wait_for};

const HOST: &str = "www.example.org";

fn of_service(namespace: &str, name: &str) -> String {
    format!(
        "---\napiVersion: serving.knative.dev/v1\nkind: Service\nmetadata:\n  name: {name}\n  \
         namespace: {namespace}\nspec:\n  template:\n    spec:\n      containers:\n        - \
         image: demo/hello\n          env:\n            - name: TARGET\n              value: \
         {namespace}\n"
    )
}

fn of_mapping(namespace: &str, name: &str) -> String {
    format!(
        "---\napiVersion: serving.knative.dev/v1beta1\nkind: DomainMapping\nmetadata:\n  name: \
         {HOST}\n  namespace: {namespace}\nspec:\n  ref:\n    apiVersion: \
         serving.knative.dev/v1\n    kind: Service\n    name: {name}\n"
    )
}

fn apply(cluster: &Cluster, manifest: &str) {
    let file = cluster.path().join("manifest.yaml");
    std::fs::write(&file, manifest).unwrap();
    must(cluster.cli(&["apply", "-f", file.to_str().unwrap()]));
}

/// A condition of the mapping of a namespace, as `status reason`.
fn condition(cluster: &Cluster, namespace: &str, kind: &str) -> String {
    let described = cluster.cli(&["domain", "describe", HOST, "-n", namespace, "-o", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&must(described).stdout).unwrap();
    let conditions = json["status"]["conditions"].as_array().unwrap();
    let found = conditions.iter().find(|c| c["type"] == kind).unwrap();
    let word = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
    format!("{} {}", word("status"), word("reason"))
        .trim_end()
        .to_owned()
}

fn settings(cluster: &Cluster, map: &str, values: &[&str]) {
    let set = ["configmap", "set", map, "-n", "knative-serving"];
    must(cluster.cli(&[&set[..], values].concat()));
}

fn wait_until_served(cluster: &Cluster, namespace: &str) {
    wait_for("a mapping that is Ready", || {
        (condition(cluster, namespace, "Ready") == "True").then_some(())
    });
}

#[test]
fn a_name_of_ones_own_starts_from_zero_and_goes_to_the_next_when_it_is_given_up() {
    let cluster = Cluster::start(44);
    let from_zero = ["allow-zero-initial-scale=true", "initial-scale=0"];
    settings(&cluster, "config-autoscaler", &from_zero);
    let both = of_service("default", "hello") + &of_service("other", "hello");
    // Services first, whatever the order in the file.
    apply(&cluster, &(of_mapping("default", "hello") + &both));

    // Nobody claims by itself: the name is known, and not served.
    let unclaimed = "False DomainAlreadyClaimed";
    assert_eq!(condition(&cluster, "default", "DomainClaimed"), unclaimed);
    let unknown = get(cluster.gateway(0), HOST).unwrap();
    assert!(unknown.starts_with("HTTP/1.1 404"), "{unknown}");
    must(cluster.cli(&["domain", "claim", HOST]));
    wait_until_served(&cluster, "default");
    let tls = condition(&cluster, "default", "CertificateProvisioned");
    assert_eq!(tls, "True TLSNotEnabled");

    // Ready means: every gateway serves it. The first request starts the instance.
    let ps = must(cluster.cli(&["instance", "list", "-A", "-o", "json"]));
    let running: serde_json::Value = serde_json::from_slice(&ps.stdout).unwrap();
    assert_eq!(running["items"].as_array().map(Vec::len), Some(0));
    for i in 0..3 {
        let answer = get(cluster.gateway(i), HOST).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("Hello default!"), "{answer}");
    }

    // A second namespace gets the name when the first one gives it up.
    must(cluster.cli(&["domain", "unclaim", HOST]));
    let automatic = ["autocreate-cluster-domain-claims=true"];
    settings(&cluster, "config-network", &automatic);
    let second = must(cluster.cli(&["domain", "create", HOST, "--ref", "hello", "-n", "other"]));
    let said = text(&second);
    assert!(said.contains("it is for namespace 'default'"), "{said}");
    assert_eq!(condition(&cluster, "other", "DomainClaimed"), unclaimed);
    wait_until_served(&cluster, "default");
    must(cluster.cli(&["domain", "delete", HOST]));
    wait_until_served(&cluster, "other");
    for i in 0..3 {
        let answer = get(cluster.gateway(i), HOST).unwrap();
        assert!(answer.contains("Hello other!"), "{answer}");
    }
    must(cluster.cli(&["service", "delete", "hello", "-n", "other"]));
    let resolved = condition(&cluster, "other", "ReferenceResolved");
    assert_eq!(resolved, "False ResolveFailed");
    wait_for("an unknown host", || {
        let answer = get(cluster.gateway(0), HOST).unwrap();
        answer.starts_with("HTTP/1.1 404").then_some(())
    });
}

#[test]
fn refusals_are_said_in_words_with_the_next_command() {
    let cluster = Cluster::start_one(45);
    must(cluster.cli(&["service", "create", "hello", "--image", "demo/hello"]));
    let create = |host: &str| cluster.cli(&["domain", "create", host, "--ref", "hello"]);
    let taken = create("hello.default.localhost");
    assert_eq!(taken.status.code(), Some(2), "{}", text(&taken));
    assert!(text(&taken).contains("must not be a host of the cluster's routes"));
    let first = must(create(HOST));
    let hint = "hint: nihilo domain claim www.example.org -n default";
    assert!(text(&first).contains(hint), "{}", text(&first));
    let again = create(HOST);
    assert_eq!(again.status.code(), Some(4), "{}", text(&again));
    assert!(text(&again).contains("hint: nihilo domain update www.example.org --ref hello"));
    must(cluster.cli(&["domain", "claim", HOST]));
    let other = cluster.cli(&["domain", "claim", HOST, "-n", "other"]);
    assert_eq!(other.status.code(), Some(2), "{}", text(&other));
    assert!(text(&other).contains("Immutable fields changed"));
    must(cluster.cli(&["domain", "update", HOST, "--ref", "kroute:nobody"]));
    assert_eq!(
        condition(&cluster, "default", "Ready"),
        "False ResolveFailed"
    );
    let list = must(cluster.cli(&["domain", "list", "-A"]));
    assert!(text(&list).contains("route/nobody"), "{}", text(&list));
    let claims = must(cluster.cli(&["domain", "claims"]));
    assert!(
        text(&claims).contains("www.example.org  default"),
        "{}",
        text(&claims)
    );
    must(cluster.cli(&["domain", "delete", HOST]));
    let none = cluster.cli(&["domain", "describe", HOST]);
    assert_eq!(none.status.code(), Some(3), "{}", text(&none));
    assert!(text(&none).contains("hint: nihilo domain list -A"));
    // The claim was asked for, and stays until it is released.
    must(cluster.cli(&["domain", "unclaim", HOST]));
}
