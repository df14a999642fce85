//! Uploads that break, bytes that are wrong, room that ends, restarts.

use super::super::testkit::{GIB, binary, chunks, content, put_all};
use super::*;

const CHUNK: usize = CHUNK_BYTES as usize;

fn store(dir: &tempfile::TempDir, max_bytes: u64) -> Arc<BundleStore> {
    BundleStore::open(dir.path().join("bundles"), max_bytes).unwrap()
}

#[test]
fn a_truncated_upload_goes_on_where_it_broke() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = content(3 * CHUNK + 100, 1);
    let manifest = binary(&bytes);
    {
        let store = store(&dir, GIB);
        assert_eq!(store.missing(&manifest.blob).unwrap(), [0, 1, 2, 3]);
        let receiving = store.receive(&manifest.blob).unwrap();
        for chunk in [0, 2] {
            let bytes = chunks(&bytes)[chunk as usize];
            receiving.put(chunk, bytes).unwrap();
        }
        assert!(matches!(
            receiving.finish(),
            Err(BundleError::Incomplete { n: 2, .. })
        ));
    }
    // Another process of the node: what came is proven, not believed.
    let store = store(&dir, GIB);
    assert_eq!(store.missing(&manifest.blob).unwrap(), [1, 3]);
    assert!(store.installed(&manifest.digest()).is_none());
    put_all(&store, &manifest, &bytes);
    assert!(store.missing(&manifest.blob).unwrap().is_empty());
    let read = store.read_chunk(manifest.blob.digest, 3).unwrap();
    assert_eq!(read.as_deref(), Some(chunks(&bytes)[3]));
}

#[test]
fn two_uploads_of_one_bundle_at_once_both_come_to_their_end() {
    let bytes = content(CHUNK + 5, 20);
    let manifest = binary(&bytes);
    // They meet in the middle of it only now and then.
    for _ in 0..50 {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir, GIB);
        let together = std::sync::Barrier::new(2);
        let upload = || {
            let receiving = store.receive(&manifest.blob).unwrap();
            together.wait();
            for chunk in [0, 1] {
                receiving
                    .put(chunk, chunks(&bytes)[chunk as usize])
                    .unwrap();
            }
            receiving.finish().unwrap();
            together.wait();
            store.install(&manifest).unwrap();
        };
        std::thread::scope(|scope| {
            let one = scope.spawn(upload);
            let two = scope.spawn(upload);
            one.join().unwrap();
            two.join().unwrap();
        });
        assert!(store.has(&manifest.digest()));
        let manifests = dir.path().join("bundles/manifests");
        assert_eq!(fs::read_dir(manifests).unwrap().count(), 1);
    }
}

#[test]
fn a_large_file_goes_once_the_table_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir, GIB);
    let bytes = content(70, 21);
    let manifest = binary(&bytes);
    put_all(&store, &manifest, &bytes);
    let blob = manifest.blob.digest;
    let gone = {
        let mut table = store.table.lock();
        store.remove(&mut table, &Deletion::Blob(blob)).unwrap()
    };
    // Under the lock it has lost its name and nothing else.
    assert_eq!(fs::read(&gone).unwrap(), bytes);
    assert!(fs::symlink_metadata(store.layout.blob(&blob)).is_err());
    assert_eq!(store.usage().n_bytes, 0);
    take_away(&gone);
    assert!(fs::symlink_metadata(gone).is_err());
}

#[test]
fn what_cannot_be_taken_away_is_counted_until_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir, GIB);
    let tar = tar_of(&[("run", b"#!/bin/sh\n")]);
    let manifest = super::super::testkit::manifest(nihilo_types::bundle::BundleKind::Tree, &tar);
    put_all(&store, &manifest, &tar);
    store.tree(&manifest).unwrap();
    let before = store.usage().n_bytes;
    // Nothing can be moved there.
    let tmp = store.layout.tmp();
    fs::remove_dir(&tmp).unwrap();
    fs::write(&tmp, "").unwrap();
    let kept = || Kept {
        as_of_ms: store.now_ms() + 1,
        ..Kept::default()
    };
    store.collect(kept(), false);
    assert_eq!(store.usage().n_bytes, before);
    fs::remove_file(&tmp).unwrap();
    fs::create_dir(&tmp).unwrap();
    store.collect(kept(), false);
    assert_eq!(store.usage().n_bytes, 0);
}

#[test]
fn a_tree_that_does_not_get_its_name_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir, GIB);
    let tar = tar_of(&[("run", b"#!/bin/sh\n")]);
    let manifest = super::super::testkit::manifest(nihilo_types::bundle::BundleKind::Tree, &tar);
    put_all(&store, &manifest, &tar);
    // In the way of its directory.
    let tree = store.layout.tree(&manifest.blob.digest);
    fs::write(tree.parent().unwrap(), "").unwrap();
    let failed = store.tree(&manifest).unwrap_err();
    assert!(failed.to_string().contains("unpacking"), "{failed}");
    assert_eq!(fs::read_dir(store.layout.tmp()).unwrap().count(), 0);
    assert_eq!(store.usage().n_bytes, tar.len() as u64);
    fs::remove_file(tree.parent().unwrap()).unwrap();
    store.tree(&manifest).unwrap();
}

#[test]
fn what_was_damaged_on_the_disk_meanwhile_has_to_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = content(2 * CHUNK, 2);
    let manifest = binary(&bytes);
    let part = {
        let store = store(&dir, GIB);
        let receiving = store.receive(&manifest.blob).unwrap();
        receiving.put(0, chunks(&bytes)[0]).unwrap();
        store.layout.part(&Partial::key(&manifest.blob))
    };
    let file = File::options().write(true).open(part).unwrap();
    file.write_all_at(b"x", 17).unwrap();
    let store = store(&dir, GIB);
    assert_eq!(store.missing(&manifest.blob).unwrap(), [0, 1]);
}

#[test]
fn a_corrupted_chunk_is_refused_by_name_and_nothing_is_installed() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir, GIB);
    let bytes = content(CHUNK + 5, 3);
    let manifest = binary(&bytes);
    let receiving = store.receive(&manifest.blob).unwrap();
    let mut wrong = chunks(&bytes)[1].to_vec();
    wrong[0] ^= 1;
    let refused = receiving.put(1, &wrong).unwrap_err();
    assert!(refused.is_damage() && refused.to_string().contains("chunk 1 of"));
    let short = receiving.put(1, &wrong[1..]).unwrap_err();
    assert!(matches!(
        short,
        BundleError::WrongLength {
            want: 5,
            got: 4,
            ..
        }
    ));
    assert!(matches!(
        receiving.put(2, b"x"),
        Err(BundleError::NoSuchChunk { chunk: 2, .. })
    ));
    assert_eq!(receiving.missing(), [0, 1]);
    assert!(matches!(
        store.install(&manifest),
        Err(BundleError::NotHeld { .. })
    ));
}

#[test]
fn a_manifest_that_contradicts_itself_comes_to_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir, GIB);
    let bytes = content(9, 4);
    let mut manifest = binary(&bytes);
    manifest.blob.digest = Digest::of(b"something else");
    let receiving = store.receive(&manifest.blob).unwrap();
    receiving.put(0, &bytes).unwrap();
    let refused = receiving.finish().unwrap_err();
    assert!(matches!(refused, BundleError::WrongBlob { .. }));
    assert_eq!(store.usage().n_bytes, 0);
}

#[test]
fn the_bound_of_the_disk_is_an_error_that_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir, 10_000);
    let first = content(6_000, 5);
    put_all(&store, &binary(&first), &first);
    let second = binary(&content(6_001, 6));
    let full = store.receive(&second.blob).unwrap_err();
    let text = full.to_string();
    assert!(text.contains("6000 of 10000 bytes"), "{text}");
    assert!(text.contains("nihilo bundle gc"), "{text}");
    // One that is coming counts whole, and once.
    let third = binary(&content(4_000, 7));
    let one = store.receive(&third.blob).unwrap();
    let _again = store.receive(&third.blob).unwrap();
    assert_eq!(store.usage().n_bytes, 10_000);
    assert_eq!(one.missing(), [0]);
}

#[test]
fn only_what_is_whole_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (content(70, 8), content(71, 9));
    let (first, second) = (binary(&one), binary(&two));
    {
        let store = store(&dir, GIB);
        put_all(&store, &first, &one);
        put_all(&store, &second, &two);
        fs::remove_file(store.layout.blob(&second.blob.digest)).unwrap();
    }
    let store = store(&dir, GIB);
    assert!(store.installed(&first.digest()).is_some());
    assert!(store.installed(&second.digest()).is_none());
    let path = store.program(&first.blob.digest);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o555);
}

#[test]
fn what_is_kept_survives_a_collection_and_the_rest_gives_its_room_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir, GIB);
    let (one, two, three) = (content(70, 10), content(80, 11), content(90, 12));
    let all = [binary(&one), binary(&two), binary(&three)];
    for (manifest, bytes) in all.iter().zip([&one, &two, &three]) {
        put_all(&store, manifest, bytes);
    }
    let kept = |as_of_ms| Kept {
        roots: [all[0].digest()].into(),
        as_of_ms,
        ..Kept::default()
    };
    // Used since the roots were read: they may be older.
    assert_eq!(store.collect(kept(0), false).n_bundles, 0);
    store.lease(all[1].blob.digest);
    let later = store.now_ms() + 1;
    let would = store.collect(kept(later), true);
    assert_eq!((would.n_bundles, would.n_bytes), (1, 90));
    assert_eq!(store.usage().n_bundles, 3);
    assert_eq!(store.collect(kept(later), false), would);
    assert!(store.installed(&all[2].digest()).is_none());
    assert_eq!(store.read_chunk(all[2].blob.digest, 0).unwrap(), None);
    store.release(&all[1].blob.digest);
    let hold = store.receive(&all[1].blob).unwrap();
    assert_eq!(store.collect(kept(later + 1_000), false).n_bundles, 0);
    drop(hold);
    assert_eq!(store.collect(kept(later + 1_000), false).n_bytes, 80);
    assert!(store.installed(&all[0].digest()).is_some());
    assert_eq!(store.usage().n_bytes, 70);
}

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o755);
        tar.append_data(&mut header, path, *bytes).unwrap();
    }
    tar.into_inner().unwrap()
}

#[test]
fn a_tree_is_unpacked_once_and_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let tar = tar_of(&[("run", b"#!/bin/sh\n"), ("a/b", b"data")]);
    let manifest = super::super::testkit::manifest(nihilo_types::bundle::BundleKind::Tree, &tar);
    let root = {
        let store = store(&dir, GIB);
        put_all(&store, &manifest, &tar);
        store.tree(&manifest).unwrap()
    };
    assert_eq!(fs::read(root.join("a/b")).unwrap(), b"data");
    let store = store(&dir, GIB);
    assert_eq!(store.usage().n_bytes, tar.len() as u64 + 14);
    // Not hashed and not unpacked again: nobody sees what becomes of the tar.
    fs::remove_file(store.layout.blob(&manifest.blob.digest)).unwrap();
    assert_eq!(store.tree(&manifest).unwrap(), root);
    let kept = Kept {
        as_of_ms: store.now_ms() + 1,
        ..Kept::default()
    };
    store.collect(kept, false);
    assert!(fs::symlink_metadata(root).is_err());
    assert_eq!(store.usage().n_bytes, 0);
}

#[test]
fn a_tar_that_was_damaged_on_the_disk_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir, GIB);
    let tar = tar_of(&[("run", b"#!/bin/sh\n")]);
    let manifest = super::super::testkit::manifest(nihilo_types::bundle::BundleKind::Tree, &tar);
    put_all(&store, &manifest, &tar);
    let path = store.layout.blob(&manifest.blob.digest);
    let mut damaged = tar.clone();
    damaged[600] ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, damaged).unwrap();
    let refused = store.tree(&manifest).unwrap_err();
    assert!(refused.is_damage(), "{refused}");
    assert!(store.installed(&manifest.digest()).is_none());
    assert_eq!(store.usage().n_bytes, 0);
}
