//! Who changed what.

use crate::memory::Bridge;
use crate::{AuditRow, StoreError};

impl Bridge<'_> {
    pub(crate) async fn append_audit(&self, row: AuditRow) -> Result<(), StoreError> {
        self.db.write(move |disk| disk.append_audit(row)).await
    }

    pub(crate) async fn audit(&self, before_id: i64, limit: u32) -> Result<Vec<AuditRow>, StoreError> {
        self.db
            .read(|disk| {
                let older = disk.audit.iter().rev().filter(|row| row.id < before_id);
                older.take(limit as usize).cloned().collect()
            })
            .await
    }

    pub(crate) async fn purge_audit(&self, before_us: i64) -> Result<u64, StoreError> {
        self.db
            .write(move |disk| {
                let end = disk.audit.get(PURGE_MAX).map_or(i64::MAX, |row| row.id);
                let count = disk.audit.len();
                disk.audit.retain(|row| row.id >= end || row.at_us >= before_us);
                count.saturating_sub(disk.audit.len()) as u64
            })
            .await
    }
}

const PURGE_MAX: usize = 1000;
