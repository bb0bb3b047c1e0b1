//! The app-bridge's tables: the registry, what the streams need, the downlink queue.

mod audit;
mod device;
mod downlink;
mod follow;
mod lookup;
mod registry;
mod stream;

use tokio::sync::watch;

use crate::Readiness;
use crate::db::{Db, on_engine};

pub use audit::AuditRow;
pub use device::BridgeDeviceRow;
pub use downlink::{DownlinkInsertion, DownlinkLease, DownlinkRow, DownlinkUpdate, PendingDownlinks};
pub use follow::Followed;
pub use registry::{ApiKeyRow, ApplicationRow, CodecRow};
pub use stream::{AppSessionRow, ConsumerRow};

/// The app-bridge's tables. Cheap to clone. Writes are durable when they return.
#[derive(Clone)]
pub struct BridgeTables {
    pub(crate) db: Db,
}

impl std::fmt::Debug for BridgeTables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BridgeTables")
    }
}

impl BridgeTables {
    /// Whether commits work, and each change of it.
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        on_engine!(&self.db, db => db.shared()).readiness.subscribe()
    }
}

/// What became of a row to insert or to change.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Written {
    /// It is as asked.
    Done,
    /// A row of this key is there and stayed as it was; for several, the key of the first one. Nothing was changed.
    Exists(String),
    /// Something it names is not there, told in words such as `application farm`. Nothing was changed.
    Missing(String),
}

/// What became of a row to delete.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Removal {
    /// So many others need it; it stayed.
    InUse(u64),
    /// It was not there.
    NotFound,
    /// It is gone.
    Removed,
}
