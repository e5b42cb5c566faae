//! Compiles `perennial/v1` without protoc and keeps its descriptor set for server reflection.

use prost::Message;

const FILES: [&str; 8] = [
    "perennial/v1/chunk.proto",
    "perennial/v1/evaluation.proto",
    "perennial/v1/ingest.proto",
    "perennial/v1/pipeline.proto",
    "perennial/v1/registry.proto",
    "perennial/v1/rehearsal.proto",
    "perennial/v1/run.proto",
    "perennial/v1/worker.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=perennial");
    let files = protox::compile(FILES, ["."])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), files.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}
