//! Who changed what.

use super::BridgeTables;
use crate::StoreError;
use crate::db::on_engine;

/// One change an operator or a role made.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AuditRow {
    /// Rises; given by the store, ignored when written.
    pub id: i64,
    /// Microseconds since the Unix epoch.
    pub at_us: i64,
    /// The API key's name, or the role.
    pub actor: String,
    /// Such as `device_create`.
    pub action: String,
    /// What was changed, such as a DevEUI as printed.
    pub subject: String,
    /// What else a reader wants to know; never a secret.
    pub detail: String,
}

impl BridgeTables {
    /// Adds a row to the audit trail.
    pub async fn append_audit(&self, row: AuditRow) -> Result<(), StoreError> {
        on_engine!(&self.db, db => db.bridge().append_audit(row).await)
    }

    /// The audit trail, newest first, before an id (`i64::MAX`: from the newest), at most `limit` rows.
    pub async fn audit(&self, before_id: i64, limit: u32) -> Result<Vec<AuditRow>, StoreError> {
        on_engine!(&self.db, db => db.bridge().audit(before_id, limit).await)
    }

    /// Removes what is older than a time (microseconds since the Unix epoch); tells how many rows.
    pub async fn purge_audit(&self, before_us: i64) -> Result<u64, StoreError> {
        on_engine!(&self.db, db => db.bridge().purge_audit(before_us).await)
    }
}
