//! From a committed plan to a frame on air: ask for the payload, make the frame, send it, tell what became of it.
//!
//! Each job is a task with deadlines; its counters are durable before it starts. A confirmed frame is noted in its
//! session, durably, before it leaves, so that its acknowledgement is understood after a crash.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use crossbeam_channel::Sender;
use mac::dedup::Closed;
use mac::downlink::{self, AppPayload, BuiltDownlink, DownlinkPlan, TxWindow};
use mac::drop_reason::DropReason;
use mac::ids::{DevEui, FCntDown};
use mac::keys::NetworkKeys;
use mac::session::{Profile, Session};
use mac::units::Mono;
use proto::internal as pb;
use proto::port::PayloadPort;
use proto::v1::DownlinkState;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::budget::{DOWNLINKS_IN_FLIGHT_MAX, PAYLOAD_MS};
use crate::gateway::GatewayUplink;
use crate::ingest::refusal_of;

use crate::owner::{OwnerMessage, Shared, VerifiedCopy, counters_of, owner_of, seconds};
use crate::records::DownlinkNote;
use crate::transmit::{Frame, Sent, Transmitter, Window, best_first};

/// A downlink whose counters are committed.
#[derive(Debug)]
pub(crate) struct DownlinkJob {
    dev_eui: DevEui,
    keys: NetworkKeys,
    profile: Arc<Profile>,
    plan: DownlinkPlan,
    copies: Vec<GatewayUplink>,
    opened_at: Mono,
}

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
            copies: closed.receptions.iter().map(|copy| copy.uplink.clone()).collect(),
            opened_at: closed.opened_at,
        }
    }
}

/// What the tasks share.
pub(crate) struct Downlinks {
    pub(crate) shared: Arc<Shared>,
    pub(crate) owners: Vec<Sender<OwnerMessage>>,
    pub(crate) transmitter: Arc<Transmitter>,
    /// The app-bridge, once it is there.
    pub(crate) payloads: Arc<ArcSwapOption<Arc<dyn PayloadPort>>>,
}

impl Downlinks {
    /// Takes jobs until the sender is gone.
    pub(crate) async fn run(self: Arc<Self>, mut jobs: mpsc::Receiver<DownlinkJob>) {
        let slots = Arc::new(Semaphore::new(DOWNLINKS_IN_FLIGHT_MAX));
        while let Some(job) = jobs.recv().await {
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                self.missed(&job, "too many downlinks at once");
                continue;
            };
            let this = Arc::clone(&self);
            tokio::spawn(async move {
                this.carry_out(job).await;
                drop(slot);
            });
        }
    }

    async fn carry_out(&self, mut job: DownlinkJob) {
        best_first(&mut job.copies, &self.transmitter.gateways);
        let answer = self.ask_payload(&job).await;
        let Some((built, item)) = self.build(&job, answer) else { return };
        let windows = windows_of(&job.plan, &built, item.as_ref().is_some_and(|item| item.rx2_only));
        let note = DownlinkNote {
            dev_eui: job.dev_eui,
            session_id: job.plan.session,
            item_id: item.map(|item| item.item_id).unwrap_or_default(),
            fcnt_down: Some(built.fcnt_down.value()),
            gateway: None,
        };
        self.note_sent(&job, &built).await;
        let frame = Frame { phy: built.phy, region: job.profile.region(), windows, copies: &job.copies };
        self.shared
            .metrics
            .turnaround_seconds
            .observe(seconds(self.shared.clock.mono().saturating_us_since(job.opened_at)));
        let sent = self.transmitter.transmit(&frame).await;
        self.tell(&job, note, sent).await;
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
            room_rx1: room.rx1.map_or(0, u32::from),
            room_rx2: room.rx2.map_or(0, u32::from),
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
        let more_pending = answer.as_ref().is_some_and(|answer| answer.more_pending);
        if let Some(item) = answer.filter(|answer| answer.has_payload) {
            let app = AppPayload {
                f_port: u8::try_from(item.f_port).unwrap_or(0),
                frm_payload: item.frm_payload.clone(),
                confirmed: item.confirmed,
            };
            match downlink::build(&job.plan, &job.keys, Some(app), more_pending) {
                Ok(built) => return built.map(|built| (built, Some(item))),
                Err(error) => {
                    let note = DownlinkNote {
                        dev_eui: job.dev_eui,
                        session_id: job.plan.session,
                        item_id: item.item_id,
                        fcnt_down: None,
                        gateway: None,
                    };
                    let record =
                        note.record(self.shared.clock.wall(), DownlinkState::Failed, &error.to_string());
                    self.submit_soon(vec![record]);
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

    /// Tells the session; a confirmed frame waits until that is durable.
    async fn note_sent(&self, job: &DownlinkJob, built: &BuiltDownlink) {
        let (committed, wait) = oneshot::channel();
        let (dev_eui, plan, built) = (job.dev_eui, job.plan.clone(), built.clone());
        let work = move |owner: &mut crate::owner::Owner| {
            let shared = Arc::clone(&owner.shared);
            let Some(device) = owner.devices.get_mut(&dev_eui) else { return };
            let profile = device.profile.load();
            let allow_fcnt_reset = device.allow_fcnt_reset;
            let Some(session) = device.session_mut(plan.session) else { return };
            if !downlink::on_downlink_sent(session, &plan, &built) {
                return;
            }
            if session.version.is_1_1() {
                let candidate = crate::index::Candidate::new(session, &profile, allow_fcnt_reset);
                shared.index.put(session.dev_addr, candidate);
            }
            let delta = pb::Delta { state: Some(session.pack()), ..counters_of(session) };
            let done = move |_| {
                let _ = committed.send(());
            };
            let submission =
                store::Submission { records: Vec::new(), deltas: vec![delta], done: Some(Box::new(done)) };
            if shared.journal.submit_blocking(submission).is_err() {
                tracing::error!("the journal is closed; a confirmed downlink was not noted");
            }
        };
        let owner = self.owners.get(owner_of(dev_eui, self.owners.len()));
        if owner.is_some_and(|owner| owner.try_send(OwnerMessage::Run(Box::new(work))).is_ok()) {
            // Without anything to write the sender is dropped, and the wait is over as well.
            let _ = wait.await;
        }
    }

    async fn tell(&self, job: &DownlinkJob, mut note: DownlinkNote, sent: Sent) {
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
                records.push(note.record(at, DownlinkState::Sent, ""));
                records.push(note.record(at, DownlinkState::Unknown, detail));
            }
            Sent::Failed { gateway, reason } => {
                note.gateway = gateway;
                self.forget_confirmed(job, note.fcnt_down);
                records.push(note.record(at, DownlinkState::Failed, &reason));
            }
            Sent::Missed => {
                self.missed(job, "no window could be reached");
                self.forget_confirmed(job, note.fcnt_down);
                records.push(note.record(at, DownlinkState::Failed, DropReason::DownlinkWindowMissed.code()));
            }
        }
        // A frame of the network's own that went well is no news.
        let own_and_well = note.item_id.is_empty()
            && records.iter().all(|record| {
                matches!(&record.kind, Some(pb::record::Kind::Downlink(d))
                    if d.state == DownlinkState::Sent as u32 || d.state == DownlinkState::GatewayAcknowledged as u32)
            });
        if !own_and_well && let Err(error) = self.shared.journal.commit(records, Vec::new()).await {
            tracing::error!(%error, "what became of a downlink was not written");
        }
    }

    /// A confirmed frame that did not go on air is not waited for.
    fn forget_confirmed(&self, job: &DownlinkJob, fcnt_down: Option<u32>) {
        let (dev_eui, id) = (job.dev_eui, job.plan.session);
        let Some(fcnt_down) = fcnt_down.map(FCntDown::new) else { return };
        let work = move |owner: &mut crate::owner::Owner| {
            let shared = Arc::clone(&owner.shared);
            let session = owner.devices.get_mut(&dev_eui).and_then(|device| device.session_mut(id));
            let Some(session) = session else { return };
            if downlink::on_downlink_failed(session, fcnt_down) {
                let delta = pb::Delta { state: Some(session.pack()), ..counters_of(session) };
                shared.submit(Vec::new(), vec![delta]);
            }
        };
        if let Some(owner) = self.owners.get(owner_of(dev_eui, self.owners.len())) {
            // A full queue leaves it to the next uplink, which then tells "not acknowledged".
            let _ = owner.try_send(OwnerMessage::Run(Box::new(work)));
        }
    }

    fn missed(&self, job: &DownlinkJob, detail: &str) {
        let Some(copy) = job.copies.first() else { return };
        let mut refusal = refusal_of(copy, DropReason::DownlinkWindowMissed);
        refusal.dev_eui = Some(job.dev_eui);
        refusal.detail = detail.to_owned();
        refusal.phy = None;
        self.shared.drops.refuse(refusal);
    }

    fn submit_soon(&self, records: Vec<pb::Record>) {
        let journal = self.shared.journal.clone();
        tokio::spawn(async move {
            if let Err(error) = journal.commit(records, Vec::new()).await {
                tracing::error!(%error, "what became of a downlink was not written");
            }
        });
    }
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
