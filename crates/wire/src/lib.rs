//! Generated protobuf code, the log-entry codec, and conversions to and from `types`.

pub mod codec;

/// Everything `proto/` generates, by package.
pub mod internal {
    tonic::include_proto!("nihilo.internal.v1");
}

/// `nihilo.serving.v1`.
pub mod serving {
    tonic::include_proto!("nihilo.serving.v1");
}

/// `nihilo.cluster.v1`.
pub mod cluster {
    tonic::include_proto!("nihilo.cluster.v1");
}

/// Descriptors of all packages, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
