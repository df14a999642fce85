//! A service made of a container image, through a real node: from zero, to an answer, to zero.
//!
//! Where no Docker engine answers, the test says so and ends.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/engine.rs"]
mod engine;

use common::{Cluster, get, must, text, wait_for};
use engine::{TestImage, docker};

#[test]
fn a_container_image_serves_from_zero_and_leaves_nothing_at_zero() {
    let Some(image) = TestImage::make("path") else {
        return;
    };
    let cluster = Cluster::start_one(7);
    must(cluster.cli(&create("boxed", image.name())));
    // Its only node has it: nothing is kept beside.
    let kept = text(&must(cluster.cli(&["image", "list", "-o", "name"])));
    assert_eq!(kept.trim(), "");
    wait_for("a service at zero", || {
        image.containers().is_empty().then_some(())
    });

    let answer = get(cluster.gateway(0), "boxed.default.localhost").unwrap();
    let lower = answer.to_ascii_lowercase();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(lower.contains("nihilo-start: cold"), "{answer}");
    assert!(answer.contains("Hello"), "{answer}");
    assert_eq!(image.containers().len(), 1);
    let again = get(cluster.gateway(0), "boxed.default.localhost").unwrap();
    assert!(
        again.to_ascii_lowercase().contains("nihilo-start: warm"),
        "{again}"
    );

    wait_for("nothing left at zero", || {
        image.containers().is_empty().then_some(())
    });

    // A program beside it, on the same node.
    must(cluster.cli(&["service", "create", "bare", "--image", "demo/hello"]));
    let bare = get(cluster.gateway(0), "bare.default.localhost").unwrap();
    assert!(bare.starts_with("HTTP/1.1 200"), "{bare}");
}

#[test]
fn an_image_that_nobody_has_is_named_in_the_services_status() {
    if let Err(why) = docker(&["version"]) {
        eprintln!("skipped: no Docker engine answers: {why}");
        return;
    }
    let cluster = Cluster::start_one(8);
    // No registry listens there.
    let mut args = create("lost", "localhost:1/no/such:v1");
    args.extend(["--pull-policy", "Never"]);
    let failed = cluster.cli(&args);
    assert!(!failed.status.success(), "{}", text(&failed));
    let shown = must(cluster.cli(&["revision", "list", "-o", "json"]));
    let shown = text(&shown) + &text(&failed);
    for wanted in ["localhost:1/no/such:v1", "imagePullPolicy is `Never`"] {
        assert!(shown.contains(wanted), "{wanted} in {shown}");
    }
}

fn create<'a>(name: &'a str, image: &'a str) -> Vec<&'a str> {
    let args = [
        "--arg",
        "demo-app",
        "--arg",
        "hello",
        "--scale-window",
        "6s",
    ];
    let mut all = vec!["service", "create", name, "--image", image];
    all.extend(args);
    all
}
