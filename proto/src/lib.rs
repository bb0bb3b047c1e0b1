//! The messages of loam, public (`loam.v1`) and between roles (`loam.internal.v1`), and the ports the roles talk through.

#![cfg_attr(
    not(test),
    deny(
        clippy::allow_attributes_without_reason,
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::todo,
        clippy::unimplemented,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

pub mod link;
pub mod mark;
pub mod port;
mod redact;

/// Generated code, nested as the packages are.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::restriction
)]
mod loam {
    pub mod v1 {
        tonic::include_proto!("loam.v1");
    }
    pub mod internal {
        pub mod v1 {
            tonic::include_proto!("loam.internal.v1");
        }
    }
}

pub use loam::internal::v1 as internal;
pub use loam::v1;

/// The descriptors of all services, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));
