//! The machine of the gateways, with a clock of its own.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;

use mac::region::Modulation;
use mac::units::Hz;

use super::super::gwmp::VERSION_2;
use super::super::{Polarization, TxTime};
use super::*;

/// A registry, its time, and what became of its downlinks.
struct World {
    registry: Registry,
    now: Mono,
    effects: Effects,
    outcomes: Arc<Mutex<Vec<(u32, TxOutcome)>>>,
    next_token: u16,
}

const ROOF: GatewayEui = GatewayEui::new(0xaa55_5a00_0000_0001);
const BARN: GatewayEui = GatewayEui::new(0xaa55_5a00_0000_0002);

impl World {
    fn new(policy: GatewayPolicy, gateways: &[GatewayEui]) -> Self {
        let mut registry = Registry::new(policy);
        registry.open();
        for gateway in gateways {
            registry.put(GatewayConfig::new(*gateway));
        }
        let outcomes = Arc::default();
        Self { registry, now: Mono::from_us(1), effects: Effects::default(), outcomes, next_token: 0x1000 }
    }

    fn farm() -> Self {
        Self::new(GatewayPolicy::default(), &[ROOF, BARN])
    }

    fn packet(&self, kind: PacketKind, gateway: GatewayEui, source: SocketAddr) -> Packet {
        let header = Header { version: VERSION_2, token: [0, 1], kind, gateway };
        Packet { header, source, now: self.now, at: Timestamp::from_us(i64::try_from(self.now.us()).unwrap()) }
    }

    fn pull(&mut self, gateway: GatewayEui, source: SocketAddr) -> Result<(), DropReason> {
        let packet = self.packet(PacketKind::PullData, gateway, source);
        self.registry.receive(&packet, &mut self.effects)
    }

    fn push(&mut self, gateway: GatewayEui, source: SocketAddr) -> Result<(), DropReason> {
        let packet = self.packet(PacketKind::PushData, gateway, source);
        self.registry.receive(&packet, &mut self.effects)
    }

    /// Asks for a downlink; the number names it in `outcomes`.
    fn send(&mut self, gateway: GatewayEui, number: u32) -> Option<Outgoing> {
        let outcomes = Arc::clone(&self.outcomes);
        let done: TxDone = Box::new(move |outcome| outcomes.lock().push((number, outcome)));
        let token = self.next_token;
        match self.registry.begin_tx(&request(gateway), done, self.now, || token) {
            Ok(outgoing) => Some(outgoing),
            Err((done, outcome)) => {
                done(outcome);
                None
            }
        }
    }

    fn tx_ack(&mut self, gateway: GatewayEui, token: u16, source: SocketAddr) -> Result<(), DropReason> {
        self.tx_answer(gateway, token, source, TxAnswer::Accepted { warning: None })
    }

    fn tx_answer(
        &mut self,
        gateway: GatewayEui,
        token: u16,
        source: SocketAddr,
        answer: TxAnswer,
    ) -> Result<(), DropReason> {
        let mut packet = self.packet(PacketKind::TxAck, gateway, source);
        packet.header.token = token.to_be_bytes();
        let result = self.registry.receive_tx_ack(&packet, answer, &mut self.effects);
        self.effects.run_outcomes();
        result
    }

    fn wait_ms(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
    }

    /// Lets the time pass and every timeout in it happen when it is due.
    fn run_ms(&mut self, ms: u64) {
        let end = self.now.plus_ms(ms);
        while let Some(due) = self.registry.poll_timeout().filter(|due| *due <= end) {
            self.now = due;
            self.registry.handle_timeout(due, &mut self.effects);
            self.effects.run_outcomes();
        }
        self.now = end;
    }

    fn events(&mut self) -> Vec<GatewayEvent> {
        std::mem::take(&mut self.effects.events)
    }

    fn outcomes(&self) -> Vec<(u32, TxOutcome)> {
        std::mem::take(&mut *self.outcomes.lock())
    }

    fn status(&self, gateway: GatewayEui) -> GatewayStatus {
        self.registry.gateways.get(&gateway).unwrap().status()
    }
}

fn request(gateway: GatewayEui) -> TxRequest {
    TxRequest {
        gateway,
        when: TxTime::Tmst(1_000_000),
        freq: Hz::new(868_100_000),
        modulation: Modulation::Lora { sf: 7, bw_hz: 125_000 },
        eirp_dbm: 14.0,
        antenna: 0,
        board: None,
        polarization: Polarization::Inverted,
        phy: vec![1, 2, 3],
    }
}

fn address(host: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host], port))
}

const ACKNOWLEDGED: TxOutcome = TxOutcome::Acknowledged { warning: None };

#[test]
fn a_gateway_is_online_when_heard_and_offline_after_a_minute_of_silence() {
    let mut world = World::farm();
    world.push(ROOF, address(1, 4000)).unwrap();
    world.run_ms(30_000);
    world.pull(ROOF, address(1, 4001)).unwrap();
    assert_eq!(world.events(), [GatewayEvent::Online { gateway: ROOF }]);

    world.run_ms(59_900);
    assert_eq!(world.events(), []);
    world.run_ms(1_200);
    assert_eq!(world.events(), [GatewayEvent::Offline { gateway: ROOF }]);
    assert!(!world.status(ROOF).online);

    // Nothing is left to check until a gateway is heard again.
    assert_eq!(world.registry.poll_timeout(), None);
    world.push(ROOF, address(1, 4000)).unwrap();
    assert_eq!(world.events(), [GatewayEvent::Online { gateway: ROOF }]);
}

/// UDP-002.
#[test]
fn only_pull_data_moves_the_downlink_path() {
    let mut world = World::farm();
    world.push(ROOF, address(1, 4000)).unwrap();
    assert_eq!(world.status(ROOF).downlink_path, None);
    assert!(world.send(ROOF, 1).is_none());
    assert_eq!(world.outcomes(), [(1, TxOutcome::NoPath)]);

    world.pull(ROOF, address(1, 4001)).unwrap();
    world.push(ROOF, address(1, 4002)).unwrap();
    world.push(ROOF, address(9, 4003)).unwrap();
    assert_eq!(world.send(ROOF, 2).unwrap().address, address(1, 4001));

    // NAT gave the gateway another port.
    world.events();
    world.pull(ROOF, address(1, 4009)).unwrap();
    assert_eq!(world.send(ROOF, 3).unwrap().address, address(1, 4009));
    let moved = GatewayEvent::PathMoved { gateway: ROOF, from: address(1, 4001), to: address(1, 4009) };
    assert_eq!(world.events(), [moved]);
}

/// UDP-008.
#[test]
fn a_spoofer_at_ten_times_the_rate_gets_no_downlink_and_is_reported_once_a_minute() {
    let mut world = World::farm();
    let (gateway, spoofer) = (address(1, 4000), address(66, 4000));
    world.pull(ROOF, gateway).unwrap();
    world.events();
    for second in 0..300 {
        if second % 10 == 9 {
            world.pull(ROOF, gateway).unwrap();
        }
        assert_eq!(world.pull(ROOF, spoofer), Err(DropReason::PathMoveRefused));
        assert_eq!(world.send(ROOF, second).unwrap().address, gateway);
        world.run_ms(1_000);
    }
    let refused = GatewayEvent::PathMoveRefused { gateway: ROOF, from: spoofer };
    assert_eq!(world.events(), vec![refused; 5]);
    assert_eq!(world.status(ROOF).path_moves_refused, 300);
    assert_eq!(world.status(ROOF).downlink_path, Some(gateway));
}

/// UDP-008: a gateway that really moved is followed when its old path fell silent.
#[test]
fn a_path_that_fell_silent_moves() {
    let mut world = World::farm();
    world.pull(ROOF, address(1, 4000)).unwrap();
    world.wait_ms(10_000);
    world.pull(ROOF, address(1, 4000)).unwrap();
    world.wait_ms(19_999);
    assert_eq!(world.pull(ROOF, address(2, 4000)), Err(DropReason::PathMoveRefused));
    world.wait_ms(1);
    world.pull(ROOF, address(2, 4000)).unwrap();
    assert_eq!(world.send(ROOF, 1).unwrap().address, address(2, 4000));
}

/// UDP-003, RXWIN-010.
#[test]
fn a_tx_ack_counts_once_and_gives_the_round_trip() {
    let mut world = World::farm();
    world.pull(ROOF, address(1, 4000)).unwrap();
    let token = world.send(ROOF, 1).unwrap().token;
    assert_eq!(token, 0x1000);
    world.wait_ms(80);

    world.tx_ack(ROOF, token, address(1, 4000)).unwrap();

    assert_eq!(world.outcomes(), [(1, ACKNOWLEDGED)]);
    assert_eq!(world.tx_ack(ROOF, token, address(1, 4000)), Err(DropReason::TxAckUnexpected));
    let status = world.status(ROOF);
    assert_eq!((status.downlinks_sent, status.downlinks_acknowledged), (1, 1));
    assert_eq!(status.round_trip_ms, Some(80.0));
    world.run_ms(5_000);
    assert_eq!(world.outcomes(), []);
}

/// UDP-003.
#[test]
fn a_tx_ack_of_another_gateway_or_from_another_address_does_not_count_and_burns_nothing() {
    let mut world = World::farm();
    world.pull(ROOF, address(1, 4000)).unwrap();
    world.pull(BARN, address(2, 4000)).unwrap();
    let token = world.send(ROOF, 1).unwrap().token;

    assert_eq!(world.tx_ack(BARN, token, address(2, 4000)), Err(DropReason::TxAckForeign));
    assert_eq!(world.tx_ack(BARN, token, address(1, 4000)), Err(DropReason::TxAckForeign));
    assert_eq!(world.tx_ack(ROOF, token, address(2, 4000)), Err(DropReason::TxAckForeign));
    assert_eq!(world.tx_ack(ROOF, token, address(1, 4001)), Err(DropReason::TxAckForeign));
    assert_eq!(world.tx_ack(ROOF, token ^ 1, address(1, 4000)), Err(DropReason::TxAckUnexpected));
    assert_eq!(world.tx_ack(GatewayEui::new(7), token, address(1, 4000)), Err(DropReason::GatewayUnknown));
    for forged in 0..=u16::MAX {
        assert!(world.tx_ack(BARN, forged, address(2, 4000)).is_err());
    }
    assert_eq!(world.outcomes(), []);

    world.tx_ack(ROOF, token, address(1, 4000)).unwrap();
    assert_eq!(world.outcomes(), [(1, ACKNOWLEDGED)]);
}

/// UDP-003: NAT may give another port between PULL_RESP and TX_ACK; the next PULL_DATA shows it.
#[test]
fn a_tx_ack_from_the_moved_path_counts() {
    let mut world = World::farm();
    world.pull(ROOF, address(1, 4000)).unwrap();
    let token = world.send(ROOF, 1).unwrap().token;
    world.pull(ROOF, address(1, 5000)).unwrap();
    world.tx_ack(ROOF, token, address(1, 5000)).unwrap();
    assert_eq!(world.outcomes(), [(1, ACKNOWLEDGED)]);
}

/// UDP-003: one token in two gateways at once.
#[test]
fn the_same_token_in_two_gateways_is_two_downlinks() {
    let mut world = World::farm();
    world.pull(ROOF, address(1, 4000)).unwrap();
    world.pull(BARN, address(2, 4000)).unwrap();
    let token = world.send(ROOF, 1).unwrap().token;
    assert_eq!(world.send(BARN, 2).unwrap().token, token);

    world.tx_ack(BARN, token, address(2, 4000)).unwrap();
    assert_eq!(world.outcomes(), [(2, ACKNOWLEDGED)]);
    world.tx_ack(ROOF, token, address(1, 4000)).unwrap();
    assert_eq!(world.outcomes(), [(1, ACKNOWLEDGED)]);
    assert!(world.registry.tokens.is_empty());
}

/// UDP-003.
#[test]
fn a_downlink_without_an_answer_ends_after_two_seconds_and_a_later_one_does_not_count() {
    let mut world = World::farm();
    world.pull(ROOF, address(1, 4000)).unwrap();
    let token = world.send(ROOF, 1).unwrap().token;
    world.run_ms(1_999);
    assert_eq!(world.outcomes(), []);

    // The moment has come; the timer may be a little behind.
    world.wait_ms(1);
    assert_eq!(world.tx_ack(ROOF, token, address(1, 4000)), Err(DropReason::TxAckUnexpected));
    world.run_ms(0);
    assert_eq!(world.outcomes(), [(1, TxOutcome::NoAnswer)]);
    assert_eq!(world.tx_ack(ROOF, token, address(1, 4000)), Err(DropReason::TxAckUnexpected));
    assert!(world.registry.tokens.is_empty() && world.registry.expiries.is_empty());
}

#[test]
fn the_expiry_of_a_token_does_not_end_a_later_downlink_with_it() {
    let mut world = World::farm();
    world.pull(ROOF, address(1, 4000)).unwrap();
    let token = world.send(ROOF, 1).unwrap().token;
    world.tx_ack(ROOF, token, address(1, 4000)).unwrap();
    world.run_ms(1_000);
    assert_eq!(world.send(ROOF, 2).unwrap().token, token);
    world.outcomes();

    world.run_ms(1_500);
    assert_eq!(world.outcomes(), []);
    world.run_ms(500);
    assert_eq!(world.outcomes(), [(2, TxOutcome::NoAnswer)]);
}

/// UDP-003: the random source gives the same number again and again.
#[test]
fn outstanding_downlinks_of_a_gateway_have_different_tokens_and_are_bounded() {
    let mut world = World::farm();
    world.pull(ROOF, address(1, 4000)).unwrap();
    let tokens: BTreeSet<u16> = (0..256).map(|n| world.send(ROOF, n).unwrap().token).collect();
    assert_eq!(tokens.len(), 256);
    assert!(world.send(ROOF, 256).is_none());
    assert!(matches!(&world.outcomes()[..], [(256, TxOutcome::SendFailed { .. })]));

    world.registry.close(&mut world.effects);
    world.effects.run_outcomes();
    assert_eq!(world.outcomes().len(), 256);
    assert!(world.registry.tokens.is_empty());
}

#[test]
fn a_datagram_that_could_not_be_sent_waits_for_nothing() {
    let mut world = World::farm();
    world.pull(ROOF, address(1, 4000)).unwrap();
    let token = world.send(ROOF, 1).unwrap().token;
    assert!(world.registry.abandon_tx(ROOF, token).is_some());
    assert!(world.registry.abandon_tx(ROOF, token).is_none());
    world.run_ms(3_000);
    assert_eq!(world.outcomes(), []);
    assert_eq!(world.status(ROOF).downlinks_sent, 0);
}

/// UDP-004.
#[test]
fn refusals_are_counted_by_their_word_and_the_words_are_bounded() {
    let mut world = World::farm();
    world.pull(ROOF, address(1, 4000)).unwrap();
    let refusal = |error, text: &str| TxAnswer::Refused { error, text: text.to_owned() };
    let mut answers = vec![refusal(TxAckError::TooLate, "TOO_LATE"), refusal(TxAckError::TooLate, "too_late")];
    answers.extend((0..100).map(|n| refusal(TxAckError::Unknown, &format!("WORD_{n}"))));
    for answer in answers {
        let token = world.send(ROOF, 1).unwrap().token;
        world.tx_answer(ROOF, token, address(1, 4000), answer.clone()).unwrap();
        let TxAnswer::Refused { error, text } = answer else { unreachable!() };
        assert_eq!(world.outcomes(), [(1, TxOutcome::Refused { error, text })]);
    }
    let errors = world.status(ROOF).tx_ack_errors;
    assert_eq!(errors.get("TOO_LATE"), Some(&2));
    assert_eq!(errors.get("UNKNOWN"), Some(&69));
    assert_eq!(errors.values().sum::<u64>(), 102);
    assert_eq!(errors.len(), TX_ACK_WORDS_MAX + 1);
    assert_eq!(world.status(ROOF).downlinks_acknowledged, 0);
}

/// UDP-007: version 1 has no TX_ACK.
#[test]
fn a_version_1_forwarder_gets_its_downlink_and_nothing_waits_for_an_answer() {
    let mut world = World::farm();
    let mut packet = world.packet(PacketKind::PullData, ROOF, address(1, 4000));
    packet.header.version = 1;
    world.registry.receive(&packet, &mut world.effects).unwrap();
    // A PUSH_DATA of another version, from whomever, changes nothing.
    world.push(ROOF, address(9, 4000)).unwrap();

    let outgoing = world.send(ROOF, 1).unwrap();
    assert_eq!(outgoing.datagram.get(..4), Some(&[1, 0, 0, 3][..]));
    outgoing.unconfirmed.unwrap()(TxOutcome::SentUnconfirmed);
    world.run_ms(5_000);
    assert_eq!(world.outcomes(), [(1, TxOutcome::SentUnconfirmed)]);
}

#[test]
fn the_round_trip_is_the_median_of_the_last_sixteen() {
    let mut world = World::farm();
    world.pull(ROOF, address(1, 4000)).unwrap();
    for ms in (0..30).chain([1_900]) {
        let token = world.send(ROOF, 1).unwrap().token;
        world.wait_ms(ms);
        world.tx_ack(ROOF, token, address(1, 4000)).unwrap();
    }
    assert_eq!(world.status(ROOF).round_trip_ms, Some(23.0));
    let link = world.registry.gateways.get(&ROOF).unwrap().link();
    assert_eq!(
        link,
        GatewayLink { online: true, has_path: true, round_trip_ms: Some(23.0), downlinks_outstanding: 0 }
    );
}

/// The world found that one slow answer ruled RX1 out for a downlink that fits no other window (seed 11380).
#[test]
fn a_round_trip_is_forgotten_after_ten_minutes_without_another() {
    let mut world = World::farm();
    world.pull(ROOF, address(1, 4000)).unwrap();
    let token = world.send(ROOF, 1).unwrap().token;
    world.wait_ms(900);
    world.tx_ack(ROOF, token, address(1, 4000)).unwrap();

    world.wait_ms(600_000);
    world.pull(ROOF, address(1, 4000)).unwrap();
    assert_eq!(world.status(ROOF).round_trip_ms, Some(900.0));
    world.wait_ms(1);
    world.pull(ROOF, address(1, 4000)).unwrap();
    assert_eq!(world.status(ROOF).round_trip_ms, None);
}

/// UDP-009.
#[test]
fn an_unknown_gateway_is_refused_and_listed_and_its_source_is_limited() {
    let mut world = World::farm();
    let stranger = GatewayEui::new(0xdead);
    let limit = usize::try_from(GatewayPolicy::default().stranger_rate.burst).unwrap();
    let reasons: Vec<_> =
        (0..limit + 10).map(|_| world.push(stranger, address(7, 4000)).unwrap_err()).collect();
    assert_eq!(reasons, [vec![DropReason::GatewayUnknown; limit], vec![DropReason::RateLimited; 10]].concat());
    let unseen = world.registry.unseen.all();
    assert_eq!(unseen.len(), 1);
    assert_eq!(
        (unseen[0].gateway, unseen[0].address, unseen[0].datagrams),
        (stranger, address(7, 4000), limit as u64)
    );
    assert_eq!(world.events(), []);

    // The flood touches no registered gateway, not even at the same address.
    world.push(ROOF, address(7, 4000)).unwrap();

    world.registry.put(GatewayConfig::new(stranger));
    assert_eq!(world.registry.unseen.all(), []);
    world.push(stranger, address(7, 4000)).unwrap();
}

/// UDP-009.
#[test]
fn a_registered_gateway_above_its_rate_is_limited() {
    let gateway_rate = RateLimit { per_second: 10, burst: 5 };
    let mut world = World::new(GatewayPolicy { gateway_rate, ..GatewayPolicy::default() }, &[ROOF, BARN]);
    let taken = (0..20).filter(|_| world.push(ROOF, address(1, 4000)).is_ok()).count();
    assert_eq!(taken, 5);
    assert_eq!(world.push(ROOF, address(1, 4000)), Err(DropReason::RateLimited));
    world.push(BARN, address(1, 4000)).unwrap();
    world.wait_ms(100);
    world.push(ROOF, address(1, 4000)).unwrap();
}

#[test]
fn where_the_policy_allows_it_a_gateway_registers_itself() {
    let mut world = World::new(GatewayPolicy { auto_register: true, ..GatewayPolicy::default() }, &[]);
    world.pull(ROOF, address(1, 4000)).unwrap();
    world.push(ROOF, address(1, 4000)).unwrap();
    let expected = [
        GatewayEvent::AutoRegistered { gateway: ROOF, source: address(1, 4000) },
        GatewayEvent::Online { gateway: ROOF },
    ];
    assert_eq!(world.events(), expected);
    assert!(world.registry.gateways.get(&ROOF).unwrap().config.auto);
    assert_eq!(world.status(ROOF).downlink_path, Some(address(1, 4000)));

    // A forwarder that was not set up calls itself all zeros.
    assert_eq!(world.push(GatewayEui::new(0), address(1, 4000)), Err(DropReason::GatewayUnknown));
    assert_eq!(world.push(GatewayEui::new(u64::MAX), address(1, 4000)), Err(DropReason::GatewayUnknown));

    // Made-up EUIs from many addresses are bounded.
    for n in 1..3_000_u16 {
        let [high, low] = n.to_be_bytes();
        let source = SocketAddr::from(([10, 0, high, low], 4000));
        world.wait_ms(1_000);
        let _ = world.push(GatewayEui::new(u64::from(n)), source);
    }
    assert_eq!(world.registry.gateways.len(), AUTO_GATEWAYS_MAX);
}

#[test]
fn a_removed_gateway_is_unknown_and_its_downlinks_end() {
    let gateways = Gateways::new(GatewayPolicy::default());
    gateways.lock().open();
    gateways.put(GatewayConfig { antenna_gain_dbi: 2.0, ..GatewayConfig::new(ROOF) });
    gateways.put(GatewayConfig::new(BARN));
    let mut world = World::farm();
    let pull = world.packet(PacketKind::PullData, ROOF, address(1, 4000));
    gateways.lock().receive(&pull, &mut world.effects).unwrap();
    let outcomes = Arc::clone(&world.outcomes);
    let done: TxDone = Box::new(move |outcome| outcomes.lock().push((1, outcome)));
    assert!(gateways.lock().begin_tx(&request(ROOF), done, world.now, || 7).is_ok());

    assert!(gateways.remove(ROOF));

    assert_eq!(world.outcomes(), [(1, TxOutcome::NoAnswer)]);
    assert!(!gateways.remove(ROOF) && !gateways.contains(ROOF));
    assert_eq!((gateways.status(ROOF), gateways.link(ROOF), gateways.config(ROOF)), (None, None, None));
    assert_eq!(gateways.lock().receive(&pull, &mut world.effects), Err(DropReason::GatewayUnknown));
    assert_eq!(gateways.unseen().len(), 1);
    assert_eq!(gateways.handle_timeout(world.now.plus_ms(5_000)), []);
    assert_eq!(gateways.all().into_iter().map(|(config, _)| config.eui).collect::<Vec<_>>(), [BARN]);
    assert_eq!(world.outcomes(), []);
}

#[test]
fn a_new_configuration_keeps_what_the_gateway_did() {
    let mut world = World::farm();
    world.pull(ROOF, address(1, 4000)).unwrap();
    world.registry.note_uplinks(ROOF, 3);
    world.registry.note_stat(ROOF, "{\"rxnb\":3}".into(), Timestamp::from_us(5));
    world.registry.put(GatewayConfig { antenna_gain_dbi: 4.0, ..GatewayConfig::new(ROOF) });
    let status = world.status(ROOF);
    assert_eq!((status.uplinks_received, status.protocol_version), (3, 2));
    assert_eq!(
        (status.stat_json.as_deref(), status.last_stat_at),
        (Some("{\"rxnb\":3}"), Some(Timestamp::from_us(5)))
    );
    let datagram = String::from_utf8_lossy(&world.send(ROOF, 1).unwrap().datagram).into_owned();
    assert!(datagram.contains(r#""powe":10,"#), "{datagram}");
}
