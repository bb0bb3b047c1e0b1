//! Where and when a downlink goes: the slow gateway, the gateway that refuses, the one that never answers, the uplink that comes
//! too late, the band that is used up.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use loam_tests::forwarder::{Forwarder, PullResp};
use loam_tests::story;
use loam_tests::world::{World, gateway_eui, profile_of};
use mac::airtime::airtime_us;
use mac::region::{CodingRate, DataRate, Modulation};
use proto::v1::{self, DownlinkState, MacVersion, Region};
use simulator::device::{Uplink, VirtualDevice};
use simulator::gateway::TxAnswer;

/// FCNT-009, FCNT-010: a gateway that acknowledges nothing is sent a hundred frames, each with its own counter.
#[tokio::test(flavor = "multi_thread")]
async fn without_any_tx_ack_a_hundred_downlinks_carry_a_hundred_counters() {
    let (mut world, gateway, mut device) = yard(Region::Eu868).await;
    let mut uplinks = Vec::new();
    for number in 0..100_u32 {
        let uplink = device.uplink(number, Some((1, b"anybody there?")), true);
        gateway.push(&uplink, number * 10_000).await;
        uplinks.push(uplink);
    }

    let mut answers = Vec::new();
    for _ in 0..uplinks.len() {
        let asked = gateway.pull_resp().await;
        let of = |(number, uplink): &(u32, &Uplink)| window(uplink, number * 10_000, &asked).is_some();
        let (number, _) = (0..).zip(&uplinks).find(of).expect("it answers one of the uplinks");
        answers.push((number, asked.phy_payload));
    }

    // In the order of the uplinks the device takes every one: each counter is above the last.
    answers.sort_by_key(|(number, _)| *number);
    let heard: Vec<u32> = answers
        .iter()
        .map(|(number, phy)| {
            let heard = device.take_downlink(phy).unwrap_or_else(|ignored| panic!("{number}: {ignored}"));
            assert!(heard.ack);
            heard.fcnt
        })
        .collect();
    assert_eq!(heard, (0..100).collect::<Vec<_>>());
    for _ in 0..100 {
        world.uplink_of(1).await;
    }
    assert_eq!(world.state(1).await.fcnt_down, 100);
}

/// RXWIN-009: what is too slow for RX1 goes to RX2, at once and not after a refusal.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_too_far_away_for_rx1_is_asked_for_rx2() {
    let (_world, gateway, mut device) = yard(Region::Eu868).await;
    let uplink = device.uplink(0, Some((1, b"hello")), true);
    gateway.push(&uplink, 1_000_000).await;
    let first = gateway.pull_resp().await;
    assert_eq!(window(&uplink, 1_000_000, &first), Some(1));
    // There and back takes 800 ms.
    story::pause(Duration::from_millis(800)).await;
    gateway.tx_ack(first.token, Some("NONE")).await;
    device.take_downlink(&first.phy_payload).expect("a downlink for this device");

    for number in 2..5_u32 {
        let uplink = device.uplink(0, Some((1, b"and now?")), true);
        gateway.push(&uplink, number * 10_000_000).await;
        let asked = gateway.pull_resp().await;
        assert_eq!(window(&uplink, number * 10_000_000, &asked), Some(2), "uplink {number}");
        assert!(device.take_downlink(&asked.phy_payload).expect("a downlink for this device").ack);
    }
}

/// RXWIN-009: where neither window can be reached nothing is sent, nothing is taken from the queue, and it is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_too_far_away_for_both_windows_is_not_asked_and_the_item_waits() {
    let (mut world, gateway, mut device) = yard(Region::Eu868).await;
    let uplink = device.uplink(0, Some((1, b"hello")), true);
    gateway.push(&uplink, 1_000_000).await;
    let first = gateway.pull_resp().await;
    story::pause(Duration::from_millis(1_850)).await;
    gateway.tx_ack(first.token, Some("NONE")).await;
    device.take_downlink(&first.phy_payload).expect("a downlink for this device");
    let item = world.enqueue(1, b"open").await;

    let unreachable = device.uplink(0, Some((1, b"anything for me?")), true);
    gateway.push(&unreachable, 20_000_000).await;

    let refusal = world.refusal(1, "downlink_window_missed").await;
    assert!(!refusal.hint.is_empty());
    world.uplink_of(1).await;
    assert_eq!(world.counters_seen(1), [0, 1], "both uplinks are delivered all the same");
    let waiting = world.item_in(1, &item.id, DownlinkState::Queued).await;
    assert_eq!(waiting.attempts, 0);
    assert_eq!(world.states_seen(&item.id), [DownlinkState::Queued]);
}

/// RXWIN-010, RXWIN-005: each refusal leads to the next window, then to the next best gateway; one of them transmits, once.
#[tokio::test(flavor = "multi_thread")]
async fn what_two_gateways_refuse_the_third_one_sends() {
    let mut world = World::start(Region::Eu868, 3).await;
    let mut device = world.abp(1).await;
    let item = world.enqueue(1, b"open").await;
    for (gateway, words) in [(0, ["TOO_LATE", "GPS_UNLOCKED"]), (1, ["COLLISION_PACKET", "TX_POWER"])] {
        for word in words {
            world.gateway(gateway).answer_next(TxAnswer::Refuse(word));
        }
    }

    // Heard best by the first, worst by the third.
    let on_air = world.send(&mut device, b"awake").await;

    let answer = world.answer(&on_air).await;
    assert_eq!((answer.transmission.gateway.value(), answer.window), (gateway_eui(3), 1));
    let heard = device.take_downlink(&answer.transmission.phy_payload).expect("for this device");
    assert_eq!(heard.payload, Some((10, b"open".to_vec())));
    let update = world.update(&item.id, DownlinkState::GatewayAcknowledged).await;
    assert_eq!(update.gateway_eui, format!("{:016x}", gateway_eui(3)));
    for (gateway, asked) in [(0, 2), (1, 2), (2, 1)] {
        let pulls = world.gateway(gateway).counts().pull_resps.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(pulls, asked, "gateway {gateway}");
    }
    assert!(world.is_silent(), "one transmission");
}

/// REGION-022: a channel that was not free is a refusal like any other.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_sent_because_somebody_was_talking_goes_to_the_second_window() {
    let profile = v1::Profile { rx_delay_s: 1, ..profile_of(Region::As9231, MacVersion::MacVersion103) };
    let mut world = World::with_profile(profile, 1).await;
    let mut device = world.abp(1).await;
    world.gateway(0).answer_next(TxAnswer::Refuse("SEND_LBT"));

    let on_air = world.send_confirmed(&mut device, b"awake").await;

    let answer = world.answer(&on_air).await;
    assert_eq!(answer.window, 2);
    assert!(device.take_downlink(&answer.transmission.phy_payload).expect("for this device").ack);
}

/// RXWIN-012: a frame its gateway kept for an hour is delivered, and its device no longer listens.
#[tokio::test(flavor = "multi_thread")]
async fn an_uplink_that_was_kept_for_an_hour_is_delivered_and_not_answered() {
    let mut world = World::start(Region::Eu868, 1).await;
    let mut device = world.abp(1).await;
    let item = world.enqueue(1, b"open").await;
    let kept = device.uplink(0, Some((1, b"an hour ago")), true);
    let an_hour_ago = std::time::SystemTime::now() - Duration::from_secs(3_600);
    let unix_us = an_hour_ago.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_micros();
    let gps_us = mac::gps::gps_from_unix_us(i64::try_from(unix_us).expect("before the year 294,000"));

    let data = base64::engine::general_purpose::STANDARD.encode(&kept.phy_payload);
    let rxpk = serde_json::json!({ "rxpk": [{
        "tmst": 7, "tmms": gps_us / 1_000, "chan": 0, "rfch": 0, "stat": 1, "modu": "LORA", "datr": kept.data_rate,
        "codr": "4/5", "rssi": -80, "lsnr": 7.0, "freq": f64::from(kept.freq_hz) / 1e6,
        "size": kept.phy_payload.len(), "data": data,
    }]});
    world.gateway(0).push_json(&rxpk.to_string()).await.expect("loopback takes a datagram");

    assert_eq!(world.uplink_of(1).await.payload, b"an hour ago");
    // The next frame is heard at once, and the first downlink is the answer to it, with the first counter.
    let on_air = world.send_confirmed(&mut device, b"now").await;
    let heard = world.hear(&mut device, &on_air).await;
    assert_eq!((heard.fcnt, heard.payload), (0, Some((10, b"open".to_vec()))));
    assert_eq!(world.item_in(1, &item.id, DownlinkState::GatewayAcknowledged).await.attempts, 1);
}

/// REGION-021: a sub-band that has sent its share of the hour sends no more; the other window takes over.
#[tokio::test(flavor = "multi_thread")]
async fn a_band_that_is_used_up_sends_no_more_and_rx2_takes_over() {
    let (_world, gateway, mut device) = yard(Region::Eu868).await;
    device.data_rate = DataRate::new(0);
    let mut uplinks = Vec::new();
    for number in 0..40_u32 {
        // On 868.1 MHz, where one per cent of an hour is 36 s.
        let uplink = device.uplink(0, Some((1, b"x")), true);
        gateway.push(&uplink, number * 10_000).await;
        uplinks.push(uplink);
    }

    let (mut rx1_us, mut windows) = (0, Vec::new());
    for _ in 0..uplinks.len() {
        let asked = gateway.pull_resp().await;
        gateway.tx_ack(asked.token, Some("NONE")).await;
        let hit = |(number, uplink): (u32, &Uplink)| window(uplink, number * 10_000, &asked);
        let window = (0..).zip(&uplinks).find_map(hit).expect("it answers one of the uplinks");
        let sf12 = Modulation::Lora { sf: 12, bw_hz: 125_000 };
        let airtime = airtime_us(sf12, CodingRate::Cr4_5, asked.phy_payload.len(), false).expect("LoRa");
        rx1_us += if window == 1 { airtime } else { 0 };
        windows.push(window);
    }

    assert!(rx1_us <= 36_000_000, "{rx1_us} us in the band of RX1");
    assert!(rx1_us > 34_000_000, "{rx1_us} us: its share was to be had");
    assert_eq!(windows.iter().collect::<BTreeSet<_>>().len(), 2, "{windows:?}");
}

const FORWARDER: u64 = 0xf1;

/// A personalised device (RX1 after 1 s) that one hand-driven forwarder hears.
async fn yard(region: Region) -> (World, Forwarder, VirtualDevice) {
    let world = World::start(region, 0).await;
    story::register_gateway(&world.client, FORWARDER, region).await;
    let gateway = Forwarder::connect(world.loam().udp, FORWARDER).await;
    let device = world.abp(1).await;
    (world, gateway, device)
}

fn window(uplink: &Uplink, tmst_us: u32, asked: &PullResp) -> Option<u8> {
    uplink.window_hit(tmst_us, asked.tmst_us, asked.freq_hz, &asked.data_rate)
}
