//! The disk itself: what is durable in a simulated world.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use prost::Message as _;
use proto::internal::{JournalBody, Record};
use seam::{Bug, planted};
use zeroize::Zeroizing;

use super::bridge::BridgeRows;
use super::join::JoinRows;
use super::journal::JournalRows;
use super::network::NetworkRows;
use super::session::SessionRows;
use crate::row::ROW_OVERHEAD;
use crate::seal::random_key;
use crate::shared::Opened;
use crate::{AuditRow, Sealer, StoreError};

/// A disk in memory that outlives the stores opened on it. Cheap to clone; clones are the same disk.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    contents: Arc<Mutex<Contents>>,
}

impl std::fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MemoryDisk")
    }
}

impl MemoryDisk {
    /// The events on the disk after a sequence, whoever wrote them: for whoever watches a simulated world from outside.
    pub fn records_after(&self, seq: u64) -> Vec<(u64, Record)> {
        let contents = self.contents.lock();
        let mut found = Vec::new();
        for (first_seq, body) in contents.journal.bodies_from(seq.saturating_add(1)) {
            // What this crate encoded decodes.
            let Ok(body) = JournalBody::decode(body) else { continue };
            found.extend((first_seq..).zip(body.records).filter(|(at, _)| *at > seq));
        }
        found
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock()
    }
}

/// Everything on the disk.
#[derive(Default)]
pub(super) struct Contents {
    /// Raised by each opening; what is the owner's alone is refused from anyone but the latest.
    epoch: u64,
    keys: Option<Keys>,
    pub(super) journal: JournalRows,
    pub(super) sessions: SessionRows,
    pub(super) network: NetworkRows,
    pub(super) join: JoinRows,
    pub(super) bridge: BridgeRows,
    pub(super) audit: Vec<AuditRow>,
    /// Ids of the audit trail are never given twice.
    audit_id_last: i64,
}

/// The keys that lie beside a database.
#[derive(Clone)]
pub(crate) struct Keys {
    pub(crate) sealer: Sealer,
    pub(crate) transport_key: Zeroizing<[u8; 16]>,
}

impl Contents {
    /// Takes the next epoch and reads where the journal stands.
    pub(super) fn take_over(&mut self) -> (Opened, Keys) {
        self.epoch = self.epoch.saturating_add(1);
        let make = || Keys { sealer: Sealer::new(&random_key()), transport_key: random_key() };
        let keys = self.keys.get_or_insert_with(make).clone();
        let (first, last) = (self.journal.first(), self.journal.last());
        let next_seq = last.map_or(1, |(_, row)| row.next_seq());
        let opened = Opened {
            epoch: self.epoch,
            batch: last.map_or(0, |(batch, _)| batch),
            next_seq,
            earliest_seq: first.map_or(next_seq, |(_, row)| row.first_seq),
            end_bytes: last.map_or(0, |(_, row)| row.end_bytes),
            removed_bytes: first.map_or(0, |(_, row)| {
                row.end_bytes.saturating_sub(row.body.len() as u64).saturating_sub(ROW_OVERHEAD)
            }),
        };
        (opened, keys)
    }

    pub(super) fn refuse_former_owner(&self, epoch: u64) -> Result<(), StoreError> {
        if self.epoch == epoch || planted(Bug::StaleOwnerWrites) {
            Ok(())
        } else {
            Err(StoreError::Fenced { epoch })
        }
    }

    pub(super) fn append_audit(&mut self, row: AuditRow) {
        self.audit_id_last = self.audit_id_last.saturating_add(1);
        self.audit.push(AuditRow { id: self.audit_id_last, ..row });
    }
}
