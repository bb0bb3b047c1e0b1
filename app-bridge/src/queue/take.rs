//! A window asks for a payload.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mac::crypto::{Direction, crypt_frm_payload};
use mac::ids::DevAddr;
use proto::internal as pb;
use proto::port::{PayloadPort, PortError};
use proto::v1::DownlinkState;
use seam::{Bug, planted};
use store::{DownlinkLease, DownlinkRow, DownlinkUpdate};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::decide::{Rooms, Taken, choose, state_of};
use super::sweep::expiry;
use super::{Queue, UnderWay};
use crate::clock::now_us;
use crate::error::BridgeError;

/// Items looked at for one window.
const ITEMS_LOOKED_AT: u32 = 64;
/// How long a window waits for the follower when the log may settle what stands in the way. A window waits 150 ms in all.
const FOLLOWER_PATIENCE: Duration = Duration::from_millis(60);

/// The queue as the network server sees it.
pub(crate) struct PayloadSource(pub(crate) Arc<Queue>);

#[async_trait]
impl PayloadPort for PayloadSource {
    async fn take_payload(
        &self,
        request: pb::TakePayloadRequest,
    ) -> Result<pb::TakePayloadResponse, PortError> {
        let (answer, answered) = oneshot::channel();
        // In a task of its own: a caller that stops waiting must not leave a lease half done.
        self.0.tasks.spawn(Arc::clone(&self.0).take(request, answer));
        answered.await.map_err(|_| PortError::Unavailable("the app-bridge is stopping".to_owned()))?
    }
}

type Answer = oneshot::Sender<Result<pb::TakePayloadResponse, PortError>>;

impl Queue {
    async fn take(self: Arc<Self>, request: pb::TakePayloadRequest, answer: Answer) {
        let started = Instant::now();
        self.await_settlement(&request).await;
        let guard = self.lock(request.dev_eui).await;
        let outcome = self.lease_next(&request).await;
        self.metrics.payload_seconds.observe(started.elapsed().as_secs_f64());
        let mut changed = Vec::new();
        match outcome {
            Ok(window) => {
                let delivered = answer.send(Ok(window.response)).is_ok();
                seam::crash_point("bridge.lease.answered");
                let leased = match window.leased {
                    // Nobody waits any more: the payload stays here, and only its counter is burnt.
                    Some(leased) if !delivered => self.take_back(leased).await,
                    leased => leased,
                };
                // Before all else: the network server tells the same log what becomes of the item.
                self.announce(leased.as_slice()).await;
                match self.update(window.passed_over, window.updates).await {
                    Ok(rows) => changed = rows,
                    Err(error) => {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "downlinks that were passed over keep their state for now"
                        );
                    }
                }
            }
            Err(error) => {
                let _ = answer.send(Err(error));
            }
        }
        self.announce(&changed).await;
        // Also where it asked in vain: then the hint it had was out of date.
        self.hint(request.dev_eui).await;
        drop(guard);
    }

    /// Puts an item back whose payload was not handed over.
    async fn take_back(&self, leased: DownlinkRow) -> Option<DownlinkRow> {
        let (dev_eui, id) = (leased.dev_eui, leased.id.clone());
        let update = DownlinkUpdate {
            id: id.clone(),
            state: DownlinkState::Queued as i32,
            never_left: true,
            reason: "the window that asked for it closed meanwhile".to_owned(),
            at_us: now_us(),
            finished: false,
            announced: false,
            only_lease: leased.lease,
        };
        match self.update(vec![leased.clone()], vec![update]).await {
            Ok(rows) => {
                self.forget(dev_eui, &id);
                rows.into_iter().next()
            }
            // It stays leased, and ends as unknown.
            Err(_) => Some(leased),
        }
    }

    /// The uplink that opened this window may have settled an item, or brought the key: its record is in the log already.
    async fn await_settlement(&self, request: &pb::TakePayloadRequest) {
        let confirmed_under_way = self.confirmed_under_way(request.dev_eui);
        let key_missing = matches!(self.keys.of_session(request.session_id).await, Ok(None));
        if !confirmed_under_way && !key_missing {
            return;
        }
        if !self.log_is_followed(FOLLOWER_PATIENCE).await {
            tracing::debug!(
                dev_eui = format_args!("{:016x}", request.dev_eui),
                "a window did not wait longer for the event log"
            );
        }
    }

    fn confirmed_under_way(&self, dev_eui: u64) -> bool {
        self.under_way
            .lock()
            .get(&dev_eui)
            .is_some_and(|items| items.iter().any(|under_way| under_way.item.confirmed))
    }

    async fn lease_next(&self, request: &pb::TakePayloadRequest) -> Result<Window, PortError> {
        let pb::TakePayloadRequest { dev_eui, session_id, dev_addr, fcnt_down, room_rx1, room_rx2 } = *request;
        let waiting = self.tables.next_downlinks(dev_eui, ITEMS_LOOKED_AT).await.map_err(BridgeError::from)?;
        let now = now_us();
        let rooms = Rooms { rx1: room_rx1, rx2: room_rx2 };
        let choice = choose(&waiting, self.confirmed_under_way(dev_eui), rooms, now);
        let mut window = Window::default();
        for &index in &choice.expire {
            window.pass_over(&waiting, index, |row| expiry(row.id.clone(), now));
        }
        for &index in &choice.defer {
            window.pass_over(&waiting, index, |row| deferral(row, rooms, now));
        }
        let Some(Taken { index, rx2_only, more_pending }) = choice.take else {
            return Ok(window);
        };
        let Some(item) = waiting.get(index) else {
            return Ok(window);
        };
        let Some(key) = self.keys.of_session(session_id).await? else {
            tracing::warn!(
                dev_eui = format_args!("{dev_eui:016x}"),
                "no AppSKey of the session is known, so no downlink can be sealed; the device has to join again"
            );
            return Ok(window);
        };
        if planted(Bug::LeaseNotDurable) {
            return Ok(self.lease_in_memory(item, request, &key, more_pending, rx2_only));
        }
        if !item.announced {
            // The lease takes the place of the state the log was not told yet.
            self.announce(std::slice::from_ref(item)).await;
        }
        let leased = match self
            .tables
            .lease_downlink(&item.id, session_id, fcnt_down, now)
            .await
            .inspect_err(|_| self.doubt())
            .map_err(BridgeError::from)?
        {
            DownlinkLease::Leased(row) => row,
            DownlinkLease::NotWaiting => return Ok(window),
            DownlinkLease::CounterUsed { last } => {
                return Err(PortError::FailedPrecondition(format!(
                    "FCntDown {fcnt_down} of session {session_id:016x} must not seal another payload: {last} is used already"
                )));
            }
        };
        seam::crash_point("bridge.lease.written");
        let mut frm_payload = leased.payload.clone();
        crypt_frm_payload(key.expose(), Direction::Down, DevAddr::new(dev_addr), fcnt_down, &mut frm_payload);
        window.response = pb::TakePayloadResponse {
            has_payload: true,
            item_id: leased.id.clone(),
            f_port: u32::from(leased.f_port),
            frm_payload,
            confirmed: leased.confirmed,
            more_pending,
            rx2_only,
        };
        self.under_way.lock().entry(dev_eui).or_default().push(UnderWay::new(leased.clone()));
        window.leased = Some(leased);
        Ok(window)
    }
}

impl Queue {
    /// What a planted bug does in place of a lease: the store hears of it later, if at all.
    fn lease_in_memory(
        &self,
        item: &DownlinkRow,
        request: &pb::TakePayloadRequest,
        key: &mac::keys::AppSKey,
        more_pending: bool,
        rx2_only: bool,
    ) -> Window {
        let pb::TakePayloadRequest { dev_eui, session_id, dev_addr, fcnt_down, .. } = *request;
        let mut frm_payload = item.payload.clone();
        crypt_frm_payload(key.expose(), Direction::Down, DevAddr::new(dev_addr), fcnt_down, &mut frm_payload);
        let response = pb::TakePayloadResponse {
            has_payload: true,
            item_id: item.id.clone(),
            f_port: u32::from(item.f_port),
            frm_payload,
            confirmed: item.confirmed,
            more_pending,
            rx2_only,
        };
        let (tables, id) = (self.tables.clone(), item.id.clone());
        tokio::spawn(async move { tables.lease_downlink(&id, session_id, fcnt_down, now_us()).await });
        let leased = DownlinkRow {
            state: DownlinkState::Leased as i32,
            lease: Some((session_id, fcnt_down)),
            attempts: item.attempts.saturating_add(1),
            ..item.clone()
        };
        self.under_way.lock().entry(dev_eui).or_default().push(UnderWay::new(leased.clone()));
        Window { response, leased: Some(leased), ..Window::default() }
    }
}

/// What a window gets, and what is left to write after it was answered.
#[derive(Default)]
struct Window {
    response: pb::TakePayloadResponse,
    leased: Option<DownlinkRow>,
    passed_over: Vec<DownlinkRow>,
    updates: Vec<DownlinkUpdate>,
}

impl Window {
    fn pass_over(
        &mut self,
        waiting: &[DownlinkRow],
        index: usize,
        update: impl Fn(&DownlinkRow) -> DownlinkUpdate,
    ) {
        let Some(row) = waiting.get(index) else {
            return;
        };
        let update = update(row);
        // An item that is deferred again is not told of again.
        if state_of(row) as i32 != update.state {
            self.updates.push(update);
            self.passed_over.push(row.clone());
        }
    }
}

fn deferral(row: &DownlinkRow, rooms: Rooms, now_us: i64) -> DownlinkUpdate {
    DownlinkUpdate {
        id: row.id.clone(),
        state: DownlinkState::Deferred as i32,
        never_left: false,
        reason: format!(
            "{} bytes do not fit the last window, which had room for {}; it waits for a better data rate",
            row.payload.len(),
            rooms.rx1.max(rooms.rx2)
        ),
        at_us: now_us,
        finished: false,
        announced: false,
        only_lease: None,
    }
}
