//! The radio and the wires: devices send, gateways report and take orders, datagrams are lost, late or there twice.

use simulator::device::{Ignored, Uplink};
use simulator::forwarder::{self, PULL_RESP, PUSH_ACK, Transmission as Order};

use crate::account::{Frame, Invariant, Transmission};
use crate::air::{self, Listening};
use crate::chance::For;
use crate::scene::{Content, Event, Inside};
use crate::schedule::Setting;
use crate::states::State;

impl Inside {
    /// A device sends data; one without a session joins.
    pub(crate) fn uplink(
        &mut self,
        number: usize,
        confirmed: bool,
        bytes: &[u8],
        heard: u8,
        times: u8,
        salt: u64,
    ) {
        let device = &mut self.devices[number];
        if device.session == 0 {
            return self.join(number, heard, salt);
        }
        if self.is_listening(number) {
            return;
        }
        let device = &mut self.devices[number];
        let exhausted = device.spec.kind == crate::schedule::Kind::Abp
            && device.listening.as_ref().is_some_and(|l| !l.is_join && l.uplink.fcnt == u32::MAX);
        if exhausted {
            return;
        }
        let payload = (!bytes.is_empty()).then_some((PORT_UP, bytes));
        let pick = u32::try_from(salt & 0xffff).expect("16 bits");
        let uplink = device.sim.uplink(pick, payload, confirmed);
        let frame = Frame {
            device: number,
            session: device.session,
            fcnt: uplink.fcnt,
            confirmed,
            payload: payload.map(|(port, bytes)| (port, bytes.to_vec())),
            committed: false,
        };
        let frame = self.account.made(&uplink.phy_payload, frame);
        self.transmit(number, uplink, Some(frame), heard, times, salt);
    }

    pub(crate) fn join(&mut self, number: usize, heard: u8, salt: u64) {
        let device = &mut self.devices[number];
        if !device.joins() {
            return;
        }
        if self.is_listening(number) {
            return;
        }
        let device = &mut self.devices[number];
        let uplink = device.sim.join_request(u32::try_from(salt & 0xffff).expect("16 bits"));
        device.dev_nonce_max = device.dev_nonce_max.max(dev_nonce_of(&uplink.phy_payload));
        if device.session > 0 {
            self.account.asked_to_join(number);
        }
        self.transmit(number, uplink, None, heard, 1, salt);
    }

    /// A device of class A sends nothing before it has heard an answer or both windows have passed (TS001-1.0.4 §3.3.4).
    fn is_listening(&self, number: usize) -> bool {
        let Some(listening) = self.devices[number].listening.as_ref().filter(|l| !l.served) else {
            return false;
        };
        let last_us = listening.uplink.windows().map(|window| window.delay_us).max().unwrap_or(0);
        let sent_ms = self.account.transmissions[listening.transmission].at_ms;
        self.now_ms() < sent_ms + u64::from(last_us / 1_000) + WINDOW_LEN_MS
    }

    /// Now, and no two transmissions end in the same microsecond.
    pub(crate) fn fresh_us(&self) -> u64 {
        self.now_us() + self.account.transmissions.len() as u64 % 997
    }

    /// A device sends, and gateways hear it.
    pub(crate) fn transmit(
        &mut self,
        number: usize,
        uplink: Uplink,
        frame: Option<usize>,
        heard: u8,
        times: u8,
        salt: u64,
    ) {
        let now_us = self.fresh_us();
        let gateways: Vec<usize> =
            (0..self.gateways.len()).filter(|gateway| heard >> gateway & 1 == 1).collect();
        let places: Vec<(usize, u64, u32)> = gateways
            .iter()
            .map(|gateway| {
                let known = &self.gateways[*gateway];
                (*gateway, known.boots, known.counter(now_us))
            })
            .collect();
        let device = &self.devices[number];
        let dev_nonce = if frame.is_none() { dev_nonce_of(&uplink.phy_payload) } else { 0 };
        let transmission = Transmission {
            device: number,
            frame,
            dev_nonce,
            phy: uplink.phy_payload.clone(),
            at_ms: self.now_ms(),
            windows: uplink
                .windows()
                .map(|window| (window.delay_us, window.freq_hz, window.data_rate.clone()))
                .collect(),
            loose: device.resettled && frame.is_some(),
        };
        let transmission = self.account.on_air(transmission, &places);
        self.note(&[23, number as u64, u64::from(uplink.fcnt), u64::from(heard)], || {
            let what = match frame {
                Some(_) => format!("FCntUp {}", uplink.fcnt),
                None => format!("a Join-Request with DevNonce {dev_nonce}"),
            };
            format!("device {number} sends {what}, heard by {} gateways", gateways.len())
        });
        if frame.is_some() && times > 1 {
            let after_ms = u64::from(self.devices[number].spec.rx_delay_s + 1) * 1_000 + 1_300;
            let again = Event::Again { device: number, transmission, times: times - 1, heard, number: salt };
            self.plan(after_ms, again);
        }
        let is_join = frame.is_none();
        self.recorded.push((uplink.clone(), number));
        for (gateway, _, tmst) in places {
            self.heard_by(gateway, &uplink, tmst);
        }
        self.devices[number].listening = Some(Listening { uplink, transmission, is_join, served: false });
    }

    /// A gateway reports a frame.
    pub(crate) fn heard_by(&mut self, gateway: usize, uplink: &Uplink, tmst_us: u32) {
        let text = forwarder::rxpk_text(&[air::reception(uplink, tmst_us, gateway)]);
        let known = &mut self.gateways[gateway];
        let token = known.token();
        let datagram = forwarder::push_data(token, known.eui, &text);
        let (boots, sends_again) = (known.boots, known.spec.sends_again);
        if sends_again {
            known.unacknowledged.insert(token, (datagram.clone(), 1));
            self.plan(SEND_AGAIN_MS, Event::SendAgain { gateway, token, boots });
        }
        self.gateway_sends(gateway, datagram, Content::Frames(vec![uplink.phy_payload.clone()]));
    }

    pub(crate) fn send_again(&mut self, gateway: usize, token: u16, boots: u64) {
        let known = &mut self.gateways[gateway];
        if known.boots != boots {
            return;
        }
        let Some((datagram, times)) = known.unacknowledged.get_mut(&token) else { return };
        *times += 1;
        let (datagram, times) = (datagram.clone(), *times);
        if times > SEND_AGAIN_MAX {
            known.unacknowledged.remove(&token);
            return;
        }
        self.plan(SEND_AGAIN_MS, Event::SendAgain { gateway, token, boots });
        let content = frames_of(&datagram);
        self.gateway_sends(gateway, datagram, content);
    }

    /// A gateway sends a datagram to its servers: kept during an outage, lost, late, twice.
    pub(crate) fn gateway_sends(&mut self, gateway: usize, datagram: Vec<u8>, content: Content) {
        let now_ms = self.now_ms();
        let known = &mut self.gateways[gateway];
        if now_ms < known.away_until_ms {
            if known.spec.keeps && matches!(content, Content::Frames(_)) {
                known.kept.push(datagram);
            }
            return;
        }
        for server in known.servers.clone() {
            self.up_link(gateway, server, datagram.clone(), content.clone());
        }
    }

    fn up_link(&mut self, gateway: usize, server: usize, datagram: Vec<u8>, content: Content) {
        self.draws += 1;
        let mut draw = self.chance.draw(For::UpLink, self.draws, gateway as u64);
        let Setting { lost, twice, slow, way_ms, .. } = self.setting;
        let quiet = self.calm;
        if !quiet && draw.in_thousand(lost) {
            if matches!(content, Content::TxAck { .. }) {
                self.states.reach(State::TxAckLost);
            }
            return;
        }
        let mut way = way_ms / 2 + draw.between(0, way_ms.max(1));
        if !quiet && draw.in_thousand(slow) {
            way += draw.pick(&[150, 400, 1_500, 4_000, 9_000]);
            if draw.in_thousand(60) && matches!(content, Content::Frames(_)) {
                way += draw.between(1, 24) * 3_600_000;
                self.states.reach(State::FrameHoursLate);
            }
        }
        if !quiet && draw.in_thousand(twice) {
            let again = way + draw.pick(&[1, 30, 350, 2_000]);
            self.states.reach(State::DatagramTwice);
            self.plan(
                again,
                Event::ToServer { server, gateway, datagram: datagram.clone(), content: content.clone() },
            );
        }
        self.plan(way, Event::ToServer { server, gateway, datagram, content });
    }

    pub(crate) fn outage_ends(&mut self, gateway: usize) {
        if self.now_ms() < self.gateways[gateway].away_until_ms {
            return;
        }
        let kept = std::mem::take(&mut self.gateways[gateway].kept);
        if !kept.is_empty() {
            self.states.reach(State::BufferedFramesFlushed);
        }
        for datagram in kept {
            let content = frames_of(&datagram);
            self.gateway_sends(gateway, datagram, content);
        }
    }

    /// A datagram leaves a server for a gateway.
    pub(crate) fn down_link(&mut self, gateway: usize, server: usize, life: usize, datagram: &[u8]) {
        self.draws += 1;
        let mut draw = self.chance.draw(For::DownLink, self.draws, gateway as u64);
        let Setting { lost, twice, slow, way_ms, .. } = self.setting;
        if !self.calm && draw.in_thousand(lost) {
            return;
        }
        let mut way = way_ms / 2 + draw.between(0, way_ms.max(1));
        if !self.calm && draw.in_thousand(slow) {
            way += draw.pick(&[150, 400, 1_500]);
        }
        let event = Event::ToGateway { gateway, server, life, datagram: datagram.to_vec() };
        if !self.calm && draw.in_thousand(twice) {
            self.plan(way + draw.pick(&[1, 40]), event.clone());
        }
        self.plan(way, event);
    }

    /// A datagram reaches a gateway.
    pub(crate) fn at_gateway(&mut self, gateway: usize, server: usize, life: usize, datagram: &[u8]) {
        let (now_ms, now_us) = (self.now_ms(), self.now_us());
        if now_ms < self.gateways[gateway].away_until_ms {
            return;
        }
        let Some((kind, token, body)) = forwarder::parse(datagram) else { return };
        let token = u16::from_be_bytes(token);
        match kind {
            PUSH_ACK => {
                self.gateways[gateway].unacknowledged.remove(&token);
            }
            PULL_RESP => {
                let known = &self.gateways[gateway];
                let content = body.iter().fold(7_u64, |hash, byte| hash.wrapping_mul(31) ^ u64::from(*byte));
                let seen = known.orders.get(&(token, content)).copied();
                let answer = seen.unwrap_or_else(|| self.take_order(gateway, token, body, now_us));
                let known = &mut self.gateways[gateway];
                known.orders.insert((token, content), answer);
                let datagram = forwarder::tx_ack(token, known.eui, Some(answer.unwrap_or("NONE")));
                if answer.is_some() {
                    self.states.reach(State::TxRefused);
                }
                let content = Content::TxAck { life, token, accepted: answer.is_none() };
                self.up_link(gateway, server, datagram, content);
            }
            _ => {}
        }
    }

    /// A gateway takes an order to send, or says why not.
    fn take_order(&mut self, gateway: usize, token: u16, body: &[u8], now_us: u64) -> Option<&'static str> {
        let known = &self.gateways[gateway];
        let Some(order) = forwarder::parse_pull_resp(known.eui, body, known.counter(now_us)) else {
            return Some("UNKNOWN");
        };
        let mut draw = self.chance.draw(For::Forwarder, gateway as u64, u64::from(token));
        let lead_ms = u64::try_from(order.lead_us / 1_000).ok().filter(|lead| *lead >= LEAD_MIN_MS);
        let Some(lead_ms) = lead_ms else {
            self.states.reach(State::WindowMissed);
            return Some("TOO_LATE");
        };
        if lead_ms > LEAD_MAX_MS {
            self.states.reach(State::GatewayRebooted);
            return Some("TOO_EARLY");
        }
        if !self.calm && draw.in_thousand(self.setting.refused) {
            return Some(draw.pick(&["COLLISION_PACKET", "COLLISION_BEACON", "TX_FREQ", "TX_POWER"]));
        }
        let boots = known.boots;
        self.plan(lead_ms, Event::OnAir { gateway, boots, transmission: Box::new(order) });
        None
    }

    /// A frame goes on air; whoever listens for it may hear it.
    pub(crate) fn at_device(&mut self, gateway: usize, boots: u64, order: &Order) {
        if self.gateways[gateway].boots != boots {
            self.states.reach(State::GatewayRebooted);
            return;
        }
        let Some(tmst) = order.tmst_us else { return };
        let Some((number, delay_s)) = self.account.answered(gateway, boots, tmst) else { return };
        if tmst < delay_s * 1_000_000 {
            self.states.reach(State::TmstWrapped);
        }
        let device = self.account.transmissions[number].device;
        let Some(listening) = self.devices[device].listening.clone() else { return };
        if listening.transmission != number || listening.served {
            return;
        }
        let heard_at = tmst.wrapping_sub(delay_s * 1_000_000);
        let Some(window) = listening.uplink.window_hit(heard_at, tmst, order.freq_hz, &order.data_rate) else {
            return;
        };
        self.draws += 1;
        let mut draw = self.chance.draw(For::OnAir, self.draws, device as u64);
        if !self.calm && draw.in_thousand(self.setting.unheard) {
            self.note(&[24, device as u64], || format!("device {device} does not hear it"));
            return;
        }
        self.devices[device].listening = Some(Listening { served: true, ..listening.clone() });
        self.states.reach(if window == 1 { State::DownlinkHeardInRx1 } else { State::DownlinkHeardInRx2 });
        if listening.is_join {
            self.take_accept(device, &order.phy_payload)
        } else {
            self.take_data(device, &order.phy_payload)
        }
    }

    fn take_accept(&mut self, number: usize, phy: &[u8]) {
        let device = &mut self.devices[number];
        let before = device.sim.clone();
        match device.sim.take_join_accept(phy) {
            Ok(()) => {
                if device.session > 0 {
                    device.past.push((device.session, before));
                }
                device.session += 1;
                device.resettled = false;
                let session = device.session;
                let dev_nonce =
                    device.listening.as_ref().map(|l| self.account.transmissions[l.transmission].dev_nonce);
                self.account.joined(number, session, dev_nonce.unwrap_or(0));
                self.note(&[25, number as u64, session], || format!("device {number} has joined"));
            }
            // The very same Join-Request gets the very same answer.
            Err(Ignored::JoinNonceReused { .. }) if device.nonces_reset => {
                self.states.reach(State::DevNonceUsedTwice);
            }
            Err(ignored) => {
                let detail = format!("device {number} cannot take its Join-Accept: {ignored}");
                self.account.violate(Invariant::I4, detail);
            }
        }
    }

    fn take_data(&mut self, number: usize, phy: &[u8]) {
        let device = &mut self.devices[number];
        match device.sim.take_downlink(phy) {
            Ok(heard) => {
                device.resettled |= heard.commands.iter().any(|_| true);
                self.note(&[26, number as u64, u64::from(heard.fcnt)], || {
                    format!("device {number} hears FCntDown {}", heard.fcnt)
                });
                if let Some((_, bytes)) = heard.payload {
                    self.heard_payloads.push((number, bytes.clone()));
                    self.account.payload_heard(number, &bytes);
                }
            }
            Err(ignored) => {
                let detail = format!("device {number} cannot take a downlink in its window: {ignored}");
                self.account.violate(Invariant::I3, detail);
            }
        }
    }
}

/// The frames of a PUSH_DATA, read as a forwarder wrote them.
fn frames_of(datagram: &[u8]) -> Content {
    use base64::Engine as _;
    let text = String::from_utf8_lossy(datagram.get(12..).unwrap_or_default()).into_owned();
    let frames = text
        .split("\"data\":\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .filter_map(|data| base64::engine::general_purpose::STANDARD.decode(data).ok())
        .collect();
    Content::Frames(frames)
}

/// DevNonce of a Join-Request: bytes 17 and 18 of the frame, the low one first (TS001-1.0.4 §6.2.5).
pub(crate) fn dev_nonce_of(phy: &[u8]) -> u16 {
    match phy.get(17..19) {
        Some([low, high]) => u16::from_le_bytes([*low, *high]),
        Some(_) | None => 0,
    }
}

const PORT_UP: u8 = 3;
const SEND_AGAIN_MS: u64 = 2_000;
const SEND_AGAIN_MAX: u32 = 6;
/// How long a device listens in a window at most: a preamble at the slowest data rate.
const WINDOW_LEN_MS: u64 = 300;
/// What a forwarder needs to get a frame into its queue, and how far ahead it takes one.
const LEAD_MIN_MS: u64 = 5;
const LEAD_MAX_MS: u64 = 20_000;
