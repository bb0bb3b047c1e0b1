//! The sessions as of the checkpoint.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::Db;
use super::disk::Contents;
use crate::StoreError;
use crate::session::{Change, SessionRow};

#[derive(Default)]
pub(super) struct SessionRows {
    rows: BTreeMap<(u64, u64), SessionRow>,
    /// The last row of the journal that all of them hold.
    pub(super) checkpoint: u64,
}

impl SessionRows {
    fn change(&mut self, key: (u64, u64), change: Change) {
        if change.fresh {
            self.rows.remove(&key);
        }
        if let (Some(fields), Some(row)) = (change.update, self.rows.get_mut(&key)) {
            fields.write_to(row);
        }
        if let Some(fields) = change.begin {
            let begun = SessionRow { dev_eui: key.0, session_id: key.1, ..SessionRow::default() };
            fields.write_to(self.rows.entry(key).or_insert(begun));
        }
    }
}

impl Db {
    pub(crate) async fn checkpoint(&self) -> Result<u64, StoreError> {
        self.read(|contents| contents.sessions.checkpoint).await
    }

    pub(crate) async fn sessions_after(&self, after: (u64, u64)) -> Result<Vec<SessionRow>, StoreError> {
        self.read(|contents| {
            let rows = contents.sessions.rows.range((Bound::Excluded(after), Bound::Unbounded));
            rows.take(PAGE_ROWS).map(|(_, row)| row.clone()).collect()
        })
        .await
    }

    pub(crate) async fn clear_sessions(&self, devices: Vec<u64>) -> Result<(), StoreError> {
        self.as_owner(move |contents| {
            for dev_eui in devices {
                contents.sessions.rows.retain(|key, _| key.0 != dev_eui);
            }
        })
        .await
    }

    pub(crate) async fn write_sessions(&self, changes: Vec<((u64, u64), Change)>) -> Result<(), StoreError> {
        self.as_owner(move |contents| {
            for (key, change) in changes {
                contents.sessions.change(key, change);
            }
        })
        .await
    }

    pub(crate) async fn move_checkpoint(
        &self,
        changes: Vec<((u64, u64), Change)>,
        to: u64,
    ) -> Result<(), StoreError> {
        self.as_owner(move |contents| {
            for (key, change) in changes {
                contents.sessions.change(key, change);
            }
            contents.sessions.checkpoint = contents.sessions.checkpoint.max(to);
        })
        .await
    }

    async fn as_owner(&self, work: impl FnOnce(&mut Contents) + Send + 'static) -> Result<(), StoreError> {
        let epoch = self.shared().epoch;
        self.try_write(move |contents| {
            contents.refuse_former_owner(epoch)?;
            work(contents);
            Ok(())
        })
        .await
    }
}

const PAGE_ROWS: usize = 4096;
