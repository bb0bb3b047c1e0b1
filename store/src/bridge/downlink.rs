//! The queue of downlinks: each item ends in exactly one terminal state, and one counter seals at most one payload.

use super::BridgeTables;
use crate::StoreError;
use crate::db::on_engine;

/// One item of the queue.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DownlinkRow {
    /// Its key.
    pub id: String,
    /// The device.
    pub dev_eui: u64,
    /// 1 to 223.
    pub f_port: u8,
    /// As it goes on air, before encryption.
    pub payload: Vec<u8>,
    /// The device is asked to acknowledge it.
    pub confirmed: bool,
    /// Higher goes first.
    pub priority: u32,
    /// Microseconds since the Unix epoch; `None`: it never expires.
    pub not_after_us: Option<i64>,
    /// Empty: none. Unique for the device.
    pub idempotency_key: String,
    /// loam.v1.DownlinkState.
    pub state: i32,
    /// Why, where the state needs a reason.
    pub reason: String,
    /// Microseconds since the Unix epoch.
    pub created_at_us: i64,
    /// When the state last changed, microseconds since the Unix epoch.
    pub updated_at_us: i64,
    /// `None` until the state is terminal; microseconds since the Unix epoch.
    pub finished_at_us: Option<i64>,
    /// The session and FCntDown the payload is, or was last, sealed with.
    pub lease: Option<(u64, u32)>,
    /// How often it was leased.
    pub attempts: u32,
    /// The event log holds a record of this state.
    pub announced: bool,
    /// Order of arrival and key of pages; given by the store.
    pub position: u64,
}

/// What became of an item to insert.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DownlinkInsertion {
    /// The device has an item of this idempotency key; here it is. Nothing was inserted.
    Duplicate(DownlinkRow),
    /// It is in the queue.
    Inserted(DownlinkRow),
}

/// What became of a lease.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DownlinkLease {
    /// This counter, or a later one of the session, has been leased before; it must not seal another payload.
    CounterUsed {
        /// The highest counter leased.
        last: u32,
    },
    /// The item is bound to the counter, durably; the payload may be sealed and handed out.
    Leased(DownlinkRow),
    /// There is no such item, or it does not wait any more (it was cancelled, or has expired).
    NotWaiting,
}

/// A change of an item's state. An item in a terminal state keeps it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DownlinkUpdate {
    /// The item.
    pub id: String,
    /// loam.v1.DownlinkState.
    pub state: i32,
    /// It never left: the attempt its lease counted is taken off again.
    pub never_left: bool,
    /// Why.
    pub reason: String,
    /// Microseconds since the Unix epoch.
    pub at_us: i64,
    /// The state is terminal for this item.
    pub finished: bool,
    /// The event log already holds a record of it.
    pub announced: bool,
    /// Only while the item is leased to this session and FCntDown; `None`: in any case.
    pub only_lease: Option<(u64, u32)>,
}

/// What waits for a device.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PendingDownlinks {
    /// The device.
    pub dev_eui: u64,
    /// Items that wait for a window.
    pub count: u32,
    /// Bytes of the one that goes next.
    pub next_len: u32,
}

/// The queue, as its users see it.
impl BridgeTables {
    /// Adds an item, unless the device has one of the same idempotency key. `position` of the row given is ignored.
    pub async fn insert_downlink(&self, row: DownlinkRow) -> Result<DownlinkInsertion, StoreError> {
        on_engine!(&self.db, db => db.bridge().insert_downlink(row).await)
    }

    /// One item.
    pub async fn downlink(&self, id: &str) -> Result<Option<DownlinkRow>, StoreError> {
        on_engine!(&self.db, db => db.bridge().downlink(id).await)
    }

    /// Items of a device in order of arrival, those after a position (0: from the first), at most `limit`.
    pub async fn downlinks(
        &self,
        dev_eui: u64,
        include_finished: bool,
        after_position: u64,
        limit: u32,
    ) -> Result<Vec<DownlinkRow>, StoreError> {
        on_engine!(&self.db, db => db.bridge().downlinks(dev_eui, include_finished, after_position, limit).await)
    }

    /// Changes states; tells for each whether it did. All become durable together.
    pub async fn update_downlinks(&self, updates: Vec<DownlinkUpdate>) -> Result<Vec<bool>, StoreError> {
        on_engine!(&self.db, db => db.bridge().update_downlinks(updates).await)
    }

    /// Takes an item back while it waits; false: it has left, or is finished. `None`: there is none of this id.
    pub async fn cancel_downlink(
        &self,
        id: &str,
        at_us: i64,
    ) -> Result<Option<(DownlinkRow, bool)>, StoreError> {
        on_engine!(&self.db, db => db.bridge().cancel_downlink(id, at_us).await)
    }

    /// How many items of a device are not finished.
    pub async fn open_downlink_count(&self, dev_eui: u64) -> Result<u64, StoreError> {
        on_engine!(&self.db, db => db.bridge().open_downlink_count(dev_eui).await)
    }
}

/// The queue, as windows see it.
impl BridgeTables {
    /// Items of a device that wait for a window: the highest priority first, then the oldest; at most `limit`.
    pub async fn next_downlinks(&self, dev_eui: u64, limit: u32) -> Result<Vec<DownlinkRow>, StoreError> {
        on_engine!(&self.db, db => db.bridge().next_downlinks(dev_eui, limit).await)
    }

    /// Binds a waiting item to a counter, once and durably.
    pub async fn lease_downlink(
        &self,
        id: &str,
        session_id: u64,
        fcnt_down: u32,
        at_us: i64,
    ) -> Result<DownlinkLease, StoreError> {
        on_engine!(&self.db, db => db.bridge().lease_downlink(id, session_id, fcnt_down, at_us).await)
    }

    /// The item that is, or was last, leased to a counter.
    pub async fn downlink_by_lease(
        &self,
        dev_eui: u64,
        session_id: u64,
        fcnt_down: u32,
    ) -> Result<Option<DownlinkRow>, StoreError> {
        on_engine!(&self.db, db => db.bridge().downlink_by_lease(dev_eui, session_id, fcnt_down).await)
    }

    /// What waits, of every device that has something; for the hints at the start.
    pub async fn pending_downlinks(&self) -> Result<Vec<PendingDownlinks>, StoreError> {
        on_engine!(&self.db, db => db.bridge().pending_downlinks().await)
    }

    /// What waits for one device.
    pub async fn pending_downlinks_of(&self, dev_eui: u64) -> Result<PendingDownlinks, StoreError> {
        on_engine!(&self.db, db => db.bridge().pending_downlinks_of(dev_eui).await)
    }

    /// Items that have left and are not finished (leased, sent, or acknowledged by the gateway and not by the device), after a position,
    /// in order of arrival, at most `limit`; for the start after a crash.
    pub async fn downlinks_in_flight(
        &self,
        after_position: u64,
        limit: u32,
    ) -> Result<Vec<DownlinkRow>, StoreError> {
        on_engine!(&self.db, db => db.bridge().downlinks_in_flight(after_position, limit).await)
    }

    /// Waiting items whose deadline is before a time (microseconds since the Unix epoch), at most `limit`.
    pub async fn downlinks_past_deadline(
        &self,
        now_us: i64,
        limit: u32,
    ) -> Result<Vec<DownlinkRow>, StoreError> {
        on_engine!(&self.db, db => db.bridge().downlinks_past_deadline(now_us, limit).await)
    }

    /// The earliest deadline of a waiting item, microseconds since the Unix epoch.
    pub async fn next_deadline_us(&self) -> Result<Option<i64>, StoreError> {
        on_engine!(&self.db, db => db.bridge().next_deadline_us().await)
    }

    /// Items whose state the event log does not hold yet, in order of arrival, at most `limit`.
    pub async fn unannounced_downlinks(&self, limit: u32) -> Result<Vec<DownlinkRow>, StoreError> {
        on_engine!(&self.db, db => db.bridge().unannounced_downlinks(limit).await)
    }

    /// Notes that the event log holds these states; one that has changed since stays unannounced.
    pub async fn set_announced(&self, states: Vec<(String, i32)>) -> Result<(), StoreError> {
        on_engine!(&self.db, db => db.bridge().set_announced(states).await)
    }

    /// Removes announced items finished before a time (microseconds since the Unix epoch), at most 1000; tells how many.
    pub async fn purge_downlinks(&self, finished_before_us: i64) -> Result<u64, StoreError> {
        on_engine!(&self.db, db => db.bridge().purge_downlinks(finished_before_us).await)
    }
}
