//! What keeps a node from having a bundle, in words for people.

use std::io;
use std::path::Path;

use nihilo_types::bundle::{Digest, MAX_BLOB_BYTES};

use super::unpack::UnpackError;

#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    /// Whatever was being written: it is written again when it is asked for again.
    #[error(
        "{what}: the disk of this node's bundles is full; make room on it, and repeat the command: what has \
         come is kept"
    )]
    DiskFull { what: String },
    #[error("it has more than {MAX_BLOB_BYTES} bytes, which is what a bundle has at most")]
    TooLarge,
    /// The bound of this node's bundles.
    #[error(
        "bundles of this node have {used} of {max} bytes, and {wanted} more are needed; free some with \
         `nihilo bundle delete` and `nihilo bundle gc`, or raise `bundles: max-bytes` of the node"
    )]
    Full { wanted: u64, used: u64, max: u64 },
    #[error("chunk {chunk} of {blob} has the digest {got}, not {want}: it was damaged on its way")]
    WrongChunk {
        blob: Digest,
        chunk: u32,
        want: Digest,
        got: Digest,
    },
    #[error("chunk {chunk} of {blob} has {got} bytes, not {want}")]
    WrongLength {
        blob: Digest,
        chunk: u32,
        want: u64,
        got: u64,
    },
    #[error("{blob} has no chunk {chunk}")]
    NoSuchChunk { blob: Digest, chunk: u32 },
    #[error("the whole of the bytes has the digest {got}, not {want}, though each chunk is right")]
    WrongBlob { want: Digest, got: Digest },
    #[error("{n} chunks of {blob} have not come")]
    Incomplete { blob: Digest, n: usize },
    #[error("{blob} is not on this node")]
    NotHeld { blob: Digest },
    #[error("the archive {blob} is refused: {why}")]
    NoArchive { blob: Digest, why: String },
    #[error("the tar {blob} is refused: {source}")]
    Refused { blob: Digest, source: UnpackError },
}

impl BundleError {
    pub(super) fn io(doing: &str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let what = format!("{doing} `{}`", path.display());
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { what },
            _ => Self::Io { what, source },
        }
    }

    /// Whether the bytes themselves are wrong: asking again for the same ones is of no use.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::WrongChunk { .. } | Self::WrongLength { .. } | Self::WrongBlob { .. }
        )
    }
}
