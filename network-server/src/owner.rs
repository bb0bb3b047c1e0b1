//! The owner of devices: one thread that decides everything about its shards, one frame after the other.
//!
//! A verified copy enters by [`Owner::take_copy`], waits in the deduplication window, and is decided in
//! [`Owner::decide`], which changes the session in memory and hands what must be durable to the journal. What leaves
//! the process leaves from the journal's callback, after the commit.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use hashbrown::HashMap;
use mac::dedup::{Closed, Counter, Dedup, DedupLimits, FrameId, Handled, Reception};
use mac::drop_reason::DropReason;
use mac::ids::{DevEui, GatewayEui, SessionId};
use mac::region::RX2_AFTER_RX1_S;
use mac::session::Session;
use mac::units::Mono;
use mac::uplink::{self, QueueHint, Reply};
use mac::verify::Proof;
use proto::internal as pb;
use seam::{Bug, planted};
use store::{Journal, Sealer, Submission};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::budget::{JOINS_REMEMBERED_MAX, PENDING_SESSIONS_MAX};
use crate::clock::Clock;
use crate::deltas::{delta_of, removed, whole};
use crate::downlink::{DownlinkJob, DownlinkMessage, UnderWay};
use crate::drops::DropLog;
use crate::drops::refusal_of;
use crate::gateway::{Bucket, GatewayUplink, Gateways, RateLimit};
use crate::index::{Candidate, DevAddrIndex};
use crate::join::{JoinCopy, JoinJob};
use crate::metrics::{Metrics, Sizes};
use crate::owner_queue::owner_of;
use crate::profiles::ProfileEntry;
use crate::records::{self};
use crate::seal::seal_keys;
use crate::transmit::by_signal;
use crate::uplink::{count_note, low_half_of_time, radio_context, step_records, uplink_record};

/// A copy of a frame whose MIC holds.
#[derive(Clone, Debug)]
pub(crate) struct VerifiedCopy {
    pub(crate) dev_eui: DevEui,
    pub(crate) proof: Proof,
    pub(crate) uplink: GatewayUplink,
}

impl Reception for VerifiedCopy {
    fn gateway_eui(&self) -> GatewayEui {
        self.uplink.gateway
    }

    fn tmst_us(&self) -> u32 {
        self.uplink.tmst_us
    }

    fn is_stronger_than(&self, other: &Self) -> bool {
        by_signal(&self.uplink, &other.uplink).is_lt()
    }
}

/// What an owner is told.
pub(crate) enum OwnerMessage {
    /// Verified copies of data frames.
    Uplinks(Vec<VerifiedCopy>),
    /// Join-Requests; nobody has checked their MIC.
    Joins(Vec<JoinCopy>),
    /// Does something with the devices, in turn with their frames.
    Run(Box<dyn FnOnce(&mut Owner) + Send>),
    /// Closes the open windows, hands over everything, ends.
    Stop,
}

/// A device and its sessions.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) join_eui: u64,
    pub(crate) profile: Arc<ProfileEntry>,
    pub(crate) disabled: bool,
    pub(crate) allow_fcnt_reset: bool,
    pub(crate) queue: Option<QueueHint>,
    pub(crate) current: Option<Session>,
    /// Offered by a Join-Accept and not used yet, the oldest first.
    pub(crate) pending: Vec<Session>,
    /// Alive while the last answer to an uplink is under way.
    pub(crate) answer: Weak<UnderWay>,
}

impl Device {
    pub(crate) fn session_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.current.iter_mut().chain(&mut self.pending).find(|session| session.id == id)
    }

    /// The sessions that are over once this one is used, the oldest first.
    fn ended_by(&self, used: SessionId) -> Vec<SessionId> {
        let is_pending = self.pending.iter().any(|session| session.id == used);
        let older = self.sessions().map(|session| session.id).take_while(|id| *id != used);
        if is_pending { older.collect() } else { Vec::new() }
    }

    /// Every session, the live one first.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.current.iter().chain(&self.pending)
    }
}

/// What all owners share.
pub(crate) struct Shared {
    pub(crate) index: Arc<DevAddrIndex>,
    pub(crate) drops: Arc<DropLog>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) sizes: Arc<Sizes>,
    pub(crate) gateways: Arc<Gateways>,
    pub(crate) journal: Journal,
    pub(crate) sealer: Sealer,
    pub(crate) clock: Clock,
    pub(crate) downlinks: mpsc::Sender<DownlinkMessage>,
    pub(crate) joins: mpsc::Sender<JoinJob>,
    pub(crate) window_ms: u64,
    /// What replaces a device's sessions takes its turn: joins, activations, deletions.
    pub(crate) turns: Box<[tokio::sync::Mutex<()>]>,
}

/// See the file's head.
pub(crate) struct Owner {
    pub(crate) shared: Arc<Shared>,
    /// Boxed: a table that grows leaves half of its places empty.
    pub(crate) devices: HashMap<DevEui, Box<Device>>,
    uplinks: Dedup<VerifiedCopy>,
    joins: Dedup<JoinCopy>,
    join_rates: HashMap<DevEui, Bucket>,
}

impl Owner {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let window_ms = shared.window_ms;
        let limits = DedupLimits { window_ms, ..DedupLimits::default() };
        Self {
            shared,
            devices: HashMap::new(),
            uplinks: Dedup::new(limits),
            joins: Dedup::new(DedupLimits { frames_max: JOINS_REMEMBERED_MAX, ..limits }),
            join_rates: HashMap::new(),
        }
    }

    /// Works until it is told to stop.
    pub(crate) fn run(mut self, messages: &Receiver<OwnerMessage>) {
        let _guard = AbortOnPanic;
        loop {
            let first = match self.next_timeout() {
                None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => {
                    let wait_us = at.saturating_us_since(self.now());
                    messages.recv_timeout(Duration::from_micros(wait_us))
                }
            };
            match first {
                Ok(message) => {
                    if self.take(message).is_stop() {
                        break;
                    }
                    // What waits already is cheaper to take now than after another look at the clock.
                    let waiting: Vec<_> = messages.try_iter().take(MESSAGES_A_TURN).collect();
                    if waiting.into_iter().any(|message| self.take(message).is_stop()) {
                        break;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.close_windows();
        }
        self.close_all();
    }

    /// The same as a task of a simulated world, where the queue rings a bell.
    pub(crate) async fn run_as_task(mut self, messages: &Receiver<OwnerMessage>, bell: &Notify) {
        loop {
            match self.next_timeout() {
                None => bell.notified().await,
                Some(at) => {
                    let wait = Duration::from_micros(at.saturating_us_since(self.now()));
                    // Either of the two is a reason to look.
                    let _ = tokio::time::timeout(wait, bell.notified()).await;
                }
            }
            let mut stop = false;
            while !stop && let Ok(message) = messages.try_recv() {
                stop = self.take(message).is_stop();
            }
            if stop {
                break;
            }
            self.close_windows();
        }
        self.close_all();
    }

    /// Decides the windows that are open, before the end.
    pub(crate) fn close_all(&mut self) {
        let now = self.now();
        for closed in self.uplinks.close_all(now) {
            self.decide(closed, now);
        }
    }

    /// When there is something to close, to the next whole millisecond: under load windows close in groups.
    fn next_timeout(&self) -> Option<Mono> {
        let next = [self.uplinks.poll_timeout(), self.joins.poll_timeout()].into_iter().flatten().min()?;
        Some(Mono::from_us(next.us().next_multiple_of(1_000)))
    }

    fn take(&mut self, message: OwnerMessage) -> Turn {
        match message {
            OwnerMessage::Uplinks(copies) => {
                let count = copies.len() as u64;
                let now = self.now();
                for copy in copies {
                    self.take_copy(copy, now);
                }
                self.shared.sizes.ingress_frames.fetch_sub(count, std::sync::atomic::Ordering::Relaxed);
            }
            OwnerMessage::Joins(copies) => {
                let now = self.now();
                let count = copies.len() as u64;
                for copy in copies {
                    self.take_join(copy, now);
                }
                self.shared.sizes.ingress_frames.fetch_sub(count, std::sync::atomic::Ordering::Relaxed);
            }
            OwnerMessage::Run(work) => work(self),
            OwnerMessage::Stop => return Turn::Stop,
        }
        Turn::GoOn
    }

    fn close_windows(&mut self) {
        let now = self.now();
        for closed in self.uplinks.handle_timeout(now) {
            self.decide(closed, now);
        }
        for closed in self.joins.handle_timeout(now) {
            self.hand_over_join(closed);
        }
    }

    fn now(&self) -> Mono {
        self.shared.clock.mono()
    }

    // ---- data frames -------------------------------------------------------------------------------------------

    fn take_copy(&mut self, copy: VerifiedCopy, now: Mono) {
        let shared = Arc::clone(&self.shared);
        let metrics = &shared.metrics;
        metrics.verify_seconds.observe(seconds(now.saturating_us_since(copy.uplink.received)));
        let refuse = |copy: &VerifiedCopy, reason| {
            let mut refusal = refusal_of(&copy.uplink, reason);
            refusal.dev_eui = Some(copy.dev_eui);
            refusal.fcnt = Some(copy.proof.fcnt().value());
            shared.drops.refuse(refusal);
        };
        let Some(device) = self.devices.get_mut(&copy.dev_eui) else {
            return refuse(&copy, DropReason::UnknownDevAddr);
        };
        if device.disabled {
            return refuse(&copy, DropReason::DeviceDisabled);
        }
        let profile = device.profile.load();
        let Some(session) = device.session_mut(copy.proof.session()) else {
            return refuse(&copy, DropReason::UnknownDevAddr);
        };
        let phy = Arc::clone(&copy.uplink.phy);
        let Some(uplink) = copy.proof.open(&phy) else {
            return refuse(&copy, DropReason::MicMismatch);
        };
        let radio = &copy.uplink;
        if let Err(reason) = profile.sent_with(radio.freq, radio.modulation, &[], radio.phy.len()) {
            return refuse(&copy, reason);
        }
        let (counter, refused) = match session.recheck(&uplink) {
            Ok(counter) => (counter, DropReason::NbTransExceeded),
            Err(DropReason::FcntReplayed) if planted(Bug::SkipCompareAndSet) => {
                (Counter::Fresh, DropReason::FcntReplayed)
            }
            // It may still be a copy of a frame whose window is open, while the next frame is here already.
            Err(reason @ DropReason::FcntReplayed) => (Counter::RepeatExhausted, reason),
            Err(reason) => {
                if reason == DropReason::FcntReuse {
                    let message = format!("FCntUp {} came again with other content", copy.proof.fcnt());
                    let record =
                        records::error(copy.uplink.received_at, Some(copy.dev_eui), "fcnt_reuse", message);
                    shared.submit(vec![record], Vec::new());
                }
                return refuse(&copy, reason);
            }
        };
        let id = FrameId::Data { session: session.id, fcnt: copy.proof.fcnt(), content: copy.proof.content() };
        // The delay the profile asks for may be in force already: this very frame may carry the device's answer.
        let asked_ms = u64::from(profile.rx_delay_s.saturating_add(RX2_AFTER_RX1_S)) * 1_000;
        let late_ms = session.rx2_delay_ms().max(asked_ms);
        match self.uplinks.handle(id, counter, copy.clone(), late_ms, now) {
            Handled::Opened => {
                session.open_uplink(&profile, &uplink, copy.uplink.received_at);
                shared.index.move_counter(session);
            }
            Handled::OpenedRepeat => {
                session.count_repeat();
                Metrics::add(&metrics.retransmissions);
            }
            Handled::Joined | Handled::Absorbed => {}
            Handled::Late => {
                Metrics::add(&metrics.late_copies);
                let record = records::late_receptions(
                    copy.uplink.received_at,
                    copy.dev_eui,
                    copy.proof.session(),
                    copy.proof.fcnt(),
                    std::slice::from_ref(&copy.uplink),
                );
                shared.submit(vec![record], Vec::new());
            }
            Handled::RepeatRefused => {
                if refused == DropReason::NbTransExceeded && session.tell_excess() {
                    let message = format!(
                        "FCntUp {} was sent more often than the device may; it may be a replay",
                        copy.proof.fcnt()
                    );
                    let record = records::error(
                        copy.uplink.received_at,
                        Some(copy.dev_eui),
                        "nb_trans_exceeded",
                        message,
                    );
                    shared.submit(vec![record], Vec::new());
                }
                refuse(&copy, refused);
            }
            Handled::Full => refuse(&copy, DropReason::QueueFull),
        }
    }

    /// Decides a frame. The first one of a new session ends the sessions before it; what is being collected of those comes first.
    fn decide(&mut self, closed: Closed<VerifiedCopy>, now: Mono) {
        if let Some(first) = closed.receptions.first() {
            let device = self.devices.get(&first.dev_eui);
            let ending = device.map(|device| device.ended_by(first.proof.session())).unwrap_or_default();
            self.decide_ending(ending, now);
        }
        self.decide_one(closed, Reply::Possible, now);
    }

    /// Decides what is being collected of sessions that are about to end; the device does not listen in them any more.
    fn decide_ending(&mut self, sessions: Vec<SessionId>, now: Mono) {
        for session in sessions {
            for older in self.uplinks.close_session(session, now) {
                self.decide_one(older, Reply::TooLate, now);
            }
        }
    }

    fn decide_one(&mut self, mut closed: Closed<VerifiedCopy>, reply: Reply, now: Mono) {
        if planted(Bug::RepeatIsNew) {
            closed.repeat = false;
        }
        if planted(Bug::ReceptionsLost) {
            closed.receptions.truncate(1);
        }
        let shared = Arc::clone(&self.shared);
        let Some(first) = closed.receptions.first() else { return };
        let (dev_eui, proof) = (first.dev_eui, first.proof);
        let refuse = |detail: &str| {
            let mut refusal = refusal_of(&first.uplink, DropReason::UnknownDevAddr);
            refusal.dev_eui = Some(dev_eui);
            refusal.fcnt = Some(proof.fcnt().value());
            refusal.detail = detail.to_owned();
            shared.drops.refuse(refusal);
        };
        let Some(device) = self.devices.get_mut(&dev_eui) else {
            return refuse("the device was deleted while its frame was collected");
        };
        let profile = device.profile.load();
        let (queue, allow_fcnt_reset) = (device.queue, device.allow_fcnt_reset);
        let is_answered = closed.repeat && device.answer.strong_count() > 0;
        let Some(session) = device.session_mut(proof.session()) else {
            return refuse("the session ended while its frame was collected");
        };
        let phy = Arc::clone(&first.uplink.phy);
        let Some(uplink) = proof.open(&phy) else { return };
        let at = first.uplink.received_at;
        let mut radio = radio_context(&profile, session, &closed, &shared.gateways, now);
        // The device listens in another session, or two gateways would answer the same windows.
        if reply == Reply::TooLate || is_answered {
            radio.reply = Reply::TooLate;
        }
        let step = if closed.repeat {
            uplink::apply_repeat(session, &profile, &uplink, &radio, at)
        } else {
            uplink::apply(session, &profile, &uplink, &radio, queue, at)
        };

        let mut events = Vec::new();
        let dropped = planted(Bug::DropEventRow) && proof.fcnt().value() % 4 == 3;
        if !closed.repeat && !dropped {
            // A device that may start its counter again sends two frames under one number.
            let id_salt = if allow_fcnt_reset { low_half_of_time(at) } else { 0 };
            events.push(uplink_record(&uplink, &step, &closed, &radio, session, at, id_salt));
        }
        step_records(&step, session, at, &mut events);
        for note in &step.notes {
            count_note(&shared.drops, *note, &first.uplink, session, &uplink);
        }
        let mut deltas = vec![delta_of(session, (!closed.repeat).then_some(proof.fcnt()), &step)];
        let job = step.downlink.map(|plan| DownlinkJob::new(session, Arc::clone(&profile), plan, &closed));
        let answer = job.as_ref().map(DownlinkJob::under_way);
        if session.version.is_1_1() && step.mac_changed {
            shared.index.put(Candidate::new(session, &profile, allow_fcnt_reset));
        }
        if let Some(answer) = answer {
            device.answer = answer;
        }
        if step.session_confirmed {
            retire_older(device, proof.session(), &shared, &mut deltas);
        }
        shared.submit_uplink(events, deltas, job, now, !closed.repeat);
    }

    // ---- joins -------------------------------------------------------------------------------------------------

    fn take_join(&mut self, copy: JoinCopy, now: Mono) {
        let request = copy.request;
        let refuse = |reason, hint| {
            let mut refusal = refusal_of(&copy.uplink, reason);
            refusal.dev_eui = Some(request.dev_eui);
            refusal.join_eui = Some(request.join_eui);
            refusal.hint = hint;
            self.shared.drops.refuse(refusal);
        };
        let Some(device) = self.devices.get(&request.dev_eui) else {
            return refuse(DropReason::DeviceUnknown, self.likely_mistake(&request));
        };
        if device.disabled {
            return refuse(DropReason::DeviceDisabled, None);
        }
        if device.join_eui != request.join_eui.value() {
            let reversed = device.join_eui.swap_bytes() == request.join_eui.value();
            let hint = reversed
                .then(|| "the bytes of the JoinEUI are reversed in the device or in the registry".to_owned());
            return refuse(DropReason::JoinEuiMismatch, hint);
        }
        let profile = device.profile.load();
        let radio = &copy.uplink;
        if let Err(reason) = profile.sent_with(radio.freq, radio.modulation, &[], radio.phy.len()) {
            return refuse(reason, None);
        }
        let id = FrameId::Join {
            dev_eui: request.dev_eui,
            dev_nonce: request.dev_nonce,
            content: u64::from(u32::from_le_bytes(request.mic.to_bytes())),
        };
        let dev_eui = copy.request.dev_eui;
        // Nobody has checked the MIC: whoever knows a DevEUI can send as many as they like.
        if self.join_rates.len() > JOINS_REMEMBERED_MAX {
            self.join_rates.clear();
        }
        if !self.join_rates.entry(dev_eui).or_default().take(JOIN_RATE, now) {
            return refuse(DropReason::RateLimited, None);
        }
        match self.joins.handle(id, Counter::Fresh, copy.clone(), JOIN_LATE_MS, now) {
            Handled::Full => {
                let mut refusal = refusal_of(&copy.uplink, DropReason::RateLimited);
                refusal.dev_eui = Some(dev_eui);
                self.shared.drops.refuse(refusal);
            }
            Handled::Opened
            | Handled::OpenedRepeat
            | Handled::Joined
            | Handled::Absorbed
            | Handled::Late
            | Handled::RepeatRefused => {}
        }
    }

    /// A device that is registered under another spelling of what a Join-Request says.
    fn likely_mistake(&self, request: &mac::join_frame::JoinRequest) -> Option<String> {
        let (dev_eui, join_eui) = (request.dev_eui.value(), request.join_eui.value());
        let registered = |eui: u64| self.devices.contains_key(&DevEui::new(eui));
        let known = DevEui::new(if registered(join_eui) { join_eui } else { dev_eui.swap_bytes() });
        if registered(join_eui) {
            Some(format!("{known} is registered as a DevEUI: DevEUI and JoinEUI are swapped in the device"))
        } else if registered(dev_eui.swap_bytes()) {
            Some(format!(
                "{known} is registered: the bytes of the DevEUI are reversed in the device or in the registry"
            ))
        } else {
            None
        }
    }

    fn hand_over_join(&self, closed: Closed<JoinCopy>) {
        let Some(first) = closed.receptions.first() else { return };
        let request = first.request;
        let Some(device) = self.devices.get(&request.dev_eui) else { return };
        let in_use = device.sessions().map(|session| session.dev_addr).collect();
        let job = JoinJob {
            request,
            copies: closed.receptions.into_iter().map(|copy| copy.uplink).collect(),
            profile: device.profile.load(),
            addresses_in_use: in_use,
        };
        if let Err(error) = self.shared.joins.try_send(job) {
            let (mpsc::error::TrySendError::Full(job) | mpsc::error::TrySendError::Closed(job)) = error;
            if let Some(copy) = job.copies.first() {
                let mut refusal = refusal_of(copy, DropReason::RateLimited);
                refusal.dev_eui = Some(request.dev_eui);
                self.shared.drops.refuse(refusal);
            }
        }
    }

    /// Tells the receivers what a changed profile means for its 1.1 devices.
    pub(crate) fn renew_candidates(&self, profile: &Arc<ProfileEntry>) {
        let content = profile.load();
        for device in self.devices.values().filter(|device| Arc::ptr_eq(&device.profile, profile)) {
            for session in device.sessions().filter(|session| session.version.is_1_1()) {
                self.shared.index.put(Candidate::new(session, &content, device.allow_fcnt_reset));
            }
        }
    }

    /// Replaces every session of a device by one it was personalised with. Counters are read and the session is put in its place in
    /// one step, so that none is used in between; what is being collected of the old sessions is decided first.
    pub(crate) fn personalise(
        &mut self,
        dev_eui: DevEui,
        committed: oneshot::Sender<()>,
        build: impl FnOnce(&Device) -> Session,
    ) -> Taken {
        let shared = Arc::clone(&self.shared);
        let now = self.now();
        let ending: Vec<SessionId> =
            self.devices.get(&dev_eui).into_iter().flat_map(|device| device.sessions()).map(|s| s.id).collect();
        self.decide_ending(ending, now);
        let Some(device) = self.devices.get_mut(&dev_eui) else { return Taken::NoDevice };
        let session = build(device);
        let before = device.sessions().count() as u64;
        shared.sizes.sessions.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        shared.sizes.sessions.fetch_sub(before, std::sync::atomic::Ordering::Relaxed);
        for old in device.sessions() {
            shared.index.remove(old);
        }
        device.pending.clear();
        shared.index.put(Candidate::new(&session, &device.profile.load(), device.allow_fcnt_reset));
        let cleared = pb::Delta { dev_eui: dev_eui.value(), removed: true, ..pb::Delta::default() };
        let begun = whole(&session, seal_keys(&shared.sealer, session.id, &session.keys));
        device.current = Some(session);
        shared.submit_and_tell(Vec::new(), vec![cleared, begun], committed);
        Taken::Yes
    }

    /// Takes a session that a Join-Accept offers and the journal holds. A device that was deleted meanwhile has none.
    pub(crate) fn add_pending(&mut self, session: Session) -> Taken {
        let shared = Arc::clone(&self.shared);
        let Some(device) = self.devices.get_mut(&session.dev_eui) else {
            shared.submit(Vec::new(), vec![removed(&session)]);
            return Taken::NoDevice;
        };
        let profile = device.profile.load();
        // The same accept given again names the same session.
        device.pending.retain(|known| known.id != session.id);
        shared.sizes.sessions.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        shared.index.put(Candidate::new(&session, &profile, device.allow_fcnt_reset));
        let mut deltas = Vec::new();
        if (planted(Bug::OverwriteLiveSession) || planted(Bug::RetireAtJoin))
            && let Some(old) = device.current.take()
        {
            shared.index.remove(&old);
            if planted(Bug::RetireAtJoin) {
                deltas.push(removed(&old));
            }
        }
        device.pending.push(session);
        while device.pending.len() > PENDING_SESSIONS_MAX {
            // One whose first uplink is being collected is in use, whatever the device asked for since.
            let newest = device.pending.len().saturating_sub(1);
            let unused = device.pending.iter().take(newest).position(|session| session.fcnt_up.is_none());
            let Some(unused) = unused else { break };
            let victim = if planted(Bug::EvictNewestPending) { newest } else { unused };
            let oldest = device.pending.remove(victim);
            shared.index.remove(&oldest);
            shared.sizes.sessions.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            deltas.push(removed(&oldest));
        }
        if !deltas.is_empty() {
            shared.submit(Vec::new(), deltas);
        }
        Taken::Yes
    }
}

/// Whether an owner took a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Taken {
    NoDevice,
    Yes,
}

/// An owner that panics has lost what it held in memory: the process ends, and starts again from what is committed.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(
                "an owner panicked; the process ends so that it starts again from what is committed"
            );
            std::process::abort();
        }
    }
}

enum Turn {
    GoOn,
    Stop,
}

impl Turn {
    const fn is_stop(&self) -> bool {
        matches!(self, Self::Stop)
    }
}

impl Shared {
    /// Waits for the turn of a device.
    #[allow(clippy::indexing_slicing, reason = "an owner is below the number of turns")]
    pub(crate) async fn turn(&self, dev_eui: DevEui) -> tokio::sync::MutexGuard<'_, ()> {
        self.turns[owner_of(dev_eui, self.turns.len())].lock().await
    }

    /// Makes something durable that nobody waits for.
    pub(crate) fn submit(&self, records: Vec<pb::Record>, deltas: Vec<pb::Delta>) {
        self.hand_over(Submission { records, deltas, done: None });
    }

    /// Makes something durable and then says so.
    pub(crate) fn submit_and_tell(
        &self,
        records: Vec<pb::Record>,
        deltas: Vec<pb::Delta>,
        committed: oneshot::Sender<()>,
    ) {
        let done = move |_| {
            // Whoever waits may have given up.
            let _ = committed.send(());
        };
        self.hand_over(Submission { records, deltas, done: Some(Box::new(done)) });
    }

    fn submit_uplink(
        &self,
        records: Vec<pb::Record>,
        deltas: Vec<pb::Delta>,
        job: Option<DownlinkJob>,
        decided: Mono,
        is_new: bool,
    ) {
        let metrics = Arc::clone(&self.metrics);
        let drops = Arc::clone(&self.drops);
        let clock = self.clock;
        let mut job = job;
        if planted(Bug::AcknowledgeBeforeCommit)
            && let Some(job) = job.take()
        {
            // Nobody counts what a planted bug misses.
            let _ = self.downlinks.try_send(DownlinkMessage::Job(Box::new(job)));
        }
        let downlinks = self.downlinks.clone();
        let done = move |_| {
            seam::crash_point("network.uplink.committed");
            if is_new {
                Metrics::add(&metrics.uplinks);
            }
            metrics.commit_seconds.observe(seconds(clock.mono().saturating_us_since(decided)));
            if let Some(job) = job
                && downlinks.try_send(DownlinkMessage::Job(Box::new(job))).is_err()
            {
                drops.count(DropReason::DownlinkWindowMissed);
            }
        };
        self.hand_over(Submission { records, deltas, done: Some(Box::new(done)) });
    }

    fn hand_over(&self, submission: Submission) {
        // Waits while the disk is behind; the sockets stop acknowledging meanwhile.
        if self.journal.submit_blocking(submission).is_err() {
            tracing::error!("the journal is closed while frames are still decided; they were not accepted");
        }
    }
}

/// The sessions before the one an uplink has just proved are over.
fn retire_older(device: &mut Device, confirmed: SessionId, shared: &Shared, deltas: &mut Vec<pb::Delta>) {
    let Some(position) = device.pending.iter().position(|session| session.id == confirmed) else { return };
    let mut older: Vec<Session> = device.pending.drain(..=position).collect();
    let current = older.pop();
    older.extend(std::mem::replace(&mut device.current, current));
    for session in older {
        shared.index.remove(&session);
        shared.sizes.sessions.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        deltas.push(removed(&session));
    }
}

pub(crate) fn seconds(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64()
}

const MESSAGES_A_TURN: usize = 64;
/// Copies of Join-Requests of one DevEUI. A device sends one every ten seconds at most; many gateways may hear it.
const JOIN_RATE: RateLimit = RateLimit { per_second: 20, burst: 200 };
/// A copy of a Join-Request is recognised for so long.
const JOIN_LATE_MS: u64 = 60_000;
