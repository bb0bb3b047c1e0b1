//! The queue of downlinks, in SQL.

use proto::v1::DownlinkState;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use crate::sqlite::db::Query;
use crate::sqlite::{Bridge, sql};
use crate::{DownlinkInsertion, DownlinkLease, DownlinkRow, DownlinkUpdate, PendingDownlinks, StoreError};

/// The columns `downlink()` reads, in its order.
macro_rules! column_names {
    () => {
        "id, dev_eui, f_port, payload, confirmed, priority, not_after_us, idempotency_key, state, reason, created_at_us, \
         updated_at_us, finished_at_us, session_id, fcnt_down, attempts, announced, position"
    };
}

macro_rules! columns {
    () => {
        concat!("SELECT ", column_names!(), " FROM downlink ")
    };
}

impl Bridge<'_> {
    pub(crate) async fn insert_downlink(&self, row: DownlinkRow) -> Result<DownlinkInsertion, StoreError> {
        self.db.write(move |connection| Box::pin(insert(connection, row))).await
    }

    pub(crate) async fn downlink(&self, id: &str) -> Result<Option<DownlinkRow>, StoreError> {
        let query = sqlx::query(concat!(columns!(), "WHERE id = ?1")).bind(id.to_owned());
        Ok(self.db.fetch_optional(READ, query).await?.map(|row| downlink(&row)))
    }

    pub(crate) async fn downlinks(
        &self,
        dev_eui: u64,
        include_finished: bool,
        after_position: u64,
        limit: u32,
    ) -> Result<Vec<DownlinkRow>, StoreError> {
        let query = sqlx::query(concat!(
            columns!(),
            "WHERE dev_eui = ?1 AND position > ?2 AND (finished_at_us IS NULL OR ?3) ORDER BY position LIMIT ?4"
        ))
        .bind(sql::key(dev_eui))
        .bind(sql::int(after_position))
        .bind(include_finished)
        .bind(limit);
        self.list(query).await
    }

    pub(crate) async fn update_downlinks(&self, updates: Vec<DownlinkUpdate>) -> Result<Vec<bool>, StoreError> {
        self.db
            .write(move |connection| {
                Box::pin(async move {
                    let mut changed = Vec::with_capacity(updates.len());
                    for update in updates {
                        changed.push(apply_update(connection, update).await?);
                    }
                    Ok(changed)
                })
            })
            .await
    }

    pub(crate) async fn cancel_downlink(
        &self,
        id: &str,
        at_us: i64,
    ) -> Result<Option<(DownlinkRow, bool)>, StoreError> {
        let id = id.to_owned();
        self.db.write(move |connection| Box::pin(cancel(connection, id, at_us))).await
    }

    pub(crate) async fn open_downlink_count(&self, dev_eui: u64) -> Result<u64, StoreError> {
        let query = sqlx::query("SELECT count(*) FROM downlink WHERE dev_eui = ?1 AND finished_at_us IS NULL")
            .bind(sql::key(dev_eui));
        Ok(self.db.fetch_optional("count downlinks", query).await?.map_or(0, |row| sql::uint(row.get(0))))
    }
}

impl Bridge<'_> {
    pub(crate) async fn next_downlinks(
        &self,
        dev_eui: u64,
        limit: u32,
    ) -> Result<Vec<DownlinkRow>, StoreError> {
        let query = sqlx::query(concat!(
            columns!(),
            "WHERE dev_eui = ?1 AND finished_at_us IS NULL AND state IN (1, 10) ORDER BY priority DESC, position LIMIT ?2"
        ))
        .bind(sql::key(dev_eui))
        .bind(limit);
        self.list(query).await
    }

    pub(crate) async fn lease_downlink(
        &self,
        id: &str,
        session_id: u64,
        fcnt_down: u32,
        at_us: i64,
    ) -> Result<DownlinkLease, StoreError> {
        let id = id.to_owned();
        self.db.write(move |connection| Box::pin(lease(connection, id, session_id, fcnt_down, at_us))).await
    }

    pub(crate) async fn downlink_by_lease(
        &self,
        dev_eui: u64,
        session_id: u64,
        fcnt_down: u32,
    ) -> Result<Option<DownlinkRow>, StoreError> {
        let query =
            sqlx::query(concat!(columns!(), "WHERE session_id = ?1 AND fcnt_down = ?2 AND dev_eui = ?3"))
                .bind(sql::key(session_id))
                .bind(i64::from(fcnt_down))
                .bind(sql::key(dev_eui));
        Ok(self.db.fetch_optional(READ, query).await?.map(|row| downlink(&row)))
    }

    pub(crate) async fn pending_downlinks(&self) -> Result<Vec<PendingDownlinks>, StoreError> {
        let query = sqlx::query(
            "SELECT dev_eui, count(*), (SELECT length(next.payload) FROM downlink AS next \
             WHERE next.dev_eui = downlink.dev_eui AND next.finished_at_us IS NULL AND next.state IN (1, 10) \
             ORDER BY next.priority DESC, next.position LIMIT 1) \
             FROM downlink WHERE finished_at_us IS NULL AND state IN (1, 10) GROUP BY dev_eui ORDER BY dev_eui",
        );
        Ok(self.db.fetch_all("read what is pending", query).await?.iter().map(pending).collect())
    }

    pub(crate) async fn pending_downlinks_of(&self, dev_eui: u64) -> Result<PendingDownlinks, StoreError> {
        let query = sqlx::query(
            "SELECT ?1, count(*), (SELECT length(next.payload) FROM downlink AS next \
             WHERE next.dev_eui = ?1 AND next.finished_at_us IS NULL AND next.state IN (1, 10) \
             ORDER BY next.priority DESC, next.position LIMIT 1) \
             FROM downlink WHERE dev_eui = ?1 AND finished_at_us IS NULL AND state IN (1, 10)",
        )
        .bind(sql::key(dev_eui));
        let row = self.db.fetch_optional("read what is pending", query).await?;
        Ok(row.map_or_else(|| PendingDownlinks { dev_eui, ..PendingDownlinks::default() }, |row| pending(&row)))
    }

    pub(crate) async fn downlinks_in_flight(
        &self,
        after_position: u64,
        limit: u32,
    ) -> Result<Vec<DownlinkRow>, StoreError> {
        let query = sqlx::query(concat!(
            columns!(),
            "WHERE finished_at_us IS NULL AND state IN (2, 3, 4) AND position > ?1 ORDER BY position LIMIT ?2"
        ))
        .bind(sql::int(after_position))
        .bind(limit);
        self.list(query).await
    }

    pub(crate) async fn downlinks_past_deadline(
        &self,
        now_us: i64,
        limit: u32,
    ) -> Result<Vec<DownlinkRow>, StoreError> {
        let query = sqlx::query(concat!(
            columns!(),
            "WHERE not_after_us IS NOT NULL AND not_after_us < ?1 AND finished_at_us IS NULL AND state IN (1, 10) \
             ORDER BY not_after_us, position LIMIT ?2"
        ))
        .bind(now_us)
        .bind(limit);
        self.list(query).await
    }

    pub(crate) async fn next_deadline_us(&self) -> Result<Option<i64>, StoreError> {
        let query = sqlx::query(
            "SELECT min(not_after_us) FROM downlink \
             WHERE not_after_us IS NOT NULL AND finished_at_us IS NULL AND state IN (1, 10)",
        );
        Ok(self.db.fetch_optional("read the next deadline", query).await?.and_then(|row| row.get(0)))
    }

    pub(crate) async fn unannounced_downlinks(&self, limit: u32) -> Result<Vec<DownlinkRow>, StoreError> {
        let query =
            sqlx::query(concat!(columns!(), "WHERE announced = 0 ORDER BY position LIMIT ?1")).bind(limit);
        self.list(query).await
    }

    pub(crate) async fn set_announced(&self, states: Vec<(String, i32)>) -> Result<(), StoreError> {
        self.db
            .write(move |connection| {
                Box::pin(async move {
                    for (id, state) in states {
                        sqlx::query("UPDATE downlink SET announced = 1 WHERE id = ?1 AND state = ?2")
                            .bind(id)
                            .bind(state)
                            .execute(&mut *connection)
                            .await
                            .map_err(StoreError::sql(WRITE))?;
                    }
                    Ok(())
                })
            })
            .await
    }

    pub(crate) async fn purge_downlinks(&self, finished_before_us: i64) -> Result<u64, StoreError> {
        let query = sqlx::query(
            "DELETE FROM downlink WHERE id IN (SELECT id FROM downlink \
             WHERE finished_at_us IS NOT NULL AND finished_at_us < ?1 AND announced = 1 ORDER BY finished_at_us, id LIMIT 1000)",
        )
        .bind(finished_before_us);
        self.db.execute("remove finished downlinks", query).await
    }

    async fn list(&self, query: Query) -> Result<Vec<DownlinkRow>, StoreError> {
        Ok(self.db.fetch_all(READ, query).await?.iter().map(downlink).collect())
    }
}

async fn insert(connection: &mut SqliteConnection, row: DownlinkRow) -> Result<DownlinkInsertion, StoreError> {
    if !row.idempotency_key.is_empty() {
        let first = sqlx::query(concat!(columns!(), "WHERE dev_eui = ?1 AND idempotency_key = ?2"))
            .bind(sql::key(row.dev_eui))
            .bind(row.idempotency_key.clone())
            .fetch_optional(&mut *connection)
            .await
            .map_err(StoreError::sql(READ))?;
        if let Some(first) = first {
            return Ok(DownlinkInsertion::Duplicate(downlink(&first)));
        }
    }
    let inserted = sqlx::query(concat!(
        "INSERT INTO downlink (id, dev_eui, f_port, payload, confirmed, priority, not_after_us, idempotency_key, state, \
         reason, created_at_us, updated_at_us, finished_at_us, session_id, fcnt_down, attempts, announced, position) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, nullif(?8, ''), ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, \
         max(?11, coalesce((SELECT max(position) FROM downlink), 0) + 1)) RETURNING ",
        column_names!()
    ))
    .bind(row.id)
    .bind(sql::key(row.dev_eui))
    .bind(row.f_port)
    .bind(row.payload)
    .bind(row.confirmed)
    .bind(row.priority)
    .bind(row.not_after_us)
    .bind(row.idempotency_key)
    .bind(row.state)
    .bind(row.reason)
    .bind(row.created_at_us)
    .bind(row.updated_at_us)
    .bind(row.finished_at_us)
    .bind(row.lease.map(|(session_id, _)| sql::key(session_id)))
    .bind(row.lease.map(|(_, fcnt_down)| i64::from(fcnt_down)))
    .bind(row.attempts)
    .bind(row.announced)
    .fetch_one(connection)
    .await
    .map_err(StoreError::sql(WRITE))?;
    Ok(DownlinkInsertion::Inserted(downlink(&inserted)))
}

async fn lease(
    connection: &mut SqliteConnection,
    id: String,
    session_id: u64,
    fcnt_down: u32,
    at_us: i64,
) -> Result<DownlinkLease, StoreError> {
    let last: Option<i64> =
        sqlx::query_scalar("SELECT fcnt_down FROM downlink_lease_floor WHERE session_id = ?1")
            .bind(sql::key(session_id))
            .fetch_optional(&mut *connection)
            .await
            .map_err(StoreError::sql(READ))?;
    if let Some(last) = last.map(sql::uint32)
        && last >= fcnt_down
    {
        return Ok(DownlinkLease::CounterUsed { last });
    }
    let leased = sqlx::query(concat!(
        "UPDATE downlink SET state = ?5, reason = '', updated_at_us = ?4, session_id = ?2, fcnt_down = ?3, \
         attempts = attempts + 1, announced = 0 WHERE id = ?1 AND finished_at_us IS NULL AND state IN (1, 10) RETURNING ",
        column_names!()
    ))
    .bind(id)
    .bind(sql::key(session_id))
    .bind(i64::from(fcnt_down))
    .bind(at_us)
    .bind(DownlinkState::Leased as i32)
    .fetch_optional(&mut *connection)
    .await
    .map_err(StoreError::sql(WRITE))?;
    let Some(leased) = leased.map(|row| downlink(&row)) else {
        return Ok(DownlinkLease::NotWaiting);
    };
    sqlx::query(
        "INSERT INTO downlink_lease_floor (session_id, dev_eui, fcnt_down) VALUES (?1, ?2, ?3) \
         ON CONFLICT (session_id) DO UPDATE SET fcnt_down = excluded.fcnt_down",
    )
    .bind(sql::key(session_id))
    .bind(sql::key(leased.dev_eui))
    .bind(i64::from(fcnt_down))
    .execute(connection)
    .await
    .map_err(StoreError::sql(WRITE))?;
    Ok(DownlinkLease::Leased(leased))
}

async fn cancel(
    connection: &mut SqliteConnection,
    id: String,
    at_us: i64,
) -> Result<Option<(DownlinkRow, bool)>, StoreError> {
    let cancelled = sqlx::query(concat!(
        "UPDATE downlink SET state = ?3, reason = '', updated_at_us = ?2, finished_at_us = ?2, announced = 0 \
         WHERE id = ?1 AND finished_at_us IS NULL AND state IN (1, 10) RETURNING ",
        column_names!()
    ))
    .bind(id.clone())
    .bind(at_us)
    .bind(DownlinkState::Cancelled as i32)
    .fetch_optional(&mut *connection)
    .await
    .map_err(StoreError::sql(WRITE))?;
    if let Some(row) = cancelled {
        return Ok(Some((downlink(&row), true)));
    }
    let row = sqlx::query(concat!(columns!(), "WHERE id = ?1"))
        .bind(id)
        .fetch_optional(connection)
        .await
        .map_err(StoreError::sql(READ))?;
    Ok(row.map(|row| (downlink(&row), false)))
}

/// Changes a state within a transaction that is under way; tells whether it did.
pub(super) async fn apply_update(
    connection: &mut SqliteConnection,
    update: DownlinkUpdate,
) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE downlink SET state = ?2, reason = ?3, updated_at_us = ?4, finished_at_us = iif(?5, ?4, NULL), \
         announced = ?6, attempts = attempts - iif(?9 AND attempts > 0, 1, 0) \
         WHERE id = ?1 AND finished_at_us IS NULL \
         AND (?7 IS NULL OR (session_id = ?7 AND fcnt_down = ?8))",
    )
    .bind(update.id)
    .bind(update.state)
    .bind(update.reason)
    .bind(update.at_us)
    .bind(update.finished)
    .bind(update.announced)
    .bind(update.only_lease.map(|(session_id, _)| sql::key(session_id)))
    .bind(update.only_lease.map(|(_, fcnt_down)| i64::from(fcnt_down)))
    .bind(update.never_left)
    .execute(connection)
    .await
    .map_err(StoreError::sql(WRITE))?;
    Ok(done.rows_affected() > 0)
}

fn downlink(row: &SqliteRow) -> DownlinkRow {
    let session_id: Option<i64> = row.get(13);
    let fcnt_down: Option<i64> = row.get(14);
    DownlinkRow {
        id: row.get(0),
        dev_eui: sql::id(row.get(1)),
        f_port: u8::try_from(row.get::<i64, _>(2)).unwrap_or(0),
        payload: row.get(3),
        confirmed: row.get(4),
        priority: sql::uint32(row.get(5)),
        not_after_us: row.get(6),
        idempotency_key: row.get::<Option<String>, _>(7).unwrap_or_default(),
        state: row.get(8),
        reason: row.get(9),
        created_at_us: row.get(10),
        updated_at_us: row.get(11),
        finished_at_us: row.get(12),
        lease: session_id.zip(fcnt_down).map(|(id, fcnt)| (sql::id(id), sql::uint32(fcnt))),
        attempts: sql::uint32(row.get(15)),
        announced: row.get(16),
        position: sql::uint(row.get(17)),
    }
}

fn pending(row: &SqliteRow) -> PendingDownlinks {
    PendingDownlinks {
        dev_eui: sql::id(row.get(0)),
        count: sql::uint32(row.get(1)),
        next_len: row.get::<Option<i64>, _>(2).map_or(0, sql::uint32),
    }
}

const READ: &str = "read a downlink";

const WRITE: &str = "write a downlink";
