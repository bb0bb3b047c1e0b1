//! What the streams need: the keys of each session and how far each consumer came.

use super::BridgeTables;
use crate::StoreError;
use crate::db::on_engine;

/// The AppSKey of a session.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AppSessionRow {
    /// Its key.
    pub session_id: u64,
    /// The device.
    pub dev_eui: u64,
    /// Sealed by the caller.
    pub sealed_key: Vec<u8>,
    /// Microseconds since the Unix epoch. The store keeps it behind the device's sessions before, whatever the clock did, and as it was
    /// first written.
    pub started_at_us: i64,
}

/// A named consumer of the event stream.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ConsumerRow {
    /// Its key.
    pub name: String,
    /// The last sequence it acknowledged; 0: none.
    pub position: u64,
    /// Microseconds since the Unix epoch.
    pub acknowledged_at_us: i64,
}

/// Session keys.
impl BridgeTables {
    /// Keeps the key of a session.
    pub async fn put_app_session(&self, row: AppSessionRow) -> Result<(), StoreError> {
        on_engine!(&self.db, db => db.bridge().put_app_session(row).await)
    }

    /// The key of a session.
    pub async fn app_session(&self, session_id: u64) -> Result<Option<AppSessionRow>, StoreError> {
        on_engine!(&self.db, db => db.bridge().app_session(session_id).await)
    }

    /// The sessions of a device, newest first, at most `limit`.
    pub async fn app_sessions(&self, dev_eui: u64, limit: u32) -> Result<Vec<AppSessionRow>, StoreError> {
        on_engine!(&self.db, db => db.bridge().app_sessions(dev_eui, limit).await)
    }

    /// Destroys the keys of sessions whose successor was there before a time (microseconds since the Unix epoch): with the time of the
    /// earliest event kept, no event needs them. At most 1000 a call; tells how many.
    pub async fn purge_app_sessions(&self, earliest_event_us: i64) -> Result<u64, StoreError> {
        on_engine!(&self.db, db => db.bridge().purge_app_sessions(earliest_event_us).await)
    }
}

/// Consumers and the follower.
impl BridgeTables {
    /// Moves a consumer's position forward, creating the consumer when it is new; returns where it stands. It never moves back.
    pub async fn acknowledge(&self, name: &str, position: u64, at_us: i64) -> Result<ConsumerRow, StoreError> {
        on_engine!(&self.db, db => db.bridge().acknowledge(name, position, at_us).await)
    }

    /// One consumer.
    pub async fn consumer(&self, name: &str) -> Result<Option<ConsumerRow>, StoreError> {
        on_engine!(&self.db, db => db.bridge().consumer(name).await)
    }

    /// All consumers in order of their names.
    pub async fn consumers(&self) -> Result<Vec<ConsumerRow>, StoreError> {
        on_engine!(&self.db, db => db.bridge().consumers().await)
    }

    /// Forgets a consumer.
    pub async fn delete_consumer(&self, name: &str) -> Result<bool, StoreError> {
        on_engine!(&self.db, db => db.bridge().delete_consumer(name).await)
    }

    /// The sequence up to which queue and keys follow the event log; 0: nothing yet. See [`Self::follow`].
    pub async fn follow_seq(&self) -> Result<u64, StoreError> {
        on_engine!(&self.db, db => db.bridge().follow_seq().await)
    }
}
