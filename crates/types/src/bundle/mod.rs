//! Bundles: artefacts that the cluster keeps itself (06-runtime §6). A manifest says what one is made
//! of; its bytes are one blob, a program, a tar of a directory or an engine's archive of a container image,
//! in chunks that are proven one by one.
//!
//! What is here is names, shapes and limits. Bytes are kept by the runtime, metadata by the machine.

mod digest;
mod manifest;
mod reference;

pub use digest::{Digest, Hasher};
pub use manifest::{Blob, BundleKind, MalformedManifest, Manifest, Platform, SCHEMA};
pub use reference::{
    BundleReference, BundleVersion, IMAGE_PREFIX, PREFIX, check_name, check_name_of, check_tag,
};

/// Bytes of every chunk of a blob but its last.
pub const CHUNK_BYTES: u64 = 4 * 1024 * 1024;
/// A blob, at most: what is packed.
pub const MAX_BLOB_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// What a tar unpacks to, at most.
pub const MAX_UNPACKED_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// Files, directories and links of a tar, at most.
pub const MAX_FILES: u64 = 100_000;
/// A path in a tar, at most.
pub const MAX_PATH_BYTES: usize = 1_024;
/// A manifest, at most: it is replicated, and its chunks' digests are most of it.
pub const MAX_MANIFEST_BYTES: usize = 64 * 1024;
