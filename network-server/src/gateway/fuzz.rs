//! See `crate::fuzz`.

use std::net::SocketAddr;
use std::sync::Arc;

use mac::drop_reason::DropReason;
use mac::ids::GatewayEui;
use mac::region::Modulation;
use mac::units::{Hz, Mono, Timestamp};
use parking_lot::Mutex;
use serde_json::Value;

use super::batch::{Reply, Sent};
use super::gwmp::{Header, PacketKind};
use super::intake::{Acknowledge, Intake};
use super::rxpk::Arrival;
use super::virtual_port::Given;
use super::{
    GatewayConfig, GatewayEvent, GatewayPolicy, GatewayUplink, Gateways, Ingress, Polarization, TxOutcome,
    TxRequest, TxTime,
};

/// A datagram on the gateways' port, all the way from the socket to what the server makes of it: once while it takes frames and once
/// while it is full.
///
/// It is acknowledged as its header says and only then read. Each frame in it is delivered or refused by name. What is delivered is
/// within the bounds its type promises, what is told about a refusal is short. A TX_ACK ends the one downlink it names and no other,
/// and each downlink ends once.
pub fn datagram(bytes: &[u8]) {
    if bytes.len() > UDP_LEN_MAX {
        return;
    }
    for state in [State::Ready, State::Full] {
        let world = World::new(state);
        let replies = world.receive(bytes);
        world.check(bytes, &replies);
    }
}

/// One element of `rxpk`.
///
/// A frame that is read is within the bounds its type promises, and the same text gives the same frame; a refusal is short.
pub fn rxpk(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let arrival =
        Arrival { gateway: KNOWN, received: Mono::from_us(1), received_at: Timestamp::from_us(START_US) };
    let read = super::rxpk::parse(text, arrival);
    match &read {
        Ok(uplink) => within_bounds(uplink),
        Err(refusal) => short(&refusal.detail, refusal.phy.as_deref()),
    }
    assert_eq!(super::rxpk::parse(text, arrival), read);
}

/// One registered gateway that asked for downlinks and owes the answer to one.
struct World {
    gateways: Arc<Gateways>,
    inbox: Arc<Inbox>,
    outcomes: Arc<Mutex<Vec<TxOutcome>>>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum State {
    Full,
    Ready,
}

struct Inbox {
    state: State,
    events: Mutex<Vec<GatewayEvent>>,
}

impl Ingress for Inbox {
    fn deliver(&self, event: GatewayEvent) {
        self.events.lock().push(event);
    }

    fn ready(&self) -> bool {
        true
    }

    fn is_full(&self) -> bool {
        self.state == State::Full
    }
}

impl World {
    fn new(state: State) -> Self {
        let gateways = Arc::new(Gateways::new(GatewayPolicy::default()));
        gateways.put(GatewayConfig::new(KNOWN));
        gateways.lock().open();
        let inbox = Arc::new(Inbox { state, events: Mutex::default() });
        let world = Self { gateways, inbox, outcomes: Arc::default() };
        let pull_data = [&[2, 0, 0, 2][..], &KNOWN.value().to_be_bytes()].concat();
        world.receive(&pull_data);
        let request = TxRequest {
            gateway: KNOWN,
            when: TxTime::Tmst(1),
            freq: Hz::new(868_100_000),
            modulation: Modulation::Lora { sf: 7, bw_hz: 125_000 },
            eirp_dbm: 14.0,
            antenna: 0,
            board: None,
            polarization: Polarization::Inverted,
            phy: vec![0x60; 12],
        };
        let told = Arc::clone(&world.outcomes);
        let done = Box::new(move |outcome| told.lock().push(outcome));
        let begun = world.gateways.lock().begin_tx(&request, done, NOW, || TOKEN);
        assert!(begun.is_ok(), "the gateway asked for downlinks");
        world.inbox.events.lock().clear();
        world
    }

    /// Returns the acknowledgements.
    fn receive(&self, bytes: &[u8]) -> Vec<[u8; 4]> {
        let ingress = Arc::clone(&self.inbox) as Arc<dyn Ingress>;
        let mut intake = Intake::new(Arc::clone(&self.gateways), ingress, Arc::default());
        let source = SocketAddr::from(([192, 0, 2, 1], 1700));
        let batch = Given(&[(bytes.to_vec(), source)]);
        let mut replies = Kept { inbox: &self.inbox, replies: Vec::new() };
        intake.handle(&batch, &mut replies, NOW, Timestamp::from_us(START_US));
        replies.replies
    }

    fn check(self, bytes: &[u8], replies: &[[u8; 4]]) {
        let header = Header::parse(bytes);
        let full = self.inbox.state == State::Full;
        let acknowledged = header.as_ref().ok().and_then(|(header, _)| {
            let withheld = full && header.kind == PacketKind::PushData;
            header.acknowledgement().filter(|_| !withheld)
        });
        assert_eq!(replies, acknowledged.as_slice());

        let events = std::mem::take(&mut *self.inbox.events.lock());
        let mut delivered = 0;
        let mut refused = 0;
        for event in &events {
            match event {
                GatewayEvent::Uplinks(uplinks) => {
                    assert!(!full && !uplinks.is_empty());
                    delivered += uplinks.len();
                    for uplink in uplinks {
                        assert_eq!(Ok(uplink.gateway), header.as_ref().map(|(header, _)| header.gateway));
                        within_bounds(uplink);
                    }
                }
                GatewayEvent::Dropped { reason, detail, phy, .. } => {
                    short(detail, phy.as_deref());
                    refused += usize::from(is_about_a_frame(*reason));
                }
                GatewayEvent::DroppedMany { reason, count } => {
                    assert!(*count > 0);
                    refused += if is_about_a_frame(*reason) { usize::try_from(*count).unwrap_or(0) } else { 0 };
                }
                GatewayEvent::AutoRegistered { .. }
                | GatewayEvent::Offline { .. }
                | GatewayEvent::Online { .. }
                | GatewayEvent::PathMoved { .. }
                | GatewayEvent::PathMoveRefused { .. } => {
                    panic!("a known gateway at its own address causes no {event:?}")
                }
            }
        }
        if let Ok((header, body)) = &header {
            let taken = header.kind == PacketKind::PushData && header.gateway == KNOWN && !full;
            if let Some(frames) = frames_in(body).filter(|_| taken) {
                assert_eq!(delivered + refused, frames, "a frame is neither delivered nor refused: {events:?}");
            }
        }
        let status = self.gateways.status(KNOWN).expect("the gateway stays registered");
        if let Some(stat) = status.stat_json {
            assert!(stat.len() <= 4_096 && stat.starts_with('{') && stat.ends_with('}'), "{stat}");
        }

        let answered = self.outcomes.lock().len();
        let named = header.is_ok_and(|(header, _)| {
            header.kind == PacketKind::TxAck && header.gateway == KNOWN && header.token == TOKEN.to_be_bytes()
        });
        assert!(answered == 0 || (answered == 1 && named), "a downlink was ended by a stranger's word");
        assert!(self.gateways.remove(KNOWN));
        let outcomes = self.outcomes.lock();
        assert_eq!(outcomes.len(), 1, "each downlink ends once: {outcomes:?}");
        for outcome in outcomes.iter() {
            match outcome {
                TxOutcome::Acknowledged { warning } => short(warning.as_deref().unwrap_or(""), None),
                TxOutcome::Refused { text, .. } => short(text, None),
                TxOutcome::NoAnswer => assert_eq!(answered, 0),
                TxOutcome::NoPath | TxOutcome::SendFailed { .. } | TxOutcome::SentUnconfirmed => {
                    panic!("no TX_ACK says {outcome:?}")
                }
            }
        }
    }
}

/// Keeps acknowledgements, and sees that nothing is read before they are sent.
struct Kept<'a> {
    inbox: &'a Inbox,
    replies: Vec<[u8; 4]>,
}

impl Acknowledge for Kept<'_> {
    fn push(&mut self, reply: Reply) {
        self.replies.push(reply.bytes);
    }

    fn send(&mut self) -> Sent {
        assert!(self.inbox.events.lock().is_empty(), "nothing is read before it is acknowledged");
        Sent { sent: self.replies.len() as u64, failed: 0 }
    }
}

/// How many frames a body holds, counted by another reader; `None` where it takes the lenient one to see.
fn frames_in(body: &[u8]) -> Option<usize> {
    let Value::Object(body) = serde_json::from_slice(body).ok()? else { return None };
    Some(body.get("rxpk")?.as_array()?.len())
}

fn is_about_a_frame(reason: DropReason) -> bool {
    let frames = [
        DropReason::BadBase64,
        DropReason::BadRxpk,
        DropReason::CrcBad,
        DropReason::CrcMissing,
        DropReason::TooLong,
    ];
    frames.contains(&reason)
}

/// What the fields of [`GatewayUplink`] promise.
fn within_bounds(uplink: &GatewayUplink) {
    assert!(uplink.phy.len() <= 255);
    assert!((1_000_000..=u32::MAX).contains(&uplink.freq.value()));
    assert!((-200.0..=50.0).contains(&uplink.rssi_dbm), "{}", uplink.rssi_dbm);
    assert!(uplink.snr_db.is_none_or(|snr_db| (-50.0..=50.0).contains(&snr_db)), "{:?}", uplink.snr_db);
    assert!(uplink.fine_time_ns.is_none_or(|ns| ns < 1_000_000_000));
    assert!(uplink.gps_time_ms.is_none_or(|ms| ms > 0));
    let lora = matches!(uplink.modulation, Modulation::Lora { .. });
    assert!(lora || uplink.coding_rate.is_none());
    assert!(
        mac::airtime::airtime_us(uplink.modulation, mac::region::CodingRate::Cr4_5, uplink.phy.len(), true)
            .is_some()
    );
    // From 2000 to 2199.
    let years_us = 946_684_800_000_000..7_258_204_800_000_000;
    let day_us = 86_400_000_000;
    assert!(
        uplink
            .gateway_time
            .is_none_or(|at| (years_us.start - day_us..years_us.end + day_us).contains(&at.us()))
    );
}

/// A refusal is kept and shown; a stranger decides how many there are, but not how long they are.
fn short(detail: &str, phy: Option<&[u8]>) {
    assert!(detail.chars().count() <= DETAIL_CHARS_MAX, "{} characters: {detail}", detail.chars().count());
    assert!(!detail.contains(char::is_control), "{detail:?}");
    assert!(phy.is_none_or(|phy| phy.len() <= 255));
}

const KNOWN: GatewayEui = GatewayEui::new(0xaa55_5a00_0000_0101);
const TOKEN: u16 = 0x1234;
const NOW: Mono = Mono::from_us(1_000_000);
const START_US: i64 = 1_750_000_000_000_000;
/// What fits an IPv4 datagram.
const UDP_LEN_MAX: usize = 65_507;
const DETAIL_CHARS_MAX: usize = 160;
