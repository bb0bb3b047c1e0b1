//! What is known about the gateways, and what follows from their packets: who is heard, where downlinks go, which
//! TX_ACK counts.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;

use hashbrown::HashMap;
use mac::drop_reason::DropReason;
use mac::ids::GatewayEui;
use mac::region::RegionId;
use mac::units::{Mono, Timestamp};
use parking_lot::{Mutex, MutexGuard};
use seam::{Bug, planted};

use super::gwmp::{self, Header, PacketKind};
use super::limit::{Bucket, RateLimit, SourceLimiter};
use super::path::{DownlinkPath, PathChange};
use super::tx_ack::{TxAckError, TxAnswer};
use super::unseen::{Unseen, UnseenGateway};
use super::{GatewayEvent, TxOutcome, TxRequest, txpk};

/// Who may come, and how often.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GatewayPolicy {
    /// Registers a gateway that knocks, up to 1,000 of them.
    pub auto_register: bool,
    /// Packets of one registered gateway. What is above is acknowledged and dropped as `rate_limited`.
    pub gateway_rate: RateLimit,
    /// Packets of one address that belong to no registered gateway and are still looked at.
    pub stranger_rate: RateLimit,
}

impl Default for GatewayPolicy {
    fn default() -> Self {
        Self {
            auto_register: false,
            gateway_rate: RateLimit { per_second: 50_000, burst: 50_000 },
            stranger_rate: RateLimit { per_second: 10, burst: 50 },
        }
    }
}

/// A registered gateway.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GatewayConfig {
    /// Its EUI.
    pub eui: GatewayEui,
    /// The region it is set up for, where that is known.
    pub region: Option<RegionId>,
    /// Antenna gain in dBi less the loss of the cable; may be negative.
    pub antenna_gain_dbi: f32,
    /// The most the radio itself may be asked for, in dBm; `None`: what the region allows.
    pub power_dbm_max: Option<f32>,
    /// True when it registered itself.
    pub auto: bool,
}

impl GatewayConfig {
    /// A gateway about which nothing but its EUI is known.
    pub fn new(eui: GatewayEui) -> Self {
        Self { eui, region: None, antenna_gain_dbi: 0.0, power_dbm_max: None, auto: false }
    }
}

/// What a gateway has done so far, since the start of the server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GatewayStatus {
    /// Heard within the last minute.
    pub online: bool,
    /// The last PUSH_DATA.
    pub last_push_at: Option<Timestamp>,
    /// The last PULL_DATA from the downlink path.
    pub last_pull_at: Option<Timestamp>,
    /// Where downlinks go.
    pub downlink_path: Option<SocketAddr>,
    /// Median of the last 16 times from PULL_RESP to TX_ACK, in milliseconds; `None`: none in ten minutes.
    pub round_trip_ms: Option<f32>,
    /// How often each TX_ACK error came, by its word.
    pub tx_ack_errors: BTreeMap<String, u64>,
    /// Frames delivered to the server; refused ones are not counted.
    pub uplinks_received: u64,
    /// PULL_RESP sent.
    pub downlinks_sent: u64,
    /// TX_ACK that accepted one.
    pub downlinks_acknowledged: u64,
    /// 1 or 2; 0 before the first packet.
    pub protocol_version: u8,
    /// The last `stat` object as it came, JSON.
    pub stat_json: Option<String>,
    /// When it came.
    pub last_stat_at: Option<Timestamp>,
    /// PULL_DATA kept out because the path is alive elsewhere.
    pub path_moves_refused: u64,
}

/// What matters when a gateway is chosen for a downlink.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GatewayLink {
    /// Heard within the last minute.
    pub online: bool,
    /// It asked for downlinks.
    pub has_path: bool,
    /// See [`GatewayStatus::round_trip_ms`].
    pub round_trip_ms: Option<f32>,
    /// Downlinks it was asked for and has not answered yet.
    pub downlinks_outstanding: usize,
}

/// Called once with what became of a downlink.
pub(crate) type TxDone = Box<dyn FnOnce(TxOutcome) + Send>;

/// The gateways of this server, shared between its threads.
#[derive(Debug)]
pub struct Gateways {
    registry: Mutex<Registry>,
}

impl Gateways {
    /// No gateways yet.
    pub fn new(policy: GatewayPolicy) -> Self {
        Self { registry: Mutex::new(Registry::new(policy)) }
    }

    /// Registers a gateway or replaces its configuration; what it did so far stays known.
    pub fn put(&self, config: GatewayConfig) {
        self.lock().put(config);
    }

    /// Forgets a gateway; false when it was not registered. Its unanswered downlinks end with
    /// [`TxOutcome::NoAnswer`].
    pub fn remove(&self, gateway: GatewayEui) -> bool {
        let mut effects = Effects::default();
        let removed = self.lock().remove(gateway, &mut effects);
        effects.run_outcomes();
        removed
    }

    /// Whether the gateway is registered.
    pub fn contains(&self, gateway: GatewayEui) -> bool {
        self.lock().gateways.contains_key(&gateway)
    }

    /// The gateway's configuration, if it is registered.
    pub fn config(&self, gateway: GatewayEui) -> Option<GatewayConfig> {
        self.lock().gateways.get(&gateway).map(|g| g.config)
    }

    /// What the gateway did, if it is registered.
    pub fn status(&self, gateway: GatewayEui) -> Option<GatewayStatus> {
        self.lock().gateways.get(&gateway).map(Gateway::status)
    }

    /// How well the gateway can send now, if it is registered.
    pub fn link(&self, gateway: GatewayEui) -> Option<GatewayLink> {
        self.lock().gateways.get(&gateway).map(Gateway::link)
    }

    /// Every registered gateway in the order of the EUIs.
    pub fn all(&self) -> Vec<(GatewayConfig, GatewayStatus)> {
        let mut all: Vec<_> = self.lock().gateways.values().map(|g| (g.config, g.status())).collect();
        all.sort_unstable_by_key(|(config, _)| config.eui);
        all
    }

    /// The gateways that knocked and are not registered, the latest first, at most 1,000.
    pub fn unseen(&self) -> Vec<UnseenGateway> {
        self.lock().unseen.all()
    }

    /// When [`Gateways::handle_timeout`] has something to do next; `None`: not before the next packet.
    pub fn poll_timeout(&self) -> Option<Mono> {
        self.lock().poll_timeout()
    }

    /// Ends downlinks without an answer and tells which gateways fell silent. `UdpServer` calls it.
    pub fn handle_timeout(&self, now: Mono) -> Vec<GatewayEvent> {
        let mut effects = Effects::default();
        self.lock().handle_timeout(now, &mut effects);
        effects.run_outcomes();
        effects.events
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock()
    }
}

impl Default for Gateways {
    fn default() -> Self {
        Self::new(GatewayPolicy::default())
    }
}

/// What follows from a packet; carried out when no lock is held.
#[derive(Default)]
pub(crate) struct Effects {
    pub(crate) events: Vec<GatewayEvent>,
    outcomes: Vec<(TxDone, TxOutcome)>,
}

impl Effects {
    pub(crate) fn run_outcomes(&mut self) {
        for (done, outcome) in self.outcomes.drain(..) {
            done(outcome);
        }
    }
}

/// A packet and how it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    pub(crate) header: Header,
    pub(crate) source: SocketAddr,
    pub(crate) now: Mono,
    pub(crate) at: Timestamp,
}

/// A datagram to send.
pub(crate) struct Outgoing {
    pub(crate) address: SocketAddr,
    pub(crate) datagram: Vec<u8>,
    pub(crate) token: u16,
    /// There will be no TX_ACK: to be called as soon as the datagram is sent.
    pub(crate) unconfirmed: Option<TxDone>,
}

/// The machine behind [`Gateways`]. It reads no clock, draws no random number, and calls nobody.
pub(crate) struct Registry {
    policy: GatewayPolicy,
    gateways: HashMap<GatewayEui, Gateway>,
    unseen: Unseen,
    strangers: SourceLimiter,
    auto_count: usize,
    /// In the order of time, because all wait equally long.
    expiries: VecDeque<Expiry>,
    /// How many gateways were asked under each token.
    tokens: HashMap<u16, u32>,
    downlinks: u64,
    next_silence_check: Option<Mono>,
    /// Nobody runs the timers, so nothing may begin to wait.
    closed: bool,
}

struct Expiry {
    at: Mono,
    gateway: GatewayEui,
    token: u16,
    downlink: u64,
}

struct Gateway {
    config: GatewayConfig,
    rate: Bucket,
    online: bool,
    last_heard: Mono,
    last_push_at: Option<Timestamp>,
    last_pull_at: Option<Timestamp>,
    last_stat_at: Option<Timestamp>,
    stat_json: Option<Box<str>>,
    path: Option<DownlinkPath>,
    version: u8,
    /// The version of the PULL_DATA that opened the path; a stranger's PUSH_DATA cannot change it.
    path_version: u8,
    pending: HashMap<u16, Pending>,
    /// When each was measured, and how long it took.
    round_trips_us: VecDeque<(Mono, u32)>,
    tx_ack_errors: BTreeMap<String, u64>,
    uplinks_received: u64,
    downlinks_sent: u64,
    downlinks_acknowledged: u64,
    path_moves_refused: u64,
    next_refusal_told: Mono,
}

struct Pending {
    downlink: u64,
    sent_to: SocketAddr,
    sent: Mono,
    done: TxDone,
}

impl Registry {
    pub(crate) fn new(policy: GatewayPolicy) -> Self {
        Self {
            policy,
            gateways: HashMap::new(),
            unseen: Unseen::default(),
            strangers: SourceLimiter::new(policy.stranger_rate),
            auto_count: 0,
            expiries: VecDeque::new(),
            tokens: HashMap::new(),
            downlinks: 0,
            next_silence_check: None,
            closed: true,
        }
    }

    pub(crate) fn put(&mut self, config: GatewayConfig) {
        self.unseen.forget(config.eui);
        let gateway = self.gateways.entry(config.eui).or_insert_with(|| {
            self.auto_count = self.auto_count.saturating_add(usize::from(config.auto));
            Gateway::new(config)
        });
        gateway.config = config;
    }

    pub(crate) fn remove(&mut self, gateway: GatewayEui, effects: &mut Effects) -> bool {
        let Some(removed) = self.gateways.remove(&gateway) else { return false };
        if removed.config.auto {
            self.auto_count = self.auto_count.saturating_sub(1);
        }
        for (token, pending) in removed.pending {
            release(&mut self.tokens, token);
            effects.outcomes.push((pending.done, TxOutcome::NoAnswer));
        }
        true
    }

    /// Whether a datagram that belongs to no registered gateway may cost more than its reading: an event, a place
    /// among the unseen.
    pub(crate) fn admit_stranger(&mut self, source: SocketAddr, now: Mono) -> bool {
        self.strangers.take(source.ip(), now)
    }

    /// Judges a PUSH_DATA or PULL_DATA. Whatever the answer is, the packet is to be acknowledged.
    pub(crate) fn receive(&mut self, packet: &Packet, effects: &mut Effects) -> Result<(), DropReason> {
        let eui = packet.header.gateway;
        if !self.gateways.contains_key(&eui) {
            self.receive_unknown(packet, effects)?;
        }
        let limit = self.policy.gateway_rate;
        let gateway = self.gateways.get_mut(&eui).ok_or(DropReason::GatewayUnknown)?;
        if !gateway.rate.take(limit, packet.now) {
            return Err(DropReason::RateLimited);
        }
        match packet.header.kind {
            PacketKind::PushData => {
                gateway.last_push_at = Some(packet.at);
                if let Some(path) = &mut gateway.path {
                    path.heard(packet.source, packet.now);
                }
            }
            PacketKind::PullData => {
                gateway.pull(packet, effects)?;
                gateway.last_pull_at = Some(packet.at);
                gateway.path_version = packet.header.version;
            }
            PacketKind::TxAck => {}
        }
        gateway.version = packet.header.version;
        gateway.heard(packet.now, effects);
        self.next_silence_check.get_or_insert_with(|| packet.now.plus_ms(SILENCE_CHECK_MS));
        Ok(())
    }

    /// Notes what a PUSH_DATA held.
    pub(crate) fn note_uplinks(&mut self, gateway: GatewayEui, count: u64) {
        if let Some(gateway) = self.gateways.get_mut(&gateway) {
            gateway.uplinks_received = gateway.uplinks_received.saturating_add(count);
        }
    }

    /// Notes a status report, as JSON.
    pub(crate) fn note_stat(&mut self, gateway: GatewayEui, stat_json: Box<str>, at: Timestamp) {
        if let Some(gateway) = self.gateways.get_mut(&gateway) {
            gateway.stat_json = Some(stat_json);
            gateway.last_stat_at = Some(at);
        }
    }

    /// Makes the PULL_RESP for a request and waits for its TX_ACK.
    ///
    /// The caller sends the datagram, or says [`Registry::abandon_tx`] when it cannot. `Err` gives `done` back with
    /// what to call it with; then nothing waits. `token` draws a random number.
    pub(crate) fn begin_tx(
        &mut self,
        request: &TxRequest,
        done: TxDone,
        now: Mono,
        mut token: impl FnMut() -> u16,
    ) -> Result<Outgoing, (TxDone, TxOutcome)> {
        let Some(gateway) = self.gateways.get_mut(&request.gateway) else {
            return Err((done, TxOutcome::NoPath));
        };
        let Some(path) = gateway.path else { return Err((done, TxOutcome::NoPath)) };
        let failed = |detail: String| TxOutcome::SendFailed { detail };
        if self.closed {
            return Err((done, failed("the server is stopping".to_owned())));
        }
        if gateway.pending.len() >= PENDING_MAX {
            let detail = format!("gateway {} owes {PENDING_MAX} TX_ACK already", request.gateway);
            return Err((done, failed(detail)));
        }
        let mut drawn = token();
        // The bound above leaves most tokens free, so the next free one is near.
        while gateway.pending.contains_key(&drawn) {
            drawn = drawn.wrapping_add(1);
        }

        let mut datagram = gwmp::pull_resp_prefix(gateway.path_version, drawn).to_vec();
        let config = &gateway.config;
        let power_dbm =
            txpk::conducted_power_dbm(request.eirp_dbm, config.antenna_gain_dbi, config.power_dbm_max);
        if txpk::encode(request, power_dbm, &mut datagram).is_none() {
            return Err((done, failed(format!("gateways cannot send {:?}", request.modulation))));
        }

        gateway.downlinks_sent = gateway.downlinks_sent.saturating_add(1);
        let address = path.address();
        if gateway.path_version == gwmp::VERSION_1 {
            return Ok(Outgoing { address, datagram, token: drawn, unconfirmed: Some(done) });
        }
        self.downlinks = self.downlinks.wrapping_add(1);
        let downlink = self.downlinks;
        gateway.pending.insert(drawn, Pending { downlink, sent_to: address, sent: now, done });
        let count = self.tokens.entry(drawn).or_insert(0);
        *count = count.saturating_add(1);
        let at = now.plus_ms(TX_ACK_MS);
        self.expiries.push_back(Expiry { at, gateway: request.gateway, token: drawn, downlink });
        Ok(Outgoing { address, datagram, token: drawn, unconfirmed: None })
    }

    /// Stops waiting for the answer to a datagram that could not be sent.
    pub(crate) fn abandon_tx(&mut self, gateway: GatewayEui, token: u16) -> Option<TxDone> {
        let gateway = self.gateways.get_mut(&gateway)?;
        gateway.downlinks_sent = gateway.downlinks_sent.saturating_sub(1);
        let pending = gateway.pending.remove(&token)?;
        release(&mut self.tokens, token);
        Some(pending.done)
    }

    /// Judges a TX_ACK: it counts for a downlink that this gateway was asked for, from where it was asked, once.
    ///
    /// A refused one leaves the downlink waiting, so that a stranger cannot use up a token.
    pub(crate) fn receive_tx_ack(
        &mut self,
        packet: &Packet,
        answer: TxAnswer,
        effects: &mut Effects,
    ) -> Result<(), DropReason> {
        let token = u16::from_be_bytes(packet.header.token);
        let mut eui = packet.header.gateway;
        if planted(Bug::AcceptOthersTxAck) {
            let asked = self.gateways.iter().find(|(_, gateway)| gateway.pending.contains_key(&token));
            eui = asked.map_or(eui, |(asked, _)| *asked);
        }
        let gateway = self.gateways.get_mut(&eui).ok_or(DropReason::GatewayUnknown)?;
        let path_address = gateway.path.map(|path| path.address());
        let Some(pending) = gateway.pending.get(&token) else {
            let of_another_gateway = self.tokens.contains_key(&token);
            let from_elsewhere = path_address != Some(packet.source);
            return Err(if of_another_gateway || from_elsewhere {
                DropReason::TxAckForeign
            } else {
                DropReason::TxAckUnexpected
            });
        };
        let from_elsewhere = packet.source != pending.sent_to && path_address != Some(packet.source);
        if from_elsewhere && !planted(Bug::AcceptOthersTxAck) {
            return Err(DropReason::TxAckForeign);
        }
        if packet.now >= pending.sent.plus_ms(TX_ACK_MS) {
            return Err(DropReason::TxAckUnexpected);
        }

        let sent = pending.sent;
        let Some(pending) = gateway.pending.remove(&token) else { return Err(DropReason::TxAckUnexpected) };
        release(&mut self.tokens, token);
        gateway.heard(packet.now, effects);
        if let Some(path) = &mut gateway.path {
            path.heard(packet.source, packet.now);
        }
        gateway.note_round_trip(packet.now, packet.now.saturating_us_since(sent));
        let outcome = match answer {
            TxAnswer::Accepted { warning } => {
                gateway.downlinks_acknowledged = gateway.downlinks_acknowledged.saturating_add(1);
                TxOutcome::Acknowledged { warning }
            }
            TxAnswer::Refused { error, text } => {
                gateway.note_tx_ack_error(error, &text);
                TxOutcome::Refused { error, text }
            }
        };
        effects.outcomes.push((pending.done, outcome));
        Ok(())
    }

    pub(crate) fn poll_timeout(&self) -> Option<Mono> {
        let expiry = self.expiries.front().map(|expiry| expiry.at);
        expiry.into_iter().chain(self.next_silence_check).min()
    }

    pub(crate) fn handle_timeout(&mut self, now: Mono, effects: &mut Effects) {
        while let Some(expiry) = self.expiries.pop_front_if(|expiry| expiry.at <= now) {
            self.expire(&expiry, effects);
        }
        if self.next_silence_check.is_some_and(|at| at <= now) {
            self.check_silence(now, effects);
        }
    }

    /// Lets downlinks begin; from here on somebody calls [`Registry::handle_timeout`].
    pub(crate) fn open(&mut self) {
        self.closed = false;
    }

    /// Ends every unanswered downlink at once and lets no other begin.
    pub(crate) fn close(&mut self, effects: &mut Effects) {
        self.closed = true;
        for expiry in std::mem::take(&mut self.expiries) {
            self.expire(&expiry, effects);
        }
    }

    fn receive_unknown(&mut self, packet: &Packet, effects: &mut Effects) -> Result<(), DropReason> {
        if !self.admit_stranger(packet.source, packet.now) {
            return Err(DropReason::RateLimited);
        }
        let eui = packet.header.gateway;
        // A forwarder that was not set up calls itself all zeros or all ones; there may be many of them.
        let is_placeholder = matches!(eui.value(), 0 | u64::MAX);
        if !self.policy.auto_register || is_placeholder || self.auto_count >= AUTO_GATEWAYS_MAX {
            self.unseen.note(eui, packet.source, packet.at);
            return Err(DropReason::GatewayUnknown);
        }
        self.put(GatewayConfig { auto: true, ..GatewayConfig::new(eui) });
        effects.events.push(GatewayEvent::AutoRegistered { gateway: eui, source: packet.source });
        Ok(())
    }

    fn expire(&mut self, expiry: &Expiry, effects: &mut Effects) {
        let Some(gateway) = self.gateways.get_mut(&expiry.gateway) else { return };
        // The token may be in use again by a later downlink.
        if gateway.pending.get(&expiry.token).is_none_or(|pending| pending.downlink != expiry.downlink) {
            return;
        }
        if let Some(pending) = gateway.pending.remove(&expiry.token) {
            release(&mut self.tokens, expiry.token);
            effects.outcomes.push((pending.done, TxOutcome::NoAnswer));
        }
    }

    fn check_silence(&mut self, now: Mono, effects: &mut Effects) {
        let mut offline = Vec::new();
        let mut any_online = false;
        for gateway in self.gateways.values_mut().filter(|gateway| gateway.online) {
            if now.saturating_ms_since(gateway.last_heard) >= OFFLINE_MS {
                gateway.online = false;
                offline.push(gateway.config.eui);
            } else {
                any_online = true;
            }
        }
        offline.sort_unstable();
        effects.events.extend(offline.into_iter().map(|gateway| GatewayEvent::Offline { gateway }));
        self.next_silence_check = any_online.then(|| now.plus_ms(SILENCE_CHECK_MS));
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("gateways", &self.gateways.len()).finish_non_exhaustive()
    }
}

impl Gateway {
    fn new(config: GatewayConfig) -> Self {
        Self {
            config,
            rate: Bucket::default(),
            online: false,
            last_heard: Mono::default(),
            last_push_at: None,
            last_pull_at: None,
            last_stat_at: None,
            stat_json: None,
            path: None,
            version: 0,
            path_version: 0,
            pending: HashMap::new(),
            round_trips_us: VecDeque::new(),
            tx_ack_errors: BTreeMap::new(),
            uplinks_received: 0,
            downlinks_sent: 0,
            downlinks_acknowledged: 0,
            path_moves_refused: 0,
            next_refusal_told: Mono::default(),
        }
    }

    fn pull(&mut self, packet: &Packet, effects: &mut Effects) -> Result<(), DropReason> {
        let gateway = self.config.eui;
        let Some(path) = &mut self.path else {
            self.path = Some(DownlinkPath::open(packet.source, packet.now));
            return Ok(());
        };
        match path.pull(packet.source, packet.now) {
            PathChange::Kept => Ok(()),
            PathChange::Moved { from } => {
                effects.events.push(GatewayEvent::PathMoved { gateway, from, to: packet.source });
                Ok(())
            }
            PathChange::Refused => {
                self.path_moves_refused = self.path_moves_refused.saturating_add(1);
                if packet.now >= self.next_refusal_told {
                    self.next_refusal_told = packet.now.plus_ms(REFUSAL_TOLD_MS);
                    effects.events.push(GatewayEvent::PathMoveRefused { gateway, from: packet.source });
                }
                Err(DropReason::PathMoveRefused)
            }
        }
    }

    fn heard(&mut self, now: Mono, effects: &mut Effects) {
        self.last_heard = self.last_heard.max(now);
        if !self.online {
            self.online = true;
            effects.events.push(GatewayEvent::Online { gateway: self.config.eui });
        }
    }

    fn note_round_trip(&mut self, now: Mono, round_trip_us: u64) {
        if self.round_trips_us.len() == ROUND_TRIPS_MAX {
            self.round_trips_us.pop_front();
        }
        self.round_trips_us.push_back((now, u32::try_from(round_trip_us).unwrap_or(u32::MAX)));
    }

    fn note_tx_ack_error(&mut self, error: TxAckError, text: &str) {
        let word = if error == TxAckError::Unknown { text } else { error.code() };
        if let Some(count) = self.tx_ack_errors.get_mut(word) {
            *count = count.saturating_add(1);
        } else if self.tx_ack_errors.len() < TX_ACK_WORDS_MAX {
            self.tx_ack_errors.insert(word.to_owned(), 1);
        } else {
            let count = self.tx_ack_errors.entry(TxAckError::Unknown.code().to_owned()).or_insert(0);
            *count = count.saturating_add(1);
        }
    }

    fn round_trip_ms(&self) -> Option<f32> {
        // An old one would rule a window out for ever: without a downlink in it nothing new is measured.
        let is_fresh = |at: Mono| self.last_heard.saturating_ms_since(at) <= ROUND_TRIP_KEPT_MS;
        let fresh = self.round_trips_us.iter().filter(|(at, _)| is_fresh(*at));
        let mut sorted: Vec<u32> = fresh.map(|(_, us)| *us).collect();
        sorted.sort_unstable();
        #[allow(clippy::cast_precision_loss, reason = "a round trip is below two seconds")]
        sorted.get(sorted.len() / 2).map(|us| *us as f32 / 1_000.0)
    }

    fn link(&self) -> GatewayLink {
        GatewayLink {
            online: self.online,
            has_path: self.path.is_some(),
            round_trip_ms: self.round_trip_ms(),
            downlinks_outstanding: self.pending.len(),
        }
    }

    fn status(&self) -> GatewayStatus {
        GatewayStatus {
            online: self.online,
            last_push_at: self.last_push_at,
            last_pull_at: self.last_pull_at,
            downlink_path: self.path.map(|path| path.address()),
            round_trip_ms: self.round_trip_ms(),
            tx_ack_errors: self.tx_ack_errors.clone(),
            uplinks_received: self.uplinks_received,
            downlinks_sent: self.downlinks_sent,
            downlinks_acknowledged: self.downlinks_acknowledged,
            protocol_version: self.version,
            stat_json: self.stat_json.as_deref().map(str::to_owned),
            last_stat_at: self.last_stat_at,
            path_moves_refused: self.path_moves_refused,
        }
    }
}

fn release(tokens: &mut HashMap<u16, u32>, token: u16) {
    if let Some(count) = tokens.get_mut(&token) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            tokens.remove(&token);
        }
    }
}

/// A TX_ACK that takes longer does not count.
const TX_ACK_MS: u64 = crate::budget::TX_ACK_MS;
/// A gateway that sends nothing for so long is offline; forwarders send every 5 to 30 s.
const OFFLINE_MS: u64 = 60_000;
const SILENCE_CHECK_MS: u64 = 1_000;
const REFUSAL_TOLD_MS: u64 = 60_000;
/// A forwarder's own queue holds 32 frames.
const PENDING_MAX: usize = 256;
/// How long a round trip tells of the way.
const ROUND_TRIP_KEPT_MS: u64 = 600_000;
const ROUND_TRIPS_MAX: usize = 16;
const TX_ACK_WORDS_MAX: usize = 32;
const AUTO_GATEWAYS_MAX: usize = 1_000;

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
