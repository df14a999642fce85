//! A blob that comes from somebody who knows neither its length nor its digest before its end: both are
//! made while it is written.
//!
//! What was written is not read again here: whoever fetches a copy proves each chunk.

use std::fs::{self, File, Permissions};
use std::io::{BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use nihilo_types::bundle::{Blob, CHUNK_BYTES, Digest, Hasher, MAX_BLOB_BYTES};

use super::archive;
use super::error::BundleError;
use super::partial::BLOB_MODE;
use super::store::{BundleStore, Receiving};

/// Nothing is left of one that is dropped before its end.
#[derive(Debug)]
pub struct Spool {
    store: Arc<BundleStore>,
    path: PathBuf,
    file: File,
    whole: Hasher,
    chunk: Hasher,
    /// Of the chunks that have ended.
    chunks: Vec<Digest>,
    size: u64,
    /// Bytes of room, at least as many as were written.
    promised: u64,
}

impl Spool {
    pub(super) fn begin(store: Arc<BundleStore>, path: PathBuf) -> Result<Self, BundleError> {
        let made = File::create_new(&path);
        Ok(Self {
            file: made.map_err(BundleError::io("bundle", &path))?,
            store,
            path,
            whole: Hasher::default(),
            chunk: Hasher::default(),
            chunks: Vec::new(),
            size: 0,
            promised: 0,
        })
    }

    /// Bytes so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Waits for the disk.
    ///
    /// # Errors
    /// `TooLarge`, `Full`, or the disk.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), BundleError> {
        while !bytes.is_empty() {
            let left = CHUNK_BYTES - self.size % CHUNK_BYTES;
            let n = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
            let (now, later) = bytes.split_at(n);
            self.write_within_chunk(now)?;
            bytes = later;
        }
        Ok(())
    }

    fn write_within_chunk(&mut self, bytes: &[u8]) -> Result<(), BundleError> {
        let size = self.size + bytes.len() as u64;
        if size > MAX_BLOB_BYTES {
            return Err(BundleError::TooLarge);
        }
        if size > self.promised {
            self.store.promise(CHUNK_BYTES)?;
            self.promised += CHUNK_BYTES;
        }
        let written = self.file.write_all(bytes);
        written.map_err(BundleError::io("bundle", &self.path))?;
        self.whole.update(bytes);
        self.chunk.update(bytes);
        self.size = size;
        if size.is_multiple_of(CHUNK_BYTES) {
            self.end_chunk();
        }
        Ok(())
    }

    fn end_chunk(&mut self) {
        let chunk = std::mem::take(&mut self.chunk);
        self.chunks.push(chunk.finish());
    }

    /// Whether it is a whole archive of one image that an engine may be given: an engine that fails in the
    /// middle may end its answer as if that were all.
    ///
    /// # Errors
    /// Why it is not, in words for people.
    pub fn check_archive(&self) -> Result<(), String> {
        let file = File::open(&self.path).map_err(|error| error.to_string())?;
        archive::check(BufReader::new(file))
    }

    /// Brings it to the disk and gives it its name; it is kept while the second answer lives.
    ///
    /// # Errors
    /// The disk.
    pub fn finish(mut self) -> Result<(Blob, Receiving), BundleError> {
        if !self.size.is_multiple_of(CHUNK_BYTES) {
            self.end_chunk();
        }
        let closed = self.file.set_permissions(Permissions::from_mode(BLOB_MODE));
        let synced = closed.and_then(|()| self.file.sync_all());
        synced.map_err(BundleError::io("bundle", &self.path))?;
        let blob = Blob {
            digest: std::mem::take(&mut self.whole).finish(),
            size: self.size,
            chunks: std::mem::take(&mut self.chunks),
        };
        let kept = self.store.take_in(&self.path, blob.digest, blob.size)?;
        Ok((blob, kept))
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.store.unpromise(self.promised);
        // Where it has its name by now, there is none.
        drop(fs::remove_file(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{GIB, content, manifest, put_all};
    use super::*;
    use nihilo_types::bundle::BundleKind;

    const CHUNK: usize = CHUNK_BYTES as usize;

    fn spooled(store: &Arc<BundleStore>, bytes: &[u8], piece: usize) -> Result<Blob, BundleError> {
        let mut spool = store.spool()?;
        for piece in bytes.chunks(piece) {
            spool.write(piece)?;
        }
        Ok(spool.finish()?.0)
    }

    fn n_in_tmp(dir: &tempfile::TempDir) -> usize {
        fs::read_dir(dir.path().join("bundles/tmp"))
            .unwrap()
            .count()
    }

    #[test]
    fn it_is_the_blob_that_an_upload_of_the_same_bytes_would_be() {
        let dir = tempfile::tempdir().unwrap();
        let store = BundleStore::open(dir.path().join("bundles"), GIB).unwrap();
        for (n, piece) in [(2 * CHUNK + 9, 1_000_003), (2 * CHUNK, 3 * CHUNK), (1, 1)] {
            let bytes = content(n, 1);
            let wanted = manifest(BundleKind::DockerArchive, &bytes);
            assert_eq!(spooled(&store, &bytes, piece).unwrap(), wanted.blob);
            // Whole, and once: the same again is nothing new.
            put_all(&store, &wanted, &bytes);
            spooled(&store, &bytes, piece).unwrap();
        }
        let all = 4 * CHUNK as u64 + 10;
        assert_eq!((store.usage().n_bytes, n_in_tmp(&dir)), (all, 0));
    }

    #[test]
    fn one_that_does_not_come_to_its_end_leaves_nothing_and_takes_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let max = 3 * CHUNK_BYTES;
        let store = BundleStore::open(dir.path().join("bundles"), max).unwrap();
        let bytes = content(3 * CHUNK, 2);
        let mut half = store.spool().unwrap();
        half.write(&bytes[..CHUNK + 1]).unwrap();
        assert_eq!(store.usage().n_bytes, 2 * CHUNK_BYTES);
        // Another one has no room beside it.
        let full = spooled(&store, &bytes, CHUNK).unwrap_err();
        assert!(matches!(full, BundleError::Full { .. }), "{full}");
        drop(half);
        assert_eq!((store.usage().n_bytes, n_in_tmp(&dir)), (0, 0));
        spooled(&store, &bytes, CHUNK).unwrap();
    }
}
