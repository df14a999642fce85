//! The cluster's key for Secrets: a file of each node, outside everything that is replicated.
//!
//! It is read when it is first needed, and again as long as it is missing, so that a file that comes
//! later needs no restart. A node without it says so to whoever asks for what needs it; nothing else
//! of the node suffers.

use std::fs::{File, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nihilo_types::sealing::{KEY_BYTES, SealingKey};
use nihilo_types::secret_value::SecretValue;
use parking_lot::Mutex;

/// Far above the one line that it is.
const MAX_FILE_BYTES: u64 = 4096;
/// Of its owner alone.
const MODE: u32 = 0o600;
const OTHERS: u32 = 0o077;

/// This node's copy; cheap to clone.
#[derive(Debug, Clone)]
pub struct SecretsKey(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: PathBuf,
    read: Mutex<Option<Arc<SealingKey>>>,
}

/// Why this node has no key; it names the file and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error(
        "this node has no secrets key: `{0}` is not there; copy it from a node that has it, mode \
         0600"
    )]
    Missing(String),
    #[error("the secrets key `{0}` may be read by others: chmod 600 it")]
    Open(String),
    #[error("the secrets key `{file}` cannot be used: {why}")]
    Unusable { file: String, why: String },
}

impl SecretsKey {
    pub fn new(file: PathBuf) -> Self {
        Self(Arc::new(Inner {
            file,
            read: Mutex::new(None),
        }))
    }

    /// # Errors
    /// The file is missing, open to others, or holds no key.
    pub fn get(&self) -> Result<Arc<SealingKey>, KeyError> {
        let mut known = self.0.read.lock();
        if let Some(key) = &*known {
            return Ok(key.clone());
        }
        let key = Arc::new(read(&self.0.file)?);
        *known = Some(key.clone());
        Ok(key)
    }

    /// Makes the file where there is none. Of several who try at once on a shared directory one
    /// wins, and nobody sees half a file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn make(&self) -> std::io::Result<()> {
        let mut bytes: [u8; KEY_BYTES] = rand::random();
        let key = SealingKey::new(bytes);
        bytes.fill(0);
        write_new(&self.0.file, &key)
    }

    /// Keeps the key that the cluster has given.
    ///
    /// # Errors
    /// It cannot be written, or the file is there with another key.
    pub fn keep(&self, key: &SealingKey) -> anyhow::Result<()> {
        write_new(&self.0.file, key)?;
        anyhow::ensure!(
            self.get()?.id() == key.id(),
            "`{}` holds another key than the cluster's: move it away and join again",
            self.0.file.display()
        );
        Ok(())
    }

    /// Whether there is a file at all.
    pub fn is_there(&self) -> bool {
        std::fs::metadata(&self.0.file).is_ok()
    }
}

fn read(path: &Path) -> Result<SealingKey, KeyError> {
    let shown = || path.display().to_string();
    let unusable = |why: String| KeyError::Unusable { file: shown(), why };
    let file = File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => KeyError::Missing(shown()),
        _ => unusable(error.to_string()),
    })?;
    let found = file
        .metadata()
        .map_err(|error| unusable(error.to_string()))?;
    if found.permissions().mode() & OTHERS != 0 {
        return Err(KeyError::Open(shown()));
    }
    let mut text = Vec::new();
    let read = file.take(MAX_FILE_BYTES).read_to_end(&mut text);
    let text = SecretValue::new(text);
    read.map_err(|error| unusable(error.to_string()))?;
    let text = std::str::from_utf8(text.expose()).unwrap_or_default();
    text.parse()
        .map_err(|why: nihilo_types::sealing::NoKey| unusable(why.to_string()))
}

/// # Errors
/// It cannot be written; a file that is there already is none.
fn write_new(path: &Path, key: &SealingKey) -> std::io::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(MODE)
        .open(&temporary)?;
    file.set_permissions(Permissions::from_mode(MODE))?;
    file.write_all(key.to_line().expose())?;
    file.sync_all()?;
    // Unlike a rename it leaves alone what is there.
    let linked = std::fs::hard_link(&temporary, path);
    std::fs::remove_file(&temporary)?;
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_read_by_all() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys/secrets.key");
        let (one, two) = (SecretsKey::new(file.clone()), SecretsKey::new(file.clone()));
        assert!(matches!(two.get(), Err(KeyError::Missing(_))));
        one.make().unwrap();
        two.make().unwrap();
        // It was missing before: that is not remembered.
        assert_eq!(one.get().unwrap().id(), two.get().unwrap().id());
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);
        let others = std::fs::read_dir(dir.path().join("keys")).unwrap().count();
        assert_eq!(others, 1);
    }

    #[test]
    fn a_file_that_is_no_key_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secrets.key");
        SecretsKey::new(file.clone()).make().unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        let error = SecretsKey::new(file.clone()).get().unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
        std::fs::write(&file, "hunter2").unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let error = SecretsKey::new(file).get().unwrap_err().to_string();
        assert!(
            error.contains("not a secrets key") && !error.contains("hunter2"),
            "{error}"
        );
    }
}
