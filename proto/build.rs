//! Compiles the .proto files with protox, so that no protoc has to be installed.

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "indelible/v1/event.proto",
        "indelible/v1/record.proto",
        "indelible/v1/audit_log.proto",
        "indelible/v1/cluster.proto",
        "indelible/v1/raft.proto",
        "indelible/v1/publication.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").btree_map(".").compile_fds(descriptors)?;
    Ok(())
}
