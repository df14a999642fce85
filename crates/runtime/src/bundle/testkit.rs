//! Bundles, stores and other nodes for tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use nihilo_types::bundle::{Blob, BundleKind, CHUNK_BYTES, Digest, Manifest, Platform, SCHEMA};
use parking_lot::Mutex;

use super::source::{BlobSource, BundleId, ChunkError, ChunkFuture, Holder};
use super::store::BundleStore;

pub(super) const GIB: u64 = 1024 * 1024 * 1024;

/// Bytes that differ from chunk to chunk.
pub(super) fn content(n: usize, seed: u8) -> Vec<u8> {
    (0..n).map(|i| (i / 7 % 251) as u8 ^ seed).collect()
}

pub(super) fn chunks(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.chunks(CHUNK_BYTES as usize).collect()
}

pub(super) fn manifest(kind: BundleKind, bytes: &[u8]) -> Manifest {
    let entrypoint = match kind {
        BundleKind::Binary | BundleKind::DockerArchive => Vec::new(),
        BundleKind::Tree => vec!["./run".into()],
    };
    let is_archive = kind == BundleKind::DockerArchive;
    Manifest {
        schema: SCHEMA,
        kind,
        platform: Platform::linux(Platform::ANY_ARCH),
        entrypoint,
        blob: Blob {
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            chunks: chunks(bytes).into_iter().map(Digest::of).collect(),
        },
        image_id: is_archive.then(|| Digest::of(b"image")),
    }
}

pub(super) fn binary(bytes: &[u8]) -> Manifest {
    manifest(BundleKind::Binary, bytes)
}

pub(super) fn id(manifest: &Manifest) -> BundleId {
    BundleId {
        namespace: "default".into(),
        name: "hello".into(),
        digest: manifest.digest(),
    }
}

pub(super) fn put_all(store: &Arc<BundleStore>, manifest: &Manifest, bytes: &[u8]) {
    let receiving = store.receive(&manifest.blob).unwrap();
    for chunk in receiving.missing() {
        receiving.put(chunk, chunks(bytes)[chunk as usize]).unwrap();
    }
    receiving.finish().unwrap();
    store.install(manifest).unwrap();
}

/// How a holder answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answers {
    Well,
    NotHeld,
    /// The right number of wrong bytes.
    Damaged,
    /// Well so many times, and then not at all.
    DiesAfter(u32),
}

/// Other nodes that have one blob, or do not.
#[derive(Debug)]
pub(super) struct Others {
    bytes: Vec<u8>,
    manifest: Option<Manifest>,
    holders: Vec<(Holder, Answers)>,
    /// Chunks that each was asked for.
    pub(super) asked: Mutex<BTreeMap<String, u32>>,
}

impl Others {
    pub(super) fn new(bytes: &[u8], manifest: &Manifest, answers: &[Answers]) -> Arc<Self> {
        let named = answers.iter().enumerate().map(|(i, answers)| {
            let holder = Holder {
                name: format!("node{}", i + 2),
                peer_address: String::new(),
            };
            (holder, *answers)
        });
        Arc::new(Self {
            bytes: bytes.to_vec(),
            manifest: Some(manifest.clone()),
            holders: named.collect(),
            asked: Mutex::default(),
        })
    }

    pub(super) fn n_asked(&self) -> u32 {
        self.asked.lock().values().sum()
    }
}

impl BlobSource for Others {
    fn manifest(&self, bundle: &BundleId) -> Option<Manifest> {
        let known = self.manifest.clone();
        known.filter(|manifest| manifest.digest() == bundle.digest)
    }

    fn holders(&self) -> Vec<Holder> {
        self.holders
            .iter()
            .map(|(holder, _)| holder.clone())
            .collect()
    }

    fn chunk(&self, holder: &Holder, _: Digest, chunk: u32) -> ChunkFuture {
        let (_, answers) = self.holders.iter().find(|(one, _)| one == holder).unwrap();
        let n_asked = {
            let mut asked = self.asked.lock();
            let n = asked.entry(holder.name.clone()).or_default();
            *n += 1;
            *n
        };
        let right = chunks(&self.bytes)[chunk as usize].to_vec();
        let gone = ChunkError::Unreachable("connection refused".into());
        let answer = match answers {
            Answers::Well => Ok(Bytes::from(right)),
            Answers::NotHeld => Err(ChunkError::NotHeld),
            Answers::Damaged => Ok(Bytes::from(vec![0; right.len()])),
            Answers::DiesAfter(n) if n_asked <= *n => Ok(Bytes::from(right)),
            Answers::DiesAfter(_) => Err(gone),
        };
        Box::pin(std::future::ready(answer))
    }
}
