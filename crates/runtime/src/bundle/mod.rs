//! Bundles on a node's disk: what the process driver runs them from (06-runtime §6).
//!
//! ```text
//! DATA/bundles/tmp/HEX.part              a blob that comes, chunk by chunk; resumed from what is right
//!              tmp/N.spool               one that nobody knows before its end; begun anew
//!              blobs/sha256/ab/HEX       whole, proven, never written again; a program is run in place
//!              manifests/HEX.json        of a bundle whose blob is here: there = ready to start
//!              unpacked/sha256/ab/HEX/   what a tar holds, read-only; made at the first start
//! ```
//!
//! Nothing gets its final name before it is proven and on the disk. Other nodes are seen only through
//! [`BlobSource`], and which bundles are to be kept is told by whoever asks for a collection.

mod archive;
mod error;
mod fetch;
mod gc;
mod heads;
mod layout;
mod partial;
mod program;
mod source;
mod spool;
mod store;
mod tree;
mod unpack;

pub use error::BundleError;
pub use fetch::{Bundles, Unavailable};
pub use gc::{Collected, Deletion, Holding, Kept, decide};
pub(crate) use program::HOST_PATH;
pub use program::Program;
pub use source::{BlobSource, BundleId, ChunkError, ChunkFuture, Holder};
pub use spool::Spool;
pub use store::{BundleStore, Receiving, Usage};

#[cfg(test)]
mod testkit;
