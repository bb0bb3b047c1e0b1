//! The session table, in SQL.

use futures_util::TryStreamExt;
use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection};

use super::journal::refuse_former_owner;
use super::{Db, sql};
use crate::StoreError;
use crate::metrics::add;
use crate::session::{Change, Fields, SessionRow};

impl Db {
    /// The last row of the journal that all sessions hold.
    pub(crate) async fn checkpoint(&self) -> Result<u64, StoreError> {
        let query = sqlx::query("SELECT checkpoint_batch FROM meta WHERE id = 1");
        let row = self.fetch_optional("read the checkpoint", query).await?;
        Ok(row.map_or(0, |row| sql::uint(row.get(0))))
    }

    /// Sessions in order of (DevEUI, session id) behind a key; none: there are no more.
    pub(crate) async fn sessions_after(&self, after: (u64, u64)) -> Result<Vec<SessionRow>, StoreError> {
        self.read(move |connection| Box::pin(page_after(connection, after))).await
    }

    /// Removes all sessions of these devices, as the owner.
    pub(crate) async fn clear_sessions(&self, devices: Vec<u64>) -> Result<(), StoreError> {
        let epoch = self.shared().epoch;
        self.write(move |connection| {
            Box::pin(async move {
                refuse_former_owner(connection, epoch).await?;
                clear(connection, devices).await
            })
        })
        .await
    }

    /// Changes sessions, as the owner.
    pub(crate) async fn write_sessions(&self, changes: Vec<((u64, u64), Change)>) -> Result<(), StoreError> {
        let epoch = self.shared().epoch;
        // Neighbours share pages only when many sessions change.
        add(&self.writer.file.wal_frames, changes.len() as u64);
        self.write(move |connection| {
            Box::pin(async move {
                refuse_former_owner(connection, epoch).await?;
                write_chunk(connection, changes).await
            })
        })
        .await
    }

    /// Changes sessions and moves the checkpoint, in one transaction, as the owner.
    pub(crate) async fn move_checkpoint(
        &self,
        changes: Vec<((u64, u64), Change)>,
        to: u64,
    ) -> Result<(), StoreError> {
        let epoch = self.shared().epoch;
        self.write(move |connection| {
            Box::pin(async move {
                refuse_former_owner(connection, epoch).await?;
                write_chunk(connection, changes).await?;
                sqlx::query("UPDATE meta SET checkpoint_batch = max(checkpoint_batch, ?1) WHERE id = 1")
                    .bind(sql::int(to))
                    .execute(connection)
                    .await
                    .map(drop)
                    .map_err(StoreError::sql("move the checkpoint"))
            })
        })
        .await
    }
}

async fn page_after(
    connection: &mut SqliteConnection,
    (dev_eui, session_id): (u64, u64),
) -> Result<Vec<SessionRow>, StoreError> {
    let failed = || StoreError::sql("read the sessions");
    let mut page = Vec::with_capacity(PAGE_ROWS);
    let mut rows = sqlx::query(
        "SELECT dev_eui, session_id, sealed_keys, state, fcnt_up_plus_1, n_fcnt_down, a_fcnt_down FROM session \
         WHERE (dev_eui, session_id) > (?1, ?2) ORDER BY dev_eui, session_id LIMIT ?3",
    )
    .bind(sql::key(dev_eui))
    .bind(sql::key(session_id))
    .bind(sql::int(PAGE_ROWS as u64))
    .fetch(connection);
    while let Some(row) = rows.try_next().await.map_err(failed())? {
        let number = |column: usize| row.get::<Option<i64>, _>(column).unwrap_or(0);
        page.push(SessionRow {
            dev_eui: sql::id(row.get(0)),
            session_id: sql::id(row.get(1)),
            sealed_keys: row.get(2),
            state: row.get::<Option<Vec<u8>>, _>(3).unwrap_or_default(),
            fcnt_up_plus_1: sql::uint(number(4)),
            n_fcnt_down: sql::uint32(number(5)),
            a_fcnt_down: sql::uint32(number(6)),
        });
    }
    Ok(page)
}

async fn clear(connection: &mut SqliteConnection, devices: Vec<u64>) -> Result<(), StoreError> {
    for dev_eui in devices {
        sqlx::query("DELETE FROM session WHERE dev_eui = ?1")
            .bind(sql::key(dev_eui))
            .execute(&mut *connection)
            .await
            .map_err(StoreError::sql("remove sessions"))?;
    }
    Ok(())
}

async fn write_chunk(
    connection: &mut SqliteConnection,
    chunk: Vec<((u64, u64), Change)>,
) -> Result<(), StoreError> {
    let mut updated = Vec::with_capacity(chunk.len());
    let mut begun = Vec::new();
    for (key, change) in chunk {
        if change.fresh {
            sqlx::query("DELETE FROM session WHERE dev_eui = ?1 AND session_id = ?2")
                .bind(sql::key(key.0))
                .bind(sql::key(key.1))
                .execute(&mut *connection)
                .await
                .map_err(StoreError::sql("remove a session"))?;
        }
        updated.extend(change.update.map(|fields| (key, fields)));
        begun.extend(change.begin.map(|fields| (key, *fields)));
    }
    // An update finds the row as it was before the session began.
    for (rows, tail) in [(updated, UPDATE), (begun, UPSERT)] {
        let mut rows = rows.into_iter();
        // Three sizes, so that three statements stay prepared and not one for each remainder.
        for size in [256, 32, 1] {
            while rows.len() >= size {
                statement(connection, rows.by_ref().take(size), tail).await?;
            }
        }
    }
    Ok(())
}

async fn statement(
    connection: &mut SqliteConnection,
    rows: impl Iterator<Item = ((u64, u64), Fields)>,
    tail: &'static str,
) -> Result<(), StoreError> {
    let mut query = QueryBuilder::<Sqlite>::new("WITH v(dev_eui, session_id, keys, state, up, n, a) AS (");
    query.push_values(rows, |mut values, ((dev_eui, session_id), fields)| {
        values
            .push_bind(sql::key(dev_eui))
            .push_bind(sql::key(session_id))
            .push_bind(fields.sealed_keys)
            .push_bind(fields.state)
            .push_bind(fields.fcnt_up_plus_1.map(sql::int))
            .push_bind(fields.n_fcnt_down.map(i64::from))
            .push_bind(fields.a_fcnt_down.map(i64::from));
    });
    query.push(tail);
    query.build().execute(connection).await.map(drop).map_err(StoreError::sql("write sessions"))
}

const UPSERT: &str = ") INSERT INTO session \
     (dev_eui, session_id, sealed_keys, state, fcnt_up_plus_1, n_fcnt_down, a_fcnt_down) SELECT * FROM v WHERE true \
     ON CONFLICT (dev_eui, session_id) DO UPDATE SET sealed_keys = excluded.sealed_keys, \
     state = coalesce(excluded.state, state), fcnt_up_plus_1 = coalesce(excluded.fcnt_up_plus_1, fcnt_up_plus_1), \
     n_fcnt_down = coalesce(excluded.n_fcnt_down, n_fcnt_down), a_fcnt_down = coalesce(excluded.a_fcnt_down, a_fcnt_down)";

const UPDATE: &str = ") UPDATE session SET state = coalesce(v.state, session.state), \
     fcnt_up_plus_1 = coalesce(v.up, session.fcnt_up_plus_1), n_fcnt_down = coalesce(v.n, session.n_fcnt_down), \
     a_fcnt_down = coalesce(v.a, session.a_fcnt_down) FROM v \
     WHERE session.dev_eui = v.dev_eui AND session.session_id = v.session_id";

const PAGE_ROWS: usize = 4096;
