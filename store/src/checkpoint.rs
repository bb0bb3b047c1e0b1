//! The session table follows the journal, lazily and in key order.
//!
//! A pass reads committed rows behind the checkpoint, merges their deltas and writes each session once, in short transactions that take
//! turns with the journal. The checkpoint moves with the last of them. A crash in between leaves a table that is ahead of its checkpoint
//! for some sessions; deltas hold values and not differences, so that applying them again ends at the same rows. The few changes of
//! which that is not true are written by the transaction that moves the checkpoint.

use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use prost::Message;
use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection};

use crate::db::Db;
use crate::metrics::add;
use crate::session::{Change, DeltasOnly, Fields, Merge, SessionRow};
use crate::{StoreError, sql};

/// How far a pass came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Progress {
    CaughtUp,
    More,
}

/// How a pass shares the writer with the journal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Haste {
    /// One transaction after the other.
    AtOnce,
    /// Rests between transactions several times as long as each took, so that commits hardly meet them.
    Gentle,
}

/// Moves the checkpoint over as many journal rows as touch about [`KEYS_MAX`] sessions.
pub(crate) async fn pass(db: &Db, haste: Haste) -> Result<Progress, StoreError> {
    let from = checkpoint(db).await?;
    let (merge, to) = merge_after(db, from, KEYS_MAX).await?;
    if to == from {
        return Ok(Progress::CaughtUp);
    }
    let progress = if merge.len() < KEYS_MAX { Progress::CaughtUp } else { Progress::More };
    let conditional = write_rows(db, merge, haste).await?;
    seam::crash_point("store.checkpoint.before_move");
    finish(db, conditional, to).await?;
    seam::crash_point("store.checkpoint.moved");
    Ok(progress)
}

/// Every session as of the last commit, in no order that means anything.
pub(crate) async fn load(db: &Db, mut each: impl FnMut(SessionRow)) -> Result<(), StoreError> {
    let from = checkpoint(db).await?;
    let (mut tail, _) = merge_after(db, from, usize::MAX).await?;
    let mut after = (i64::MIN, i64::MIN);
    loop {
        let page = db.read(move |connection| Box::pin(page_after(connection, after))).await?;
        let Some(last) = page.last() else {
            break;
        };
        after = (sql::key(last.dev_eui), sql::key(last.session_id));
        let full = page.len() == PAGE_ROWS;
        page.into_iter().filter_map(|row| tail.apply(row)).for_each(&mut each);
        if !full {
            break;
        }
    }
    tail.into_rest().for_each(each);
    Ok(())
}

async fn checkpoint(db: &Db) -> Result<i64, StoreError> {
    let query = sqlx::query("SELECT checkpoint_batch FROM meta WHERE id = 1");
    let row = db.fetch_optional("read the checkpoint", query).await?;
    Ok(row.map_or(0, |row| row.get(0)))
}

/// Merges the deltas of the rows behind `from` until `keys_max` sessions are touched; tells the last row read.
async fn merge_after(db: &Db, from: i64, keys_max: usize) -> Result<(Merge, i64), StoreError> {
    let mut merge = Merge::default();
    let mut to = from;
    while merge.len() < keys_max {
        let query =
            sqlx::query("SELECT batch, body FROM journal WHERE batch > ?1 ORDER BY batch LIMIT 32").bind(to);
        let rows = db.fetch_all("read the journal", query).await?;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            to = row.get(0);
            let body = DeltasOnly::decode(row.get::<&[u8], _>(1))
                .map_err(|_| StoreError::Damaged { what: "a row of the journal" })?;
            for delta in body.deltas {
                merge.add(delta);
            }
        }
    }
    Ok((merge, to))
}

async fn page_after(
    connection: &mut SqliteConnection,
    (dev_eui, session_id): (i64, i64),
) -> Result<Vec<SessionRow>, StoreError> {
    let failed = || StoreError::sql("read the sessions");
    let mut page = Vec::with_capacity(PAGE_ROWS);
    let mut rows = sqlx::query(
        "SELECT dev_eui, session_id, sealed_keys, state, fcnt_up_plus_1, n_fcnt_down, a_fcnt_down FROM session \
         WHERE (dev_eui, session_id) > (?1, ?2) ORDER BY dev_eui, session_id LIMIT ?3",
    )
    .bind(dev_eui)
    .bind(session_id)
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

/// A session and what happens to it.
type Keyed = ((u64, u64), Change);

/// Writes all of a merge that may be written twice; returns the rest.
async fn write_rows(db: &Db, merge: Merge, haste: Haste) -> Result<Vec<Keyed>, StoreError> {
    let Merge { cleared, changes } = merge;
    let cleared: Vec<u64> = cleared.into_iter().collect();
    for devices in cleared.chunks(TRANSACTION_ROWS) {
        let devices = devices.to_vec();
        db.write(move |connection| Box::pin(clear(connection, devices))).await?;
    }
    let mut conditional = Vec::new();
    let mut changes = changes.into_iter().peekable();
    while changes.peek().is_some() {
        let mut chunk: Vec<Keyed> = changes.by_ref().take(TRANSACTION_ROWS).collect();
        conditional.extend(chunk.extract_if(.., |(_, change)| change.is_conditional()));
        let started = Instant::now();
        // Neighbours share pages only when many sessions change.
        add(&db.writer.shared().wal_frames, chunk.len() as u64);
        db.write(move |connection| Box::pin(write_chunk(connection, chunk))).await?;
        seam::crash_point("store.checkpoint.between");
        if haste == Haste::Gentle {
            tokio::time::sleep((started.elapsed() * 4).min(REST_MAX)).await;
        }
    }
    Ok(conditional)
}

/// Moves the checkpoint, in one transaction with the changes whose outcome depends on what was stored before.
///
/// Those are sessions that changed and then began within one pass: a number that was removed and is used again. There are hardly any.
async fn finish(db: &Db, conditional: Vec<Keyed>, to: i64) -> Result<(), StoreError> {
    db.write(move |connection| {
        Box::pin(async move {
            write_chunk(connection, conditional).await?;
            sqlx::query("UPDATE meta SET checkpoint_batch = max(checkpoint_batch, ?1) WHERE id = 1")
                .bind(to)
                .execute(connection)
                .await
                .map(drop)
                .map_err(StoreError::sql("move the checkpoint"))
        })
    })
    .await
}

/// A pass that a crash ends just before its last transaction.
#[cfg(test)]
pub(crate) async fn pass_cut_short(db: &Db) -> Result<(), StoreError> {
    let (merge, _) = merge_after(db, checkpoint(db).await?, KEYS_MAX).await?;
    write_rows(db, merge, Haste::AtOnce).await.map(drop)
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

async fn write_chunk(connection: &mut SqliteConnection, chunk: Vec<Keyed>) -> Result<(), StoreError> {
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

/// Sessions merged in one pass: what bounds its memory.
const KEYS_MAX: usize = 262_144;
/// Sessions written in one transaction: what bounds the time a commit of the journal waits behind it.
const TRANSACTION_ROWS: usize = 512;
const REST_MAX: Duration = Duration::from_millis(100);
const PAGE_ROWS: usize = 4096;
