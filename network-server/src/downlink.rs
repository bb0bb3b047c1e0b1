//! From a committed plan to a frame on air: ask for the payload, make the frame, send it, tell what became of it.
//!
//! Each job is a task with deadlines; its counters are durable before it starts. A confirmed frame is noted in its
//! session, durably, before it leaves, so that its acknowledgement is understood after a crash.

use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use mac::dedup::Closed;
use mac::downlink::{self, AppPayload, BuiltDownlink, DownlinkPlan, TxWindow};
use mac::drop_reason::DropReason;
use mac::ids::DevEui;
use mac::keys::NetworkKeys;
use mac::session::{Profile, Session};
use mac::units::Mono;
use parking_lot::Mutex;
use proto::internal as pb;
use proto::port::PayloadPort;
use proto::v1::DownlinkState;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::task::TaskTracker;

use crate::budget::{COMMIT_PATIENCE_MS, DOWNLINKS_IN_FLIGHT_MAX, PAYLOAD_MS};
use crate::deltas::down_counters_of;
use crate::drops::refusal_of;
use crate::gateway::GatewayUplink;

use crate::index::Candidate;
use crate::owner::{Shared, VerifiedCopy, seconds};
use crate::owner_queue::{OwnerQueue, run_on_owner};
use crate::records::DownlinkNote;
use crate::transmit::{Frame, Sent, Transmitter, Window, best_first, on_one_channel};
use crate::uplink::heard_at;

/// A downlink whose counters are committed.
#[derive(Debug)]
pub(crate) struct DownlinkJob {
    dev_eui: DevEui,
    keys: NetworkKeys,
    profile: Arc<Profile>,
    plan: DownlinkPlan,
    copies: Vec<GatewayUplink>,
    heard_at: Mono,
    under_way: Arc<UnderWay>,
}

/// Lives as long as a [`DownlinkJob`]: until it is known what became of the downlink.
#[derive(Debug)]
pub(crate) struct UnderWay;

impl DownlinkJob {
    pub(crate) fn new(
        session: &Session,
        profile: Arc<Profile>,
        plan: DownlinkPlan,
        closed: &Closed<VerifiedCopy>,
    ) -> Self {
        Self {
            dev_eui: session.dev_eui,
            keys: session.keys.clone(),
            profile,
            plan,
            copies: on_one_channel(closed.receptions.iter().map(|copy| copy.uplink.clone()).collect()),
            heard_at: heard_at(closed),
            under_way: Arc::new(UnderWay),
        }
    }

    pub(crate) fn under_way(&self) -> Weak<UnderWay> {
        Arc::downgrade(&self.under_way)
    }
}

/// What the dispatcher is told.
#[derive(Debug)]
pub(crate) enum DownlinkMessage {
    /// Carry this out.
    Job(Box<DownlinkJob>),
    /// Answer when everything before is under way.
    Flush(oneshot::Sender<()>),
}

/// What the tasks share.
pub(crate) struct Downlinks {
    pub(crate) shared: Arc<Shared>,
    pub(crate) owners: Vec<OwnerQueue>,
    pub(crate) transmitter: Arc<Transmitter>,
    /// The app-bridge, once it is there.
    pub(crate) payloads: Arc<ArcSwapOption<Arc<dyn PayloadPort>>>,
    pub(crate) under_way: TaskTracker,
}

impl Downlinks {
    /// Takes jobs until the sender is gone.
    pub(crate) async fn run(self: Arc<Self>, mut messages: mpsc::Receiver<DownlinkMessage>) {
        let slots = Arc::new(Semaphore::new(DOWNLINKS_IN_FLIGHT_MAX));
        while let Some(message) = messages.recv().await {
            let job = match message {
                DownlinkMessage::Job(job) => job,
                DownlinkMessage::Flush(done) => {
                    // Whoever asked may have given up.
                    let _ = done.send(());
                    continue;
                }
            };
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                self.refuse(&job, DropReason::DownlinkWindowMissed, "too many downlinks at once");
                continue;
            };
            let this = Arc::clone(&self);
            self.under_way.spawn(async move {
                this.carry_out(*job).await;
                drop(slot);
            });
        }
    }

    async fn carry_out(&self, mut job: DownlinkJob) {
        best_first(&mut job.copies, &self.transmitter.gateways);
        // Nothing is leased for a window that has passed, or is over before a gateway with a long way hears of it.
        let in_reach = |window: &TxWindow| self.transmitter.reaches(&job.copies, &Window::from(*window));
        job.plan.rx1 = job.plan.rx1.filter(in_reach);
        job.plan.rx2 = job.plan.rx2.filter(in_reach);
        if job.plan.rx1.is_none() && job.plan.rx2.is_none() {
            self.refuse(&job, DropReason::DownlinkWindowMissed, "no window could be reached");
            return;
        }
        seam::crash_point("network.downlink.before_payload");
        let answer = self.ask_payload(&job).await;
        seam::crash_point("network.downlink.payload_taken");
        let Some((built, item)) = self.build(&job, answer) else { return };
        let note = DownlinkNote {
            dev_eui: job.dev_eui,
            session_id: job.plan.session,
            item_id: item.as_ref().map(|item| item.item_id.clone()).unwrap_or_default(),
            fcnt_down: Some(built.fcnt_down.value()),
            gateway: None,
        };
        // A confirmed frame is noted before it leaves, or its acknowledgement would not be understood.
        let noted = if built.confirmed { self.note_sent(&job, &built).await } else { Noted::Yes };
        if noted != Noted::Yes {
            let detail = "the session could not be told that a confirmed downlink leaves".to_owned();
            let reason = DropReason::DownlinkWindowMissed;
            self.tell(&job, &built, noted, note, Sent::Failed { gateway: None, reason, detail }).await;
            return;
        }
        seam::crash_point("network.downlink.noted");
        let frame = Frame {
            phy: built.phy.clone(),
            region: job.profile.region(),
            windows: windows_of(&job.plan, &built, item.as_ref().is_some_and(|item| item.rx2_only)),
            copies: &job.copies,
        };
        let turnaround_us = self.shared.clock.mono().saturating_us_since(job.heard_at);
        self.shared.metrics.turnaround_seconds.observe(seconds(turnaround_us));
        let sent = self.transmitter.transmit(&frame).await;
        seam::crash_point("network.downlink.outcome_known");
        self.tell(&job, &built, noted, note, sent).await;
        seam::crash_point("network.downlink.told");
    }

    /// The application's payload, within its deadline; `None`: none, or too late. Its counter is burnt either way.
    async fn ask_payload(&self, job: &DownlinkJob) -> Option<pb::TakePayloadResponse> {
        let room = job.plan.ask_payload?;
        let port = self.payloads.load_full()?;
        let started = self.shared.clock.mono();
        let request = pb::TakePayloadRequest {
            dev_eui: job.dev_eui.value(),
            session_id: job.plan.session.value(),
            dev_addr: job.plan.dev_addr.value(),
            fcnt_down: room.fcnt_down.value(),
            room_rx1: room.rx1.filter(|_| job.plan.rx1.is_some()).map_or(0, u32::from),
            room_rx2: room.rx2.filter(|_| job.plan.rx2.is_some()).map_or(0, u32::from),
        };
        let answer = tokio::time::timeout(Duration::from_millis(PAYLOAD_MS), port.take_payload(request)).await;
        self.shared
            .metrics
            .payload_seconds
            .observe(seconds(self.shared.clock.mono().saturating_us_since(started)));
        match answer {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(error)) => {
                tracing::warn!(dev_eui = %job.dev_eui, %error, "the app-bridge gave no payload; the downlink goes without");
                None
            }
            Err(_) => {
                tracing::warn!(dev_eui = %job.dev_eui, "no payload from the app-bridge within {PAYLOAD_MS} ms; the downlink goes without");
                None
            }
        }
    }

    fn build(
        &self,
        job: &DownlinkJob,
        answer: Option<pb::TakePayloadResponse>,
    ) -> Option<(BuiltDownlink, Option<pb::TakePayloadResponse>)> {
        // Asked and not answered in time: what was asked for still waits.
        let more_pending =
            answer.as_ref().map_or_else(|| job.plan.ask_payload.is_some(), |answer| answer.more_pending);
        if let Some(item) = answer.filter(|answer| answer.has_payload) {
            let app = AppPayload {
                f_port: u8::try_from(item.f_port).unwrap_or(0),
                frm_payload: item.frm_payload.clone(),
                confirmed: item.confirmed,
            };
            match downlink::build(&job.plan, &job.keys, Some(app), more_pending) {
                Ok(built) => return built.map(|built| (built, Some(item))),
                Err(error) => {
                    // The app-bridge measured it against the room it was given; it ends as unknown there.
                    tracing::error!(dev_eui = %job.dev_eui, %error, "the app-bridge's payload makes no downlink");
                    self.refuse(job, DropReason::DownlinkTooLong, &error.to_string());
                }
            }
        }
        match downlink::build(&job.plan, &job.keys, None, more_pending) {
            Ok(built) => built.map(|built| (built, None)),
            Err(error) => {
                tracing::error!(dev_eui = %job.dev_eui, %error, "no downlink can be made of what was planned");
                None
            }
        }
    }

    /// Tells the session that the frame leaves; what that changes is durable when this returns.
    async fn note_sent(&self, job: &DownlinkJob, built: &BuiltDownlink) -> Noted {
        let (dev_eui, plan, built) = (job.dev_eui, job.plan.clone(), built.clone());
        let (committed, wait) = oneshot::channel();
        let told = run_on_owner(&self.owners, dev_eui, move |owner| {
            let shared = Arc::clone(&owner.shared);
            let Some(device) = owner.devices.get_mut(&dev_eui) else { return Noted::No };
            let profile = device.profile.load();
            let allow_fcnt_reset = device.allow_fcnt_reset;
            let Some(session) = device.session_mut(plan.session) else { return Noted::No };
            seam::crash_point("network.downlink.before_note");
            if !downlink::on_downlink_sent(session, &plan, &built) {
                // Nothing to write; the channel closes.
                return Noted::Yes;
            }
            if session.version.is_1_1() {
                shared.index.put(Candidate::new(session, &profile, allow_fcnt_reset));
            }
            let delta = pb::Delta { state: Some(session.pack()), ..down_counters_of(session) };
            shared.submit_and_tell(Vec::new(), vec![delta], committed);
            Noted::Yes
        });
        if told.await != Some(Noted::Yes) {
            return Noted::No;
        }
        // A sender that was dropped without a word had nothing to write.
        match tokio::time::timeout(Duration::from_millis(COMMIT_PATIENCE_MS), wait).await {
            Ok(_) => Noted::Yes,
            Err(_) => Noted::Late,
        }
    }

    /// Tells the session and the log what became of the frame, in turn with the device's uplinks. Returns when that is durable.
    ///
    /// A device that has answered the frame, or has a newer session, has settled the item already: an item has one end, and
    /// what is found out later is not told.
    async fn tell(
        &self,
        job: &DownlinkJob,
        built: &BuiltDownlink,
        noted: Noted,
        note: DownlinkNote,
        sent: Sent,
    ) {
        let failed = matches!(sent, Sent::Failed { .. });
        let records = Arc::new(Mutex::new(self.records_of(job, note, sent)));
        let untold = Arc::clone(&records);
        let settled_by_device = built.confirmed && noted != Noted::No;
        let (dev_eui, plan, built) = (job.dev_eui, job.plan.clone(), built.clone());
        let (committed, wait) = oneshot::channel();
        let told = run_on_owner(&self.owners, dev_eui, move |owner| {
            let shared = Arc::clone(&owner.shared);
            let Some(device) = owner.devices.get_mut(&dev_eui) else { return };
            let (profile, allow_fcnt_reset) = (device.profile.load(), device.allow_fcnt_reset);
            let Some(session) = device.session_mut(plan.session) else { return };
            let awaited = session.outstanding_confirmed() == Some(built.fcnt_down);
            if settled_by_device && !awaited {
                return;
            }
            let mut deltas = Vec::new();
            if failed && downlink::on_downlink_failed(session, &built) {
                if session.version.is_1_1() {
                    shared.index.put(Candidate::new(session, &profile, allow_fcnt_reset));
                }
                deltas.push(pb::Delta { state: Some(session.pack()), ..down_counters_of(session) });
            }
            if !failed && !built.confirmed {
                // A confirmed one was noted before it left.
                downlink::on_downlink_sent(session, &plan, &built);
            }
            let records = std::mem::take(&mut *records.lock());
            if !records.is_empty() || !deltas.is_empty() {
                shared.submit_and_tell(records, deltas, committed);
            }
        });
        if told.await.is_some() {
            // A sender that was dropped without a word had nothing to write.
            let _ = wait.await;
            return;
        }
        // The server is stopping, or it is overloaded. A confirmed frame that was noted is settled by the device's next uplink.
        let records = std::mem::take(&mut *untold.lock());
        if !records.is_empty()
            && !settled_by_device
            && let Err(error) = self.shared.journal.commit(records, Vec::new()).await
        {
            tracing::error!(%dev_eui, %error, "what became of a downlink was not written");
        }
    }

    /// What the log is told of an item; nothing of frames of the network's own. What went wrong with either stands among the
    /// refusals.
    fn records_of(&self, job: &DownlinkJob, mut note: DownlinkNote, sent: Sent) -> Vec<pb::Record> {
        let at = self.shared.clock.wall();
        let mut records = Vec::new();
        match sent {
            Sent::Acknowledged { gateway, warning } => {
                note.gateway = Some(gateway);
                let warning = warning.map(|warning| format!("warning: {warning}")).unwrap_or_default();
                records.push(note.record(at, DownlinkState::Sent, ""));
                records.push(note.record(at, DownlinkState::GatewayAcknowledged, &warning));
            }
            Sent::Unknown { gateway, detail } => {
                note.gateway = Some(gateway);
                self.refuse(job, DropReason::TxAckMissing, detail);
                records.push(note.record(at, DownlinkState::Sent, ""));
                records.push(note.record(at, DownlinkState::Unknown, detail));
            }
            Sent::Failed { gateway, reason, detail } => {
                note.gateway = gateway;
                self.refuse(job, reason, &detail);
                // It never left: the item goes back to its queue, and only its counter is burnt.
                records.push(note.record(at, DownlinkState::Queued, &format!("{}: {detail}", reason.code())));
            }
        }
        if note.item_id.is_empty() { Vec::new() } else { records }
    }

    fn refuse(&self, job: &DownlinkJob, reason: DropReason, detail: &str) {
        let Some(copy) = job.copies.first() else { return };
        let mut refusal = refusal_of(copy, reason);
        refusal.dev_eui = Some(job.dev_eui);
        refusal.detail = detail.to_owned();
        refusal.phy = None;
        self.shared.drops.refuse(refusal);
    }
}

/// Whether a session knows of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Noted {
    /// It knows, and it was not durable in time.
    Late,
    No,
    Yes,
}

fn windows_of(plan: &DownlinkPlan, built: &BuiltDownlink, rx2_only: bool) -> Vec<Window> {
    let rx1 = plan.rx1.filter(|_| built.fits_rx1 && !rx2_only);
    let rx2 = plan.rx2.filter(|_| built.fits_rx2);
    rx1.into_iter().chain(rx2).map(Window::from).collect()
}

impl From<TxWindow> for Window {
    fn from(window: TxWindow) -> Self {
        Self { delay_s: window.delay_s, freq: window.freq, modulation: window.modulation }
    }
}
