//! The rows of the journal, for those who read and remove them.

use sqlx::{Row, SqliteConnection};

use super::{Db, sql};
use crate::StoreError;
use crate::metrics::add;
use crate::retention::OldRow;

impl Db {
    /// The row that holds a sequence and those behind it as (first sequence, body), a few at a time so that no read lasts long.
    pub(crate) async fn rows_from(&self, seq: u64) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let query = sqlx::query(
            "SELECT first_seq, body FROM journal WHERE count > 0 AND first_seq >= coalesce( \
             (SELECT max(first_seq) FROM journal WHERE count > 0 AND first_seq <= ?1), 0) ORDER BY first_seq LIMIT 8",
        )
        .bind(sql::int(seq));
        let rows = self.fetch_all(READ, query).await?;
        Ok(rows.iter().map(|row| (sql::uint(row.get(0)), row.get(1))).collect())
    }

    /// The numbers of the first and the last row.
    pub(crate) async fn journal_ends(&self) -> Result<Option<(u64, u64)>, StoreError> {
        let query = sqlx::query("SELECT (SELECT min(batch) FROM journal), (SELECT max(batch) FROM journal)");
        let row = self.fetch_optional(READ, query).await?;
        let ends = row.and_then(|row| Option::zip(row.get::<Option<i64>, _>(0), row.get::<Option<i64>, _>(1)));
        Ok(ends.map(|(first, last)| (sql::uint(first), sql::uint(last))))
    }

    /// The time of the newest record of a row; `None`: the row is not there.
    pub(crate) async fn at_us_max(&self, batch: u64) -> Result<Option<i64>, StoreError> {
        let query = sqlx::query("SELECT at_us_max FROM journal WHERE batch = ?1").bind(sql::int(batch));
        Ok(self.fetch_optional(READ, query).await?.map(|row| row.get(0)))
    }

    /// The first row from a number on that holds a record of a time or later, as (first sequence, body).
    pub(crate) async fn row_at(&self, batch: u64, at_us: i64) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        let query = sqlx::query(
            "SELECT first_seq, body FROM journal WHERE batch >= ?1 AND count > 0 AND at_us_max >= ?2 ORDER BY batch LIMIT 1",
        )
        .bind(sql::int(batch))
        .bind(at_us);
        Ok(self.fetch_optional(READ, query).await?.map(|row| (sql::uint(row.get(0)), row.get(1))))
    }

    /// The rows behind a number as (number, body), a few at a time.
    pub(crate) async fn rows_after(&self, batch: u64) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let query = sqlx::query("SELECT batch, body FROM journal WHERE batch > ?1 ORDER BY batch LIMIT 32")
            .bind(sql::int(batch));
        let rows = self.fetch_all(READ, query).await?;
        Ok(rows.iter().map(|row| (sql::uint(row.get(0)), row.get(1))).collect())
    }

    /// The oldest rows that the checkpoint has passed, without the last one of all; at most `limit`.
    pub(crate) async fn old_rows(&self, limit: u32) -> Result<Vec<OldRow>, StoreError> {
        let query = sqlx::query(
            "SELECT batch, first_seq + count, at_us_max, end_bytes FROM journal \
             WHERE batch <= (SELECT checkpoint_batch FROM meta WHERE id = 1) \
             AND batch < (SELECT max(batch) FROM journal) ORDER BY batch LIMIT ?1",
        )
        .bind(limit);
        let rows = self.fetch_all(READ, query).await?;
        let old = rows.iter().map(|row| {
            Ok(OldRow {
                batch: sql::uint(row.get(0)),
                next_seq: sql::computed(row, 1, "a row of the journal")?,
                at_us_max: row.get(2),
                end_bytes: sql::uint(row.get(3)),
            })
        });
        old.collect()
    }

    /// Removes the rows up to a number, as the owner.
    pub(crate) async fn remove_rows(&self, through: u64) -> Result<u64, StoreError> {
        let epoch = self.shared().epoch;
        let removed = self.write(move |connection| {
            Box::pin(async move {
                refuse_former_owner(connection, epoch).await?;
                let done = sqlx::query("DELETE FROM journal WHERE batch <= ?1")
                    .bind(sql::int(through))
                    .execute(connection)
                    .await;
                Ok(done.map_err(StoreError::sql("remove old events"))?.rows_affected())
            })
        });
        let removed = removed.await?;
        add(&self.writer.file.wal_frames, removed);
        Ok(removed)
    }

    /// Tries whether writing works: takes new pages, which is what a full disk refuses, and gives them back.
    pub(crate) async fn probe(&self) -> Result<(), StoreError> {
        let query = sqlx::query(
            "CREATE TABLE probe (body BLOB); INSERT INTO probe VALUES (zeroblob(65536)); DROP TABLE probe",
        );
        self.execute("try a write", query).await.map(drop)
    }
}

/// A former owner writes nothing: what it read before it lost the database is old.
pub(super) async fn refuse_former_owner(
    connection: &mut SqliteConnection,
    epoch: u64,
) -> Result<(), StoreError> {
    let owned: bool = sqlx::query_scalar("SELECT epoch = ?1 FROM meta WHERE id = 1")
        .bind(sql::int(epoch))
        .fetch_one(connection)
        .await
        .map_err(StoreError::sql("read the owner"))?;
    if owned { Ok(()) } else { Err(StoreError::Fenced { epoch }) }
}

const READ: &str = "read the journal";
