//! The whole gateway side over real sockets. The gateways' packets are built by another program's library where it can
//! express them.

#![allow(clippy::unwrap_used)]

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mac::drop_reason::DropReason;
use mac::ids::GatewayEui;
use mac::region::Modulation;
use mac::units::{Hz, Mono, Timestamp};
use parking_lot::{Condvar, Mutex};
use semtech_udp::{
    Bandwidth, DataRate, Down, MacAddress, Packet, SerializablePacket, SpreadingFactor, pull_data,
    push_data as their_push_data, tx_ack as their_tx_ack,
};

use super::*;

const ROOF: GatewayEui = GatewayEui::new(0xaa55_5a00_0000_0001);
const BARN: GatewayEui = GatewayEui::new(0xaa55_5a00_0000_0002);
const DEADLINE: Duration = Duration::from_secs(10);

/// Keeps the events and plays a server that may be unready or full.
#[derive(Default)]
struct Inbox {
    events: Mutex<Vec<GatewayEvent>>,
    arrived: Condvar,
    not_ready: AtomicBool,
    full: AtomicBool,
}

impl Ingress for Inbox {
    fn deliver(&self, event: GatewayEvent) {
        self.events.lock().push(event);
        self.arrived.notify_all();
    }

    fn ready(&self) -> bool {
        !self.not_ready.load(Ordering::SeqCst)
    }

    fn is_full(&self) -> bool {
        self.full.load(Ordering::SeqCst)
    }
}

impl Inbox {
    /// Waits until the events so far satisfy `enough`.
    fn wait_for(&self, what: &str, enough: impl Fn(&[GatewayEvent]) -> bool) -> Vec<GatewayEvent> {
        let deadline = Instant::now() + DEADLINE;
        let mut events = self.events.lock();
        while !enough(&events) {
            assert!(!self.arrived.wait_until(&mut events, deadline).timed_out(), "no {what} in {events:?}");
        }
        events.clone()
    }

    fn wait_for_uplinks(&self, count: usize) -> Vec<GatewayUplink> {
        uplinks(&self.wait_for("uplinks", |events| uplinks(events).len() >= count))
    }

    fn wait_for_drop(&self, reason: DropReason) {
        self.wait_for(reason.code(), |events| drops(events, reason) > 0);
    }

    fn drops(&self, reason: DropReason) -> u64 {
        drops(&self.events.lock(), reason)
    }
}

fn uplinks(events: &[GatewayEvent]) -> Vec<GatewayUplink> {
    let batches = events
        .iter()
        .filter_map(|event| if let GatewayEvent::Uplinks(batch) = event { Some(batch) } else { None });
    batches.flatten().cloned().collect()
}

fn drops(events: &[GatewayEvent], wanted: DropReason) -> u64 {
    let mut sum = 0;
    for event in events {
        if let GatewayEvent::Dropped { reason, .. } = event {
            sum += u64::from(*reason == wanted);
        } else if let GatewayEvent::DroppedMany { reason, count } = event
            && *reason == wanted
        {
            sum += count;
        }
    }
    sum
}

/// A server with the gateways ROOF and BARN.
struct World {
    inbox: Arc<Inbox>,
    gateways: Arc<Gateways>,
    now_us: Arc<AtomicU64>,
    server: UdpServer,
}

impl World {
    fn new() -> Self {
        Self::with(1, GatewayPolicy::default())
    }

    fn with(threads: usize, policy: GatewayPolicy) -> Self {
        let inbox = Arc::new(Inbox::default());
        let gateways = Arc::new(Gateways::new(policy));
        gateways.put(GatewayConfig::new(ROOF));
        gateways.put(GatewayConfig { antenna_gain_dbi: 2.15, ..GatewayConfig::new(BARN) });
        let bind = "127.0.0.1:0".parse().unwrap();
        let config = UdpConfig { bind, receive_buffer_bytes: 1 << 20, threads };
        let ingress: Arc<dyn Ingress> = Arc::<Inbox>::clone(&inbox);
        let now_us = Arc::new(AtomicU64::new(1));
        let server = start(config, Arc::clone(&gateways), ingress, clock(&now_us)).unwrap();
        Self { inbox, gateways, now_us, server }
    }

    fn wait_ms(&self, ms: u64) {
        self.now_us.fetch_add(ms * 1_000, Ordering::SeqCst);
    }

    fn forwarder(&self, gateway: GatewayEui) -> Forwarder {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(self.server.local_addr()).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Forwarder { socket, gateway, token: 0 }
    }

    fn send(&self, request: &TxRequest) -> std::sync::mpsc::Receiver<TxOutcome> {
        let (sender, receiver) = std::sync::mpsc::channel();
        self.server.send(request, Box::new(move |outcome| sender.send(outcome).unwrap()));
        receiver
    }
}

/// A clock that stands still until a test moves it: a slow machine lets no TX_ACK come too late.
fn clock(now_us: &Arc<AtomicU64>) -> Clock {
    let now_us = Arc::clone(now_us);
    Arc::new(move || {
        let us = now_us.load(Ordering::SeqCst);
        (Mono::from_us(us), Timestamp::from_us(1_700_000_000_000_000 + i64::try_from(us).unwrap()))
    })
}

/// The gateway's side.
struct Forwarder {
    socket: UdpSocket,
    gateway: GatewayEui,
    token: u16,
}

impl Forwarder {
    fn send(&self, datagram: &[u8]) {
        self.socket.send(datagram).unwrap();
    }

    fn serialize(&self, packet: &impl SerializablePacket) {
        let mut buffer = vec![0; 65_507];
        let length = packet.serialize(&mut buffer).unwrap();
        self.send(&buffer[..usize::try_from(length).unwrap()]);
    }

    fn mac(&self) -> MacAddress {
        MacAddress::from(self.gateway.value().to_be_bytes())
    }

    fn receive(&self) -> Vec<u8> {
        let mut buffer = vec![0; 65_536];
        let length = self.socket.recv(&mut buffer).expect("an answer of the server");
        buffer.truncate(length);
        buffer
    }

    /// Sends a PUSH_DATA with any body and waits for its acknowledgement.
    fn push(&mut self, body: &[u8]) {
        self.push_unacknowledged(body);
        assert_eq!(self.receive(), [2, 0, u8::try_from(self.token).unwrap(), 1]);
    }

    fn push_unacknowledged(&mut self, body: &[u8]) {
        self.token += 1;
        let header = [&[2][..], &self.token.to_be_bytes(), &[0], &self.gateway.value().to_be_bytes()].concat();
        self.send(&[&header[..], body].concat());
    }

    fn pull(&mut self) {
        self.token += 1;
        self.serialize(&pull_data::Packet { random_token: self.token, gateway_mac: self.mac() });
        assert!(matches!(
            Packet::parse_downlink(&self.receive()),
            Ok(Down::PullAck(ack)) if ack.random_token == self.token
        ));
    }

    fn tx_ack(&self, token: u16, data: their_tx_ack::Data) {
        self.serialize(&their_tx_ack::Packet { random_token: token, gateway_mac: self.mac(), data });
    }
}

fn frame(tmst: u32) -> String {
    format!(
        r#"{{"tmst":{tmst},"chan":2,"rfch":0,"freq":868.5,"stat":1,"modu":"LORA","datr":"SF9BW125","codr":"4/5","lsnr":7.2,"rssi":-61,"size":11,"data":"QAQDAgGAAQABpVM="}}"#
    )
}

fn frames(frames: &[&str]) -> Vec<u8> {
    format!(r#"{{"rxpk":[{}]}}"#, frames.join(",")).into_bytes()
}

fn request(gateway: GatewayEui) -> TxRequest {
    TxRequest {
        gateway,
        when: TxTime::Tmst(1_005_000_000),
        freq: Hz::new(868_100_000),
        modulation: Modulation::Lora { sf: 7, bw_hz: 125_000 },
        eirp_dbm: 16.0,
        antenna: 0,
        board: None,
        polarization: Polarization::Inverted,
        phy: vec![0x60, 1, 2, 3, 4],
    }
}

/// UDP-001, UDP-005.
#[test]
fn a_frame_built_by_another_program_is_acknowledged_and_delivered() {
    let world = World::new();
    let roof = world.forwarder(ROOF);
    let rxpk = their_push_data::RxPk::V1(their_push_data::RxPkV1 {
        chan: 3,
        codr: Some(semtech_udp::CodingRate::_4_5),
        data: vec![0x40, 1, 2, 3],
        datr: DataRate::new(SpreadingFactor::_7, Bandwidth::_125KHz),
        freq: 868.1,
        lsnr: 5.5,
        modu: semtech_udp::Modulation::LORA,
        rfch: 0,
        rssi: -80,
        rssis: Some(-82),
        size: 4,
        stat: their_push_data::CRC::OK,
        tmst: 12_345,
        time: None,
    });
    let mut packet = their_push_data::Packet::from_rxpk(roof.mac(), rxpk);
    packet.random_token = 0xbeef;
    roof.serialize(&packet);

    assert!(matches!(
        Packet::parse_downlink(&roof.receive()),
        Ok(Down::PushAck(ack)) if ack.random_token == 0xbeef
    ));
    let uplinks = world.inbox.wait_for_uplinks(1);
    let uplink = &uplinks[0];
    assert_eq!((uplink.gateway, &*uplink.phy), (ROOF, &[0x40, 1, 2, 3][..]));
    assert_eq!((uplink.freq, uplink.tmst_us, uplink.channel), (Hz::new(868_100_000), 12_345, 3));
    assert_eq!(uplink.modulation, Modulation::Lora { sf: 7, bw_hz: 125_000 });
    let online = GatewayEvent::Online { gateway: ROOF };
    assert_eq!(world.inbox.events.lock().first(), Some(&online));
    assert!(world.gateways.status(ROOF).unwrap().last_push_at.is_some());
}

/// PARSE-019, UDP-001, UDP-005: the frames beside a bad one are taken, and each bad one has its reason.
#[test]
fn one_bad_frame_spoils_no_other() {
    let world = World::new();
    let mut roof = world.forwarder(ROOF);
    let bad_crc = frame(2).replace(r#""stat":1"#, r#""stat":-1"#);
    let no_crc = frame(3).replace(r#""stat":1"#, r#""stat":0"#);
    let bad_data = frame(4).replace("QAQDAgGAAQABpVM=", "!!");
    let long = frame(5).replace("QAQDAgGAAQABpVM=", &"A".repeat(2_000));
    let no_freq = frame(6).replace("868.5", "null");
    roof.push(&frames(&[&frame(1), &bad_crc, &no_crc, &bad_data, &long, "7", &no_freq, &frame(9)]));

    let uplinks = world.inbox.wait_for_uplinks(2);
    assert_eq!(uplinks.iter().map(|u| u.tmst_us).collect::<Vec<_>>(), [1, 9]);
    for (reason, count) in [
        (DropReason::CrcBad, 1),
        (DropReason::CrcMissing, 1),
        (DropReason::BadBase64, 1),
        (DropReason::TooLong, 1),
        (DropReason::BadRxpk, 2),
    ] {
        assert_eq!(world.inbox.drops(reason), count, "{reason}");
    }
    let events = world.inbox.events.lock().clone();
    let of_roof = |event: &GatewayEvent| {
        matches!(
            event,
            GatewayEvent::Dropped { gateway: Some(ROOF), reason: DropReason::CrcBad, phy: Some(_), .. }
        )
    };
    assert_eq!(events.iter().filter(|event| of_roof(event)).count(), 1);
    assert_eq!(world.gateways.status(ROOF).unwrap().uplinks_received, 2);
}

/// UDP-001: acknowledged from the header, whatever the body is; among them the twelve bytes that end in a zero.
#[test]
fn a_push_data_whose_body_cannot_be_read_is_acknowledged_and_refused() {
    let world = World::new();
    let mut zero = world.forwarder(GatewayEui::new(0xaa55_5a00_0000_0100));
    world.gateways.put(GatewayConfig::new(zero.gateway));
    let big = [&b"{\"rxpk\":["[..], &vec![b'['; 65_000]].concat();
    let bodies: [&[u8]; 7] = [b"", b"{", b"\xff\xff", b"[]", b"{\"rxpk\":7}", &big, &[0; 65_495]];
    for body in bodies {
        zero.push(body);
    }
    world.inbox.wait_for("refusals", |events| drops(events, DropReason::BadJson) == 7);
    assert!(uplinks(&world.inbox.events.lock()).is_empty());

    zero.push(&frames(&[&frame(1)]));
    world.inbox.wait_for_uplinks(1);
}

#[test]
fn a_status_alone_is_kept_and_a_bad_one_is_refused() {
    let world = World::new();
    let mut roof = world.forwarder(ROOF);
    let stat = r#"{"time":"2024-03-01 10:11:12 GMT","lati":0,"long":0,"rxnb":2,"temp":21.5}"#;
    roof.push(format!(r#"{{"stat":{stat}}}"#).as_bytes());
    roof.push(br#"{"stat":[1]}"#);
    roof.push(format!(r#"{{"stat":{{"desc":"{}"}}}}"#, "x".repeat(10_000)).as_bytes());
    world.inbox.wait_for("bad status", |events| drops(events, DropReason::BadStat) == 2);

    let status = world.gateways.status(ROOF).unwrap();
    assert_eq!(status.stat_json.as_deref(), Some(stat));
    assert!(status.last_stat_at.is_some());
    assert_eq!(status.uplinks_received, 0);
}

/// UDP-009: what is no packet of the protocol is counted and answered to nobody.
#[test]
fn garbage_has_a_reason_and_no_answer() {
    let world = World::new();
    let mut roof = world.forwarder(ROOF);
    let eui = ROOF.value().to_be_bytes();
    let with = |start: [u8; 4]| [&start[..], &eui].concat();
    roof.send(&[]);
    roof.send(&[2, 0, 0]);
    roof.send(&[2, 0, 0, 0, 1, 2, 3]);
    roof.send(&with([0, 0, 0, 0]));
    roof.send(&with([3, 0, 0, 2]));
    roof.send(&with([2, 0, 0, 9]));
    roof.send(&with([2, 0, 0, 3]));
    roof.send(&vec![0x7f; 65_507]);
    // Sent last, answered first: nothing before it was.
    roof.pull();
    world.inbox.wait_for("all", |events| {
        drops(events, DropReason::DatagramTruncated) == 3
            && drops(events, DropReason::UnknownProtocolVersion) == 3
            && drops(events, DropReason::UnknownPacketType) == 2
    });
    assert_eq!(world.server.counters().datagrams, 9);
}

/// UDP-007.
#[test]
fn versions_1_and_2_are_answered_in_kind() {
    let world = World::new();
    let roof = world.forwarder(ROOF);
    let eui = ROOF.value().to_be_bytes();
    for version in [1, 2] {
        roof.send(&[&[version, 9, version, 2][..], &eui].concat());
        assert_eq!(roof.receive(), [version, 9, version, 4]);
        roof.send(&[&[version, 8, version, 0][..], &eui, b"{}"].concat());
        assert_eq!(roof.receive(), [version, 8, version, 1]);
        assert_eq!(world.gateways.status(ROOF).unwrap().protocol_version, version);
    }
    roof.send(&[&[1, 0, 0, 2][..], &eui].concat());
    roof.receive();
    let outcome = world.send(&request(ROOF));
    assert_eq!(roof.receive().get(..4), Some(&[1, 0, 0, 3][..]));
    assert_eq!(outcome.recv_timeout(DEADLINE), Ok(TxOutcome::SentUnconfirmed));
}

/// UDP-009.
#[test]
fn an_unknown_gateway_is_acknowledged_refused_and_listed() {
    let world = World::new();
    let mut stranger = world.forwarder(GatewayEui::new(0x0016_c001_f000_0001));
    stranger.push(&frames(&[&frame(1)]));
    stranger.pull();
    world.inbox.wait_for("refusals", |events| drops(events, DropReason::GatewayUnknown) == 2);
    assert!(uplinks(&world.inbox.events.lock()).is_empty());
    let unseen = world.gateways.unseen();
    assert_eq!((unseen.len(), unseen[0].gateway, unseen[0].datagrams), (1, stranger.gateway, 2));
    assert_eq!(unseen[0].address, stranger.socket.local_addr().unwrap());
    assert!(!world.gateways.contains(stranger.gateway));

    world.gateways.put(GatewayConfig::new(stranger.gateway));
    stranger.push(&frames(&[&frame(2)]));
    assert_eq!(world.inbox.wait_for_uplinks(1)[0].tmst_us, 2);
    assert!(world.gateways.unseen().is_empty());
}

#[test]
fn where_the_policy_allows_it_the_first_frame_of_an_unknown_gateway_is_delivered() {
    let world = World::with(1, GatewayPolicy { auto_register: true, ..GatewayPolicy::default() });
    let mut stranger = world.forwarder(GatewayEui::new(77));
    stranger.push(&frames(&[&frame(1)]));
    assert_eq!(world.inbox.wait_for_uplinks(1)[0].gateway, stranger.gateway);
    let source = stranger.socket.local_addr().unwrap();
    let registered = GatewayEvent::AutoRegistered { gateway: stranger.gateway, source };
    assert_eq!(world.inbox.events.lock().first(), Some(&registered));
}

/// UDP-001, OPS-003: a forwarder that stores sends again what was not acknowledged.
#[test]
fn the_acknowledgement_is_withheld_while_the_server_is_not_ready_or_full() {
    let world = World::new();
    let mut roof = world.forwarder(ROOF);

    world.inbox.not_ready.store(true, Ordering::SeqCst);
    roof.push_unacknowledged(&frames(&[&frame(1)]));
    assert_eq!(world.inbox.wait_for_uplinks(1)[0].tmst_us, 1);

    world.inbox.full.store(true, Ordering::SeqCst);
    roof.push_unacknowledged(&frames(&[&frame(2)]));
    world.inbox.wait_for_drop(DropReason::QueueFull);
    // The way back to the gateway stays open; this is the first answer.
    roof.pull();

    world.inbox.full.store(false, Ordering::SeqCst);
    world.inbox.not_ready.store(false, Ordering::SeqCst);
    roof.push(&frames(&[&frame(2)]));
    let uplinks = world.inbox.wait_for_uplinks(2);
    assert_eq!(uplinks.iter().map(|u| u.tmst_us).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(world.server.counters().push_ack_withheld, 2);
}

/// UDP-003, UDP-004, RXWIN-010, REGION-021.
#[test]
fn a_downlink_goes_to_the_pull_socket_and_every_answer_has_its_outcome() {
    let world = World::new();
    let (mut roof, mut pushing) = (world.forwarder(BARN), world.forwarder(BARN));
    assert_eq!(world.send(&request(BARN)).recv_timeout(DEADLINE), Ok(TxOutcome::NoPath));
    roof.pull();
    pushing.push(&frames(&[&frame(1)]));

    let refused = |error: TxAckError| TxOutcome::Refused { error, text: error.code().to_owned() };
    let cases = [
        (their_tx_ack::Data::default(), TxOutcome::Acknowledged { warning: None }),
        (their_tx_ack::Data::new_with_error(their_tx_ack::Error::TooLate), refused(TxAckError::TooLate)),
        (their_tx_ack::Data::new_with_error(their_tx_ack::Error::TooEarly), refused(TxAckError::TooEarly)),
        (
            their_tx_ack::Data::new_with_error(their_tx_ack::Error::CollisionPacket),
            refused(TxAckError::CollisionPacket),
        ),
        (
            their_tx_ack::Data::new_with_error(their_tx_ack::Error::CollisionBeacon),
            refused(TxAckError::CollisionBeacon),
        ),
        (
            their_tx_ack::Data::new_with_error(their_tx_ack::Error::InvalidTransmitFrequency),
            refused(TxAckError::TxFreq),
        ),
        (
            their_tx_ack::Data::new_with_error(their_tx_ack::Error::InvalidTransmitPower(None)),
            refused(TxAckError::TxPower),
        ),
        (
            their_tx_ack::Data::new_with_error(their_tx_ack::Error::GpsUnlocked),
            refused(TxAckError::GpsUnlocked),
        ),
        (
            their_tx_ack::Data::new_with_error(their_tx_ack::Error::AdjustedTransmitPower(Some(27), None)),
            TxOutcome::Acknowledged { warning: Some("TX_POWER 27".to_owned()) },
        ),
    ];
    for (answer, expected) in cases {
        let outcome = world.send(&request(BARN));
        let received = roof.receive();
        let Ok(Down::PullResp(resp)) = Packet::parse_downlink(&received) else { panic!("{received:?}") };
        assert_eq!(resp.data.txpk.get_tmst(), Some(1_005_000_000));
        assert_eq!(resp.data.txpk.data.data(), [0x60, 1, 2, 3, 4]);
        // 16 dBm EIRP less 2.15 dBi.
        assert_eq!((resp.data.txpk.powe, resp.data.txpk.ipol), (13, true));
        roof.tx_ack(resp.random_token, answer);
        assert_eq!(outcome.recv_timeout(DEADLINE), Ok(expected));
    }
    let status = world.gateways.status(BARN).unwrap();
    assert_eq!((status.downlinks_sent, status.downlinks_acknowledged), (9, 2));
    assert_eq!(status.tx_ack_errors.values().sum::<u64>(), 7);
    assert!(status.round_trip_ms.is_some());
}

/// UDP-004: the empty body, which the other library cannot write.
#[test]
fn a_tx_ack_without_a_body_is_a_success_and_one_with_a_broken_body_says_nothing() {
    let world = World::new();
    let mut roof = world.forwarder(ROOF);
    roof.pull();
    let outcome = world.send(&request(ROOF));
    let resp = roof.receive();
    let ack = |body: &[u8]| [&[2, resp[1], resp[2], 5][..], &ROOF.value().to_be_bytes(), body].concat();
    roof.send(&ack(b"{\"txpk_ack\""));
    world.inbox.wait_for_drop(DropReason::BadJson);
    assert!(outcome.try_recv().is_err());
    roof.send(&ack(b""));
    assert_eq!(outcome.recv_timeout(DEADLINE), Ok(TxOutcome::Acknowledged { warning: None }));
}

/// UDP-003.
#[test]
fn a_tx_ack_of_another_gateway_or_another_socket_is_foreign() {
    let world = World::new();
    let (mut roof, mut barn, stranger) = (world.forwarder(ROOF), world.forwarder(BARN), world.forwarder(ROOF));
    roof.pull();
    barn.pull();
    let outcome = world.send(&request(ROOF));
    let resp = roof.receive();
    let token = u16::from_be_bytes([resp[1], resp[2]]);

    barn.tx_ack(token, their_tx_ack::Data::default());
    stranger.tx_ack(token, their_tx_ack::Data::default());
    world.inbox.wait_for("refusals", |events| drops(events, DropReason::TxAckForeign) == 2);
    assert!(outcome.try_recv().is_err());

    roof.tx_ack(token, their_tx_ack::Data::default());
    assert_eq!(outcome.recv_timeout(DEADLINE), Ok(TxOutcome::Acknowledged { warning: None }));
}

/// UDP-002: NAT gives another port; PUSH_DATA from a third one changes nothing.
#[test]
fn downlinks_follow_the_last_pull_data() {
    let world = World::new();
    let (mut before, mut after, mut pushing) =
        (world.forwarder(ROOF), world.forwarder(ROOF), world.forwarder(ROOF));
    before.pull();
    after.pull();
    pushing.push(b"{}");
    let outcome = world.send(&request(ROOF));
    let resp = after.receive();
    after.tx_ack(u16::from_be_bytes([resp[1], resp[2]]), their_tx_ack::Data::default());
    assert_eq!(outcome.recv_timeout(DEADLINE), Ok(TxOutcome::Acknowledged { warning: None }));
    assert_eq!(world.gateways.status(ROOF).unwrap().downlink_path, Some(after.socket.local_addr().unwrap()));
}

#[test]
fn the_receiver_thread_runs_the_timers() {
    let world = World::new();
    let mut roof = world.forwarder(ROOF);
    roof.pull();
    let outcome = world.send(&request(ROOF));
    let resp = roof.receive();
    world.wait_ms(2_000);
    assert_eq!(outcome.recv_timeout(DEADLINE), Ok(TxOutcome::NoAnswer));
    roof.tx_ack(u16::from_be_bytes([resp[1], resp[2]]), their_tx_ack::Data::default());
    world.inbox.wait_for_drop(DropReason::TxAckUnexpected);
    world.wait_ms(60_000);
    world.inbox.wait_for("offline", |events| events.contains(&GatewayEvent::Offline { gateway: ROOF }));
}

#[test]
fn stopping_ends_what_waits_and_frees_the_port() {
    let world = World::new();
    let mut roof = world.forwarder(ROOF);
    roof.pull();
    let outcome = world.send(&request(ROOF));
    roof.receive();
    let bind = world.server.local_addr();

    world.server.stop();
    world.server.stop();

    assert_eq!(outcome.try_recv(), Ok(TxOutcome::NoAnswer));
    assert!(matches!(world.send(&request(ROOF)).try_recv(), Ok(TxOutcome::SendFailed { .. })));
    drop(world);
    assert!(UdpSocket::bind(bind).is_ok());
}

#[test]
fn a_port_in_use_is_refused_also_for_several_threads() {
    let world = World::new();
    let bind = world.server.local_addr();
    for threads in [1, 2] {
        let config = UdpConfig { bind, threads, ..UdpConfig::default() };
        let ingress: Arc<dyn Ingress> = Arc::<Inbox>::clone(&world.inbox);
        let error = start(config, Arc::clone(&world.gateways), ingress, clock(&world.now_us)).unwrap_err();
        assert!(matches!(error, GatewayError::InUse { bind: refused } if refused == bind), "{error:?}");
        assert!(error.to_string().contains(&bind.to_string()));
    }
}

/// UDP-009: several threads share the gateways; a flood of garbage beside them costs no frame of theirs.
#[test]
fn many_gateways_and_a_flood_are_served_by_several_threads() {
    let world = World::with(2, GatewayPolicy::default());
    let mut forwarders: Vec<_> = (0..16).map(|n| world.forwarder(GatewayEui::new(1_000 + n))).collect();
    let noise = world.forwarder(ROOF);
    for forwarder in &mut forwarders {
        world.gateways.put(GatewayConfig::new(forwarder.gateway));
    }
    for round in 0..20 {
        for forwarder in &mut forwarders {
            for n in 0..20_u8 {
                noise.send(&[n, round, 0xff, 0xff, 1, 2, 3]);
            }
            // A dropped PUSH_DATA would not be answered.
            forwarder.push(&frames(&[&frame(u32::from(round))]));
        }
    }
    let uplinks = world.inbox.wait_for_uplinks(16 * 20);
    assert_eq!(uplinks.len(), 16 * 20);
    let told = world.inbox.events.lock().iter().filter(|e| matches!(e, GatewayEvent::Dropped { .. })).count();
    assert!(told <= 200, "{told}");
}

/// UDP-005, UDP-006: whatever happens to a datagram on its way, reading it ends in an answer.
#[test]
fn a_damaged_datagram_never_panics() {
    let rsig = r#"{"rxpk":[{"tmst":1,"freq":868.1,"datr":"SF7BW125","modu":"LORA","time":"2024-03-01T10:11:12.3Z","rsig":[{"ant":0,"lsnr":-1.5e1}],"data":"QAQDAgGAAQABpVM="}],"stat":{"rxnb":1}}"#;
    let bodies = [
        frames(&[&frame(1), &frame(2)]),
        rsig.into(),
        br#"{"txpk_ack":{"error":"TOO_LATE","value":1}}"#.into(),
    ];
    let arrival = rxpk::Arrival { gateway: ROOF, received: Mono::default(), received_at: Timestamp::default() };
    let spice = br#"{}[]",:\0-+.eEnN9 "#;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(below).unwrap()).unwrap()
    };
    let mut read = 0;
    for _ in 0..20_000 {
        let mut datagram = [&[2, 0, 1, 0][..], &ROOF.value().to_be_bytes()].concat();
        datagram.extend_from_slice(&bodies[random(bodies.len())]);
        for _ in 0..=random(3) {
            let place = random(datagram.len());
            match random(4) {
                0 => datagram[place] = spice[random(spice.len())],
                1 => datagram[place] = u8::try_from(random(256)).unwrap(),
                2 => datagram.truncate(place + 1),
                _ => drop(datagram.splice(place..place, spice[..random(spice.len())].iter().copied())),
            }
        }
        if let Ok((_, body)) = gwmp::Header::parse(&datagram) {
            let _ = tx_ack::parse(body);
            let _ = push_data::read(body, |part| {
                if let push_data::Part::Rxpk(json) = part {
                    read += usize::from(rxpk::parse(json, arrival).is_ok());
                }
            });
        }
    }
    assert!(read > 1_000, "{read} frames survived: the damage hides what is behind it");
}
