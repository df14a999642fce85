//! A blob that is coming: a file of its final size with holes, and which chunks of it are right.
//!
//! What an earlier attempt has left is resumed: each chunk is hashed again, and only what is wrong or
//! missing has to come. Nothing is believed that was not hashed by this process.

use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nihilo_types::bundle::{Blob, Digest, Hasher};
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use super::error::BundleError;
use super::layout::settle;

/// Read and execute for all, write for nobody: a program is run where it lies.
pub(super) const BLOB_MODE: u32 = 0o555;
/// Bytes that are hashed at once.
const PIECE: usize = 256 * 1024;

#[derive(Debug)]
pub(super) struct Partial {
    blob: Blob,
    path: PathBuf,
    /// Closed when it is done: a program that is open for writing cannot be run.
    file: RwLock<Option<File>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// By chunk.
    is_here: Vec<bool>,
    written_at: Instant,
}

impl Partial {
    /// Opens or makes the file, and hashes what is in it.
    pub(super) fn open(path: &Path, blob: &Blob) -> Result<Self, BundleError> {
        let failed = || BundleError::io("partial bundle", path);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed())?;
        let is_new = file.metadata().map_err(failed())?.len() == 0;
        file.set_len(blob.size).map_err(failed())?;
        let is_here = match is_new {
            true => vec![false; blob.chunks.len()],
            false => chunks_in(&file, blob).map_err(failed())?,
        };
        Ok(Self {
            blob: blob.clone(),
            path: path.into(),
            file: RwLock::new(Some(file)),
            state: Mutex::new(State {
                is_here,
                written_at: Instant::now(),
            }),
        })
    }

    /// Names the file. Not the blob's own digest alone: whoever writes another list of chunks beside that
    /// one must not be in the way of the right list.
    pub(super) fn key(blob: &Blob) -> Digest {
        let mut hasher = Hasher::default();
        for part in [&blob.digest].into_iter().chain(&blob.chunks) {
            hasher.update(part.hex().as_bytes());
        }
        hasher.update(&blob.size.to_le_bytes());
        hasher.finish()
    }

    pub(super) fn blob(&self) -> &Blob {
        &self.blob
    }

    pub(super) fn size(&self) -> u64 {
        self.blob.size
    }

    pub(super) fn written_at(&self) -> Instant {
        self.state.lock().written_at
    }

    /// Chunks that have to come.
    pub(super) fn missing(&self) -> Vec<u32> {
        let state = self.state.lock();
        let chunks = (0..).zip(&state.is_here);
        chunks
            .filter_map(|(chunk, is_here)| (!is_here).then_some(chunk))
            .collect()
    }

    /// Takes a chunk in, proven. One that is here already changes nothing.
    pub(super) fn put(&self, chunk: u32, bytes: &[u8]) -> Result<(), BundleError> {
        let blob = self.blob.digest;
        let no_such = BundleError::NoSuchChunk { blob, chunk };
        let Some((at, want)) = self.blob.range_of(chunk) else {
            return Err(no_such);
        };
        let got = bytes.len() as u64;
        if got != want {
            return Err(BundleError::WrongLength {
                blob,
                chunk,
                want,
                got,
            });
        }
        let index = chunk as usize;
        let (want, got) = (self.blob.chunks[index], Digest::of(bytes));
        if want != got {
            return Err(BundleError::WrongChunk {
                blob,
                chunk,
                want,
                got,
            });
        }
        if self.state.lock().is_here[index] {
            return Ok(());
        }
        let failed = BundleError::io("partial bundle", &self.path);
        let file = self.file.read();
        let Some(file) = file.as_ref() else {
            // Somebody else has put this chunk meanwhile, and the last one, and finished it.
            return match self.state.lock().is_here[index] {
                true => Ok(()),
                false => Err(BundleError::NotHeld { blob }),
            };
        };
        file.write_all_at(bytes, at).map_err(failed)?;
        let mut state = self.state.lock();
        state.is_here[index] = true;
        state.written_at = Instant::now();
        Ok(())
    }

    /// Proves the whole, and gives it its final name. It is of no use afterwards, whatever came of it.
    pub(super) fn finish(&self, to: &Path) -> Result<(), BundleError> {
        let n = self.missing().len();
        let blob = self.blob.digest;
        if n > 0 {
            return Err(BundleError::Incomplete { blob, n });
        }
        let file = self.file.write().take();
        let file = file.ok_or(BundleError::NotHeld { blob })?;
        let failed = || BundleError::io("partial bundle", &self.path);
        let got = digest_of(&self.path).map_err(failed())?;
        if got != blob {
            // The manifest contradicts itself: nothing that comes can mend it.
            drop(fs::remove_file(&self.path));
            return Err(BundleError::WrongBlob { want: blob, got });
        }
        file.set_permissions(Permissions::from_mode(BLOB_MODE))
            .and_then(|()| file.sync_all())
            .map_err(failed())?;
        drop(file);
        settle(&self.path, to).map_err(failed())
    }
}

/// The digest of a whole file.
pub(super) fn digest_of(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let (mut hasher, mut piece) = (Hasher::default(), vec![0; PIECE]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(&piece[..n]),
        }
    }
}

fn chunks_in(file: &File, blob: &Blob) -> io::Result<Vec<bool>> {
    let mut bytes = Vec::new();
    let mut is_here = Vec::with_capacity(blob.chunks.len());
    for (chunk, want) in (0..).zip(&blob.chunks) {
        let Some((at, n)) = blob.range_of(chunk) else {
            break;
        };
        bytes.resize(usize::try_from(n).unwrap_or(0), 0);
        file.read_exact_at(&mut bytes, at)?;
        is_here.push(Digest::of(&bytes) == *want);
    }
    Ok(is_here)
}
