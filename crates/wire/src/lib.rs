//! Generated protobuf code, the log-entry codec, and conversions to and from `types`.

pub mod codec;

/// Everything `proto/` generates, one module a package and nested as they are: generated code refers to
/// messages of other packages by that.
mod nihilo {
    pub(crate) mod internal {
        pub mod v1 {
            tonic::include_proto!("nihilo.internal.v1");
        }
    }
    pub(crate) mod serving {
        pub mod v1 {
            tonic::include_proto!("nihilo.serving.v1");
        }
    }
    pub(crate) mod cluster {
        pub mod v1 {
            tonic::include_proto!("nihilo.cluster.v1");
        }
    }
}

pub use nihilo::cluster::v1 as cluster;
pub use nihilo::internal::v1 as internal;
pub use nihilo::serving::v1 as serving;

/// Descriptors of all packages, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
