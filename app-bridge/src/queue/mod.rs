//! The queue of downlinks.
//!
//! The store holds the items; what is under way is in memory too, for the follower asks about every record. Whatever touches
//! the items of one device holds that device's lock, so that a window, a cancellation and the log never meet halfway.
//! A state is durable before anybody hears of it, and the event log is told of each; a crash in between is made good at the
//! start from the `announced` flag.

pub(crate) mod decide;
mod follow;
mod outbox;
mod sweep;
mod take;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use proto::mark::Mark;
use proto::port::NetworkPort;
use proto::v1::DownlinkState;
use seam::{Bug, planted};
use store::{BridgeTables, DownlinkInsertion, DownlinkRow, DownlinkUpdate};
use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tonic::Status;

use crate::error::BridgeError;
use crate::keys::Keys;
use crate::log::Log;
use crate::metrics::Metrics;
use crate::queue::decide::state_of;

pub(crate) use take::PayloadSource;

/// Items of one device that are not finished, at most.
const OPEN_ITEMS_MAX: u64 = 1_000;
const LOCKS: u64 = 64;
const NO_DEADLINE: i64 = i64::MAX;

/// The queue of all devices.
pub(crate) struct Queue {
    tables: BridgeTables,
    network: Arc<dyn NetworkPort>,
    log: Arc<Log>,
    keys: Arc<Keys>,
    followed: Mark,
    metrics: Arc<Metrics>,
    /// How long an item may be leased or sent without word of it.
    outcome_patience: Duration,
    locks: Vec<Arc<AsyncMutex<()>>>,
    under_way: Mutex<BTreeMap<u64, Vec<UnderWay>>>,
    /// The earliest deadline of a waiting item, or one that has gone.
    next_deadline_us: AtomicI64,
    /// Some state could not be announced.
    announce_again: AtomicBool,
    /// The store did not say what became of a change: items may be leased that no window got.
    in_doubt: AtomicBool,
    /// The network server may have missed hints.
    hint_again: AtomicBool,
    sweep_soon: Notify,
    tasks: TaskTracker,
}

/// An item that was handed to the network server and is not settled.
#[derive(Clone, Debug)]
struct UnderWay {
    /// Without its payload.
    item: DownlinkRow,
    /// When it last changed, or the store could last not write or the process not run, on the clock that never jumps.
    since: Instant,
}

/// What a queue is made of.
pub(crate) struct QueueParts {
    pub(crate) tables: BridgeTables,
    pub(crate) network: Arc<dyn NetworkPort>,
    pub(crate) log: Arc<Log>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) followed: Mark,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) outcome_patience: Duration,
    pub(crate) tasks: TaskTracker,
}

impl Queue {
    /// Reads what is under way.
    pub(crate) async fn open(parts: QueueParts) -> Result<Arc<Self>, BridgeError> {
        let QueueParts { tables, network, log, keys, followed, metrics, outcome_patience, tasks } = parts;
        let mut under_way: BTreeMap<u64, Vec<UnderWay>> = BTreeMap::new();
        let mut after = 0;
        loop {
            let page = tables.downlinks_in_flight(after, PAGE_ITEMS).await?;
            let Some(last) = page.last() else {
                break;
            };
            after = last.position;
            if planted(Bug::ForgetUnderWay) {
                continue;
            }
            for item in page {
                under_way.entry(item.dev_eui).or_default().push(UnderWay::new(item));
            }
        }
        let next_deadline_us = tables.next_deadline_us().await?.unwrap_or(NO_DEADLINE);
        Ok(Arc::new(Self {
            tables,
            network,
            log,
            keys,
            followed,
            metrics,
            outcome_patience,
            locks: (0..LOCKS).map(|_| Arc::new(AsyncMutex::new(()))).collect(),
            under_way: Mutex::new(under_way),
            next_deadline_us: AtomicI64::new(next_deadline_us),
            // What an earlier run left unsaid is said at the start, and the network server hears what waits.
            announce_again: AtomicBool::new(true),
            in_doubt: AtomicBool::new(false),
            hint_again: AtomicBool::new(true),
            sweep_soon: Notify::new(),
            tasks,
        }))
    }

    /// Adds an item; durable when it returns. True: the idempotency key was known, and the first item is returned.
    pub(crate) async fn enqueue(self: &Arc<Self>, row: DownlinkRow) -> Result<(DownlinkRow, bool), Status> {
        let dev_eui = row.dev_eui;
        let guard = self.lock(dev_eui).await;
        // Asked under the lock: a deletion cancels what it finds after the row is gone, and would not find this one.
        if self.tables.device(dev_eui).await.map_err(BridgeError::from)?.is_none() {
            return Err(Status::not_found(format!("device {dev_eui:016x} does not exist")));
        }
        let open = self.tables.open_downlink_count(dev_eui).await.map_err(BridgeError::from)?;
        if open >= OPEN_ITEMS_MAX {
            return match self.known_item(dev_eui, &row.idempotency_key).await? {
                Some(first) => Ok((first, true)),
                None => Err(Status::resource_exhausted(format!(
                    "device {dev_eui:016x} has {open} downlinks that are not finished, the most that are kept; cancel some first"
                ))),
            };
        }
        let inserted = self.tables.insert_downlink(row).await.inspect_err(|_| self.doubt());
        let row = match inserted.map_err(BridgeError::from)? {
            DownlinkInsertion::Duplicate(first) => return Ok((first, true)),
            DownlinkInsertion::Inserted(row) => row,
        };
        seam::crash_point("bridge.downlink.enqueued");
        if let Some(deadline_us) = row.not_after_us {
            self.next_deadline_us.fetch_min(deadline_us, Ordering::Relaxed);
        }
        self.tell(guard, vec![row.clone()]);
        Ok((row, false))
    }

    /// Takes an item back while it waits.
    pub(crate) async fn cancel(self: &Arc<Self>, id: &str, now_us: i64) -> Result<DownlinkRow, Status> {
        let unknown = || Status::not_found(format!("there is no downlink {id}"));
        let row = self.tables.downlink(id).await.map_err(BridgeError::from)?.ok_or_else(unknown)?;
        let guard = self.lock(row.dev_eui).await;
        let cancelled = self.tables.cancel_downlink(id, now_us).await.inspect_err(|_| self.doubt());
        match cancelled.map_err(BridgeError::from)? {
            None => Err(unknown()),
            Some((row, true)) => {
                seam::crash_point("bridge.downlink.cancelled");
                self.tell(guard, vec![row.clone()]);
                Ok(row)
            }
            Some((row, false)) if state_of(&row) == DownlinkState::Cancelled => Ok(row),
            Some((row, false)) => Err(Status::failed_precondition(format!(
                "downlink {id} is {} and cannot be taken back",
                words(state_of(&row))
            ))),
        }
    }

    /// Cancels what waits for a device and gives up what is under way; for a device that is deleted.
    pub(crate) async fn drop_device(self: &Arc<Self>, dev_eui: u64, now_us: i64) -> Result<(), BridgeError> {
        let guard = self.lock(dev_eui).await;
        let mut ended = Vec::new();
        let mut after = 0;
        loop {
            let page = self.tables.downlinks(dev_eui, false, after, PAGE_ITEMS).await?;
            let Some(last) = page.last() else {
                break;
            };
            after = last.position;
            let reason = "the device was deleted";
            let updates = page
                .iter()
                .map(|row| {
                    let state = if decide::is_under_way(row) {
                        DownlinkState::Unknown
                    } else {
                        DownlinkState::Cancelled
                    };
                    DownlinkUpdate {
                        id: row.id.clone(),
                        state: state as i32,
                        never_left: false,
                        reason: reason.to_owned(),
                        at_us: now_us,
                        finished: true,
                        announced: false,
                        only_lease: None,
                    }
                })
                .collect();
            ended.extend(self.update(page, updates).await?);
        }
        self.under_way.lock().remove(&dev_eui);
        self.tell(guard, ended);
        Ok(())
    }

    /// Writes changes of items; returns the rows that did change, as they are now.
    async fn update(
        &self,
        rows: Vec<DownlinkRow>,
        updates: Vec<DownlinkUpdate>,
    ) -> Result<Vec<DownlinkRow>, BridgeError> {
        if updates.is_empty() {
            return Ok(Vec::new());
        }
        let changed = self.tables.update_downlinks(updates.clone()).await.inspect_err(|_| self.doubt())?;
        seam::crash_point("bridge.downlink.updated");
        let rows = rows.into_iter().zip(updates).zip(changed).filter(|(_, changed)| *changed);
        Ok(rows.map(|((row, update), _)| updated(row, &update)).collect())
    }

    /// Notes that the store refused a change, or made it and could not say so. The sweep finds out what is so.
    pub(super) fn doubt(&self) {
        self.in_doubt.store(true, Ordering::Relaxed);
        self.announce_again.store(true, Ordering::Relaxed);
        self.hint_again.store(true, Ordering::Relaxed);
    }

    /// The item an idempotency key of the device made.
    pub(crate) async fn known_item(&self, dev_eui: u64, key: &str) -> Result<Option<DownlinkRow>, Status> {
        if key.is_empty() {
            return Ok(None);
        }
        let mut after = 0;
        loop {
            let page =
                self.tables.downlinks(dev_eui, true, after, PAGE_ITEMS).await.map_err(BridgeError::from)?;
            let Some(last) = page.last() else {
                return Ok(None);
            };
            after = last.position;
            if let Some(known) = page.into_iter().find(|item| item.idempotency_key == key) {
                return Ok(Some(known));
            }
        }
    }

    /// Waits until the follower has read the log as far as it goes now; false: not within `patience`, or the log does not answer.
    async fn log_is_followed(&self, patience: Duration) -> bool {
        let waited = tokio::time::timeout(patience, async {
            let head = self.log.bounds().await.ok()?.head;
            self.followed.wait_for(|position| position >= head).await;
            Some(())
        });
        matches!(waited.await, Ok(Some(())))
    }

    async fn lock(&self, dev_eui: u64) -> OwnedMutexGuard<()> {
        Arc::clone(self.lock_of(shard(dev_eui))).lock_owned().await
    }

    /// Locks several devices, always in the same order.
    async fn lock_all(&self, dev_euis: impl Iterator<Item = u64>) -> Vec<OwnedMutexGuard<()>> {
        let mut shards: Vec<usize> = dev_euis.map(shard).collect();
        shards.sort_unstable();
        shards.dedup();
        let mut guards = Vec::with_capacity(shards.len());
        for shard in shards {
            guards.push(Arc::clone(self.lock_of(shard)).lock_owned().await);
        }
        guards
    }

    #[allow(clippy::indexing_slicing, reason = "a shard is below the number of locks")]
    fn lock_of(&self, shard: usize) -> &Arc<AsyncMutex<()>> {
        &self.locks[shard]
    }

    fn count_state(&self, state: DownlinkState) {
        self.metrics.downlink_states.get_or_create(&vec![("state".to_owned(), words(state).to_owned())]).inc();
    }
}

impl UnderWay {
    fn new(mut item: DownlinkRow) -> Self {
        item.payload = Vec::new();
        Self { item, since: Instant::now() }
    }
}

/// A row after an update.
fn updated(mut row: DownlinkRow, update: &DownlinkUpdate) -> DownlinkRow {
    row.state = update.state;
    row.reason.clone_from(&update.reason);
    row.updated_at_us = update.at_us;
    row.finished_at_us = update.finished.then_some(update.at_us);
    row.announced = update.announced;
    row
}

/// A state in the words of messages and metrics.
pub(crate) fn words(state: DownlinkState) -> &'static str {
    match state {
        DownlinkState::Cancelled => "cancelled",
        DownlinkState::Deferred => "deferred",
        DownlinkState::DeviceAcknowledged => "device_acknowledged",
        DownlinkState::Expired => "expired",
        DownlinkState::Failed => "failed",
        DownlinkState::GatewayAcknowledged => "gateway_acknowledged",
        DownlinkState::Leased => "leased",
        DownlinkState::Queued => "queued",
        DownlinkState::Sent => "sent",
        DownlinkState::Unknown => "unknown",
        DownlinkState::Unspecified => "unspecified",
    }
}

/// Which lock a device has. DevEUIs of one maker differ in their last digits.
fn shard(dev_eui: u64) -> usize {
    usize::try_from((dev_eui ^ (dev_eui >> 32)) % LOCKS).unwrap_or(0)
}

const PAGE_ITEMS: u32 = 256;
