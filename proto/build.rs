//! Compiles the .proto files without protoc.

use prost::Message;

/// Messages that carry keys; `src/redact.rs` writes their `Debug`.
const WITH_KEYS: [&str; 5] = [
    "loam.v1.RootKeys",
    "loam.v1.ActivateDeviceRequest",
    "loam.internal.v1.ActivateRequest",
    "loam.internal.v1.JoinAnswer",
    "loam.internal.v1.PutJoinDeviceRequest",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = [
        "loam/v1/application.proto",
        "loam/v1/codec.proto",
        "loam/v1/device.proto",
        "loam/v1/downlink.proto",
        "loam/v1/event.proto",
        "loam/v1/gateway.proto",
        "loam/v1/profile.proto",
        "loam/v1/system.proto",
        "loam/internal/v1/journal.proto",
        "loam/internal/v1/roles.proto",
    ];
    let descriptors = protox::compile(files, ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptor.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().skip_debug(WITH_KEYS).compile_fds(descriptors)?;
    Ok(())
}
