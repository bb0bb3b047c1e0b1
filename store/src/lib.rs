//! The durable side of loam: one writer, one event log, the tables of the roles.
//!
//! What is accepted is committed here before anything of it leaves. The [`Journal`] takes the decisions of the network server and writes
//! one row per batch; the [`EventLog`] reads them back in order; the tables of the roles change in turns with it. Sessions are a
//! checkpoint that follows the journal.
//!
//! ```text
//! submit ─▶ queue ─▶ writer ─▶ one row, durable ─▶ tail ring ─▶ head ─▶ done callbacks, in order
//! tables ─▶ jobs  ─▶ (the same, in turns, several per transaction)
//!                    housekeeping: session checkpoint · retention · what the engine needs
//! ```
//!
//! The rows lie on an engine: SQLite on a thread of its own ([`Store::open`]), or a disk in memory with planned faults for a simulated
//! world ([`Store::open_in_memory`]). What an engine has to do is in `db.rs`; `tests/shared` holds each to the same stories.

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

mod bridge;
mod checkpoint;
mod db;
mod error;
mod files;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod head;
mod housekeeping;
mod job;
mod join;
mod journal;
mod log;
mod memory;
mod metrics;
mod network;
mod pages;
mod queue;
mod retention;
mod row;
mod seal;
mod session;
mod shared;
mod sqlite;
mod store;
mod tail;
mod writer;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use bridge::{
    ApiKeyRow, AppSessionRow, ApplicationRow, AuditRow, BridgeDeviceRow, BridgeTables, CodecRow, ConsumerRow,
    DownlinkInsertion, DownlinkLease, DownlinkRow, DownlinkUpdate, Followed, PendingDownlinks, Removal,
    Written,
};
pub use error::StoreError;
pub use head::HeadWatch;
pub use join::{JoinCommit, JoinCommitted, JoinDevice, JoinDeviceRow, JoinTables, NonceRule};
pub use journal::{Committed, Done, Journal, Submission, TrySubmitError};
pub use log::EventLog;
pub use memory::{Faults, MemoryDisk, ReadFate, WriteFate, WriteKind, WriteOutcome};
pub use metrics::{COMMIT_LATENCY_BUCKETS_US, StoreMetrics};
pub use network::{NetworkDeviceRow, NetworkTables};
pub use seal::Sealer;
pub use session::SessionRow;
pub use store::{Location, Readiness, Store, StoreOptions};
