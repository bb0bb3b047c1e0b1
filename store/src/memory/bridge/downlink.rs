//! The queue of downlinks.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use proto::v1::DownlinkState;
use seam::{Bug, planted};

use crate::memory::Bridge;
use crate::memory::machine::refused;
use crate::{DownlinkInsertion, DownlinkLease, DownlinkRow, DownlinkUpdate, PendingDownlinks, StoreError};

#[derive(Default)]
pub(super) struct DownlinkRows {
    /// In order of arrival.
    rows: BTreeMap<u64, DownlinkRow>,
    positions: BTreeMap<String, u64>,
    /// The highest FCntDown leased in each session: one counter seals at most one payload, ever.
    lease_floors: BTreeMap<u64, u32>,
}

impl DownlinkRows {
    fn get(&self, id: &str) -> Option<&DownlinkRow> {
        self.rows.get(self.positions.get(id)?)
    }

    fn get_mut(&mut self, id: &str) -> Option<&mut DownlinkRow> {
        self.rows.get_mut(self.positions.get(id)?)
    }

    fn list(&self, limit: u32, fits: impl Fn(&DownlinkRow) -> bool) -> Vec<DownlinkRow> {
        self.rows.values().filter(|row| fits(row)).take(limit as usize).cloned().collect()
    }

    /// What waits for a device, in the order in which it goes.
    fn waiting(&self, dev_eui: u64) -> Vec<&DownlinkRow> {
        let mut waiting: Vec<_> = self.rows.values().filter(|r| r.dev_eui == dev_eui && waits(r)).collect();
        waiting.sort_by_key(|row| (Reverse(row.priority), row.position));
        waiting
    }

    fn pending(&self, dev_eui: u64) -> PendingDownlinks {
        let waiting = self.waiting(dev_eui);
        let narrow = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let next_len = waiting.first().map_or(0, |next| narrow(next.payload.len()));
        PendingDownlinks { dev_eui, count: narrow(waiting.len()), next_len }
    }

    fn insert(&mut self, row: DownlinkRow) -> Result<DownlinkInsertion, StoreError> {
        let same =
            |other: &&DownlinkRow| other.dev_eui == row.dev_eui && other.idempotency_key == row.idempotency_key;
        if !row.idempotency_key.is_empty()
            && let Some(first) = self.rows.values().find(same)
        {
            return Ok(DownlinkInsertion::Duplicate(first.clone()));
        }
        if self.positions.contains_key(&row.id) {
            return Err(refused(std::io::ErrorKind::AlreadyExists));
        }
        let next = self.rows.last_key_value().map_or(1, |(last, _)| last.saturating_add(1));
        let position = next.max(u64::try_from(row.created_at_us).unwrap_or(0));
        let row = DownlinkRow { position, ..row };
        self.positions.insert(row.id.clone(), position);
        self.rows.insert(position, row.clone());
        Ok(DownlinkInsertion::Inserted(row))
    }

    fn lease(&mut self, id: &str, session_id: u64, fcnt_down: u32, at_us: i64) -> DownlinkLease {
        let floor = self.lease_floors.get(&session_id).copied();
        if let Some(last) = floor.filter(|last| *last >= fcnt_down) {
            return DownlinkLease::CounterUsed { last };
        }
        let Some(row) = self.get_mut(id).filter(|row| waits(row)) else {
            return DownlinkLease::NotWaiting;
        };
        row.state = DownlinkState::Leased as i32;
        row.reason.clear();
        row.updated_at_us = at_us;
        row.lease = Some((session_id, fcnt_down));
        row.attempts = row.attempts.saturating_add(1);
        row.announced = false;
        let leased = row.clone();
        self.lease_floors.insert(session_id, fcnt_down);
        DownlinkLease::Leased(leased)
    }

    /// Tells whether it changed the item.
    pub(super) fn update(&mut self, update: DownlinkUpdate) -> bool {
        let Some(row) =
            self.get_mut(&update.id).filter(|row| row.finished_at_us.is_none() || planted(Bug::EndTwice))
        else {
            return false;
        };
        if update.only_lease.is_some() && row.lease != update.only_lease {
            return false;
        }
        row.attempts = row.attempts.saturating_sub(u32::from(update.never_left));
        row.state = update.state;
        row.reason = update.reason;
        row.updated_at_us = update.at_us;
        row.finished_at_us = update.finished.then_some(update.at_us);
        row.announced = update.announced;
        true
    }

    fn cancel(&mut self, id: &str, at_us: i64) -> Option<(DownlinkRow, bool)> {
        let row = self.get_mut(id)?;
        let left = planted(Bug::CancelAfterLease) && in_flight(row);
        let waits = waits(row) || left;
        if waits {
            row.state = DownlinkState::Cancelled as i32;
            row.reason.clear();
            row.updated_at_us = at_us;
            row.finished_at_us = Some(at_us);
            row.announced = false;
        }
        Some((row.clone(), waits))
    }

    pub(super) fn forget_floor(&mut self, session_id: u64) {
        self.lease_floors.remove(&session_id);
    }

    fn purge(&mut self, finished_before_us: i64) -> u64 {
        let gone = |row: &&DownlinkRow| {
            row.announced && row.finished_at_us.is_some_and(|finished| finished < finished_before_us)
        };
        let mut gone: Vec<_> =
            self.rows.values().filter(gone).map(|r| (r.finished_at_us, r.id.clone(), r.position)).collect();
        gone.sort();
        gone.truncate(PURGE_MAX);
        for (_, id, position) in &gone {
            self.positions.remove(id);
            self.rows.remove(position);
        }
        gone.len() as u64
    }
}

fn waits(row: &DownlinkRow) -> bool {
    let waiting = [DownlinkState::Queued as i32, DownlinkState::Deferred as i32];
    row.finished_at_us.is_none() && waiting.contains(&row.state)
}

fn in_flight(row: &DownlinkRow) -> bool {
    let left = [DownlinkState::Leased, DownlinkState::Sent, DownlinkState::GatewayAcknowledged];
    row.finished_at_us.is_none() && left.map(|state| state as i32).contains(&row.state)
}

impl Bridge<'_> {
    pub(crate) async fn insert_downlink(&self, row: DownlinkRow) -> Result<DownlinkInsertion, StoreError> {
        self.db.try_write(move |disk| disk.bridge.downlinks.insert(row)).await
    }

    pub(crate) async fn downlink(&self, id: &str) -> Result<Option<DownlinkRow>, StoreError> {
        self.db.read(|disk| disk.bridge.downlinks.get(id).cloned()).await
    }

    pub(crate) async fn downlinks(
        &self,
        dev_eui: u64,
        include_finished: bool,
        after_position: u64,
        limit: u32,
    ) -> Result<Vec<DownlinkRow>, StoreError> {
        self.list(limit, |row| {
            row.dev_eui == dev_eui
                && row.position > after_position
                && (include_finished || row.finished_at_us.is_none())
        })
        .await
    }

    pub(crate) async fn update_downlinks(&self, updates: Vec<DownlinkUpdate>) -> Result<Vec<bool>, StoreError> {
        self.db
            .write(move |disk| updates.into_iter().map(|update| disk.bridge.downlinks.update(update)).collect())
            .await
    }

    pub(crate) async fn cancel_downlink(
        &self,
        id: &str,
        at_us: i64,
    ) -> Result<Option<(DownlinkRow, bool)>, StoreError> {
        let id = id.to_owned();
        self.db.write(move |disk| disk.bridge.downlinks.cancel(&id, at_us)).await
    }

    pub(crate) async fn open_downlink_count(&self, dev_eui: u64) -> Result<u64, StoreError> {
        self.db
            .read(|disk| {
                let rows = disk.bridge.downlinks.rows.values();
                rows.filter(|row| row.dev_eui == dev_eui && row.finished_at_us.is_none()).count() as u64
            })
            .await
    }

    pub(crate) async fn next_downlinks(
        &self,
        dev_eui: u64,
        limit: u32,
    ) -> Result<Vec<DownlinkRow>, StoreError> {
        self.db
            .read(|disk| {
                disk.bridge.downlinks.waiting(dev_eui).into_iter().take(limit as usize).cloned().collect()
            })
            .await
    }

    pub(crate) async fn lease_downlink(
        &self,
        id: &str,
        session_id: u64,
        fcnt_down: u32,
        at_us: i64,
    ) -> Result<DownlinkLease, StoreError> {
        let id = id.to_owned();
        self.db.write(move |disk| disk.bridge.downlinks.lease(&id, session_id, fcnt_down, at_us)).await
    }

    pub(crate) async fn downlink_by_lease(
        &self,
        dev_eui: u64,
        session_id: u64,
        fcnt_down: u32,
    ) -> Result<Option<DownlinkRow>, StoreError> {
        let lease = Some((session_id, fcnt_down));
        self.db
            .read(|disk| {
                let mut rows = disk.bridge.downlinks.rows.values();
                rows.find(|row| row.lease == lease && row.dev_eui == dev_eui).cloned()
            })
            .await
    }

    pub(crate) async fn pending_downlinks(&self) -> Result<Vec<PendingDownlinks>, StoreError> {
        self.db
            .read(|disk| {
                let downlinks = &disk.bridge.downlinks;
                let waiting = downlinks.rows.values().filter(|row| waits(row));
                let devices: BTreeSet<u64> = waiting.map(|row| row.dev_eui).collect();
                devices.into_iter().map(|dev_eui| downlinks.pending(dev_eui)).collect()
            })
            .await
    }

    pub(crate) async fn pending_downlinks_of(&self, dev_eui: u64) -> Result<PendingDownlinks, StoreError> {
        self.db.read(|disk| disk.bridge.downlinks.pending(dev_eui)).await
    }

    pub(crate) async fn downlinks_in_flight(
        &self,
        after_position: u64,
        limit: u32,
    ) -> Result<Vec<DownlinkRow>, StoreError> {
        self.list(limit, |row| row.position > after_position && in_flight(row)).await
    }

    pub(crate) async fn downlinks_past_deadline(
        &self,
        now_us: i64,
        limit: u32,
    ) -> Result<Vec<DownlinkRow>, StoreError> {
        let past = |row: &DownlinkRow| waits(row) && row.not_after_us.is_some_and(|deadline| deadline < now_us);
        let mut rows = self.list(u32::MAX, past).await?;
        rows.sort_by_key(|row| (row.not_after_us, row.position));
        rows.truncate(limit as usize);
        Ok(rows)
    }

    pub(crate) async fn next_deadline_us(&self) -> Result<Option<i64>, StoreError> {
        self.db
            .read(|disk| {
                let waiting = disk.bridge.downlinks.rows.values().filter(|row| waits(row));
                waiting.filter_map(|row| row.not_after_us).min()
            })
            .await
    }

    pub(crate) async fn unannounced_downlinks(&self, limit: u32) -> Result<Vec<DownlinkRow>, StoreError> {
        self.list(limit, |row| !row.announced).await
    }

    pub(crate) async fn set_announced(&self, states: Vec<(String, i32)>) -> Result<(), StoreError> {
        self.db
            .write(move |disk| {
                for (id, state) in states {
                    let row = disk.bridge.downlinks.get_mut(&id);
                    if let Some(row) = row.filter(|row| row.state == state) {
                        row.announced = true;
                    }
                }
            })
            .await
    }

    pub(crate) async fn purge_downlinks(&self, finished_before_us: i64) -> Result<u64, StoreError> {
        self.db.write(move |disk| disk.bridge.downlinks.purge(finished_before_us)).await
    }

    async fn list(
        &self,
        limit: u32,
        fits: impl Fn(&DownlinkRow) -> bool,
    ) -> Result<Vec<DownlinkRow>, StoreError> {
        self.db.read(|disk| disk.bridge.downlinks.list(limit, fits)).await
    }
}

const PURGE_MAX: usize = 1000;
