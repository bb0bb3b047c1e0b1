//! What happens to items by the passing of time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proto::v1::DownlinkState;
use seam::{Bug, planted};
use store::{DownlinkRow, DownlinkUpdate};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{NO_DEADLINE, PAGE_ITEMS, Queue, UnderWay};
use crate::clock::now_us;
use crate::error::BridgeError;
use crate::queue::decide::state_of;

impl Queue {
    /// Looks after deadlines, missing outcomes and what is left to tell, every `period` until `stop`.
    pub(crate) async fn run(self: Arc<Self>, period: Duration, stop: CancellationToken) {
        let mut hinted = Instant::now();
        let mut last = Instant::now();
        let mut readiness = self.tables.readiness();
        loop {
            let now = Instant::now();
            // A process that was stopped, or a machine that slept, wakes with outcomes that nobody has read.
            let asleep = now.saturating_duration_since(last).saturating_sub(period);
            let slept = asleep.saturating_mul(2) > self.outcome_patience;
            last = now;
            // A change may have come and gone since the last look.
            let changed = readiness.has_changed().unwrap_or(false);
            let is_ready = readiness.borrow_and_update().is_ready();
            if slept || changed || !is_ready {
                self.wait_anew(now);
            }
            if hinted.elapsed() >= HINT_PERIOD {
                hinted = Instant::now();
                self.hint_again.store(true, Ordering::Relaxed);
            }
            if self.in_doubt.swap(false, Ordering::Relaxed)
                && let Err(error) = self.settle_doubts(now_us()).await
            {
                tracing::warn!(error = &error as &dyn std::error::Error, "leases in doubt wait for the store");
                self.doubt();
            }
            self.catch_up_outbox().await;
            if let Err(error) = self.expire(now_us()).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "downlinks past their deadline wait for the store"
                );
            }
            if let Err(error) = self.give_up_silent(now, now_us()).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "downlinks without an outcome wait for the store"
                );
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(period) => {}
                () = self.sweep_soon.notified() => {}
            }
        }
    }

    /// Puts items back whose lease the store made without saying so: their window got no payload.
    async fn settle_doubts(self: &Arc<Self>, now_us: i64) -> Result<(), BridgeError> {
        let mut after = 0;
        loop {
            let page = self.tables.downlinks_in_flight(after, PAGE_ITEMS).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = last.position;
            for DownlinkRow { dev_eui, id, .. } in page {
                let guard = self.lock(dev_eui).await;
                let known = self
                    .under_way
                    .lock()
                    .get(&dev_eui)
                    .is_some_and(|items| items.iter().any(|under_way| under_way.item.id == id));
                // Read again under the lock.
                let row = self.tables.downlink(&id).await?;
                let Some(row) = row.filter(|row| !known && state_of(row) == DownlinkState::Leased) else {
                    continue;
                };
                let update = DownlinkUpdate {
                    id,
                    state: DownlinkState::Queued as i32,
                    never_left: true,
                    reason: "its lease was not confirmed by the store, and no window got it".to_owned(),
                    at_us: now_us,
                    finished: false,
                    announced: false,
                    only_lease: row.lease,
                };
                let rows = self.update(vec![row], vec![update]).await?;
                self.tell(guard, rows);
            }
        }
    }

    /// Ends the items whose deadline has passed.
    async fn expire(self: &Arc<Self>, now_us: i64) -> Result<(), BridgeError> {
        if now_us < self.next_deadline_us.load(Ordering::Relaxed) {
            return Ok(());
        }
        // Set before the store is read, so that an item enqueued meanwhile is not overlooked.
        self.next_deadline_us.store(NO_DEADLINE, Ordering::Relaxed);
        let result = self.expire_due(now_us).await;
        let next = self.tables.next_deadline_us().await.map(|next| next.unwrap_or(NO_DEADLINE));
        self.next_deadline_us.fetch_min(next.as_ref().copied().unwrap_or(now_us), Ordering::Relaxed);
        result?;
        next.map(drop).map_err(BridgeError::from)
    }

    async fn expire_due(self: &Arc<Self>, now_us: i64) -> Result<(), BridgeError> {
        // The store compares with "before"; a deadline is passed when it is reached.
        for due in self.tables.downlinks_past_deadline(now_us.saturating_add(1), PAGE_ITEMS).await? {
            let guard = self.lock(due.dev_eui).await;
            let waits = |state| matches!(state, DownlinkState::Queued | DownlinkState::Deferred);
            let Some(row) = self
                .tables
                .downlink(&due.id)
                .await?
                .filter(|row| row.finished_at_us.is_none() && waits(state_of(row)))
            else {
                continue;
            };
            let update = expiry(row.id.clone(), now_us);
            let rows = self.update(vec![row], vec![update]).await?;
            self.tell(guard, rows);
        }
        Ok(())
    }

    /// Ends the items nobody had told of for too long when this sweep began: they may have left or not. What the log says and
    /// the follower has not read yet is no silence: it may be another end.
    async fn give_up_silent(self: &Arc<Self>, now: Instant, now_us: i64) -> Result<(), BridgeError> {
        let silent = self.silent(now);
        if silent.is_empty() || !self.log_is_followed(LOG_PATIENCE).await {
            return Ok(());
        }
        for DownlinkRow { dev_eui, id, lease, .. } in silent {
            let guard = self.lock(dev_eui).await;
            let still = self.under_way.lock().get(&dev_eui).is_some_and(|items| {
                items.iter().any(|under_way| under_way.item.id == id && self.is_silent(under_way, now))
            });
            if !still {
                continue;
            }
            let Some(row) = self.tables.downlink(&id).await? else {
                self.forget(dev_eui, &id);
                continue;
            };
            let update = DownlinkUpdate {
                id: id.clone(),
                state: DownlinkState::Unknown as i32,
                never_left: false,
                reason: format!("no outcome within {} s", self.outcome_patience.as_secs()),
                at_us: now_us,
                finished: true,
                announced: false,
                only_lease: lease,
            };
            let rows = self.update(vec![row], vec![update]).await?;
            self.forget(dev_eui, &id);
            self.tell(guard, rows);
        }
        Ok(())
    }

    /// Counts every silence from now on: while the store could not write, or nobody ran, outcomes waited in memory.
    fn wait_anew(&self, now: Instant) {
        for under_way in self.under_way.lock().values_mut().flatten() {
            under_way.since = now;
        }
    }

    /// Items leased or sent so long ago that no outcome is to be expected. One the gateway has taken waits for its device,
    /// which may sleep for days.
    fn silent(&self, now: Instant) -> Vec<DownlinkRow> {
        let under_way = self.under_way.lock();
        let all = under_way.values().flatten();
        all.filter(|under_way| self.is_silent(under_way, now)).map(|under_way| under_way.item.clone()).collect()
    }

    fn is_silent(&self, under_way: &UnderWay, now: Instant) -> bool {
        matches!(state_of(&under_way.item), DownlinkState::Leased | DownlinkState::Sent)
            && now.saturating_duration_since(under_way.since) >= self.outcome_patience
    }

    /// Takes a settled item out of what is under way.
    pub(super) fn forget(&self, dev_eui: u64, id: &str) {
        if planted(Bug::EndTwice) {
            return;
        }
        let mut under_way = self.under_way.lock();
        if let Some(items) = under_way.get_mut(&dev_eui) {
            items.retain(|under_way| under_way.item.id != id);
            if items.is_empty() {
                under_way.remove(&dev_eui);
            }
        }
    }
}

/// How long a sweep waits for the follower.
const LOG_PATIENCE: Duration = Duration::from_secs(1);

/// How often the network server is told of all that waits, whatever it was told before: a downlink nobody asks for would
/// wait for ever.
const HINT_PERIOD: Duration = Duration::from_secs(60);

pub(super) fn expiry(id: String, now_us: i64) -> DownlinkUpdate {
    DownlinkUpdate {
        id,
        state: DownlinkState::Expired as i32,
        never_left: false,
        reason: "its deadline passed before a window could take it".to_owned(),
        at_us: now_us,
        finished: true,
        announced: false,
        only_lease: None,
    }
}
