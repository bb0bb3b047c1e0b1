//! The rows of the journal.

use std::collections::BTreeMap;
use std::ops::Bound;

use seam::{Bug, planted};

use super::Db;
use super::machine::refused;
use crate::StoreError;
use crate::retention::OldRow;
use crate::row::JournalRow;

#[derive(Default)]
pub(super) struct JournalRows {
    rows: BTreeMap<u64, Row>,
    /// The rows that hold records, by their first sequence.
    by_seq: BTreeMap<u64, u64>,
}

pub(super) struct Row {
    pub(super) first_seq: u64,
    count: u64,
    epoch: u64,
    at_us_max: i64,
    pub(super) end_bytes: u64,
    pub(super) body: Vec<u8>,
}

impl Row {
    pub(super) fn next_seq(&self) -> u64 {
        self.first_seq.saturating_add(self.count)
    }
}

impl JournalRows {
    pub(super) fn first(&self) -> Option<(u64, &Row)> {
        self.rows.first_key_value().map(|(batch, row)| (*batch, row))
    }

    pub(super) fn last(&self) -> Option<(u64, &Row)> {
        self.rows.last_key_value().map(|(batch, row)| (*batch, row))
    }

    /// Adds a row; a success also when an earlier attempt has.
    pub(super) fn insert(&mut self, row: &JournalRow) -> Result<(), StoreError> {
        let (mut batch, mut first_seq, mut end_bytes) = (row.batch, row.first_seq, row.end_bytes);
        if planted(Bug::RetryAppendsAgain)
            && let Some((last, known)) = self.last().filter(|(last, _)| *last >= row.batch)
        {
            (batch, first_seq, end_bytes) =
                (last.saturating_add(1), known.next_seq(), known.end_bytes.saturating_add(row.end_bytes));
        } else if let Some(found) = self.rows.get(&row.batch) {
            let same = row.is_row(found.epoch, &found.body);
            return if same { Ok(()) } else { Err(refused(std::io::ErrorKind::AlreadyExists)) };
        }
        if row.count() > 0 {
            self.by_seq.insert(first_seq, batch);
        }
        let kept = Row {
            first_seq,
            count: row.count(),
            epoch: row.epoch,
            at_us_max: row.at_us_max,
            end_bytes,
            body: row.body.clone(),
        };
        self.rows.insert(batch, kept);
        Ok(())
    }

    fn rows_from(&self, seq: u64) -> Vec<(u64, Vec<u8>)> {
        let start = self.by_seq.range(..=seq).next_back().map_or(0, |(first_seq, _)| *first_seq);
        let found = self.by_seq.range(start..).filter_map(|(first_seq, batch)| {
            let row = self.rows.get(batch)?;
            Some((*first_seq, row.body.clone()))
        });
        found.take(8).collect()
    }

    /// The bodies that hold records from a sequence on, with their first sequence.
    pub(super) fn bodies_from(&self, seq: u64) -> impl Iterator<Item = (u64, &[u8])> {
        let start = match self.by_seq.last_key_value() {
            Some((_, batch)) if self.rows.get(batch).is_some_and(|row| row.next_seq() > seq) => {
                self.by_seq.range(..=seq).next_back().map_or(0, |(first_seq, _)| *first_seq)
            }
            Some(_) | None => u64::MAX,
        };
        self.by_seq
            .range(start..)
            .filter_map(|(first_seq, batch)| Some((*first_seq, self.rows.get(batch)?.body.as_slice())))
    }

    fn row_at(&self, batch: u64, at_us: i64) -> Option<(u64, Vec<u8>)> {
        let (_, row) = self.rows.range(batch..).find(|(_, row)| row.count > 0 && row.at_us_max >= at_us)?;
        Some((row.first_seq, row.body.clone()))
    }

    fn old_rows(&self, checkpoint: u64, limit: usize) -> Vec<OldRow> {
        let last = self.last().map_or(0, |(batch, _)| batch);
        let old = self.rows.range(..=checkpoint).take_while(|(batch, _)| **batch < last);
        let old = old.map(|(batch, row)| OldRow {
            batch: *batch,
            next_seq: row.next_seq(),
            at_us_max: row.at_us_max,
            end_bytes: row.end_bytes,
        });
        old.take(limit).collect()
    }

    fn remove(&mut self, through: u64) -> u64 {
        let kept = self.rows.split_off(&through.saturating_add(1));
        let removed = std::mem::replace(&mut self.rows, kept);
        self.by_seq.retain(|_, batch| *batch > through);
        removed.len() as u64
    }
}

impl Db {
    pub(crate) async fn rows_from(&self, seq: u64) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        self.read(|contents| contents.journal.rows_from(seq)).await
    }

    pub(crate) async fn journal_ends(&self) -> Result<Option<(u64, u64)>, StoreError> {
        self.read(|contents| {
            let (first, last) = (contents.journal.first()?, contents.journal.last()?);
            Some((first.0, last.0))
        })
        .await
    }

    pub(crate) async fn at_us_max(&self, batch: u64) -> Result<Option<i64>, StoreError> {
        self.read(|contents| contents.journal.rows.get(&batch).map(|row| row.at_us_max)).await
    }

    pub(crate) async fn row_at(&self, batch: u64, at_us: i64) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        self.read(|contents| contents.journal.row_at(batch, at_us)).await
    }

    pub(crate) async fn rows_after(&self, batch: u64) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        self.read(|contents| {
            let rows = contents.journal.rows.range((Bound::Excluded(batch), Bound::Unbounded)).take(32);
            rows.map(|(batch, row)| (*batch, row.body.clone())).collect()
        })
        .await
    }

    pub(crate) async fn old_rows(&self, limit: u32) -> Result<Vec<OldRow>, StoreError> {
        self.read(|contents| contents.journal.old_rows(contents.sessions.checkpoint, limit as usize)).await
    }

    pub(crate) async fn remove_rows(&self, through: u64) -> Result<u64, StoreError> {
        let epoch = self.shared().epoch;
        self.try_write(move |contents| {
            contents.refuse_former_owner(epoch)?;
            Ok(contents.journal.remove(through))
        })
        .await
    }

    pub(crate) async fn probe(&self) -> Result<(), StoreError> {
        self.write(|_| ()).await
    }
}
