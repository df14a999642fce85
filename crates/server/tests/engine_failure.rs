//! A Docker engine that dies while it gives an image out or takes one in: who asked is told, nothing that
//! is not whole is kept or run, and the same succeeds once the engine is back.
//!
//! Where no Docker engine answers, a test says so and ends.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/engine.rs"]
mod engine;
#[path = "common/engine_proxy.rs"]
mod engine_proxy;

use std::path::Path;

use common::{Cluster, get, must, text, wait_up_to};
use engine::{TestImage, docker};
use engine_proxy::{EngineProxy, Fails};

/// An image of the binary is saved or loaded, and a start is tried again after pauses.
const LONG: std::time::Duration = std::time::Duration::from_secs(120);
/// In the middle of an image of the binary, and more than an engine is told or says of anything else.
const MIDDLE: usize = 8 * 1024 * 1024;
const ENGINE: &str = "/var/run/docker.sock";

struct Setup {
    cluster: Cluster,
    proxy: EngineProxy,
    image: TestImage,
    /// The engine's, of the image.
    id: String,
}

impl Setup {
    /// `None`, with a printed reason, where there is no engine.
    fn make(what: &str, slot: u16) -> Option<Self> {
        let image = TestImage::make(what)?;
        let shown = docker(&["image", "inspect", "--format", "{{.Id}}", image.name()]);
        let id = shown.unwrap().trim().to_owned();
        if std::os::unix::net::UnixStream::connect(ENGINE).is_err() {
            eprintln!("skipped: the engine does not listen on {ENGINE}");
            return None;
        }
        let cluster = Cluster::start_one(slot);
        must(cluster.stop());
        let proxy = EngineProxy::before(Path::new(ENGINE), cluster.path().join("engine.sock"));
        let config = std::fs::read_to_string(cluster.config(0)).unwrap();
        let config = format!("{config}{}", proxy.settings());
        std::fs::write(cluster.config(0), config).unwrap();
        must(cluster.start_missing());
        Some(Self {
            cluster,
            proxy,
            image,
            id,
        })
    }

    /// Files of the node's bundles below a directory of them.
    fn files(&self, below: &str) -> Vec<String> {
        let mut dirs = vec![self.cluster.node_dir(0).join("bundles").join(below)];
        let mut found = Vec::new();
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).into_iter().flatten() {
                let entry = entry.unwrap();
                match entry.file_type().unwrap().is_dir() {
                    true => dirs.push(entry.path()),
                    false => found.push(entry.path().display().to_string()),
                }
            }
        }
        found
    }

    fn push(&self) -> std::process::Output {
        self.cluster.cli(&["image", "push", self.image.name()])
    }

    fn create(&self, service: &str) -> std::process::Output {
        let args = ["service", "create", service, "--image", self.image.name()];
        let app = ["--arg", "demo-app", "--arg", "hello"];
        self.cluster.cli(&[&args[..], &app].concat())
    }

    fn forget_in_engine(&self) {
        docker(&["image", "rm", "--force", self.image.name()]).unwrap();
    }

    fn is_served(&self, service: &str) -> bool {
        let host = format!("{service}.default.localhost");
        let answer = get(self.cluster.gateway(0), &host);
        answer.is_ok_and(|answer| answer.contains("Hello World!"))
    }
}

fn is_in_engine(image: &str) -> bool {
    docker(&["image", "inspect", image]).is_ok()
}

/// Containers of any image, by a service of theirs.
fn containers_of(service: &str) -> String {
    let filter = format!("label=nihilo.dev/service={service}");
    docker(&["ps", "--all", "--quiet", "--filter", &filter]).unwrap()
}

#[test]
fn an_engine_that_dies_while_it_gives_an_image_out_leaves_nothing_of_it() {
    let Some(setup) = Setup::make("dies-saving", 73) else {
        return;
    };
    setup.proxy.fail(Fails::Answering(MIDDLE));
    let broken = setup.push();
    setup.proxy.until_down();
    let said = text(&broken);
    assert!(!broken.status.success(), "{said}");
    for wanted in ["the engine stops giving it out", "repeat the command"] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    let nothing = Vec::<String>::new();
    assert_eq!(
        (setup.files("tmp"), setup.files("blobs")),
        (nothing.clone(), nothing.clone())
    );
    let listed = text(&must(setup.cluster.cli(&["image", "list"])));
    assert!(!listed.contains("dies-saving"), "{listed}");

    // As long as it is away, nobody is told anything else.
    let away = setup.push();
    assert!(!away.status.success(), "{}", text(&away));
    assert!(
        text(&away).contains("the Docker engine at"),
        "{}",
        text(&away)
    );

    setup.proxy.come_back();
    must(setup.push());
    assert_eq!(
        (setup.files("tmp"), setup.files("blobs").len()),
        (nothing, 1)
    );
    setup.forget_in_engine();
    must(setup.create("boxed"));
    assert!(setup.is_served("boxed"));
    clean_up(&setup, &["boxed"]);
}

#[test]
fn an_engine_that_dies_while_it_takes_an_image_in_runs_nothing_and_is_asked_again() {
    let Some(setup) = Setup::make("dies-loading", 74) else {
        return;
    };
    must(setup.push());
    let id = setup.id.clone();

    // In the middle of the archive.
    setup.forget_in_engine();
    setup.proxy.fail(Fails::Listening(MIDDLE));
    let refused = setup.create("half");
    setup.proxy.until_down();
    assert!(!refused.status.success(), "{}", text(&refused));
    let shown = text(&must(
        setup.cluster.cli(&["revision", "list", "-o", "json"]),
    ));
    assert!(shown.contains("the Docker engine at"), "{shown}");
    assert!(!is_in_engine(&id));
    assert_eq!(containers_of("half"), "");
    setup.proxy.come_back();
    wait_up_to(LONG, "answer", || setup.is_served("half").then_some(()));
    assert!(is_in_engine(&id));
    must(setup.cluster.cli(&["service", "delete", "half"]));

    // It has loaded the archive and cannot say so.
    wait_up_to(LONG, "engine without the image", || {
        let names = docker(&[
            "image",
            "inspect",
            "--format",
            "{{join .RepoTags \" \"}}",
            &id,
        ]);
        for name in names.unwrap_or_default().split_whitespace() {
            drop(docker(&["image", "rm", name]));
        }
        (!is_in_engine(&id)).then_some(())
    });
    setup.proxy.fail(Fails::Done(MIDDLE));
    drop(setup.create("whole"));
    setup.proxy.until_down();
    assert!(is_in_engine(&id));
    setup.proxy.come_back();
    wait_up_to(LONG, "answer", || setup.is_served("whole").then_some(()));
    clean_up(&setup, &["whole"]);
    // It was named all the same, or nobody would take it out again.
    assert!(!is_in_engine(&id));
}

/// Nothing of the services and the image is left, on the node and in the engine.
fn clean_up(setup: &Setup, services: &[&str]) {
    for service in services {
        must(setup.cluster.cli(&["service", "delete", service]));
    }
    let bundle = format!("image/{}", setup.image.name().split(':').next().unwrap());
    must(setup.cluster.cli(&["bundle", "delete", &bundle]));
    wait_up_to(LONG, "node and engine without the image", || {
        must(setup.cluster.cli(&["bundle", "gc"]));
        (setup.files("blobs").is_empty() && !is_in_engine(&setup.id)).then_some(())
    });
    assert_eq!(setup.files("tmp"), Vec::<String>::new());
    for service in services {
        assert_eq!(containers_of(service), "");
    }
}
