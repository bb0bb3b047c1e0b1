//! Session keys, consumers and the follower, in SQL.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use crate::sqlite::{Bridge, sql};
use crate::{AppSessionRow, ConsumerRow, StoreError};

impl Bridge<'_> {
    pub(crate) async fn put_app_session(&self, row: AppSessionRow) -> Result<(), StoreError> {
        self.db.write(move |connection| Box::pin(put_app_session(connection, row))).await
    }

    pub(crate) async fn app_session(&self, session_id: u64) -> Result<Option<AppSessionRow>, StoreError> {
        let query = sqlx::query(
            "SELECT session_id, dev_eui, sealed_key, started_at_us FROM app_session WHERE session_id = ?1",
        )
        .bind(sql::key(session_id));
        Ok(self.db.fetch_optional("read a session key", query).await?.map(|row| app_session(&row)))
    }

    pub(crate) async fn app_sessions(
        &self,
        dev_eui: u64,
        limit: u32,
    ) -> Result<Vec<AppSessionRow>, StoreError> {
        let query = sqlx::query(
            "SELECT session_id, dev_eui, sealed_key, started_at_us FROM app_session WHERE dev_eui = ?1 \
             ORDER BY started_at_us DESC, session_id DESC LIMIT ?2",
        )
        .bind(sql::key(dev_eui))
        .bind(limit);
        Ok(self.db.fetch_all("read the session keys", query).await?.iter().map(app_session).collect())
    }

    pub(crate) async fn purge_app_sessions(&self, earliest_event_us: i64) -> Result<u64, StoreError> {
        // Looked for by a reader: it walks through all sessions, which the journal need not wait for.
        let query = sqlx::query(
            "SELECT old.session_id FROM app_session AS old WHERE EXISTS (SELECT 1 FROM app_session AS new \
             WHERE new.dev_eui = old.dev_eui AND new.started_at_us > old.started_at_us AND new.started_at_us < ?1) \
             ORDER BY old.session_id LIMIT 1000",
        )
        .bind(earliest_event_us);
        let rows = self.db.fetch_all("look for old session keys", query).await?;
        let sessions: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        if sessions.is_empty() {
            return Ok(0);
        }
        self.db.write(move |connection| Box::pin(destroy(connection, sessions))).await
    }
}

impl Bridge<'_> {
    pub(crate) async fn acknowledge(
        &self,
        name: &str,
        position: u64,
        at_us: i64,
    ) -> Result<ConsumerRow, StoreError> {
        let name = name.to_owned();
        self.db
            .write(move |connection| {
                Box::pin(async move {
                    let row = sqlx::query(
                        "INSERT INTO consumer (name, position, acknowledged_at_us) VALUES (?1, ?2, ?3) \
                         ON CONFLICT (name) DO UPDATE SET position = max(position, excluded.position), \
                         acknowledged_at_us = excluded.acknowledged_at_us RETURNING name, position, acknowledged_at_us",
                    )
                    .bind(name)
                    .bind(sql::int(position))
                    .bind(at_us)
                    .fetch_one(connection)
                    .await;
                    row.map(|row| consumer(&row)).map_err(StoreError::sql("write a position"))
                })
            })
            .await
    }

    pub(crate) async fn consumer(&self, name: &str) -> Result<Option<ConsumerRow>, StoreError> {
        let query = sqlx::query("SELECT name, position, acknowledged_at_us FROM consumer WHERE name = ?1")
            .bind(name.to_owned());
        Ok(self.db.fetch_optional("read a consumer", query).await?.map(|row| consumer(&row)))
    }

    pub(crate) async fn consumers(&self) -> Result<Vec<ConsumerRow>, StoreError> {
        let query = sqlx::query("SELECT name, position, acknowledged_at_us FROM consumer ORDER BY name");
        Ok(self.db.fetch_all("read the consumers", query).await?.iter().map(consumer).collect())
    }

    pub(crate) async fn delete_consumer(&self, name: &str) -> Result<bool, StoreError> {
        let query = sqlx::query("DELETE FROM consumer WHERE name = ?1").bind(name.to_owned());
        Ok(self.db.execute("delete a consumer", query).await? > 0)
    }

    pub(crate) async fn follow_seq(&self) -> Result<u64, StoreError> {
        let query = sqlx::query("SELECT seq FROM follower WHERE id = 1");
        Ok(self.db.fetch_optional("read the follower", query).await?.map_or(0, |row| sql::uint(row.get(0))))
    }
}

pub(super) async fn put_app_session(
    connection: &mut SqliteConnection,
    row: AppSessionRow,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO app_session (session_id, dev_eui, sealed_key, started_at_us) \
         SELECT ?1, ?2, ?3, max(?4, coalesce((SELECT max(started_at_us) + 1 FROM app_session \
         WHERE dev_eui = ?2 AND session_id <> ?1), ?4)) WHERE true \
         ON CONFLICT (session_id) DO UPDATE SET dev_eui = excluded.dev_eui, sealed_key = excluded.sealed_key",
    )
    .bind(sql::key(row.session_id))
    .bind(sql::key(row.dev_eui))
    .bind(row.sealed_key)
    .bind(row.started_at_us)
    .execute(connection)
    .await
    .map(drop)
    .map_err(StoreError::sql("write a session key"))
}

async fn destroy(connection: &mut SqliteConnection, sessions: Vec<i64>) -> Result<u64, StoreError> {
    let mut count = 0_u64;
    for session_id in sessions {
        // Without its key a session seals nothing more, so that its counter need not be remembered either.
        sqlx::query(
            "DELETE FROM app_session WHERE session_id = ?1; DELETE FROM downlink_lease_floor WHERE session_id = ?1",
        )
        .bind(session_id)
        .execute(&mut *connection)
        .await
        .map_err(StoreError::sql("destroy a session key"))?;
        count = count.saturating_add(1);
    }
    Ok(count)
}

pub(super) fn app_session(row: &SqliteRow) -> AppSessionRow {
    AppSessionRow {
        session_id: sql::id(row.get(0)),
        dev_eui: sql::id(row.get(1)),
        sealed_key: row.get(2),
        started_at_us: row.get(3),
    }
}

fn consumer(row: &SqliteRow) -> ConsumerRow {
    ConsumerRow { name: row.get(0), position: sql::uint(row.get(1)), acknowledged_at_us: row.get(2) }
}
