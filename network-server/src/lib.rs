//! The network server: from gateways' datagrams to committed events, and back.
//!
//! An uplink passes through the files in this order: `gateway` (sockets, parse) → `ingest` (verify) → `owner`
//! (dedup, decide) → the journal of `store` (commit) → `downlink` (effects). Joins leave at `ingest` for `join`.
//! The app-bridge reaches all of it through `control`, which implements `proto::port::NetworkPort`.

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

pub mod budget;
pub mod control;
pub mod drops;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
pub mod gateway;
pub mod metrics;
pub mod remote;

mod clock;
mod deltas;
mod downlink;
mod index;
mod ingest;
mod join;
mod owner;
mod owner_queue;
mod profiles;
mod records;
mod run;
mod seal;
mod transmit;
mod uplink;

pub use run::{Host, NetworkConfig, NetworkServer, StartError};
