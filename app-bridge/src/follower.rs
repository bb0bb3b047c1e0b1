//! Follows the event log for what the app-bridge keeps: session keys and the states of downlinks.
//!
//! What a page means is made durable together with the position it leads to, so that nothing is followed twice or missed.
//! Pages that mean nothing move the position in memory, and in the store now and then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proto::internal::{self as pb, record};
use proto::mark::Mark;
use proto::port::LogPage;
use seam::{Bug, planted};
use store::{AppSessionRow, BridgeTables, Followed};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::now_us;
use crate::error::BridgeError;
use crate::keys::Keys;
use crate::log::Log;
use crate::metrics::Metrics;
use crate::queue::Queue;

const PAGE_RECORDS: u32 = 512;
const READ_WAIT_MS: u32 = 1_000;
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// When a position that carries no change is stored all the same.
const IDLE_RECORDS: u64 = 50_000;
const IDLE_TIME: Duration = Duration::from_secs(30);

/// The follower of the event log.
pub(crate) struct Follower {
    pub(crate) tables: BridgeTables,
    pub(crate) log: Arc<Log>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) queue: Arc<Queue>,
    /// Where the position is told.
    pub(crate) followed: Mark,
    pub(crate) metrics: Arc<Metrics>,
}

impl Follower {
    /// Follows until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut stored = (self.followed.position(), Instant::now());
        stop.run_until_cancelled(self.follow(&mut stored)).await;
        // What was followed is followed again after a start where this fails.
        let position = self.followed.position();
        if position > stored.0 {
            let _ = self.tables.follow(position, Vec::new()).await;
        }
    }

    async fn follow(&self, stored: &mut (u64, Instant)) {
        let mut away = false;
        let mut behind = false;
        loop {
            let position = self.followed.position();
            let page = match self.log.read(position, PAGE_RECORDS, READ_WAIT_MS).await {
                Ok(page) => page,
                Err(error) => {
                    if !away {
                        tracing::warn!(%error, position, "the event log cannot be followed; downlink states and keys wait");
                    }
                    away = true;
                    tokio::time::sleep(RETRY_PAUSE).await;
                    continue;
                }
            };
            if std::mem::take(&mut away) {
                tracing::info!(position, "the event log is followed again");
                self.queue.network_came_back();
            }
            if page.head_seq < position && !std::mem::replace(&mut behind, true) {
                tracing::error!(
                    position,
                    head = page.head_seq,
                    "the event log ends before what was followed of it: the network server runs on another database, or an older one"
                );
            }
            let lag = page.head_seq.saturating_sub(position);
            self.metrics.follower_lag.set(i64::try_from(lag).unwrap_or(i64::MAX));
            let follows = page.records.first().map_or(page.earliest_seq, |(seq, _)| *seq);
            if follows > position.saturating_add(1) {
                tracing::error!(
                    from = position.saturating_add(1),
                    to = follows.saturating_sub(1),
                    "events were removed before they were followed; keys of devices that joined in them are missing"
                );
                self.followed.move_to(follows.saturating_sub(1));
                continue;
            }
            while let Err(error) = self.apply(&page, stored).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    position,
                    "the store does not take what the event log says; trying again"
                );
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }

    /// Makes durable what a page means.
    async fn apply(&self, page: &LogPage, stored: &mut (u64, Instant)) -> Result<(), BridgeError> {
        let Some(&(last, _)) = page.records.last() else {
            return Ok(());
        };
        let sessions = self.sessions(page);
        let concerned = self.queue.concerned(&page.records);
        let started_at_us = self.session_starts(&sessions, &concerned.sessions).await?;
        let guards = self.queue.hold(&concerned).await;
        let mut plan = self.queue.plan(&concerned, &page.records, &started_at_us, now_us());
        let mut changes: Vec<Followed> = sessions.into_iter().map(Followed::AppSession).collect();
        changes.append(&mut plan.changes);
        if !changes.is_empty()
            || last.saturating_sub(stored.0) >= IDLE_RECORDS
            || stored.1.elapsed() >= IDLE_TIME
        {
            if planted(Bug::FollowWithoutState) {
                changes.clear();
            }
            seam::crash_point("bridge.follow.before_write");
            if !self.tables.follow(last, changes).await? {
                tracing::error!(
                    position = last,
                    "another follower has passed this position; what it did stands"
                );
            }
            *stored = (last, Instant::now());
            seam::crash_point("bridge.follow.written");
        }
        self.queue.settle(plan, guards);
        self.followed.move_to(last);
        Ok(())
    }

    /// The session keys a page brings, sealed.
    fn sessions(&self, page: &LogPage) -> Vec<AppSessionRow> {
        page.records.iter().filter_map(|(_, record)| self.session(record)).collect()
    }

    fn session(&self, record: &pb::Record) -> Option<AppSessionRow> {
        let Some(record::Kind::Join(join)) = &record.kind else {
            return None;
        };
        if join.wrapped_app_s_key.is_empty() {
            // The key of a personalised session was stored when it was given.
            return None;
        }
        let Some(key) = self.keys.unwrap(&join.wrapped_app_s_key) else {
            tracing::error!(
                dev_eui = format_args!("{:016x}", record.dev_eui),
                kek_label = %join.kek_label,
                "the AppSKey of a join cannot be unwrapped: the join server wraps with another key; payloads of this session are delivered raw"
            );
            return None;
        };
        Some(self.keys.seal(join.session_id, record.dev_eui, &key, record.at_us))
    }

    async fn session_starts(
        &self,
        sessions: &[AppSessionRow],
        asked: &std::collections::BTreeSet<u64>,
    ) -> Result<BTreeMap<u64, i64>, BridgeError> {
        if asked.is_empty() {
            return Ok(BTreeMap::new());
        }
        let rows = self.tables.app_sessions_by_id(asked.iter().copied().collect()).await?;
        Ok(rows.iter().chain(sessions).map(|row| (row.session_id, row.started_at_us)).collect())
    }
}
