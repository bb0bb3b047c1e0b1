//! Tells the event log of states, and the network server of what waits.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proto::internal::{self as pb, record};
use store::{DownlinkRow, PendingDownlinks};
use tokio::sync::OwnedMutexGuard;

use super::Queue;
use super::decide::state_of;
use crate::error::BridgeError;

/// How long a telling may hold a device's lock.
const PATIENCE: Duration = Duration::from_secs(1);
const ITEMS_AT_ONCE: u32 = 128;
const HINTS_AT_ONCE: usize = 1_000;

impl Queue {
    /// Tells of changed items in a task of its own, which holds the device's lock until it is done, so that the log has the
    /// states of an item in their order.
    pub(super) fn tell(self: &Arc<Self>, guard: OwnedMutexGuard<()>, rows: Vec<DownlinkRow>) {
        let Some(dev_eui) = rows.first().map(|row| row.dev_eui) else {
            return;
        };
        let queue = Arc::clone(self);
        self.tasks.spawn(async move {
            queue.announce(&rows).await;
            queue.hint(dev_eui).await;
            drop(guard);
        });
    }

    /// Tells the event log of items' states. What cannot be told is told later.
    pub(super) async fn announce(&self, rows: &[DownlinkRow]) {
        if rows.is_empty() {
            return;
        }
        for row in rows {
            self.count_state(state_of(row));
        }
        if let Err(error) = self.try_announce(rows).await {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "downlink states cannot be announced yet"
            );
            self.announce_again.store(true, Ordering::Relaxed);
        }
    }

    async fn try_announce(&self, rows: &[DownlinkRow]) -> Result<(), BridgeError> {
        seam::crash_point("bridge.state.before_announcement");
        let records = rows.iter().map(record_of).collect();
        let appended = tokio::time::timeout(PATIENCE, self.network.append_records(records)).await;
        appended.unwrap_or_else(|_| {
            Err(proto::port::PortError::Unavailable(
                "the network server does not take records in time".to_owned(),
            ))
        })?;
        seam::crash_point("bridge.state.announced");
        self.tables.set_announced(rows.iter().map(|row| (row.id.clone(), row.state)).collect()).await?;
        Ok(())
    }

    /// Tells the network server what waits for a device. What cannot be told is told later.
    pub(super) async fn hint(&self, dev_eui: u64) -> Told {
        let Err(error) = self.try_hint(dev_eui).await else {
            return Told::Yes;
        };
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "the network server cannot be told what waits yet"
        );
        self.hint_again.store(true, Ordering::Relaxed);
        Told::Later
    }

    /// Tells the network server what waits for devices in a task of its own: who follows the log does not wait for it.
    pub(super) fn hint_beside(self: &Arc<Self>, dev_euis: BTreeSet<u64>) {
        if dev_euis.is_empty() {
            return;
        }
        let queue = Arc::clone(self);
        self.tasks.spawn(async move {
            for dev_eui in dev_euis {
                let _guard = queue.lock(dev_eui).await;
                // After one that failed all are told anew; the rest need not be waited for one by one.
                if queue.hint(dev_eui).await == Told::Later {
                    break;
                }
            }
        });
    }

    async fn try_hint(&self, dev_eui: u64) -> Result<(), BridgeError> {
        let pending = self.tables.pending_downlinks_of(dev_eui).await?;
        let told = tokio::time::timeout(PATIENCE, self.network.set_queue_hints(vec![hint_of(&pending)])).await;
        told.unwrap_or_else(|_| {
            Err(proto::port::PortError::Unavailable(
                "the network server does not take hints in time".to_owned(),
            ))
        })?;
        Ok(())
    }

    /// Says what an earlier try, or an earlier run, left unsaid.
    pub(super) async fn catch_up_outbox(&self) {
        if self.announce_again.swap(false, Ordering::Relaxed)
            && let Err(error) = self.announce_rest().await
        {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "downlink states cannot be announced yet"
            );
            self.announce_again.store(true, Ordering::Relaxed);
        }
        if self.hint_again.swap(false, Ordering::Relaxed)
            && let Err(error) = self.hint_all().await
        {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the network server cannot be told what waits yet"
            );
            self.hint_again.store(true, Ordering::Relaxed);
        }
    }

    /// The network server may have started anew: it is told all that waits.
    pub(crate) fn network_came_back(&self) {
        self.hint_again.store(true, Ordering::Relaxed);
        self.announce_again.store(true, Ordering::Relaxed);
        self.sweep_soon.notify_one();
    }

    async fn announce_rest(&self) -> Result<(), BridgeError> {
        loop {
            let rows = self.tables.unannounced_downlinks(ITEMS_AT_ONCE).await?;
            if rows.is_empty() {
                return Ok(());
            }
            for row in rows {
                let _guard = self.lock(row.dev_eui).await;
                // Whoever changed it may have told of it meanwhile.
                let Some(row) = self.tables.downlink(&row.id).await?.filter(|row| !row.announced) else {
                    continue;
                };
                self.try_announce(&[row]).await?;
            }
        }
    }

    async fn hint_all(&self) -> Result<(), BridgeError> {
        let hints: Vec<pb::QueueHint> = self.tables.pending_downlinks().await?.iter().map(hint_of).collect();
        for part in hints.chunks(HINTS_AT_ONCE) {
            self.network.set_queue_hints(part.to_vec()).await?;
        }
        Ok(())
    }
}

/// Whether the network server has heard something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Told {
    Later,
    Yes,
}

/// The record that tells of an item's state. It is made of the row alone, so that telling twice tells the same.
fn record_of(row: &DownlinkRow) -> pb::Record {
    let downlink = pb::DownlinkRecord {
        item_id: row.id.clone(),
        state: row.state.cast_unsigned(),
        reason: row.reason.clone(),
        fcnt_down: row.lease.map(|(_, fcnt_down)| fcnt_down),
        gateway_eui: 0,
        session_id: row.lease.map_or(0, |(session_id, _)| session_id),
    };
    pb::Record { at_us: row.updated_at_us, dev_eui: row.dev_eui, kind: Some(record::Kind::Downlink(downlink)) }
}

fn hint_of(pending: &PendingDownlinks) -> pb::QueueHint {
    pb::QueueHint { dev_eui: pending.dev_eui, pending: pending.count, next_len: pending.next_len }
}
