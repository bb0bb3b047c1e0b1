//! One row of the journal: a batch of submissions that becomes durable together.

use prost::Message;
use proto::internal::{JournalBody, Record};

use crate::journal::{Done, Submission};

/// A batch, ready to be written.
pub(crate) struct JournalRow {
    /// Its key: rows are numbered without holes.
    pub(crate) batch: u64,
    pub(crate) first_seq: u64,
    /// Who writes it. No engine takes it from anyone but the latest owner.
    pub(crate) epoch: u64,
    pub(crate) at_us_min: i64,
    pub(crate) at_us_max: i64,
    /// Bytes of all rows ever written, this one included.
    pub(crate) end_bytes: u64,
    /// loam.internal.v1.JournalBody
    pub(crate) body: Vec<u8>,
    pub(crate) records: Vec<Record>,
    pub(crate) submissions: usize,
}

/// What to call after the commit of a row, with the first sequence of each submission.
pub(crate) type Effects = Vec<(Done, u64)>;

/// Where the journal stands: what the next row continues.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    pub(crate) batch: u64,
    pub(crate) next_seq: u64,
    pub(crate) epoch: u64,
    pub(crate) end_bytes: u64,
}

impl JournalRow {
    pub(crate) fn encode(submissions: Vec<Submission>, standing: Standing) -> (Self, Effects) {
        let count = submissions.len();
        let mut body = JournalBody::default();
        body.records.reserve(submissions.iter().map(|s| s.records.len()).sum());
        body.deltas.reserve(submissions.iter().map(|s| s.deltas.len()).sum());
        let mut effects = Vec::with_capacity(count);
        for submission in submissions {
            if let Some(call) = submission.done {
                effects.push((call, standing.next_seq.saturating_add(body.records.len() as u64)));
            }
            body.records.extend(submission.records);
            body.deltas.extend(submission.deltas);
        }
        let times = body.records.iter().map(|record| record.at_us);
        let now_us = seam::wall_us();
        let bytes = body.encode_to_vec();
        let row = Self {
            batch: standing.batch.saturating_add(1),
            first_seq: standing.next_seq,
            epoch: standing.epoch,
            at_us_min: times.clone().min().unwrap_or(now_us),
            at_us_max: times.max().unwrap_or(now_us),
            end_bytes: standing.end_bytes.saturating_add(bytes.len() as u64).saturating_add(ROW_OVERHEAD),
            body: bytes,
            records: body.records,
            submissions: count,
        };
        (row, effects)
    }

    /// How many records it holds.
    pub(crate) fn count(&self) -> u64 {
        self.records.len() as u64
    }

    /// The first sequence behind it.
    pub(crate) fn next_seq(&self) -> u64 {
        self.first_seq.saturating_add(self.count())
    }

    /// Whether the row found under its number is this one, written by an attempt that was reported as failed.
    pub(crate) fn is_row(&self, epoch: u64, body: &[u8]) -> bool {
        self.epoch == epoch && self.body == body
    }
}

/// What a row takes beside its body, about.
pub(crate) const ROW_OVERHEAD: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_known_again_by_its_owner_and_its_body() {
        let standing = Standing { batch: 6, next_seq: 9, epoch: 3, end_bytes: 100 };
        let submissions = vec![
            Submission { records: vec![Record::default(); 2], ..Submission::default() },
            Submission { records: vec![Record::default()], ..Submission::default() },
        ];

        let (row, _) = JournalRow::encode(submissions, standing);

        assert_eq!((row.batch, row.first_seq, row.next_seq()), (7, 9, 12));
        assert_eq!(row.end_bytes, 100 + row.body.len() as u64 + ROW_OVERHEAD);
        assert!(row.is_row(3, &row.body));
        assert!(!row.is_row(2, &row.body), "another owner wrote the same");
        assert!(!row.is_row(3, &row.body[1..]));
    }
}
