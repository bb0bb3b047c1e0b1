//! LoRaWAN as a network sees it, and nothing else: frames, keys, counters, MAC commands, regions and decisions.
//!
//! The crate is pure. It names no clock, no randomness, no socket, no database; time and random numbers are
//! arguments. What it decides, others carry out.

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

pub mod adr;
pub mod airtime;
pub mod command;
pub mod crypto;
pub mod dedup;
pub mod downlink;
pub mod drop_reason;
pub mod duty;
pub mod fcnt;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
pub mod gps;
pub mod ids;
pub mod join_frame;
pub mod keys;
pub mod lorawan_adapter;
pub mod phy;
pub mod region;
mod request;
pub mod session;
pub mod units;
pub mod uplink;
pub mod verify;
pub mod version;
