//! The session table follows the journal, lazily and in key order.
//!
//! A pass reads committed rows behind the checkpoint, merges their deltas and writes each session once, in short transactions that take
//! turns with the journal. The checkpoint moves with the last of them. A crash in between leaves a table that is ahead of its checkpoint
//! for some sessions; deltas hold values and not differences, so that applying them again ends at the same rows. The few changes of
//! which that is not true are written by the transaction that moves the checkpoint.

use std::time::Duration;

use prost::Message;
use seam::{Bug, planted};
use tokio::time::Instant;

use crate::StoreError;
use crate::db::{Db, on_engine};
use crate::pages::each_row;
use crate::session::{Change, DeltasOnly, Merge, SessionRow};

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
    let from = on_engine!(db, db => db.checkpoint().await)?;
    let (merge, to) = merge_after(db, from, KEYS_MAX).await?;
    if to == from {
        return Ok(Progress::CaughtUp);
    }
    let progress = if merge.len() < KEYS_MAX { Progress::CaughtUp } else { Progress::More };
    let conditional = write_rows(db, merge, haste).await?;
    // The changes whose outcome depends on what was stored before: sessions that changed and then began within one pass, which is a
    // number that was removed and is used again. There are hardly any.
    seam::crash_point("store.checkpoint.before_move");
    on_engine!(db, db => db.move_checkpoint(conditional, to).await)?;
    seam::crash_point("store.checkpoint.moved");
    Ok(progress)
}

/// Every session as of the last commit, in no order that means anything.
pub(crate) async fn load(db: &Db, mut each: impl FnMut(SessionRow)) -> Result<(), StoreError> {
    let from = on_engine!(db, db => db.checkpoint().await)?;
    let (mut tail, _) = merge_after(db, from, usize::MAX).await?;
    if planted(Bug::LoadWithoutTail) {
        tail = Merge::default();
    }
    let read = |after| {
        let db = db.clone();
        async move { on_engine!(&db, db => db.sessions_after(after).await) }
    };
    let key_after = |last: &SessionRow| Some((last.dev_eui, last.session_id));
    // No session has the number 0.
    each_row((0, 0), read, key_after, |row| tail.apply(row).into_iter().for_each(&mut each)).await?;
    tail.into_rest().for_each(each);
    Ok(())
}

/// Merges the deltas of the rows behind `from` until `keys_max` sessions are touched; tells the last row read.
async fn merge_after(db: &Db, from: u64, keys_max: usize) -> Result<(Merge, u64), StoreError> {
    let mut merge = Merge::default();
    let mut to = from;
    while merge.len() < keys_max {
        let rows = on_engine!(db, db => db.rows_after(to).await)?;
        if rows.is_empty() {
            break;
        }
        for (batch, body) in rows {
            to = batch;
            let body = DeltasOnly::decode(body.as_slice())
                .map_err(|_| StoreError::Damaged { what: "a row of the journal" })?;
            for delta in body.deltas {
                merge.add(delta);
            }
        }
    }
    Ok((merge, to))
}

/// A session and what happens to it.
type Keyed = ((u64, u64), Change);

/// Writes all of a merge that may be written twice; returns the rest.
async fn write_rows(db: &Db, merge: Merge, haste: Haste) -> Result<Vec<Keyed>, StoreError> {
    let Merge { cleared, changes } = merge;
    let cleared: Vec<u64> = cleared.into_iter().collect();
    for devices in cleared.chunks(TRANSACTION_ROWS) {
        let devices = devices.to_vec();
        on_engine!(db, db => db.clear_sessions(devices).await)?;
    }
    let mut conditional = Vec::new();
    let mut changes = changes.into_iter().peekable();
    while changes.peek().is_some() {
        let mut chunk: Vec<Keyed> = changes.by_ref().take(TRANSACTION_ROWS).collect();
        conditional.extend(chunk.extract_if(.., |(_, change)| change.is_conditional()));
        let started = Instant::now();
        on_engine!(db, db => db.write_sessions(chunk).await)?;
        seam::crash_point("store.checkpoint.between");
        if haste == Haste::Gentle {
            tokio::time::sleep(started.elapsed().saturating_mul(4).min(REST_MAX)).await;
        }
    }
    Ok(conditional)
}

/// A pass that a crash ends just before its last transaction.
#[cfg(test)]
pub(crate) async fn pass_cut_short(db: &Db) -> Result<(), StoreError> {
    let (merge, _) = merge_after(db, on_engine!(db, db => db.checkpoint().await)?, KEYS_MAX).await?;
    write_rows(db, merge, Haste::AtOnce).await.map(drop)
}

/// Sessions merged in one pass: what bounds its memory.
const KEYS_MAX: usize = 262_144;
/// Sessions written in one transaction: what bounds the time a commit of the journal waits behind it.
const TRANSACTION_ROWS: usize = 512;
const REST_MAX: Duration = Duration::from_millis(100);
