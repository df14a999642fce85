//! Starts that wait for what they start from, and are not wanted any more.

use nihilo_runtime::bundle::{BlobSource, BundleId, ChunkFuture, Holder};
use nihilo_runtime::{BundleStore, Bundles};
use nihilo_types::bundle::{Blob, BundleKind, BundleReference, Digest, Manifest, Platform, SCHEMA};
use tokio::sync::Notify;

use super::*;

/// A node that has everything and never answers: what a slow one is for minutes.
struct Silent {
    manifest: Manifest,
    asked: Arc<Notify>,
}

impl BlobSource for Silent {
    fn manifest(&self, _: &BundleId) -> Option<Manifest> {
        Some(self.manifest.clone())
    }

    fn holders(&self) -> Vec<Holder> {
        vec![Holder {
            name: "node2".into(),
            peer_address: String::new(),
        }]
    }

    fn chunk(&self, _: &Holder, _: Digest, _: u32) -> ChunkFuture {
        self.asked.notify_one();
        Box::pin(std::future::pending())
    }
}

fn manifest(kind: BundleKind) -> Manifest {
    let is_archive = kind == BundleKind::DockerArchive;
    Manifest {
        schema: SCHEMA,
        kind,
        platform: Platform::linux(Platform::ANY_ARCH),
        entrypoint: Vec::new(),
        blob: Blob {
            digest: Digest::of(b"never comes"),
            size: 11,
            chunks: vec![Digest::of(b"never comes")],
        },
        image_id: is_archive.then(|| Digest::of(b"an image that no engine has")),
    }
}

/// Far less than a fetch may take.
async fn is_called_off(name: &str, kind: BundleKind) {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let (manifest, asked) = (manifest(kind), Arc::new(Notify::new()));
    let image = BundleReference::pinned(name, manifest.digest()).image();
    let source = Silent {
        manifest,
        asked: asked.clone(),
    };
    let store = BundleStore::open(dir.path().join("bundles"), 1 << 30).unwrap();
    let driver = Harness::real(DockerSettings::default(), false);
    let ports = ports_of(&driver);
    let config = AgentConfig {
        bundles: Some(Bundles::new(store, Arc::new(source))),
        ..config_in(dir.path(), driver)
    };
    let (agent, admission) = agent_of(config, Objects::default());
    agent.set_accepting(true);
    let harness = Harness {
        agent,
        admission,
        dir,
        ports,
        image: None,
    };
    let spec = spec(&image, 1);
    let mut events = harness.agent.subscribe();
    harness.start(&spec).unwrap();
    let waits = tokio::time::timeout(LIMIT, asked.notified());
    waits.await.expect("the start asks for its bundle");
    harness.drain(&spec.id);
    let gone = reached(&mut events, &spec.id, InstanceState::Destroyed).await;
    // As of any stop that was ordered: nobody counts it as a failure.
    assert_eq!(gone.exit, Some(Exit::Signal(15)), "{gone:?}");
    assert_eq!(gone.last_output, ["called off before it was started"]);
    assert_eq!(gone.pid, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_waits_for_its_program_hears_a_stop() {
    is_called_off("hello", BundleKind::Binary).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_waits_for_its_image_hears_a_stop() {
    if let Err(why) = docker(&["version"]) {
        eprintln!("skipped: no Docker engine answers: {why}");
        return;
    }
    is_called_off("image/hello", BundleKind::DockerArchive).await;
}
