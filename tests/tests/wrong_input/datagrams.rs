//! Datagrams that are none of the protocol, and frames in them that are none.

use std::collections::BTreeMap;
use std::time::Duration;

use loam_tests::story::{self, DEVICE, GATEWAY, Stand, Stream};
use loam_tests::{Client, eventually};
use mac::drop_reason::DropReason;
use mac::ids::{DevEui, GatewayEui, JoinEui};
use proto::v1::{self, Region};
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use simulator::gateway::{TxAnswer, VirtualGateway};
use tokio::net::UdpSocket;

use crate::{APP_KEY, JOIN_EUI, base64, counts_agree, push_data};

/// UDP-001, UDP-007, and the PUSH_DATA that kills a parser: 12 bytes, the EUI ends in 00.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_datagram_that_is_none_of_the_protocol_has_a_named_reason() {
    let mut stand = Stand::set_up().await;
    // A gateway whose EUI ends in 00, registered and not.
    story::register_gateway(&stand.client, 0x0016_c001_ff10_ab00, Region::Eu868).await;
    let registered = 0x0016_c001_ff10_ab00_u64.to_be_bytes();
    let unknown = 0x0016_c001_ff10_ac00_u64.to_be_bytes();
    let ours = GATEWAY.to_be_bytes();
    let push = |eui: [u8; 8], body: &[u8]| [&[2, 7, 7, 0], eui.as_slice(), body].concat();
    let oversized = push(ours, &[b'['; 65_000]);
    let not_utf8 = push(ours, b"{\"rxpk\":[\xff\xfe");
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("datagram_truncated", vec![]),
        ("datagram_truncated", vec![2]),
        ("datagram_truncated", vec![2, 7, 7]),
        ("datagram_truncated", vec![2, 7, 7, 0]),
        ("datagram_truncated", [&[2, 7, 7, 0], &ours[..7]].concat()),
        ("unknown_protocol_version", [&[0, 7, 7, 0], ours.as_slice()].concat()),
        ("unknown_protocol_version", [&[3, 7, 7, 0], ours.as_slice()].concat()),
        ("unknown_protocol_version", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("unknown_packet_type", [&[2, 7, 7, 1], ours.as_slice()].concat()),
        ("unknown_packet_type", [&[2, 7, 7, 3], ours.as_slice()].concat()),
        ("unknown_packet_type", [&[2, 7, 7, 4], ours.as_slice()].concat()),
        ("unknown_packet_type", [&[2, 7, 7, 255], ours.as_slice()].concat()),
        ("gateway_unknown", push(unknown, b"")),
        ("gateway_unknown", push(unknown, b"{\"rxpk\":[]}")),
        ("bad_json", push(registered, b"")),
        ("bad_json", push(ours, b"{")),
        ("bad_json", push(ours, b"[]")),
        ("bad_json", push(ours, b"{\"rxpk\":{}}")),
        ("bad_json", not_utf8),
        ("bad_json", oversized),
        ("bad_json", [&[2, 7, 7, 5], ours.as_slice(), b"{\"txpk_ack\":"].concat()),
        ("tx_ack_foreign", [&[2, 7, 7, 5], ours.as_slice()].concat()),
        ("gateway_unknown", [&[2, 7, 7, 5], unknown.as_slice()].concat()),
    ];
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    socket.connect(stand.loam.udp).await.expect("an address");

    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for (reason, datagram) in &cases {
        socket.send(datagram).await.expect("loopback takes a datagram");
        *expected.entry((*reason).to_owned()).or_default() += 1;
        story::drops_reach(&stand.client, reason, expected[*reason]).await;
        assert_eq!(
            story::drop_counts(&stand.client).await,
            expected,
            "after {reason} for {} bytes",
            datagram.len()
        );
    }

    // A person sees each with what was found and what to do.
    let told = story::drops(&stand.client).await;
    for (reason, _) in &cases {
        let drop =
            told.iter().find(|drop| drop.reason == *reason).unwrap_or_else(|| panic!("{reason} in {told:?}"));
        assert!(drop.hint.len() > 10 && !drop.detail.is_empty(), "{drop:?}");
    }
    counts_agree(&stand).await;
    stand.uplink_arrives(b"still here").await;
}

/// UDP-009, the part that needs no load: 5,000 datagrams out of a seed, every truncation of a good one among them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_datagrams_of_garbage_leave_a_server_that_serves() {
    let seed = std::env::var("LOAM_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_270_301);
    println!("seed {seed} (set LOAM_SEED to repeat)");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut stand = Stand::set_up().await;
    let good = push_data(&stand, &stand.device.clone().uplink(0, Some((1, b"as it was")), false).phy_payload);
    let mut datagrams: Vec<Vec<u8>> = (0..good.len()).map(|len| good[..len].to_vec()).collect();
    let truncations = datagrams.len();
    while datagrams.len() < 5_000 {
        datagrams.push(garbage(&mut rng, &good));
    }

    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    socket.connect(stand.loam.udp).await.expect("an address");
    let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
    for (number, datagram) in datagrams.iter().enumerate() {
        socket.send(datagram).await.expect("loopback takes a datagram");
        if let Some(reason) = header_fault(datagram) {
            *expected.entry(reason).or_default() += 1;
        }
        if number + 1 == truncations {
            // What a truncated body ends in is known too: none of it is half-read.
            let bodies = u64::try_from(truncations - 12).expect("small");
            story::drops_reach(&stand.client, "bad_json", bodies).await;
            let counted = story::drop_counts(&stand.client).await;
            assert_eq!(counted.get("bad_json"), Some(&bodies), "{counted:?}");
            assert_eq!(counted.get("datagram_truncated"), Some(&12), "{counted:?}");
            assert_eq!(counted.len(), 2, "{counted:?}");
        }
        if number % 100 == 99 {
            // The kernel's buffer is not what is tested here.
            for (reason, count) in &expected {
                story::drops_reach(&stand.client, reason, *count).await;
            }
        }
    }
    for (reason, count) in &expected {
        story::drops_reach(&stand.client, reason, *count).await;
    }

    // What a look at the header tells was counted exactly, and everything else under a documented reason.
    let counted = story::drop_counts(&stand.client).await;
    for (reason, count) in &expected {
        assert_eq!(counted.get(*reason), Some(count), "{reason} in {counted:?}");
    }
    for code in counted.keys() {
        assert!(DropReason::from_code(code).is_some(), "{code} is no documented reason");
    }
    counts_agree(&stand).await;
    assert!(!stand.loam.log().contains("panicked"), "{}", stand.loam.log());
    let (status, _) = story::http_get(stand.loam.api, "/readyz").await;
    assert_eq!(status, 200);
    // A changed good frame may be the frame itself; the device goes on behind it.
    stand.device.set_next_fcnt_up(10);
    stand.uplink_arrives(b"still here").await;
}

/// PARSE-001, PARSE-002, PARSE-003, PARSE-005, PARSE-019, PARSE-021, UDP-005: what is wrong with one frame of a datagram is said of that frame.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_good_frame_among_bad_ones_is_delivered() {
    let mut stand = Stand::set_up().await;
    let mut stream = Stream::latest(&stand.client).await;
    let uplink = stand.device.uplink(0, Some((1, b"21.5")), false);
    let data = base64(&uplink.phy_payload);
    let rxpk = |changes: serde_json::Value| {
        let mut rxpk = serde_json::json!({
            "tmst": stand.gateway.tmst_us(), "chan": 0, "rfch": 0, "freq": 868.1, "stat": 1, "modu": "LORA",
            "datr": "SF7BW125", "codr": "4/5", "rssi": -80, "lsnr": 7.0, "size": 20, "data": data,
        });
        for (name, value) in changes.as_object().expect("an object") {
            rxpk[name] = value.clone();
        }
        rxpk
    };
    let bad = [
        ("bad_base64", serde_json::json!({ "data": "QAQDAgGA*" })),
        ("bad_rxpk", serde_json::json!({ "data": null })),
        ("bad_rxpk", serde_json::json!({ "freq": "eight hundred" })),
        ("bad_rxpk", serde_json::json!({ "datr": "SF99BW1" })),
        ("bad_rxpk", serde_json::json!({ "tmst": null })),
        ("crc_bad", serde_json::json!({ "stat": -1 })),
        ("crc_missing", serde_json::json!({ "stat": 0 })),
        ("too_long", serde_json::json!({ "data": base64(&[0x40; 256]) })),
        ("malformed", serde_json::json!({ "data": "" })),
        ("malformed", serde_json::json!({ "data": base64(&[0x40, 1, 2, 3]) })),
        (
            "unknown_major",
            serde_json::json!({ "data": base64(&[&[0x41_u8], &uplink.phy_payload[1..]].concat()) }),
        ),
        (
            "not_an_uplink",
            serde_json::json!({ "data": base64(&[&[0x60_u8], &uplink.phy_payload[1..]].concat()) }),
        ),
        ("proprietary", serde_json::json!({ "data": base64(&[0xe0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]) })),
        ("rejoin_unsupported", serde_json::json!({ "data": base64(&rejoin_request()) })),
    ];
    let mut expected: BTreeMap<String, u64> = BTreeMap::from([("bad_stat".to_owned(), 1)]);
    let mut frames: Vec<serde_json::Value> = Vec::new();
    for (reason, changes) in bad {
        frames.push(rxpk(changes));
        *expected.entry(reason.to_owned()).or_default() += 1;
    }
    frames.insert(7, rxpk(serde_json::json!({})));
    frames.push(serde_json::json!("no object"));
    *expected.entry("bad_rxpk".to_owned()).or_default() += 1;

    let body = serde_json::json!({ "unheard of": [1, { "two": 3 }], "stat": "fine", "rxpk": frames });
    stand.gateway.push_json(&body.to_string()).await.expect("loopback takes a datagram");

    // The good one arrives, and each bad one is told.
    let (_, arrived) = stream.uplink().await;
    assert_eq!((arrived.fcnt_up, arrived.payload.as_slice()), (uplink.fcnt, b"21.5".as_slice()));
    for (reason, count) in &expected {
        story::drops_reach(&stand.client, reason, *count).await;
    }
    assert_eq!(story::drop_counts(&stand.client).await, expected);
    let told = story::drops(&stand.client).await;
    for reason in expected.keys() {
        let drop =
            told.iter().find(|drop| drop.reason == *reason).unwrap_or_else(|| panic!("{reason} in {told:?}"));
        assert_eq!(drop.gateway_eui, format!("{GATEWAY:016x}"), "{drop:?}");
        assert!(!drop.hint.is_empty(), "{drop:?}");
    }
    let text = |reason: &str| {
        told.iter().filter(|d| d.reason == reason).map(|d| d.detail.as_str()).collect::<String>()
    };
    for field in ["data", "freq", "datr", "tmst"] {
        assert!(text("bad_rxpk").contains(field), "{field} in {}", text("bad_rxpk"));
    }
    counts_agree(&stand).await;
    stand.uplink_arrives(b"21.6").await;
}

/// UDP-001: a gateway nobody registered is acknowledged, refused and shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_gateway_is_acknowledged_refused_and_shown() {
    let mut stand = Stand::set_up().await;
    let stranger = 0x0016_c001_ff10_ad07;
    let (gateway, _downlinks) = VirtualGateway::connect(stand.loam.udp, GatewayEui::new(stranger))
        .await
        .expect("PULL_DATA is acknowledged");
    let uplink = stand.device.clone().uplink(0, Some((1, b"from nowhere")), false);
    gateway.push(&[story::heard(&gateway, &uplink)]).await.expect("loopback takes a datagram");

    eventually("PUSH_ACK", async || {
        (gateway.counts().push_acks.load(std::sync::atomic::Ordering::Relaxed) == 1).then_some(())
    })
    .await;
    story::drops_reach(&stand.client, "gateway_unknown", 2).await;
    let request = v1::ListUnseenGatewaysRequest {};
    let unseen =
        stand.client.gateways.list_unseen_gateways(request).await.expect("a list").into_inner().gateways;
    assert_eq!(unseen.len(), 1);
    assert_eq!(unseen[0].gateway_eui, format!("{stranger:016x}"));
    let told = story::drops(&stand.client).await;
    assert!(told.iter().any(|d| d.hint.contains(&format!("loam gateway create {stranger:016x}"))), "{told:?}");

    // The frame it brought counted for nothing: the device's own, with the same counter, is the first.
    let arrived = stand.uplink_arrives(b"from here").await;
    assert_eq!(arrived.fcnt_up, 0);
    assert_eq!(arrived.receptions.len(), 1);
}

/// UDP-003, UDP-004: an acknowledgement counts only from the gateway that was asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_of_another_gateway_counts_for_nothing() {
    let mut stand = Stand::set_up().await;
    let neighbour = GATEWAY + 1;
    let asked = GATEWAY + 2;
    for eui in [neighbour, asked] {
        story::register_gateway(&stand.client, eui, Region::Eu868).await;
    }
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    socket.connect(stand.loam.udp).await.expect("an address");
    let packet = |kind: u8, token: [u8; 2], eui: u64, body: &[u8]| {
        [&[2, token[0], token[1], kind], eui.to_be_bytes().as_slice(), body].concat()
    };
    socket.send(&packet(2, [0, 1], asked, b"")).await.expect("loopback takes a datagram");
    assert_eq!(receive(&socket).await[3], 4, "PULL_ACK");
    let confirmed = stand.device.uplink(0, Some((1, b"please")), true);
    let mut pushed = push_data(&stand, &confirmed.phy_payload);
    pushed[4..12].copy_from_slice(&asked.to_be_bytes());
    socket.send(&pushed).await.expect("loopback takes a datagram");
    assert_eq!(receive(&socket).await[3], 1, "PUSH_ACK");
    let response = receive(&socket).await;
    assert_eq!(response[3], 3, "PULL_RESP");
    let token = [response[1], response[2]];

    // From the neighbour, from a stranger's socket, and with a token nobody gave.
    let elsewhere = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    elsewhere.connect(stand.loam.udp).await.expect("an address");
    elsewhere.send(&packet(5, token, neighbour, b"")).await.expect("loopback takes a datagram");
    story::drops_reach(&stand.client, "tx_ack_foreign", 1).await;
    elsewhere.send(&packet(5, token, asked, b"")).await.expect("loopback takes a datagram");
    story::drops_reach(&stand.client, "tx_ack_foreign", 2).await;
    socket.send(&packet(5, [!token[0], token[1]], asked, b"")).await.expect("loopback takes a datagram");
    story::drops_reach(&stand.client, "tx_ack_unexpected", 1).await;
    assert_eq!(acknowledged(&stand.client, asked).await, (1, 0));
    let told = story::drops(&stand.client).await;
    let foreign: Vec<_> =
        told.iter().filter(|d| d.reason == "tx_ack_foreign").map(|d| d.gateway_eui.as_str()).collect();
    assert_eq!(
        foreign,
        [format!("{asked:016x}"), format!("{neighbour:016x}")],
        "each under the name it gave, newest first"
    );

    // From the one that was asked it counts, once.
    socket.send(&packet(5, token, asked, b"")).await.expect("loopback takes a datagram");
    eventually("one downlink is acknowledged", async || {
        (acknowledged(&stand.client, asked).await == (1, 1)).then_some(())
    })
    .await;
    socket.send(&packet(5, token, asked, b"")).await.expect("loopback takes a datagram");
    story::drops_reach(&stand.client, "tx_ack_unexpected", 2).await;
    assert_eq!(acknowledged(&stand.client, asked).await, (1, 1));

    // A refusal in words the protocol does not have is kept as it came.
    stand.gateway.answer_next(TxAnswer::Refuse("FLUX_CAPACITOR"));
    let second = stand.device.uplink(0, Some((1, b"again")), true);
    stand.push(&second).await;
    eventually("the refusal is counted", async || {
        let request = v1::GetGatewayRequest { gateway_eui: format!("{GATEWAY:016x}") };
        let answer = stand.client.clone().gateways.get_gateway(request).await.expect("a gateway").into_inner();
        let errors = answer.status.expect("a status").tx_ack_errors;
        errors.values().any(|count| *count == 1).then_some(())
    })
    .await;
    counts_agree(&stand).await;
    stand.uplink_arrives(b"still here").await;
}

/// Nonsense of every kind: random bytes, a header with a random body, a good datagram with some bytes changed.
fn garbage(rng: &mut StdRng, good: &[u8]) -> Vec<u8> {
    let mut bytes = match rng.random_range(0..4) {
        0 => vec![0; rng.random_range(0..64)],
        1 => vec![0; rng.random_range(0..1_500)],
        2 => {
            let mut bytes = good[..12].to_vec();
            bytes.resize(12 + rng.random_range(0..400), 0);
            rng.fill_bytes(&mut bytes[12..]);
            return bytes;
        }
        _ => {
            let mut bytes = good.to_vec();
            for _ in 0..rng.random_range(1..8) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] = rng.random();
            }
            return bytes;
        }
    };
    rng.fill_bytes(&mut bytes);
    // Most of them get past the first look.
    if let Some(version) = bytes.first_mut() {
        *version = rng.random_range(0..4);
    }
    if let Some(kind) = bytes.get_mut(3) {
        *kind = rng.random_range(0..7);
    }
    bytes
}

/// What the first twelve bytes of a datagram say (PROTOCOL.TXT), judged without the server's code.
fn header_fault(datagram: &[u8]) -> Option<&'static str> {
    let [version, _, _, kind, rest @ ..] = datagram else { return Some("datagram_truncated") };
    match (version, kind) {
        (1 | 2, 0 | 2 | 5) if rest.len() < 8 => Some("datagram_truncated"),
        (1 | 2, 0 | 2 | 5) => None,
        (1 | 2, _) => Some("unknown_packet_type"),
        _ => Some("unknown_protocol_version"),
    }
}

fn rejoin_request() -> Vec<u8> {
    let kind = mac::join_frame::RejoinKind::Type1(JoinEui::new(JOIN_EUI));
    mac::join_frame::RejoinRequest::seal(kind, DevEui::new(DEVICE), 1, &APP_KEY)
}

/// How many downlinks a gateway was asked for and how many it acknowledged.
async fn acknowledged(client: &Client, eui: u64) -> (u64, u64) {
    let request = v1::GetGatewayRequest { gateway_eui: format!("{eui:016x}") };
    let answer = client.clone().gateways.get_gateway(request).await.expect("a gateway").into_inner();
    let status = answer.status.expect("a status");
    (status.downlinks_sent, status.downlinks_acknowledged)
}

async fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 2_048];
    let received = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await;
    let len = received.expect("a datagram in time").expect("a datagram");
    buffer.truncate(len);
    buffer
}
