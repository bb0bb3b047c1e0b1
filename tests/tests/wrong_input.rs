//! What nobody should send: each ends in one named reason, one counter, and a sentence a person can act on; nothing is
//! half-written, and the server goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use loam_tests::story::{self, DEV_ADDR, DEVICE, GATEWAY, Stand, Stream, hex};
use loam_tests::{Client, DEADLINE, eventually};
use mac::drop_reason::DropReason;
use mac::ids::{DevEui, GatewayEui, JoinEui};
use mac::region::{DataRate, RegionId};
use proto::v1::{self, Region, event};
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use simulator::device::{RootKeys, VirtualDevice};
use simulator::gateway::{TxAnswer, VirtualGateway};
use tokio::net::UdpSocket;
use tonic::Code;

const JOIN_EUI: u64 = 0x70b3_d57e_d000_0001;
const APP_KEY: [u8; 16] = *b"\x8a\x3f\x5c\x1e\x9b\x7d\x20\x46\xe1\xc8\xa9\x7f\x3b\x5d\x60\x24";
const OTHER_KEY: [u8; 16] = *b"\x31\x9c\x77\x02\xd4\x5e\xaa\x18\x0b\xf6\x63\xc9\x25\x8d\x4f\xe0";

/// Rows UDP-001, UDP-007 of the conformance list, and the datagram that killed a parser: 12 bytes, the EUI ends in 00.
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
        ("tx_ack_unexpected", [&[2, 7, 7, 5], ours.as_slice()].concat()),
    ];
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    socket.connect(stand.loam.udp).await.expect("an address");

    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for (reason, datagram) in &cases {
        socket.send(datagram).await.expect("loopback takes a datagram");
        *expected.entry((*reason).to_owned()).or_default() += 1;
        story::drops_reach(&stand.client, reason, expected[*reason]).await;
        assert_eq!(story::drop_counts(&stand.client).await, expected, "after {reason} for {} bytes", datagram.len());
    }

    // A person sees each with what was found and what to do.
    let told = story::drops(&stand.client).await;
    for (reason, _) in &cases {
        let drop = told.iter().find(|drop| drop.reason == *reason).unwrap_or_else(|| panic!("{reason} in {told:?}"));
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

/// UDP-001, UDP-005: what is wrong with one frame of a datagram is said of that frame.
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
        ("unknown_major", serde_json::json!({ "data": base64(&[&[0x41_u8], &uplink.phy_payload[1..]].concat()) })),
        ("not_an_uplink", serde_json::json!({ "data": base64(&[&[0x60_u8], &uplink.phy_payload[1..]].concat()) })),
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
        let drop = told.iter().find(|drop| drop.reason == *reason).unwrap_or_else(|| panic!("{reason} in {told:?}"));
        assert_eq!(drop.gateway_eui, format!("{GATEWAY:016x}"), "{drop:?}");
        assert!(!drop.hint.is_empty(), "{drop:?}");
    }
    let text = |reason: &str| told.iter().filter(|d| d.reason == reason).map(|d| d.detail.as_str()).collect::<String>();
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
    let (gateway, _downlinks) =
        VirtualGateway::connect(stand.loam.udp, GatewayEui::new(stranger)).await.expect("PULL_DATA is acknowledged");
    let uplink = stand.device.clone().uplink(0, Some((1, b"from nowhere")), false);
    gateway.push(&[story::heard(&gateway, &uplink)]).await.expect("loopback takes a datagram");

    eventually("PUSH_ACK", async || {
        (gateway.counts().push_acks.load(std::sync::atomic::Ordering::Relaxed) == 1).then_some(())
    })
    .await;
    story::drops_reach(&stand.client, "gateway_unknown", 2).await;
    let request = v1::ListUnseenGatewaysRequest {};
    let unseen = stand.client.gateways.list_unseen_gateways(request).await.expect("a list").into_inner().gateways;
    assert_eq!(unseen.len(), 1);
    assert_eq!(unseen[0].gateway_eui, format!("{stranger:016x}"));
    let told = story::drops(&stand.client).await;
    assert!(told.iter().any(|d| d.hint.contains(&format!("loam gateway create {stranger:016x}"))), "{told:?}");

    // The frame it brought counted for nothing: the device's own, with the same counter, is the first.
    let arrived = stand.uplink_arrives(b"from here").await;
    assert_eq!(arrived.fcnt_up, 0);
    assert_eq!(arrived.receptions.len(), 1);
}

/// FCNT-003, FCNT-006, MIC-001 and their like: no frame changes anything before it is found genuine and new.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_is_not_to_be_taken_changes_nothing() {
    let mut stand = Stand::set_up().await;
    let mut stream = Stream::latest(&stand.client).await;
    let recorded = stand.device.uplink(0, Some((1, b"first")), false);
    stand.push(&recorded).await;
    assert_eq!(stream.uplink().await.1.payload, b"first");
    let twin = stand.device.clone();
    let second = stand.device.uplink(0, Some((1, b"second")), false);
    stand.push(&second).await;
    assert_eq!(stream.uplink().await.1.payload, b"second");
    let before = device_state(&stand.client, DEVICE).await;
    assert_eq!(before.fcnt_up, Some(1));

    let mut next = stand.device.clone();
    let genuine = next.uplink(0, Some((1, b"elsewhere")), false);
    let mut forged = genuine.clone();
    *forged.phy_payload.last_mut().expect("a frame has a MIC") ^= 1;
    let mut stranger = story::abp_device(DEVICE, DEV_ADDR + 1);
    let mut ahead = stand.device.clone();
    ahead.set_next_fcnt_up(1 + 16_384);
    let mut american = genuine.clone();
    american.freq_hz = 902_300_000;
    let mut wide = genuine.clone();
    wide.data_rate = "SF7BW500".to_owned();
    let cases = [
        ("unknown_dev_addr", stranger.uplink(0, Some((1, b"whose")), false), None),
        ("mic_mismatch", forged, None),
        ("fcnt_replayed", recorded, Some(0)),
        ("fcnt_reuse", twin.clone().uplink(0, Some((1, b"other")), false), Some(1)),
        ("fcnt_too_far", ahead.uplink(0, Some((1, b"far")), false), Some(1 + 16_384)),
        ("wrong_region", american, Some(2)),
        ("wrong_region", wide, Some(2)),
    ];
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for (reason, uplink, fcnt) in cases {
        stand.push(&uplink).await;
        *expected.entry(reason.to_owned()).or_default() += 1;
        story::drops_reach(&stand.client, reason, expected[reason]).await;
        assert_eq!(story::drop_counts(&stand.client).await, expected, "after {reason}");
        let told = story::drops(&stand.client).await;
        let drop = told.first().expect("it is told");
        assert_eq!((drop.reason.as_str(), &drop.phy_payload), (reason, &uplink.phy_payload));
        assert_eq!((drop.gateway_eui.as_str(), drop.frequency_hz), (&*format!("{GATEWAY:016x}"), uplink.freq_hz));
        assert!(drop.hint.len() > 10, "{drop:?}");
        if reason != "unknown_dev_addr" {
            assert_eq!(drop.dev_eui, format!("{DEVICE:016x}"), "{reason} is bound to its device");
        }
        if fcnt.is_some() {
            assert_eq!(drop.fcnt, fcnt, "{reason}");
        }
    }

    // Nothing moved: the session is as it was, and the next frame of the device is the next event.
    assert_eq!(device_state(&stand.client, DEVICE).await, before);
    let third = stand.device.uplink(0, Some((1, b"third")), false);
    stand.push(&third).await;
    let (event, arrived) = stream.uplink().await;
    assert_eq!(event.dev_eui, format!("{DEVICE:016x}"));
    assert_eq!((arrived.fcnt_up, arrived.payload.as_slice()), (2, b"third".as_slice()));
    counts_agree(&stand).await;

    // A disabled device is refused by its own name, and heard again when it is enabled.
    set_disabled(&stand.client, true).await;
    let fourth = stand.device.uplink(0, Some((1, b"fourth")), false);
    stand.push(&fourth).await;
    story::drops_reach(&stand.client, "device_disabled", 1).await;
    set_disabled(&stand.client, false).await;
    stand.uplink_arrives(b"fifth").await;
}

/// MAC-002: the application's bytes behind commands that are cut off are the application's all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_that_are_cut_off_do_not_cost_the_payload() {
    let mut stand = Stand::set_up().await;
    let mut stream = Stream::latest(&stand.client).await;
    for (fopts, code) in [
        // LinkCheckReq, then DevStatusAns with one byte of two.
        (vec![0x02, 0x06, 0xc8], "mac_command_truncated"),
        (vec![0x7e, 0x01, 0x02], "mac_command_unknown"),
    ] {
        let payload = code.as_bytes();
        let sent = frame_with_fopts(&mut stand.device, fopts, payload);
        stand.push(&sent).await;

        let mut noted = None;
        let mut arrived = None;
        while noted.is_none() || arrived.is_none() {
            match stream.event().await.kind {
                Some(event::Kind::Uplink(uplink)) => arrived = Some(uplink),
                Some(event::Kind::Error(error)) => noted = Some(error),
                _ => {}
            }
        }
        assert_eq!(arrived.expect("it was waited for").payload, payload);
        let noted = noted.expect("it was waited for");
        assert_eq!(noted.code, code);
        assert!(noted.message.contains("0x"), "{}", noted.message);
        story::drops_reach(&stand.client, code, 1).await;
        let told = story::drops(&stand.client).await;
        let drop = told.iter().find(|d| d.reason == code).expect("a person sees it");
        assert_eq!(drop.dev_eui, format!("{DEVICE:016x}"));
    }
    counts_agree(&stand).await;
    stand.uplink_arrives(b"still here").await;
}

/// REGION-004: a frame longer than its data rate carries is not taken from devices whose version says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_too_long_is_refused_up_and_down() {
    let mut stand = Stand::set_up().await;
    let modern = v1::Profile {
        id: "modern".into(),
        mac_version: v1::MacVersion::MacVersion104.into(),
        regional_revision: v1::RegionalRevision::Rp002104.into(),
        ..story::profile(Region::Eu868)
    };
    stand
        .client
        .profiles
        .create_profile(v1::CreateProfileRequest { profile: Some(modern) })
        .await
        .expect("a new profile");
    let moved = v1::Device { profile_id: "modern".into(), ..story::device(DEVICE) };
    stand
        .client
        .devices
        .update_device(v1::UpdateDeviceRequest { device: Some(moved) })
        .await
        .expect("a device takes another profile");
    story::register_abp(&stand.client, DEVICE + 1, DEV_ADDR + 1).await;
    let modern_again = v1::ActivateDeviceRequest {
        dev_eui: format!("{DEVICE:016x}"),
        dev_addr: format!("{DEV_ADDR:08x}"),
        nwk_s_key: hex(&story::AbpKeys::of(DEVICE).nwk_s_key),
        app_s_key: hex(&story::AbpKeys::of(DEVICE).app_s_key),
        ..v1::ActivateDeviceRequest::default()
    };
    stand.client.devices.activate_device(modern_again).await.expect("a session of the new version");

    // 52 bytes at DR0 of EU868, which carries 51.
    let mut long = stand.device.clone();
    long.data_rate = DataRate::new(0);
    stand.push(&long.uplink(0, Some((1, &[7; 52])), false)).await;
    story::drops_reach(&stand.client, "payload_too_long", 1).await;
    let told = story::drops(&stand.client).await;
    assert_eq!(told[0].dev_eui, format!("{DEVICE:016x}"));
    assert_eq!(device_state(&stand.client, DEVICE).await.fcnt_up, None);
    let mut short = stand.device.clone();
    short.data_rate = DataRate::new(0);
    let mut stream = Stream::latest(&stand.client).await;
    stand.push(&short.uplink(0, Some((1, &[7; 51])), false)).await;
    assert_eq!(stream.uplink().await.1.payload, [7; 51]);

    // Down: what no data rate of the region carries is refused when it is asked for, with the limit.
    let enqueue = |len: usize| v1::EnqueueDownlinkRequest {
        dev_eui: format!("{DEVICE:016x}"),
        f_port: 2,
        content: Some(v1::enqueue_downlink_request::Content::Payload(vec![7; len])),
        ..v1::EnqueueDownlinkRequest::default()
    };
    for len in [223, 1_000, 100_000] {
        let refused = stand.client.downlinks.enqueue_downlink(enqueue(len)).await.expect_err("too long");
        assert_eq!(refused.code(), Code::InvalidArgument, "{len}: {refused:?}");
        assert!(refused.message().contains("222") && refused.message().contains("payload"), "{refused:?}");
    }
    for (f_port, what) in [(0, "f_port"), (224, "f_port"), (4_000_000_000, "f_port")] {
        let request = v1::EnqueueDownlinkRequest { f_port, ..enqueue(1) };
        let refused = stand.client.downlinks.enqueue_downlink(request).await.expect_err("no such port");
        assert_eq!(refused.code(), Code::InvalidArgument, "{f_port}");
        assert!(refused.message().contains(what), "{refused:?}");
    }
    let request = v1::ListDownlinksRequest {
        dev_eui: format!("{DEVICE:016x}"),
        include_finished: true,
        ..v1::ListDownlinksRequest::default()
    };
    let queued = stand.client.downlinks.list_downlinks(request).await.expect("a list").into_inner().downlinks;
    assert!(queued.is_empty(), "{queued:?}");
    stand.client.downlinks.enqueue_downlink(enqueue(222)).await.expect("it fits the fastest data rate");
}

/// JOIN-010, JOIN-012, JOIN-020 and their like.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_that_is_not_to_be_answered_uses_up_nothing() {
    let mut stand = Stand::set_up().await;
    let dev_eui = DEVICE + 7;
    let modern = v1::Profile {
        id: "modern".into(),
        mac_version: v1::MacVersion::MacVersion104.into(),
        regional_revision: v1::RegionalRevision::Rp002104.into(),
        ..story::profile(Region::Eu868)
    };
    stand
        .client
        .profiles
        .create_profile(v1::CreateProfileRequest { profile: Some(modern) })
        .await
        .expect("a new profile");
    register_otaa(&stand.client, dev_eui, story::PROFILE, &APP_KEY).await;
    register_otaa(&stand.client, dev_eui + 1, "modern", &APP_KEY).await;
    register_otaa(&stand.client, dev_eui + 2, story::PROFILE, &APP_KEY).await;
    let keyless = v1::DeleteKeysRequest { dev_eui: format!("{:016x}", dev_eui + 2) };
    stand.client.devices.delete_keys(keyless).await.expect("keys to delete");

    // Nobody knows them, or they do not know the key. Each tells what to look at; none uses a nonce.
    let unknown = otaa(dev_eui + 100, JOIN_EUI, &APP_KEY);
    let misdirected = otaa(dev_eui, JOIN_EUI + 1, &APP_KEY);
    let impostor = otaa(dev_eui, JOIN_EUI, &OTHER_KEY);
    let without_key = otaa(dev_eui + 2, JOIN_EUI, &APP_KEY);
    let mut reversed_key = APP_KEY;
    reversed_key.reverse();
    let reversed = otaa(dev_eui, JOIN_EUI, &reversed_key);
    let create_line = format!("loam device create {:016x} --join-eui {JOIN_EUI:016x}", dev_eui + 100);
    let cases = [
        ("device_unknown", unknown, create_line.as_str()),
        ("join_eui_mismatch", misdirected, "JoinEUI"),
        ("join_mic_mismatch", impostor, "key"),
        ("no_root_key", without_key, "loam keys set"),
        ("join_mic_mismatch", reversed, "reversed"),
    ];
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for (reason, mut device, words) in cases {
        device.set_next_dev_nonce(900);
        stand.push(&device.join_request(0)).await;
        *expected.entry(reason.to_owned()).or_default() += 1;
        story::drops_reach(&stand.client, reason, expected[reason]).await;
        assert_eq!(story::drop_counts(&stand.client).await, expected, "after {reason}");
        let told = story::drops(&stand.client).await;
        let text = format!("{} {}", told[0].detail, told[0].hint);
        assert!(told[0].reason == reason && text.contains(words), "{reason}: {:?}", told[0]);
        assert!(!text.contains(&hex(&APP_KEY)), "no key is told");
    }
    let status = keys_status(&stand.client, dev_eui).await;
    assert_eq!((status.dev_nonces_used, status.join_nonce), (0, 0), "{status:?}");

    // A join of another region's frequency.
    let mut device = otaa(dev_eui, JOIN_EUI, &APP_KEY);
    let mut request = device.clone().join_request(0);
    request.freq_hz = 902_300_000;
    stand.push(&request).await;
    story::drops_reach(&stand.client, "wrong_region", 1).await;

    // One that is answered. Played back, it gets the same answer while nobody used it, and none after that.
    let recorded = device.join_request(0);
    stand.push(&recorded).await;
    let accept = transmission(&mut stand).await;
    device.take_join_accept(&accept).expect("an accept for this device");
    stand.push(&recorded).await;
    assert_eq!(transmission(&mut stand).await, accept, "the same request has the same answer");
    let mut stream = Stream::latest(&stand.client).await;
    stand.push(&device.uplink(0, Some((1, b"joined")), false)).await;
    assert_eq!(stream.uplink().await.1.payload, b"joined");
    let session = device_state(&stand.client, dev_eui).await;
    stand.push(&recorded).await;
    story::drops_reach(&stand.client, "dev_nonce_used", 1).await;

    // Another join, and then a nonce from before: used up for good (up to 1.0.3).
    let second = device.join_request(0);
    stand.push(&second).await;
    device.take_join_accept(&transmission(&mut stand).await).expect("an accept for this device");
    let mut amnesiac = otaa(dev_eui, JOIN_EUI, &APP_KEY);
    let again = amnesiac.join_request(1);
    assert_eq!(again.phy_payload, recorded.phy_payload);
    stand.push(&again).await;
    story::drops_reach(&stand.client, "dev_nonce_used", 2).await;
    let status = keys_status(&stand.client, dev_eui).await;
    assert_eq!((status.dev_nonces_used, status.join_nonce), (2, 2), "{status:?}");
    let after = device_state(&stand.client, dev_eui).await;
    assert_eq!((after.session_id, after.pending_sessions), (session.session_id, 1), "the live session lives");

    // From 1.0.4 on it has to rise.
    let mut counting = otaa(dev_eui + 1, JOIN_EUI, &APP_KEY);
    counting.set_next_dev_nonce(5);
    stand.push(&counting.join_request(0)).await;
    counting.take_join_accept(&transmission(&mut stand).await).expect("an accept for this device");
    counting.set_next_dev_nonce(4);
    stand.push(&counting.join_request(0)).await;
    story::drops_reach(&stand.client, "dev_nonce_not_rising", 1).await;
    let told = story::drops(&stand.client).await;
    assert_eq!(told[0].dev_eui, format!("{:016x}", dev_eui + 1));
    counts_agree(&stand).await;
    stand.uplink_arrives(b"still here").await;
}

/// UDP-003: an acknowledgement counts only from the gateway that was asked.
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
    elsewhere.send(&packet(5, [!token[0], token[1]], asked, b"")).await.expect("loopback takes a datagram");
    story::drops_reach(&stand.client, "tx_ack_unexpected", 1).await;
    assert_eq!(acknowledged(&stand.client, asked).await, (1, 0));
    let told = story::drops(&stand.client).await;
    let foreign = told.iter().find(|d| d.reason == "tx_ack_foreign").expect("a person sees it");
    assert_eq!(foreign.gateway_eui, format!("{neighbour:016x}"));

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

/// CODEC-004, CODEC-005: a codec that fails costs its own decoding and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_codec_that_fails_delivers_the_bytes_and_what_happened() {
    let mut stand = Stand::set_up().await;
    let codecs = [
        ("loops", "function decodeUplink(i) { for (;;) {} }", "time"),
        ("throws", "function decodeUplink(i) { throw new Error('sensor on fire'); }", "sensor on fire"),
        ("allocates", "function decodeUplink(i) { return { data: { s: 'x'.repeat(0x3ffffff0) } }; }", "memory"),
        ("recurses", "function f(n) { return f(n + 1) + 1; } function decodeUplink(i) { return { data: { n: f(0) } }; }", "recurs"),
        ("not-a-number", "function decodeUplink(i) { return { data: { t: 0 / 0 } }; }", "NaN"),
        ("returns-nothing", "function decodeUplink(i) {}", "decodeUplink"),
        ("promises", "async function decodeUplink(i) { return { data: {} }; }", "promise"),
        ("good", "function decodeUplink(i) { return { data: { t: i.bytes[0] } }; }", ""),
    ];
    let mut devices = Vec::new();
    for (number, (id, script, _)) in (1..).zip(codecs) {
        let set = v1::SetCodecRequest { id: id.into(), script: script.into() };
        stand.client.codecs.set_codec(set).await.unwrap_or_else(|error| panic!("{id} compiles: {error}"));
        let (dev_eui, dev_addr) = (DEVICE + u64::from(number), DEV_ADDR + number);
        story::register_abp(&stand.client, dev_eui, dev_addr).await;
        let device = v1::Device { codec_id: id.into(), ..story::device(dev_eui) };
        let update = v1::UpdateDeviceRequest { device: Some(device) };
        stand.client.devices.update_device(update).await.expect("a device takes a codec");
        devices.push(story::abp_device(dev_eui, dev_addr));
    }
    let broken = v1::SetCodecRequest { id: "broken".into(), script: "function decodeUplink(i) {".into() };
    let refused = stand.client.codecs.set_codec(broken).await.expect_err("it does not compile");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");

    // Each is called twice: what one call did must not reach into the next.
    for round in 0..2 {
        let mut stream = Stream::latest(&stand.client).await;
        for device in &mut devices {
            let uplink = device.uplink(0, Some((1, &[21, round])), false);
            stand.push(&uplink).await;
        }
        let arrived = stream.uplinks(devices.len()).await;
        for (device, (id, _, words)) in devices.iter().zip(codecs) {
            let name = device.dev_eui().to_string();
            let (_, uplink) = arrived.iter().find(|(event, _)| event.dev_eui == name).expect("each device is heard");
            assert_eq!(uplink.payload, [21, round], "{id}");
            let errors = uplink.errors.join("\n");
            if id == "good" {
                assert_eq!((uplink.object_json.as_str(), errors.as_str()), (r#"{"t":21}"#, ""));
            } else {
                assert!(errors.contains(words) && uplink.object_json.is_empty(), "{id}: {errors:?} {uplink:?}");
            }
        }
    }
    let (status, _) = story::http_get(stand.loam.api, "/healthz").await;
    assert_eq!(status, 200);
    stand.uplink_arrives(b"still here").await;
}

/// API-005, API-001: a person who mistypes is told what, where and what is right; the key is not repeated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_names_and_keys_are_refused_by_the_api_and_nothing_is_made() {
    let stand = Stand::set_up().await;
    let mut client = stand.client.clone();
    let before = everything(&client).await;
    let euis = [
        ("", "dev_eui"),
        ("70b3d57ed005", "16"),
        ("70b3d57ed005000", "16"),
        ("70b3d57ed005000g", "hexadecimal"),
        ("70b3d57ed00500010", "16"),
        ("0000000000000000", "zero"),
    ];
    let keys = [
        ("8a3f5c1e9b7d2046e1c8a97f3b5d60", "30"),
        ("8a3f5c1e9b7d2046e1c8a97f3b5d602", "31"),
        ("8a3f5c1e9b7d2046e1c8a97f3b5d602x", "hexadecimal"),
        ("00000000000000000000000000000000", "zero"),
        ("2b7e151628aed2a6abf7158809cf4f3c", "specification"),
        ("8a3f5c1e9b7d2046e1c8a97f3b5d60248a3f", "36"),
    ];
    let device = |dev_eui: &str, join_eui: &str| v1::Device {
        dev_eui: dev_eui.into(),
        join_eui: join_eui.into(),
        ..story::device(1)
    };
    let good_keys = Some(v1::RootKeys { app_key: hex(&APP_KEY), nwk_key: String::new() });

    for (eui, words) in euis {
        let create = v1::CreateDeviceRequest { device: Some(device(eui, &hex(&JOIN_EUI.to_be_bytes()))), keys: good_keys.clone() };
        let refused = client.devices.create_device(create).await.expect_err(eui);
        refused_with(&refused, "dev_eui", words);
        let gateway = v1::Gateway { gateway_eui: eui.into(), region: Region::Eu868.into(), ..v1::Gateway::default() };
        let create = v1::CreateGatewayRequest { gateway: Some(gateway) };
        let refused = client.gateways.create_gateway(create).await.expect_err(eui);
        refused_with(&refused, "gateway_eui", if eui.is_empty() { "16" } else { words });
        let get = v1::GetDeviceRequest { dev_eui: eui.into() };
        refused_with(&client.devices.get_device(get).await.expect_err(eui), "dev_eui", words);
        if !eui.is_empty() && eui != "0000000000000000" {
            let create = v1::CreateDeviceRequest {
                device: Some(device("70b3d57ed0059999", eui)),
                keys: good_keys.clone(),
            };
            let refused = client.devices.create_device(create).await.expect_err(eui);
            refused_with(&refused, "join_eui", words);
        }
    }
    for (key, words) in keys {
        let create = v1::CreateDeviceRequest {
            device: Some(device("70b3d57ed0059999", &hex(&JOIN_EUI.to_be_bytes()))),
            keys: Some(v1::RootKeys { app_key: key.into(), nwk_key: String::new() }),
        };
        let refused = client.devices.create_device(create).await.expect_err(key);
        refused_with(&refused, "app_key", words);
        never_told(&refused, key);
        let set = v1::SetKeysRequest {
            dev_eui: format!("{DEVICE:016x}"),
            keys: Some(v1::RootKeys { app_key: key.into(), nwk_key: String::new() }),
        };
        let refused = client.devices.set_keys(set).await.expect_err(key);
        assert!([Code::InvalidArgument, Code::FailedPrecondition].contains(&refused.code()), "{refused:?}");
        never_told(&refused, key);
        if words == "specification" {
            continue;
        }
        let activate = v1::ActivateDeviceRequest {
            dev_eui: format!("{DEVICE:016x}"),
            dev_addr: format!("{DEV_ADDR:08x}"),
            nwk_s_key: key.into(),
            app_s_key: hex(&OTHER_KEY),
            ..v1::ActivateDeviceRequest::default()
        };
        let refused = client.devices.activate_device(activate.clone()).await.expect_err(key);
        refused_with(&refused, "nwk_s_key", words);
        never_told(&refused, key);
        let activate = v1::ActivateDeviceRequest { nwk_s_key: hex(&OTHER_KEY), app_s_key: key.into(), ..activate };
        let refused = client.devices.activate_device(activate).await.expect_err(key);
        refused_with(&refused, "app_s_key", words);
        never_told(&refused, key);
    }
    for dev_addr in ["", "0126", "0126000", "0126000g", "012600011"] {
        let activate = v1::ActivateDeviceRequest {
            dev_eui: format!("{DEVICE:016x}"),
            dev_addr: dev_addr.into(),
            nwk_s_key: hex(&OTHER_KEY),
            app_s_key: hex(&APP_KEY),
            ..v1::ActivateDeviceRequest::default()
        };
        let refused = client.devices.activate_device(activate).await.expect_err(dev_addr);
        refused_with(&refused, "dev_addr", "8");
    }
    for id in ["", "North", "7", "a b", &"a".repeat(65)] {
        let create = v1::CreateApplicationRequest { id: id.into(), name: "x".into() };
        let refused = client.applications.create_application(create).await.expect_err(id);
        refused_with(&refused, "id", "1 to 64");
    }
    let unknown = v1::Device { profile_id: "nowhere".into(), ..story::device(0x70b3_d57e_d005_9999) };
    let create = v1::CreateDeviceRequest { device: Some(unknown), keys: None };
    let refused = client.devices.create_device(create).await.expect_err("no such profile");
    assert!(refused.message().contains("nowhere"), "{refused:?}");

    // Nothing was made, and the live session is the one of before.
    assert_eq!(everything(&client).await, before);
    let mut stand = stand;
    stand.uplink_arrives(b"still here").await;
}

/// The same on the command line: exit code 2, a sentence that names the value's fault, nothing done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_names_and_keys_are_refused_by_the_command_line_and_nothing_is_made() {
    let stand = Stand::set_up().await;
    let before = everything(&stand.client).await;
    let device = |dev_eui: &'static str, join_eui: &'static str, key: &'static str| {
        vec![
            "device", "create", dev_eui, "--application", story::APPLICATION, "--profile", story::PROFILE,
            "--join-eui", join_eui, "--app-key", key,
        ]
    };
    const GOOD: &str = "8a3f5c1e9b7d2046e1c8a97f3b5d6024";
    const JOIN: &str = "70b3d57ed0000001";
    const NEW: &str = "70b3d57ed0059999";
    let cases = [
        (vec!["gateway", "create", "0016c001ff10aa", "--region", "EU868"], "14 hexadecimal digits"),
        (vec!["gateway", "create", "0016c001ff10aa0", "--region", "EU868"], "odd"),
        (vec!["gateway", "create", "0016c001ff10aa0z", "--region", "EU868"], "character 16"),
        (vec!["gateway", "create", "0000000000000000", "--region", "EU868"], "all-zero"),
        (vec!["gateway", "create", "0016c001ff10aa09", "--region", "EU869"], "EU868"),
        (device("70b3d57ed00599", JOIN, GOOD), "14 hexadecimal digits"),
        (device("70b3d57ed005999", JOIN, GOOD), "odd"),
        (device("70b3d57ed005999x", JOIN, GOOD), "character 16"),
        (device("0000000000000000", JOIN, GOOD), "all-zero"),
        (device(NEW, "70b3d57ed00000", GOOD), "14 hexadecimal digits"),
        (device(NEW, JOIN, "8a3f5c1e9b7d2046e1c8a97f3b5d60"), "30 hexadecimal digits"),
        (device(NEW, JOIN, "8a3f5c1e9b7d2046e1c8a97f3b5d602"), "31 hexadecimal digits"),
        (device(NEW, JOIN, "8a3f5c1e9b7d2046e1c8a97f3b5d602x"), "character 32"),
        (device(NEW, JOIN, "00000000000000000000000000000000"), "all-zero"),
        (device(NEW, JOIN, "2b7e151628aed2a6abf7158809cf4f3c"), "specification"),
        (device(NEW, JOIN, "@nowhere.key"), "nowhere.key"),
        (vec!["device", "activate", NEW, "--dev-addr", "0126", "--nwk-s-key", GOOD, "--app-s-key", GOOD], "8"),
        (vec!["downlink", "enqueue", "70b3d57ed0050001", "--port", "2", "abc"], "odd"),
        (vec!["downlink", "enqueue", "70b3d57ed0050001", "--port", "0", "ab"], "0"),
        (vec!["decode", "4"], "odd"),
        (vec!["decode", "00"], "malformed"),
        (vec!["events", "tail", "--from", "yesterday"], "earliest"),
    ];
    for (arguments, words) in cases {
        let (code, out, err) = stand.loam.cli(&arguments);
        assert_eq!(code, 2, "{arguments:?}: {out}{err}");
        assert!(err.contains(words), "{arguments:?}: {err}");
        assert!(!err.contains("8a3f5c1e9b7d") && !err.contains("2b7e1516"), "a key is repeated: {err}");
    }
    assert_eq!(everything(&stand.client).await, before);
}

/// A second device of one DevEUI, a second gateway, application and profile: refused, and the first is as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_exists_already_is_not_made_twice() {
    let mut stand = Stand::set_up().await;
    let dev_eui = DEVICE + 7;
    register_otaa(&stand.client, dev_eui, story::PROFILE, &APP_KEY).await;
    let before = everything(&stand.client).await;

    let again = v1::CreateDeviceRequest {
        device: Some(v1::Device {
            join_eui: format!("{JOIN_EUI:016x}"),
            name: "another".into(),
            ..story::device(dev_eui)
        }),
        keys: Some(v1::RootKeys { app_key: hex(&OTHER_KEY), nwk_key: String::new() }),
    };
    let refused = stand.client.devices.create_device(again).await.expect_err("it exists");
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert!(refused.message().contains(&format!("{dev_eui:016x}")), "{refused:?}");
    let (code, _, err) = stand.loam.cli(&[
        "device", "create", &format!("{dev_eui:016x}"), "--application", story::APPLICATION, "--profile",
        story::PROFILE, "--join-eui", &format!("{JOIN_EUI:016x}"), "--app-key", &hex(&OTHER_KEY),
    ]);
    assert_eq!(code, 4, "{err}");
    assert!(err.contains(&format!("{dev_eui:016x}")) && err.contains("exists"), "{err}");
    for arguments in [
        vec!["gateway", "create", "0016c001ff10aa01", "--region", "EU868"],
        vec!["application", "create", story::APPLICATION],
        vec!["profile", "create", story::PROFILE, "--region", "US915"],
    ] {
        let (code, _, err) = stand.loam.cli(&arguments);
        assert_eq!(code, 4, "{arguments:?}: {err}");
    }

    // The first one's key is the one that counts.
    assert_eq!(everything(&stand.client).await, before);
    let mut device = otaa(dev_eui, JOIN_EUI, &APP_KEY);
    story::join_over_the_air(&stand.gateway, &mut stand.downlinks, &mut device).await;
    stand.uplink_arrives(b"still here").await;
}

// ---- words of these tests ------------------------------------------------------------------------------------------

/// `/metrics` and `GetInfo` tell the same counts.
async fn counts_agree(stand: &Stand) {
    eventually("/metrics and GetInfo agree", async || {
        let (status, text) = story::http_get(stand.loam.api, "/metrics").await;
        assert_eq!(status, 200);
        let mut counted = story::counters(&text, "loam_drops_total", "reason");
        counted.retain(|_, count| *count > 0);
        (counted == story::drop_counts(&stand.client).await).then_some(())
    })
    .await;
}

/// The datagram a gateway would send for this frame, in EU868 at SF7.
fn push_data(stand: &Stand, phy_payload: &[u8]) -> Vec<u8> {
    let body = serde_json::json!({ "rxpk": [{
        "tmst": stand.gateway.tmst_us(), "freq": 868.1, "chan": 0, "stat": 1, "modu": "LORA", "datr": "SF7BW125",
        "codr": "4/5", "rssi": -80, "lsnr": 7.0, "size": phy_payload.len(), "data": base64(phy_payload),
    }]});
    [&[2, 0x12, 0x34, 0], GATEWAY.to_be_bytes().as_slice(), body.to_string().as_bytes()].concat()
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

/// A frame of the device with these bytes where the MAC commands are.
fn frame_with_fopts(device: &mut VirtualDevice, fopts: Vec<u8>, payload: &[u8]) -> simulator::device::Uplink {
    use mac::crypto::{Direction, crypt_frm_payload};
    use mac::keys::{Key, NetworkKeys};
    let keys = story::AbpKeys::of(DEVICE);
    let mut sent = device.uplink(0, Some((1, payload)), false);
    let dev_addr = device.dev_addr().expect("it is personalised");
    let mut frm_payload = payload.to_vec();
    crypt_frm_payload(&keys.app_s_key, Direction::Up, dev_addr, sent.fcnt, &mut frm_payload);
    let frame = mac::phy::UplinkFrame {
        confirmed: false,
        dev_addr,
        adr: false,
        adr_ack_req: false,
        ack: false,
        class_b: false,
        fcnt: mac::ids::FCntUp::new(sent.fcnt),
        fopts,
        f_port: Some(1),
        frm_payload,
    };
    let network_keys = NetworkKeys::from_nwk_s_key(&Key::new(keys.nwk_s_key));
    sent.phy_payload = frame.seal(&network_keys, None).expect("it fits a frame");
    sent
}

async fn device_state(client: &Client, dev_eui: u64) -> v1::DeviceState {
    let request = v1::GetDeviceRequest { dev_eui: format!("{dev_eui:016x}") };
    let answer = client.clone().devices.get_device(request).await.expect("a device").into_inner();
    answer.state.expect("a state")
}

async fn keys_status(client: &Client, dev_eui: u64) -> v1::GetKeysStatusResponse {
    let request = v1::GetKeysStatusRequest { dev_eui: format!("{dev_eui:016x}") };
    client.clone().devices.get_keys_status(request).await.expect("a status").into_inner()
}

async fn set_disabled(client: &Client, disabled: bool) {
    let device = v1::Device { disabled, ..story::device(DEVICE) };
    let request = v1::UpdateDeviceRequest { device: Some(device) };
    client.clone().devices.update_device(request).await.expect("a device is changed");
}

async fn register_otaa(client: &Client, dev_eui: u64, profile: &str, app_key: &[u8; 16]) {
    let device = v1::Device {
        join_eui: format!("{JOIN_EUI:016x}"),
        profile_id: profile.into(),
        ..story::device(dev_eui)
    };
    let keys = v1::RootKeys { app_key: hex(app_key), nwk_key: String::new() };
    let request = v1::CreateDeviceRequest { device: Some(device), keys: Some(keys) };
    client.clone().devices.create_device(request).await.expect("a new device");
}

fn otaa(dev_eui: u64, join_eui: u64, app_key: &[u8; 16]) -> VirtualDevice {
    let root = RootKeys { app_key: *app_key, nwk_key: None };
    VirtualDevice::otaa(DevEui::new(dev_eui), JoinEui::new(join_eui), RegionId::Eu868, root)
}

/// The next frame the gateway is asked to send.
async fn transmission(stand: &mut Stand) -> Vec<u8> {
    let next = tokio::time::timeout(DEADLINE, stand.downlinks.recv()).await;
    next.expect("a downlink before the deadline").expect("the gateway goes on").phy_payload
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

/// What is registered, in words that can be compared.
async fn everything(client: &Client) -> String {
    let mut client = client.clone();
    let devices = client.devices.list_devices(v1::ListDevicesRequest::default()).await.expect("a list").into_inner();
    let gateways =
        client.gateways.list_gateways(v1::ListGatewaysRequest::default()).await.expect("a list").into_inner();
    let applications = client
        .applications
        .list_applications(v1::ListApplicationsRequest::default())
        .await
        .expect("a list")
        .into_inner();
    let profiles =
        client.profiles.list_profiles(v1::ListProfilesRequest::default()).await.expect("a list").into_inner();
    let gateways: Vec<_> = gateways.gateways.into_iter().map(|item| item.gateway).collect();
    let state = device_state(&client, DEVICE).await;
    format!("{devices:#?}\n{gateways:#?}\n{applications:#?}\n{profiles:#?}\n{state:#?}")
}

fn refused_with(refused: &tonic::Status, field: &str, words: &str) {
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(refused.message().contains(field), "{field}: {refused:?}");
    assert!(refused.message().contains(words), "{words}: {refused:?}");
}

fn never_told(refused: &tonic::Status, key: &str) {
    assert!(!refused.message().contains(&key[..12]), "a key is repeated: {refused:?}");
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
