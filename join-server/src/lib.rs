//! The join server: the role that holds the root keys.
//!
//! It answers Join-Requests and hands out session keys: the network's in the clear over the port, the AppSKey
//! wrapped for the app-bridge alone. Nonces and the answer are durable before the answer leaves, so that a crash
//! wastes a nonce and never uses one twice.

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

mod key_check;
mod refusal;
mod rpc;
mod server;

#[cfg(test)]
mod tests;

pub use key_check::{WeakKey, check_root_key};
pub use refusal::{JoinRefusal, Likeness};
pub use rpc::{JoinRpc, RemoteJoin, grpc_service};
pub use server::{JoinServer, Random};
