//! Who changed what.

use sqlx::{Row, SqliteConnection};

use super::BridgeTables;
use crate::StoreError;

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
        self.db.write(move |connection| Box::pin(write_audit(connection, row))).await
    }

    /// The audit trail, newest first, before an id (`i64::MAX`: from the newest), at most `limit` rows.
    pub async fn audit(&self, before_id: i64, limit: u32) -> Result<Vec<AuditRow>, StoreError> {
        let query = sqlx::query(
            "SELECT id, at_us, actor, action, subject, detail FROM audit WHERE id < ?1 ORDER BY id DESC LIMIT ?2",
        )
        .bind(before_id)
        .bind(limit);
        let rows = self.db.fetch_all("read the audit trail", query).await?;
        let read = |row: sqlx::sqlite::SqliteRow| AuditRow {
            id: row.get(0),
            at_us: row.get(1),
            actor: row.get(2),
            action: row.get(3),
            subject: row.get(4),
            detail: row.get(5),
        };
        Ok(rows.into_iter().map(read).collect())
    }

    /// Removes what is older than a time (microseconds since the Unix epoch); tells how many rows.
    pub async fn purge_audit(&self, before_us: i64) -> Result<u64, StoreError> {
        // Ids rise with time, so that the end to remove is found without an index on the time.
        let query = sqlx::query(
            "DELETE FROM audit WHERE id IN (SELECT id FROM audit ORDER BY id LIMIT 1000) AND at_us < ?1",
        )
        .bind(before_us);
        self.db.execute("remove old audit rows", query).await
    }
}

/// Adds a row within a transaction that is under way.
pub(crate) async fn write_audit(connection: &mut SqliteConnection, row: AuditRow) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO audit (at_us, actor, action, subject, detail) VALUES (?1, ?2, ?3, ?4, ?5)")
        .bind(row.at_us)
        .bind(row.actor)
        .bind(row.action)
        .bind(row.subject)
        .bind(row.detail)
        .execute(connection)
        .await
        .map(drop)
        .map_err(StoreError::sql("write the audit trail"))
}
