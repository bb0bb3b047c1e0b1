//! Session keys, consumers and the follower.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::BridgeRows;
use crate::memory::Bridge;
use crate::{AppSessionRow, ConsumerRow, Followed, StoreError};

impl BridgeRows {
    fn put_app_session(&mut self, row: AppSessionRow) {
        if let Some(known) = self.app_sessions.get_mut(&row.session_id) {
            *known = AppSessionRow { started_at_us: known.started_at_us, ..row };
            return;
        }
        let before = self.app_sessions.values().filter(|other| other.dev_eui == row.dev_eui);
        let after = before.map(|other| other.started_at_us.saturating_add(1)).max();
        let started_at_us = after.map_or(row.started_at_us, |after| after.max(row.started_at_us));
        self.app_sessions.insert(row.session_id, AppSessionRow { started_at_us, ..row });
    }

    fn old_app_sessions(&self, earliest_event_us: i64) -> Vec<u64> {
        let replaced = |old: &AppSessionRow| {
            self.app_sessions.values().any(|new| {
                new.dev_eui == old.dev_eui
                    && new.started_at_us > old.started_at_us
                    && new.started_at_us < earliest_event_us
            })
        };
        let old = self.app_sessions.values().filter(|row| replaced(row));
        old.map(|row| row.session_id).take(PURGE_MAX).collect()
    }

    fn acknowledge(&mut self, name: String, position: u64, at_us: i64) -> ConsumerRow {
        let row = self
            .consumers
            .entry(name.clone())
            .or_insert_with(|| ConsumerRow { name, ..ConsumerRow::default() });
        row.position = row.position.max(position);
        row.acknowledged_at_us = at_us;
        row.clone()
    }

    fn follow(&mut self, seq: u64, changes: Vec<Followed>) -> bool {
        if seq <= self.follow_seq {
            return false;
        }
        self.follow_seq = seq;
        for change in changes {
            match change {
                Followed::AppSession(row) => self.put_app_session(row),
                Followed::Downlink(update) => {
                    self.downlinks.update(update);
                }
            }
        }
        true
    }
}

impl Bridge<'_> {
    pub(crate) async fn put_app_session(&self, row: AppSessionRow) -> Result<(), StoreError> {
        self.db.write(move |disk| disk.bridge.put_app_session(row)).await
    }

    pub(crate) async fn app_session(&self, session_id: u64) -> Result<Option<AppSessionRow>, StoreError> {
        self.db.read(|disk| disk.bridge.app_sessions.get(&session_id).cloned()).await
    }

    pub(crate) async fn app_sessions(
        &self,
        dev_eui: u64,
        limit: u32,
    ) -> Result<Vec<AppSessionRow>, StoreError> {
        self.db
            .read(|disk| {
                let rows = disk.bridge.app_sessions.values().filter(|row| row.dev_eui == dev_eui);
                let mut rows: Vec<AppSessionRow> = rows.cloned().collect();
                rows.sort_by_key(|row| Reverse((row.started_at_us, row.session_id)));
                rows.truncate(limit as usize);
                rows
            })
            .await
    }

    pub(crate) async fn app_sessions_by_id(
        &self,
        session_ids: Vec<u64>,
    ) -> Result<Vec<AppSessionRow>, StoreError> {
        let ids: BTreeSet<u64> = session_ids.into_iter().collect();
        self.db
            .read(|disk| ids.iter().filter_map(|id| disk.bridge.app_sessions.get(id)).cloned().collect())
            .await
    }

    pub(crate) async fn purge_app_sessions(&self, earliest_event_us: i64) -> Result<u64, StoreError> {
        let sessions = self.db.read(|disk| disk.bridge.old_app_sessions(earliest_event_us)).await?;
        if sessions.is_empty() {
            return Ok(0);
        }
        self.db
            .write(move |disk| {
                for session_id in &sessions {
                    // Without its key a session seals nothing more, so that its counter need not be remembered either.
                    disk.bridge.app_sessions.remove(session_id);
                    disk.bridge.downlinks.forget_floor(*session_id);
                }
                sessions.len() as u64
            })
            .await
    }

    pub(crate) async fn acknowledge(
        &self,
        name: &str,
        position: u64,
        at_us: i64,
    ) -> Result<ConsumerRow, StoreError> {
        let name = name.to_owned();
        self.db.write(move |disk| disk.bridge.acknowledge(name, position, at_us)).await
    }

    pub(crate) async fn consumer(&self, name: &str) -> Result<Option<ConsumerRow>, StoreError> {
        self.db.read(|disk| disk.bridge.consumers.get(name).cloned()).await
    }

    pub(crate) async fn consumers(&self) -> Result<Vec<ConsumerRow>, StoreError> {
        self.db.read(|disk| disk.bridge.consumers.values().cloned().collect()).await
    }

    pub(crate) async fn delete_consumer(&self, name: &str) -> Result<bool, StoreError> {
        let name = name.to_owned();
        self.db.write(move |disk| disk.bridge.consumers.remove(&name).is_some()).await
    }

    pub(crate) async fn follow_seq(&self) -> Result<u64, StoreError> {
        self.db.read(|disk| disk.bridge.follow_seq).await
    }

    pub(crate) async fn follow(&self, seq: u64, changes: Vec<Followed>) -> Result<bool, StoreError> {
        self.db.write(move |disk| disk.bridge.follow(seq, changes)).await
    }
}

const PURGE_MAX: usize = 1000;
