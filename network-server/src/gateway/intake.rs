//! What a batch of datagrams means, whoever brought it: acknowledged from the header, then read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mac::drop_reason::DropReason;
use mac::ids::GatewayEui;
use mac::units::{Mono, Timestamp};
use seam::{Bug, planted};

use super::batch::{Datagram, Reply, Sent};
use super::gwmp::{Header, PacketKind};
use super::limit::{Bucket, RateLimit};
use super::push_data::{self, Part};
use super::registry::{Effects, Gateways, Packet};
use super::rxpk::{self, Arrival};
use super::{GatewayEvent, GatewayUplink, Ingress, tx_ack};

/// Datagrams taken together.
pub(crate) trait Datagrams {
    fn len(&self) -> usize;
    fn iter(&self) -> impl Iterator<Item = Datagram<'_>>;
    /// What follows the header of the datagram at that place; empty where there is nothing.
    fn body(&self, index: usize) -> &[u8];
}

/// The way back for acknowledgements.
pub(crate) trait Acknowledge {
    fn push(&mut self, reply: Reply);
    /// Sends what was pushed.
    fn send(&mut self) -> Sent;
}

/// Reads batches; one for each thread.
pub(crate) struct Intake {
    gateways: Arc<Gateways>,
    ingress: Arc<dyn Ingress>,
    counters: Arc<Counters>,
    /// Refusals told one by one; the rest is counted in `untold`.
    told: Bucket,
    untold: [u64; DropReason::COUNT],
    /// The PUSH_DATA of this batch to read: the place in the batch and the packet.
    pushes: Vec<(usize, Packet)>,
    /// Frames of this batch by gateway.
    counts: Vec<(GatewayEui, u64)>,
}

impl Intake {
    pub(crate) fn new(gateways: Arc<Gateways>, ingress: Arc<dyn Ingress>, counters: Arc<Counters>) -> Self {
        Self {
            gateways,
            ingress,
            counters,
            told: Bucket::default(),
            untold: [0; DropReason::COUNT],
            pushes: Vec::new(),
            counts: Vec::new(),
        }
    }

    /// Tells what only time brings: gateways that fell silent, downlinks nobody answered.
    pub(crate) fn handle_timeout(&self, now: Mono) {
        if self.gateways.poll_timeout().is_some_and(|due| due <= now) {
            for event in self.gateways.handle_timeout(now) {
                self.ingress.deliver(event);
            }
        }
    }

    /// Acknowledges a batch, then reads it and hands over what is in it.
    pub(crate) fn handle(
        &mut self,
        batch: &impl Datagrams,
        replies: &mut impl Acknowledge,
        now: Mono,
        at: Timestamp,
    ) {
        Counters::add(&self.counters.datagrams, batch.len() as u64);
        let full = self.ingress.is_full();
        let withheld = full || (!self.ingress.ready() && !planted(Bug::AckWhileDiskRefuses));

        let mut effects = Effects::default();
        let mut tx_acks = Vec::new();
        let mut withheld_count = 0_u64;
        let gateways = Arc::clone(&self.gateways);
        let mut registry = gateways.lock();
        for (index, datagram) in batch.iter().enumerate() {
            let source = datagram.source;
            let header = match Header::parse(datagram.bytes) {
                Ok((header, _)) => header,
                Err(reason) => {
                    let detail = registry.admit_stranger(source, now).then(|| {
                        let start = datagram.bytes.get(..SHOWN_BYTES_MAX).unwrap_or(datagram.bytes);
                        format!("{} bytes that begin with {start:02x?}", datagram.bytes.len())
                    });
                    self.refuse(&mut effects, now, DropEvent { reason, gateway: None, source }, detail);
                    continue;
                }
            };
            let packet = Packet { header, source, now, at };
            let gateway = Some(header.gateway);
            if header.kind == PacketKind::TxAck {
                tx_acks.push((index, packet));
                continue;
            }
            let is_push = header.kind == PacketKind::PushData;
            if is_push && withheld {
                withheld_count = withheld_count.saturating_add(1);
            } else if let Some(bytes) = header.acknowledgement() {
                replies.push(Reply { bytes, address: source });
            }
            match registry.receive(&packet, &mut effects) {
                Ok(()) if is_push && full => {
                    self.refuse(
                        &mut effects,
                        now,
                        DropEvent { reason: DropReason::QueueFull, gateway, source },
                        None,
                    );
                }
                Ok(()) if is_push => self.pushes.push((index, packet)),
                Ok(()) => {}
                Err(reason) => {
                    // The others are told by an event of their own, or come in floods.
                    let detail = (reason == DropReason::GatewayUnknown).then(String::new);
                    self.refuse(&mut effects, now, DropEvent { reason, gateway, source }, detail);
                }
            }
        }
        drop(registry);
        Counters::add(&self.counters.push_ack_withheld, withheld_count);
        let outcome = replies.send();
        Counters::add(&self.counters.acknowledgements_sent, outcome.sent);
        Counters::add(&self.counters.acknowledgements_failed, outcome.failed);

        self.handle_tx_acks(batch, &tx_acks, &mut effects);
        effects.run_outcomes();
        let uplinks = self.read_pushes(batch, &mut effects);
        self.flush_untold(&mut effects);
        for event in effects.events {
            self.ingress.deliver(event);
        }
        if !uplinks.is_empty() {
            self.ingress.deliver(GatewayEvent::Uplinks(uplinks));
        }
    }

    fn handle_tx_acks(&mut self, batch: &impl Datagrams, tx_acks: &[(usize, Packet)], effects: &mut Effects) {
        for (index, packet) in tx_acks {
            let answer = tx_ack::parse(batch.body(*index));
            let (result, admitted) = {
                let mut registry = self.gateways.lock();
                let result = match answer {
                    Ok(answer) => {
                        registry.receive_tx_ack(packet, answer, effects).map_err(|reason| (reason, None))
                    }
                    Err(detail) => Err((DropReason::BadJson, Some(detail))),
                };
                let admitted = result.is_err() && registry.admit_stranger(packet.source, packet.now);
                (result, admitted)
            };
            if let Err((reason, detail)) = result {
                let told = admitted.then(|| {
                    let token = u16::from_be_bytes(packet.header.token);
                    detail.map_or_else(
                        || format!("TX_ACK {token:04x}"),
                        |detail| format!("TX_ACK {token:04x}: {detail}"),
                    )
                });
                let event = DropEvent { reason, gateway: Some(packet.header.gateway), source: packet.source };
                self.refuse(effects, packet.now, event, told);
            }
        }
    }

    fn read_pushes(&mut self, batch: &impl Datagrams, effects: &mut Effects) -> Vec<GatewayUplink> {
        let pushes = std::mem::take(&mut self.pushes);
        let mut uplinks = Vec::with_capacity(pushes.len());
        let mut stats = Vec::new();
        for (index, packet) in &pushes {
            let gateway = packet.header.gateway;
            let arrival = Arrival { gateway, received: packet.now, received_at: packet.at };
            let from = |reason| DropEvent { reason, gateway: Some(gateway), source: packet.source };
            let frames_before = uplinks.len();
            let mut refusals = Vec::new();
            let read = push_data::read(batch.body(*index), |part| match part {
                Part::Rxpk(json) => match rxpk::parse(json, arrival) {
                    Ok(uplink) => uplinks.push(uplink),
                    Err(refusal) => refusals.push(refusal),
                },
                Part::Stat(json) if json.starts_with('{') && json.len() <= STAT_LEN_MAX => {
                    stats.push((gateway, json.into(), packet.at));
                }
                Part::Stat(json) => {
                    let start: String = json.chars().take(SHOWN_BYTES_MAX).collect();
                    let detail = format!("stat has {} bytes and begins with {start}", json.len());
                    refusals.push(rxpk::RxpkRefusal { reason: DropReason::BadStat, detail, phy: None });
                }
            });
            if let Err(detail) = read {
                self.refuse(effects, packet.now, from(DropReason::BadJson), Some(detail));
            }
            for refusal in refusals {
                self.refuse_frame(effects, packet.now, from(refusal.reason), refusal);
            }
            self.count(gateway, uplinks.len().saturating_sub(frames_before) as u64);
        }
        if !pushes.is_empty() {
            let mut registry = self.gateways.lock();
            for (gateway, count) in self.counts.drain(..) {
                registry.note_uplinks(gateway, count);
            }
            for (gateway, json, at) in stats {
                registry.note_stat(gateway, json, at);
            }
        }
        self.pushes = pushes;
        self.pushes.clear();
        uplinks
    }

    fn count(&mut self, gateway: GatewayEui, frames: u64) {
        match self.counts.iter_mut().find(|(known, _)| *known == gateway) {
            Some((_, count)) => *count = count.saturating_add(frames),
            None => self.counts.push((gateway, frames)),
        }
    }

    /// Tells a refusal with its detail, or only counts it: without a detail, or when too many were told.
    fn refuse(&mut self, effects: &mut Effects, now: Mono, event: DropEvent, detail: Option<String>) {
        match detail {
            Some(detail) => {
                let refusal = rxpk::RxpkRefusal { reason: event.reason, detail, phy: None };
                self.refuse_frame(effects, now, event, refusal);
            }
            None => self.leave_untold(event.reason),
        }
    }

    fn refuse_frame(&mut self, effects: &mut Effects, now: Mono, event: DropEvent, refusal: rxpk::RxpkRefusal) {
        if !self.told.take(TOLD_RATE, now) {
            return self.leave_untold(event.reason);
        }
        effects.events.push(GatewayEvent::Dropped {
            gateway: event.gateway,
            reason: event.reason,
            detail: refusal.detail,
            phy: refusal.phy,
            source: event.source,
        });
    }

    fn leave_untold(&mut self, reason: DropReason) {
        if let Some(count) = self.untold.get_mut(reason.index()) {
            *count = count.saturating_add(1);
        }
    }

    fn flush_untold(&mut self, effects: &mut Effects) {
        for (reason, count) in DropReason::ALL.iter().zip(&mut self.untold) {
            if *count > 0 {
                effects
                    .events
                    .push(GatewayEvent::DroppedMany { reason: *reason, count: std::mem::take(count) });
            }
        }
    }
}

/// Who sent what was refused.
#[derive(Clone, Copy)]
struct DropEvent {
    reason: DropReason,
    gateway: Option<GatewayEui>,
    source: SocketAddr,
}

/// What passed the sockets since the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct UdpCounters {
    /// Datagrams taken from the sockets, of any kind.
    pub datagrams: u64,
    /// PUSH_ACK and PULL_ACK handed to the kernel.
    pub acknowledgements_sent: u64,
    /// PUSH_ACK not sent because the server was not ready or full.
    pub push_ack_withheld: u64,
    /// Acknowledgements that the kernel did not take.
    pub acknowledgements_failed: u64,
    /// PULL_RESP handed to the kernel.
    pub pull_resp_sent: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) datagrams: AtomicU64,
    pub(crate) acknowledgements_sent: AtomicU64,
    pub(crate) push_ack_withheld: AtomicU64,
    pub(crate) acknowledgements_failed: AtomicU64,
    pub(crate) pull_resp_sent: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> UdpCounters {
        UdpCounters {
            datagrams: self.datagrams.load(Ordering::Relaxed),
            acknowledgements_sent: self.acknowledgements_sent.load(Ordering::Relaxed),
            push_ack_withheld: self.push_ack_withheld.load(Ordering::Relaxed),
            acknowledgements_failed: self.acknowledgements_failed.load(Ordering::Relaxed),
            pull_resp_sent: self.pull_resp_sent.load(Ordering::Relaxed),
        }
    }
}

/// Refusals told one by one by each thread.
const TOLD_RATE: RateLimit = RateLimit { per_second: 200, burst: 1_000 };
const SHOWN_BYTES_MAX: usize = 16;
/// Real ones have 200 to 800 bytes.
const STAT_LEN_MAX: usize = 4_096;
