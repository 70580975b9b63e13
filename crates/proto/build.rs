//! Compiles the .proto files without a protoc on the machine.

const FILES: [&str; 11] =
    ["auth", "kv", "rpc", "raft_internal", "membership", "lease", "raft", "record", "health", "lock", "election"];

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = FILES.map(|name| format!("proto/{name}.proto"));
    let descriptors = protox::compile(files, ["proto"])?;
    let path = std::path::Path::new(&std::env::var("OUT_DIR")?).join("descriptors");
    std::fs::write(path, descriptors.encode_to_vec())?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}
