//! Holders that have it, do not, lie or die; each answers as told.

use nihilo_types::bundle::CHUNK_BYTES;

use super::super::testkit::{Answers, GIB, Others, binary, content, id, put_all};
use super::*;

/// More chunks than are asked for at once.
const N_CHUNKS: usize = 7;

/// Far above what a few megabytes need.
const LIMIT: Duration = Duration::from_secs(30);

struct Node {
    bundles: Bundles,
    others: Arc<Others>,
    manifest: Manifest,
    _dir: tempfile::TempDir,
}

fn node(answers: &[Answers], max_bytes: u64) -> Node {
    let dir = tempfile::tempdir().unwrap();
    let bytes = content((N_CHUNKS - 1) * CHUNK_BYTES as usize + 9, 1);
    let manifest = binary(&bytes);
    let others = Others::new(&bytes, &manifest, answers);
    let store = BundleStore::open(dir.path().join("bundles"), max_bytes).unwrap();
    Node {
        bundles: Bundles::new(store, others.clone()),
        others,
        manifest,
        _dir: dir,
    }
}

impl Node {
    async fn bring(&self) -> Result<Arc<Manifest>, Unavailable> {
        self.bundles.bring(&id(&self.manifest), &|_| ()).await
    }

    fn has_it(&self) -> bool {
        let digest = self.manifest.digest();
        self.bundles.store().installed(&digest).is_some()
    }
}

#[tokio::test]
async fn chunks_come_from_all_that_have_them() {
    let node = node(&[Answers::Well, Answers::NotHeld, Answers::Well], GIB);
    node.bring().await.unwrap();
    assert!(node.has_it());
    let asked = node.others.asked.lock().clone();
    assert!(asked["node2"] > 1 && asked["node4"] > 1, "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_dies_amid_the_fetch_is_replaced_by_another() {
    let node = node(&[Answers::DiesAfter(2), Answers::Well], GIB);
    node.bring().await.unwrap();
    assert!(node.has_it());
}

#[tokio::test(start_paused = true)]
async fn damaged_chunks_are_not_taken_and_their_holder_is_asked_no_more() {
    let node = node(&[Answers::Damaged, Answers::Well], GIB);
    node.bring().await.unwrap();
    assert!(node.has_it());
    let asked = node.others.asked.lock()["node2"];
    assert!(asked as usize <= CHUNKS_AT_ONCE, "{asked}");
}

#[tokio::test(start_paused = true)]
async fn where_nobody_has_it_the_error_names_who_was_asked() {
    let node = node(
        &[Answers::NotHeld, Answers::DiesAfter(0), Answers::Damaged],
        GIB,
    );
    let text = node.bring().await.unwrap_err().to_string();
    assert!(
        text.starts_with("ArtefactUnavailable: bundle `hello@sha256:"),
        "{text}"
    );
    assert!(text.contains("node2 (does not have it)"), "{text}");
    assert!(text.contains("node3 (connection refused)"), "{text}");
    assert!(text.contains("node4 (chunk"), "{text}");
    let alone = super::tests::node(&[], GIB);
    let text = alone.bring().await.unwrap_err().to_string();
    assert!(text.contains("no other node lives"), "{text}");
}

#[tokio::test]
async fn a_fetch_that_broke_asks_only_for_the_rest() {
    let broken = node(&[Answers::DiesAfter(3)], GIB);
    broken.bring().await.unwrap_err();
    // What came last may still be on its way to the disk.
    let n_missing = || {
        let store = broken.bundles.store();
        store.missing(&broken.manifest.blob).unwrap().len()
    };
    let written = async {
        while n_missing() > N_CHUNKS - 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, written).await.unwrap();
    let others = Others::new(
        &content((N_CHUNKS - 1) * CHUNK_BYTES as usize + 9, 1),
        &broken.manifest,
        &[Answers::Well],
    );
    let later = Bundles::new(broken.bundles.store().clone(), others.clone());
    later.bring(&id(&broken.manifest), &|_| ()).await.unwrap();
    assert_eq!(others.n_asked() as usize, N_CHUNKS - 3);
}

#[tokio::test]
async fn two_starts_at_once_fetch_it_once() {
    let node = node(&[Answers::Well], GIB);
    let (one, two) = tokio::join!(node.bring(), node.bring());
    assert!(one.is_ok() && two.is_ok());
    assert_eq!(node.others.n_asked() as usize, N_CHUNKS);
    assert!(node.bundles.0.under_way.lock().is_empty());
}

#[tokio::test]
async fn a_node_without_room_says_so() {
    let node = node(&[Answers::Well], CHUNK_BYTES);
    let text = node.bring().await.unwrap_err().to_string();
    assert!(text.contains("bundles: max-bytes"), "{text}");
    assert_eq!(node.others.n_asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_here_is_started_without_asking_anybody() {
    let node = node(&[], GIB);
    let bytes = content(99, 2);
    let manifest = binary(&bytes);
    put_all(node.bundles.store(), &manifest, &bytes);
    let spec = spec(&["--verbose"]);
    let program = node.bundles.prepare(&id(&manifest), &spec, |_| ()).await;
    let program = program.unwrap();
    assert!(program.argv[0].ends_with(&manifest.blob.digest.hex()));
    assert_eq!(program.argv[1..], ["--verbose"]);
    let unknown = binary(&content(98, 3));
    let refused = node.bundles.prepare(&id(&unknown), &spec, |_| ()).await;
    assert!(matches!(refused, Err(Unavailable::Unknown(_))));
    let mut foreign = binary(&content(97, 4));
    foreign.platform.arch = "s390x".into();
    put_all(node.bundles.store(), &foreign, &content(97, 4));
    let refused = node.bundles.prepare(&id(&foreign), &spec, |_| ()).await;
    let text = refused.unwrap_err().to_string();
    assert!(
        text.contains("is for linux/s390x, and this node is linux/"),
        "{text}"
    );
}

fn spec(args: &[&str]) -> InstanceSpec {
    InstanceSpec {
        args: args.iter().map(ToString::to_string).collect(),
        ..crate::handle::specification()
    }
}
