//! Compiles `proto/` without a protoc binary: protox parses, prost generates.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let files = [
        "nihilo/internal/v1/raft.proto",
        "nihilo/internal/v1/node.proto",
        "nihilo/internal/v1/bundle.proto",
        "nihilo/serving/v1/serving.proto",
        "nihilo/serving/v1/bundle.proto",
        "nihilo/cluster/v1/cluster.proto",
    ];
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile(files, [&root])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(
        out.join("descriptors.bin"),
        prost::Message::encode_to_vec(&descriptors),
    )?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
