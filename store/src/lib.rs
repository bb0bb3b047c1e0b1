//! The durable side of loam: one SQLite file, one writer, one event log.
//!
//! What is accepted is committed here before anything of it leaves. The [`Journal`] takes the decisions of the network server and writes
//! one row per batch; the [`EventLog`] reads them back in order; the tables of the roles change in turns on the same connection, so that
//! SQLite never answers "busy". Sessions are a checkpoint that follows the journal.
//!
//! ```text
//! submit ─▶ queue ─▶ writer thread ─▶ one row, fsync ─▶ tail ring ─▶ head ─▶ done callbacks, in order
//! tables ─▶ jobs  ─▶ (same thread, in turns, several per transaction)
//!                       housekeeping: session checkpoint · retention · WAL checkpoint · stamp
//! ```

mod bridge;
mod checkpoint;
mod db;
mod error;
mod files;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod housekeeping;
mod job;
mod join;
mod journal;
mod lock;
mod log;
mod metrics;
mod network;
mod open;
mod queue;
mod retention;
mod seal;
mod session;
mod sql;
mod stamp;
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
pub use join::{JoinCommit, JoinCommitted, JoinDevice, JoinDeviceRow, JoinTables, NonceRule};
pub use journal::{Committed, Done, Journal, Submission, TrySubmitError};
pub use log::EventLog;
pub use metrics::{COMMIT_LATENCY_BUCKETS_US, StoreMetrics};
pub use network::{NetworkDeviceRow, NetworkTables};
pub use seal::Sealer;
pub use session::SessionRow;
pub use store::{Location, Readiness, Store, StoreOptions};
