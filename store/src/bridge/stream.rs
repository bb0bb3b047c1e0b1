//! What the streams need: the keys of each session and how far each consumer came.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::BridgeTables;
use crate::{StoreError, sql};

/// The AppSKey of a session.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AppSessionRow {
    /// Its key.
    pub session_id: u64,
    /// The device.
    pub dev_eui: u64,
    /// Sealed by the caller.
    pub sealed_key: Vec<u8>,
    /// Microseconds since the Unix epoch.
    pub started_at_us: i64,
}

/// A named consumer of the event stream.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ConsumerRow {
    /// Its key.
    pub name: String,
    /// The last sequence it acknowledged; 0: none.
    pub position: u64,
    /// Microseconds since the Unix epoch.
    pub acknowledged_at_us: i64,
}

/// Session keys.
impl BridgeTables {
    /// Keeps the key of a session.
    pub async fn put_app_session(&self, row: AppSessionRow) -> Result<(), StoreError> {
        self.db.write(move |connection| Box::pin(put_app_session(connection, row))).await
    }

    /// The key of a session.
    pub async fn app_session(&self, session_id: u64) -> Result<Option<AppSessionRow>, StoreError> {
        let query = sqlx::query(
            "SELECT session_id, dev_eui, sealed_key, started_at_us FROM app_session WHERE session_id = ?1",
        )
        .bind(sql::key(session_id));
        Ok(self.db.fetch_optional("read a session key", query).await?.map(|row| app_session(&row)))
    }

    /// The sessions of a device, newest first, at most `limit`.
    pub async fn app_sessions(&self, dev_eui: u64, limit: u32) -> Result<Vec<AppSessionRow>, StoreError> {
        let query = sqlx::query(
            "SELECT session_id, dev_eui, sealed_key, started_at_us FROM app_session WHERE dev_eui = ?1 \
             ORDER BY started_at_us DESC LIMIT ?2",
        )
        .bind(sql::key(dev_eui))
        .bind(limit);
        Ok(self.db.fetch_all("read the session keys", query).await?.iter().map(app_session).collect())
    }

    /// Destroys the keys of sessions whose successor was there before a time (microseconds since the Unix epoch): with the time of the
    /// earliest event kept, no event needs them. At most 1000 a call; tells how many.
    pub async fn purge_app_sessions(&self, earliest_event_us: i64) -> Result<u64, StoreError> {
        // Looked for by a reader: it walks through all sessions, which the journal need not wait for.
        let query = sqlx::query(
            "SELECT old.session_id FROM app_session AS old WHERE EXISTS (SELECT 1 FROM app_session AS new \
             WHERE new.dev_eui = old.dev_eui AND new.started_at_us > old.started_at_us AND new.started_at_us < ?1) LIMIT 1000",
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

/// Consumers and the follower.
impl BridgeTables {
    /// Moves a consumer's position forward, creating the consumer when it is new; returns where it stands. It never moves back.
    pub async fn acknowledge(&self, name: &str, position: u64, at_us: i64) -> Result<ConsumerRow, StoreError> {
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

    /// One consumer.
    pub async fn consumer(&self, name: &str) -> Result<Option<ConsumerRow>, StoreError> {
        let query = sqlx::query("SELECT name, position, acknowledged_at_us FROM consumer WHERE name = ?1")
            .bind(name.to_owned());
        Ok(self.db.fetch_optional("read a consumer", query).await?.map(|row| consumer(&row)))
    }

    /// All consumers in order of their names.
    pub async fn consumers(&self) -> Result<Vec<ConsumerRow>, StoreError> {
        let query = sqlx::query("SELECT name, position, acknowledged_at_us FROM consumer ORDER BY name");
        Ok(self.db.fetch_all("read the consumers", query).await?.iter().map(consumer).collect())
    }

    /// Forgets a consumer.
    pub async fn delete_consumer(&self, name: &str) -> Result<bool, StoreError> {
        let query = sqlx::query("DELETE FROM consumer WHERE name = ?1").bind(name.to_owned());
        Ok(self.db.execute("delete a consumer", query).await? > 0)
    }

    /// The sequence up to which queue and keys follow the event log; 0: nothing yet. See [`Self::follow`].
    pub async fn follow_seq(&self) -> Result<u64, StoreError> {
        let query = sqlx::query("SELECT seq FROM follower WHERE id = 1");
        Ok(self.db.fetch_optional("read the follower", query).await?.map_or(0, |row| sql::uint(row.get(0))))
    }
}

pub(super) async fn put_app_session(
    connection: &mut SqliteConnection,
    row: AppSessionRow,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT OR REPLACE INTO app_session (session_id, dev_eui, sealed_key, started_at_us) VALUES (?1, ?2, ?3, ?4)",
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
    let mut count = 0;
    for session_id in sessions {
        // Without its key a session seals nothing more, so that its counter need not be remembered either.
        sqlx::query(
            "DELETE FROM app_session WHERE session_id = ?1; DELETE FROM downlink_lease_floor WHERE session_id = ?1",
        )
        .bind(session_id)
        .execute(&mut *connection)
        .await
        .map_err(StoreError::sql("destroy a session key"))?;
        count += 1;
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
