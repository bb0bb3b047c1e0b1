//! The audit trail, in SQL.

use sqlx::{Row, SqliteConnection};

use crate::sqlite::Bridge;
use crate::{AuditRow, StoreError};

impl Bridge<'_> {
    pub(crate) async fn append_audit(&self, row: AuditRow) -> Result<(), StoreError> {
        self.db.write(move |connection| Box::pin(write_audit(connection, row))).await
    }

    pub(crate) async fn audit(&self, before_id: i64, limit: u32) -> Result<Vec<AuditRow>, StoreError> {
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

    pub(crate) async fn purge_audit(&self, before_us: i64) -> Result<u64, StoreError> {
        // Ids rise with time, so that the end to remove is found without an index on the time.
        let query = sqlx::query(
            "DELETE FROM audit WHERE id IN (SELECT id FROM audit ORDER BY id LIMIT 1000) AND at_us < ?1",
        )
        .bind(before_us);
        self.db.execute("remove old audit rows", query).await
    }
}

/// Adds a row within a transaction that is under way.
pub(in crate::sqlite) async fn write_audit(
    connection: &mut SqliteConnection,
    row: AuditRow,
) -> Result<(), StoreError> {
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
