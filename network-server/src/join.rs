//! Joins: from a deduplicated Join-Request to the accept on air.
//!
//! The join server commits nonces and its answer before it replies. Here the pending session is committed before the
//! accept leaves. A crash between wastes a nonce; the live session goes on until the first uplink of the new one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mac::dedup::Reception;
use mac::downlink::join_windows;
use mac::drop_reason::DropReason;
use mac::ids::{DevAddr, DevEui, GatewayEui, NetId, SessionId};
use mac::join_frame::{DlSettings, JoinRequest};
use mac::keys::{FNwkSIntKey, NetworkKeys, NwkSEncKey, SNwkSIntKey};
use mac::session::{Activation, OtaaParams, Profile, Session};
use mac::version::MacVersion;
use parking_lot::Mutex;
use proto::internal as pb;
use proto::internal::join_response::Result as JoinResult;
use proto::internal::record::Kind;
use proto::port::JoinPort;
use seam::{Bug, planted};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::TaskTracker;

use crate::budget::{JOIN_ACCEPT_DELAY2_MS, JOIN_MS, JOINS_IN_FLIGHT_MAX, JOINS_PER_DEVICE_MAX};
use crate::deltas::whole;
use crate::drops::refusal_of;
use crate::gateway::GatewayUplink;
use crate::metrics::Metrics;
use crate::owner::{Shared, Taken, seconds};
use crate::owner_queue::{OwnerQueue, run_on_owner};
use crate::records;
use crate::seal::seal_keys;
use crate::transmit::{Frame, Sent, Transmitter, Window, best_first, by_signal, on_one_channel};
use crate::uplink::was_kept;

/// One copy of a Join-Request.
#[derive(Clone, Debug)]
pub(crate) struct JoinCopy {
    pub(crate) request: JoinRequest,
    pub(crate) uplink: GatewayUplink,
}

impl Reception for JoinCopy {
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

/// A Join-Request with all its copies.
#[derive(Debug)]
pub(crate) struct JoinJob {
    pub(crate) request: JoinRequest,
    pub(crate) copies: Vec<GatewayUplink>,
    pub(crate) profile: Arc<Profile>,
    pub(crate) addresses_in_use: Vec<DevAddr>,
}

/// What the tasks share.
pub(crate) struct Joins {
    shared: Arc<Shared>,
    owners: Vec<OwnerQueue>,
    transmitter: Arc<Transmitter>,
    join_server: Arc<dyn JoinPort>,
    net_id: NetId,
    in_work: Mutex<BTreeMap<DevEui, usize>>,
    under_way: TaskTracker,
}

impl Joins {
    pub(crate) fn new(
        shared: Arc<Shared>,
        owners: Vec<OwnerQueue>,
        transmitter: Arc<Transmitter>,
        join_server: Arc<dyn JoinPort>,
        net_id: NetId,
        under_way: TaskTracker,
    ) -> Self {
        Self { shared, owners, transmitter, join_server, net_id, in_work: Mutex::default(), under_way }
    }

    /// Takes jobs until the sender is gone.
    pub(crate) async fn run(self: Arc<Self>, mut jobs: mpsc::Receiver<JoinJob>) {
        let slots = Arc::new(Semaphore::new(JOINS_IN_FLIGHT_MAX));
        while let Some(job) = jobs.recv().await {
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                self.refuse(&job, DropReason::RateLimited, "too many joins at once".to_owned(), None);
                continue;
            };
            let this = Arc::clone(&self);
            self.under_way.spawn(async move {
                this.carry_out(job).await;
                drop(slot);
            });
        }
    }

    async fn carry_out(&self, mut job: JoinJob) {
        let dev_eui = job.request.dev_eui;
        let Some(_place) = self.enter(dev_eui) else {
            self.refuse(&job, DropReason::JoinInProgress, String::new(), None);
            return;
        };
        best_first(&mut job.copies, &self.transmitter.gateways);
        job.copies = on_one_channel(job.copies);
        // One after the other for a device: an answer given again must find the session the first one made.
        let turn = self.shared.turn(dev_eui).await;
        let accept = if self.is_too_late(&job) {
            self.refuse(&job, DropReason::JoinTooLate, String::new(), None);
            None
        } else {
            match self.ask(&job).await {
                Some(answer) => self.accept(&job, answer).await,
                None => None,
            }
        };
        drop(turn);
        if let Some(phy) = accept {
            seam::crash_point("network.join.before_send");
            self.send(&job, phy).await;
            seam::crash_point("network.join.sent");
        }
    }

    /// A Join-Request whose RX2 has passed uses no nonce: here by the server's own clock, or by a gateway's that kept the
    /// request for a while and knows when it came.
    fn is_too_late(&self, job: &JoinJob) -> bool {
        let now = self.shared.clock.mono();
        job.copies
            .iter()
            .all(|copy| was_kept(copy) || now.saturating_ms_since(copy.received) >= JOIN_ACCEPT_DELAY2_MS)
    }

    async fn ask(&self, job: &JoinJob) -> Option<pb::JoinAnswer> {
        let settings = job.profile.join_settings();
        let dl_settings = DlSettings {
            opt_neg: job.profile.mac_version.is_1_1(),
            rx1_dr_offset: settings.rx1_dr_offset,
            rx2_dr: settings.rx2_dr.value(),
        };
        let copy = job.copies.first()?;
        let request = pb::JoinRequest {
            phy_payload: copy.phy.to_vec(),
            dev_addr: free_address(self.net_id, &job.addresses_in_use, seam::random).value(),
            net_id: self.net_id.value(),
            mac_version: job.profile.mac_version.number(),
            dl_settings: u32::from(dl_settings.to_byte()),
            rx_delay_s: u32::from(settings.rx_delay_s),
            cf_list: settings.cf_list.map(Vec::from).unwrap_or_default(),
        };
        let started = self.shared.clock.mono();
        let answer = tokio::time::timeout(Duration::from_millis(JOIN_MS), self.join_server.join(request)).await;
        self.shared
            .metrics
            .join_seconds
            .observe(seconds(self.shared.clock.mono().saturating_us_since(started)));
        match answer {
            Ok(Ok(pb::JoinResponse { result: Some(JoinResult::Answer(answer)) })) => Some(answer),
            Ok(Ok(pb::JoinResponse { result: Some(JoinResult::Refused(refused)) })) => {
                let (reason, hint) = match DropReason::from_code(&refused.code) {
                    // It is registered here, or nobody would have been asked: what the join server lacks is its key.
                    Some(DropReason::DeviceUnknown) => (DropReason::NoRootKey, None),
                    Some(reason) => (reason, Some(refused.hint).filter(|hint| !hint.is_empty())),
                    None => (DropReason::JoinRefused, Some(refused.hint).filter(|hint| !hint.is_empty())),
                };
                self.refuse(job, reason, refused.message, hint);
                None
            }
            Ok(Ok(pb::JoinResponse { result: None })) => {
                self.refuse(job, DropReason::JoinServerUnavailable, "an empty answer".to_owned(), None);
                None
            }
            Ok(Err(error)) => {
                self.refuse(job, DropReason::JoinServerUnavailable, error.to_string(), None);
                None
            }
            Err(_) => {
                let detail = format!("no answer within {JOIN_MS} ms");
                self.refuse(job, DropReason::JoinServerUnavailable, detail, None);
                None
            }
        }
    }

    /// Makes the pending session durable and known to its owner; answers the accept to send.
    async fn accept(&self, job: &JoinJob, answer: pb::JoinAnswer) -> Option<Vec<u8>> {
        let request = job.request;
        let now = self.shared.clock.wall();
        let Some(mut session) = session_of(job, &answer, now) else {
            let detail = "an answer with keys of a wrong length".to_owned();
            self.refuse(job, DropReason::JoinServerUnavailable, detail, None);
            return None;
        };
        if answer.repeated_answer {
            match self.standing(request.dev_eui, session.id).await {
                Standing::Offered => return Some(answer.phy_payload),
                Standing::InUse => {
                    let detail = "this Join-Request was answered before, and its session is in use".to_owned();
                    self.refuse(job, DropReason::DevNonceUsed, detail, None);
                    return None;
                }
                // The process ended between the join server's commit and its own.
                Standing::Unknown => {}
            }
        }
        session.begin_after(self.newest_start(request.dev_eui).await);
        let receptions = job.copies.iter().map(|copy| records::reception(copy, now, false)).collect();
        let record = records::record(
            now,
            Some(request.dev_eui),
            Kind::Join(pb::JoinRecord {
                session_id: session.id.value(),
                dev_addr: records::address(session.dev_addr),
                join_eui: request.join_eui.value(),
                dev_nonce: u32::from(request.dev_nonce.value()),
                mac_version: session.version.number().unsigned_abs(),
                receptions,
                wrapped_app_s_key: answer.wrapped_app_s_key,
                kek_label: answer.kek_label,
            }),
        );
        let delta = whole(&session, seal_keys(&self.shared.sealer, session.id, &session.keys));
        if planted(Bug::AnswerJoinBeforeCommit) {
            self.shared.submit(vec![record], vec![delta]);
            run_on_owner(&self.owners, request.dev_eui, move |owner| owner.add_pending(session)).await?;
            return Some(answer.phy_payload);
        }
        seam::crash_point("network.join.before_commit");
        // However long the disk takes: a session whose commit nobody waited for would be made a second time for the same request.
        if let Err(error) = self.shared.journal.commit(vec![record], vec![delta]).await {
            tracing::error!(dev_eui = %request.dev_eui, %error, "a join was not committed; the device has to ask again");
            return None;
        }
        seam::crash_point("network.join.committed");
        // The accept may not leave before the owner knows the session.
        let taken = run_on_owner(&self.owners, request.dev_eui, move |owner| owner.add_pending(session)).await;
        (taken == Some(Taken::Yes)).then_some(answer.phy_payload)
    }

    /// When the newest session of a device began: the next one is newer, whatever the wall clock says meanwhile.
    async fn newest_start(&self, dev_eui: DevEui) -> Option<u32> {
        let newest = run_on_owner(&self.owners, dev_eui, move |owner| {
            owner.devices.get(&dev_eui)?.sessions().map(|session| session.mac.started_at_s).max()
        });
        newest.await.flatten()
    }

    /// What the owner knows of a session. A session in use is never made again: its counters would start anew.
    async fn standing(&self, dev_eui: DevEui, id: SessionId) -> Standing {
        let standing = run_on_owner(&self.owners, dev_eui, move |owner| {
            let Some(device) = owner.devices.get(&dev_eui) else { return Standing::InUse };
            if device.pending.iter().any(|session| session.id == id) {
                return Standing::Offered;
            }
            match &device.current {
                Some(session) if session.id == id => Standing::InUse,
                // Personalised since: whether the joined session was ever used is not known any more.
                Some(session) if session.activation == Activation::Abp => Standing::InUse,
                Some(_) | None => Standing::Unknown,
            }
        });
        standing.await.unwrap_or(Standing::InUse)
    }

    async fn send(&self, job: &JoinJob, phy: Vec<u8>) {
        let Some(first) = job.copies.first() else { return };
        let region = job.profile.region();
        let dr = region.data_rate_up(first.modulation, job.profile.revision).unwrap_or_default();
        let channel = region.uplink_channel(first.freq, dr, &[]);
        let (rx1, rx2) = join_windows(&job.profile, first.freq, dr, channel);
        let windows = rx1.into_iter().chain(rx2).map(Window::from).collect();
        let sent = self.transmitter.transmit(&Frame { phy, region, windows, copies: &job.copies }).await;
        let (reason, detail) = match sent {
            Sent::Acknowledged { .. } => {
                Metrics::add(&self.shared.metrics.joins);
                return;
            }
            Sent::Unknown { detail, .. } => {
                Metrics::add(&self.shared.metrics.joins);
                (DropReason::TxAckMissing, detail.to_owned())
            }
            Sent::Failed { reason, detail, .. } => (reason, detail),
        };
        self.refuse(job, reason, format!("join-accept: {detail}"), None);
    }

    fn refuse(&self, job: &JoinJob, reason: DropReason, detail: String, hint: Option<String>) {
        let Some(copy) = job.copies.first() else { return };
        let mut refusal = refusal_of(copy, reason);
        refusal.dev_eui = Some(job.request.dev_eui);
        refusal.join_eui = Some(job.request.join_eui);
        refusal.detail = detail;
        refusal.hint = hint;
        self.shared.drops.refuse(refusal);
    }

    /// A place among the joins of a device in work; it is free again when it is dropped.
    fn enter(&self, dev_eui: DevEui) -> Option<Place<'_>> {
        let place = Place { in_work: &self.in_work, dev_eui };
        let mut in_work = self.in_work.lock();
        let count = in_work.entry(dev_eui).or_default();
        *count = count.saturating_add(1);
        let fits = *count <= JOINS_PER_DEVICE_MAX;
        drop(in_work);
        fits.then_some(place)
    }
}

struct Place<'a> {
    in_work: &'a Mutex<BTreeMap<DevEui, usize>>,
    dev_eui: DevEui,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut in_work = self.in_work.lock();
        if let Some(count) = in_work.get_mut(&self.dev_eui) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                in_work.remove(&self.dev_eui);
            }
        }
    }
}

/// Whether a session a repeated answer names was used.
enum Standing {
    InUse,
    Offered,
    Unknown,
}

/// A random address of the network that the device does not have already.
fn free_address(net_id: NetId, in_use: &[DevAddr], draw: impl Fn() -> u32) -> DevAddr {
    loop {
        let address = DevAddr::in_net(net_id, draw());
        if !in_use.contains(&address) {
            return address;
        }
    }
}

fn session_of(job: &JoinJob, answer: &pb::JoinAnswer, now: mac::units::Timestamp) -> Option<Session> {
    let key = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).ok();
    let keys = NetworkKeys {
        f_nwk_s_int: FNwkSIntKey::new(key(&answer.f_nwk_s_int_key)?),
        s_nwk_s_int: SNwkSIntKey::new(key(&answer.s_nwk_s_int_key)?),
        nwk_s_enc: NwkSEncKey::new(key(&answer.nwk_s_enc_key)?),
    };
    let dl_settings = DlSettings::from_byte(u8::try_from(answer.dl_settings).ok()?);
    // A 1.1 device that is served without OptNeg speaks 1.0 (TS001-1.1 §6.1.1.3).
    let version = if job.profile.mac_version.is_1_1() && !dl_settings.opt_neg {
        MacVersion::V1_0_3
    } else {
        job.profile.mac_version
    };
    let params = OtaaParams {
        id: SessionId::new(answer.session_id),
        dev_eui: job.request.dev_eui,
        dev_addr: DevAddr::new(answer.dev_addr),
        version,
        keys,
        dl_settings,
        rx_delay_s: u8::try_from(answer.rx_delay_s).ok()?,
        cf_list: <[u8; 16]>::try_from(answer.cf_list.as_slice()).ok(),
    };
    Some(Session::new_otaa(&job.profile, params, now))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// JOIN-013: however small the network, a device that joins again gets another address than those it has.
    #[test]
    fn a_new_address_is_none_of_those_the_device_has() {
        // 128 addresses, of which three are taken.
        let net_id = NetId::new(7 << 21 | 1);
        let in_use = [0, 1, 2].map(|host| DevAddr::in_net(net_id, host));
        let drawn = Cell::new(0);
        let draw = || drawn.replace(drawn.get() + 1);
        for _ in 0..100_000 {
            let address = free_address(net_id, &in_use, draw);
            assert!(!in_use.contains(&address) && address.is_in_net(net_id), "{address}");
        }
        assert!(drawn.get() > 100_000, "addresses in use were drawn, too");
    }
}
