//! Downlinks one can trust: order, attempts, deadlines, windows, and one end for each item.

use std::time::{SystemTime, UNIX_EPOCH};

use loam_tests::eventually;
use loam_tests::forwarder::{Forwarder, PullResp};
use loam_tests::story;
use loam_tests::world::{End, World, dev_eui, gateway_eui, name, profile_of};
use mac::region::DataRate;
use proto::v1::enqueue_downlink_request::Content;
use proto::v1::{self, DownlinkState, EnqueueDownlinkRequest, MacVersion, Region};
use simulator::device::{Heard, Uplink, VirtualDevice};
use simulator::gateway::TxAnswer;

#[tokio::test(flavor = "multi_thread")]
async fn an_unconfirmed_item_ends_when_the_gateway_has_taken_it() {
    let mut world = World::start(Region::Eu868, 1).await;
    let mut device = world.abp(1).await;
    let item = world.enqueue(1, b"open").await;

    let on_air = world.send(&mut device, b"awake").await;

    let heard = world.hear(&mut device, &on_air).await;
    assert_eq!((heard.payload, heard.confirmed, heard.ack), (Some((10, b"open".to_vec())), false, false));
    let update = world.update(&item.id, DownlinkState::GatewayAcknowledged).await;
    assert_eq!((update.fcnt_down, update.gateway_eui), (Some(heard.fcnt), format!("{:016x}", gateway_eui(1))));
    let ended = world.item_in(1, &item.id, DownlinkState::GatewayAcknowledged).await;
    assert_eq!(ended.fcnt_down, Some(heard.fcnt));
    // It is not sent again, and nothing more is told of it.
    let next = world.send_confirmed(&mut device, b"awake again").await;
    assert_eq!(world.hear(&mut device, &next).await.payload, None);
    world.uplink_of(1).await;
    assert_eq!(world.states_seen(&item.id).last(), Some(&DownlinkState::GatewayAcknowledged));
    assert_in_order(&world.states_seen(&item.id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_item_ends_when_the_device_has_acknowledged_it() {
    let mut world = World::start(Region::Eu868, 1).await;
    let mut device = world.abp(1).await;
    let item = world.enqueue_as(1, b"open", confirmed()).await;

    let on_air = world.send(&mut device, b"awake").await;
    let heard = world.hear(&mut device, &on_air).await;
    assert!(heard.confirmed);
    // The next uplink carries the device's acknowledgement.
    world.send(&mut device, b"opened").await;

    let update = world.update(&item.id, DownlinkState::DeviceAcknowledged).await;
    assert_eq!(update.fcnt_down, Some(heard.fcnt));
    assert_eq!(world.item_in(1, &item.id, DownlinkState::DeviceAcknowledged).await.attempts, 1);
    let next = world.send_confirmed(&mut device, b"bored").await;
    assert_eq!(world.hear(&mut device, &next).await.payload, None);
    assert_in_order(&world.states_seen(&item.id));
}

/// ACK-004.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_device_gets_three_attempts_with_three_counters_and_then_the_item_fails() {
    let mut world = World::start(Region::Eu868, 1).await;
    let mut device = world.abp(1).await;
    let item = world.enqueue_as(1, b"open", confirmed()).await;

    let mut counters = Vec::new();
    for _ in 0..8 {
        // The device sends and never hears; somebody else listens to what it is sent.
        let on_air = world.send_confirmed(&mut device, b"anybody there?").await;
        let heard = world.hear(&mut device.clone(), &on_air).await;
        assert!(heard.ack);
        if let Some((_, payload)) = heard.payload {
            assert_eq!((payload.as_slice(), heard.confirmed), (b"open".as_slice(), true));
            counters.push(heard.fcnt);
        }
    }

    let end = world.update(&item.id, DownlinkState::Failed).await;
    assert_eq!(counters.len(), 3);
    assert!(counters.is_sorted_by(|a, b| a < b), "{counters:?}");
    assert!(end.reason.contains("3 times"), "{end:?}");
    assert_eq!(world.item_in(1, &item.id, DownlinkState::Failed).await.attempts, 3);
    let ends = world.states_seen(&item.id).into_iter().filter(|state| *state == DownlinkState::Failed).count();
    assert_eq!(ends, 1);
}

/// AS-006.
#[tokio::test(flavor = "multi_thread")]
async fn the_more_urgent_item_goes_first_and_equals_in_the_order_they_came() {
    let mut world = World::start(Region::Eu868, 1).await;
    let mut device = world.abp(1).await;
    world.enqueue(1, b"report").await;
    world.enqueue(1, b"settings").await;
    let urgent = EnqueueDownlinkRequest { priority: 10, ..EnqueueDownlinkRequest::default() };
    world.enqueue_as(1, b"close!", urgent).await;

    let mut order = Vec::new();
    for _ in 0..3 {
        let on_air = world.send(&mut device, b"awake").await;
        order.extend(world.hear(&mut device, &on_air).await.payload);
    }

    assert_eq!(order, [b"close!".as_slice(), b"report", b"settings"].map(|payload| (10, payload.to_vec())));
}

/// ACK-009.
#[tokio::test(flavor = "multi_thread")]
async fn a_downlink_says_whether_more_waits() {
    let mut world = World::start(Region::Eu868, 1).await;
    let mut device = world.abp(1).await;
    for payload in [b"one", b"two", b"six"] {
        world.enqueue(1, payload).await;
    }

    let mut pending = Vec::new();
    for _ in 0..4 {
        let on_air = world.send_confirmed(&mut device, b"awake").await;
        pending.push(world.hear(&mut device, &on_air).await.f_pending);
    }

    assert_eq!(pending, [true, true, false, false]);
}

// ---- items that do not go --------------------------------------------------------------------------------------------

/// AS-007.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passes_ends_the_item_once_and_it_is_not_sent() {
    let mut world = World::start(Region::Eu868, 1).await;
    let mut device = world.abp(1).await;
    let soon =
        EnqueueDownlinkRequest { not_after_us: Some(now_us() + 800_000), ..EnqueueDownlinkRequest::default() };
    let item = world.enqueue_as(1, b"open", soon).await;

    world.update(&item.id, DownlinkState::Expired).await;

    let on_air = world.send_confirmed(&mut device, b"awake").await;
    assert_eq!(world.hear(&mut device, &on_air).await.payload, None);
    world.uplink_of(1).await;
    assert_eq!(world.states_seen(&item.id), [DownlinkState::Queued, DownlinkState::Expired]);
}

/// AS-006.
#[tokio::test(flavor = "multi_thread")]
async fn a_known_idempotency_key_makes_no_second_item() {
    let mut world = World::start(Region::Eu868, 1).await;
    let mut device = world.abp(1).await;
    let keyed =
        EnqueueDownlinkRequest { idempotency_key: "order-7".into(), ..EnqueueDownlinkRequest::default() };
    let item = world.enqueue_as(1, b"open", keyed.clone()).await;

    let again = EnqueueDownlinkRequest {
        dev_eui: name(1),
        f_port: 10,
        content: Some(Content::Payload(b"open".to_vec())),
        ..keyed
    };
    for end in [None, Some(End::Kill)] {
        if let Some(end) = end {
            world.restart(end).await;
        }
        let answer =
            world.client.downlinks.enqueue_downlink(again.clone()).await.expect("the first item").into_inner();
        assert!(answer.duplicate);
        assert_eq!(answer.downlink.map(|item| item.id), Some(item.id.clone()));
    }

    assert_eq!(world.items(1).await.len(), 1);
    let mut payloads = Vec::new();
    for _ in 0..2 {
        let on_air = world.send_confirmed(&mut device, b"awake").await;
        payloads.extend(world.hear(&mut device, &on_air).await.payload);
    }
    assert_eq!(payloads, [(10, b"open".to_vec())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_can_be_cancelled_until_it_has_left() {
    let mut world = World::start(Region::Eu868, 1).await;
    let mut device = world.abp(1).await;
    let cancelled = world.enqueue(1, b"open").await;
    let kept = world.enqueue(1, b"report").await;

    let request = v1::CancelDownlinkRequest { id: cancelled.id.clone() };
    let answer = world.client.downlinks.cancel_downlink(request).await.expect("it waits").into_inner();
    assert_eq!(answer.downlink.map(|item| item.state()), Some(DownlinkState::Cancelled));
    let on_air = world.send(&mut device, b"awake").await;
    assert_eq!(world.hear(&mut device, &on_air).await.payload, Some((10, b"report".to_vec())));

    world.update(&kept.id, DownlinkState::GatewayAcknowledged).await;
    assert_eq!(world.states_seen(&cancelled.id), [DownlinkState::Queued, DownlinkState::Cancelled]);
    let request = v1::CancelDownlinkRequest { id: kept.id };
    let status = world.client.downlinks.cancel_downlink(request).await.expect_err("it has left");
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
}

/// RXWIN-007.
#[tokio::test(flavor = "multi_thread")]
async fn an_item_too_long_for_the_data_rate_waits_for_a_better_one() {
    let mut world = World::with_profile(profile_of(Region::Eu868, MacVersion::MacVersion103), 1).await;
    let mut device = world.joined(1).await;
    let item = world.enqueue(1, &[7; 60]).await;

    device.data_rate = DataRate::new(0);
    let on_air = world.send_confirmed(&mut device, b"slowly").await;
    assert_eq!(world.hear(&mut device, &on_air).await.payload, None);
    let deferred = world.update(&item.id, DownlinkState::Deferred).await;
    assert!(deferred.reason.contains("60 bytes"), "{deferred:?}");

    device.data_rate = DataRate::new(5);
    let on_air = world.send(&mut device, b"fast").await;
    let answer = world.answer(&on_air).await;
    let heard = device.take_downlink(&answer.transmission.phy_payload).expect("for this device");
    assert_eq!((answer.window, heard.payload), (1, Some((10, vec![7; 60]))));
    world.update(&item.id, DownlinkState::GatewayAcknowledged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_no_data_rate_carries_is_refused() {
    let mut world = World::start(Region::Eu868, 1).await;
    world.abp(1).await;
    let request = EnqueueDownlinkRequest {
        dev_eui: name(1),
        f_port: 10,
        content: Some(Content::Payload(vec![7; 243])),
        ..EnqueueDownlinkRequest::default()
    };

    let status =
        world.client.downlinks.enqueue_downlink(request).await.expect_err("too long for every data rate");

    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(status.message().contains("243 bytes"), "{status}");
    assert!(world.items(1).await.is_empty());
}

// ---- what the gateway says -----------------------------------------------------------------------------------------------

/// RXWIN-001, RXWIN-010, FCNT-010.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_too_late_for_the_first_window_gets_the_identical_bytes_for_the_second() {
    let (mut world, gateway, mut device) = field().await;
    let item = world.enqueue(1, b"open").await;
    let uplink = device.uplink(0, Some((1, b"awake")), false);
    gateway.push(&uplink, 7_000_000).await;

    let first = gateway.pull_resp().await;
    assert_eq!(window(&uplink, 7_000_000, &first), Some(1));
    gateway.tx_ack(first.token, Some("TOO_LATE")).await;
    let second = gateway.pull_resp().await;
    gateway.tx_ack(second.token, None).await;

    assert_eq!(window(&uplink, 7_000_000, &second), Some(2));
    assert_eq!(second.phy_payload, first.phy_payload, "one counter seals one frame");
    let heard = device.take_downlink(&second.phy_payload).expect("for this device");
    assert_eq!(heard.payload, Some((10, b"open".to_vec())));
    world.update(&item.id, DownlinkState::GatewayAcknowledged).await;
    let refused = eventually("TOO_LATE to be counted", async || {
        let request = v1::GetGatewayRequest { gateway_eui: format!("{FORWARDER:016x}") };
        let answer = world.client.clone().gateways.get_gateway(request).await.expect("a gateway").into_inner();
        answer.status.unwrap_or_default().tx_ack_errors.get("TOO_LATE").copied()
    });
    assert_eq!(refused.await, 1);
}

/// RXWIN-005, FCNT-009.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_says_nothing_leaves_the_item_unknown_and_nothing_is_sent_twice() {
    let (mut world, gateway, mut device) = field().await;
    let item = world.enqueue(1, b"open").await;
    let uplink = device.uplink(0, Some((1, b"awake")), false);
    gateway.push(&uplink, 7_000_000).await;
    let asked = gateway.pull_resp().await;
    assert_eq!(window(&uplink, 7_000_000, &asked), Some(1));

    let end = world.update(&item.id, DownlinkState::Unknown).await;

    assert!(end.reason.contains("TX_ACK"), "{end:?}");
    let next = device.uplink(0, Some((1, b"again")), true);
    gateway.push(&next, 17_000_000).await;
    let answer = gateway.pull_resp().await;
    assert_eq!(window(&next, 17_000_000, &answer), Some(1), "the next frame is the answer to the next uplink");
    assert_eq!(device.take_downlink(&answer.phy_payload).expect("for this device").payload, None);
    assert_eq!(world.item_in(1, &item.id, DownlinkState::Unknown).await.attempts, 1);
}

/// ACK-007, AS-007: an item has one end, also on the stream: what the device said stands, whatever is found out later.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_answers_before_its_silent_gateway_is_given_up_ends_the_item() {
    let mut world = World::start(Region::Eu868, 1).await;
    let mut device = world.abp(1).await;
    let item = world.enqueue_as(1, b"open", confirmed()).await;
    world.gateway(0).answer_next(TxAnswer::Silent);

    let on_air = world.send(&mut device, b"awake").await;
    assert!(world.hear(&mut device, &on_air).await.confirmed);
    world.send(&mut device, b"opened").await;

    world.update(&item.id, DownlinkState::DeviceAcknowledged).await;
    world.refusal(1, "tx_ack_missing").await;
    // What is told of the item is in the log before the next uplink.
    world.send(&mut device, b"bored").await;
    world.find(|event| uplink_in(event).filter(|uplink| uplink.payload == b"bored").map(drop)).await;
    assert_eq!(world.states_seen(&item.id).last(), Some(&DownlinkState::DeviceAcknowledged));
    assert_in_order(&world.states_seen(&item.id));
}

/// UDP-003.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_tx_ack_changes_nothing() {
    let (mut world, gateway, mut device) = field().await;
    story::register_gateway(&world.client, 0xf0, Region::Eu868).await;
    let stranger = Forwarder::connect(world.loam().udp, 0xf0).await;
    let item = world.enqueue(1, b"open").await;
    let uplink = device.uplink(0, Some((1, b"awake")), false);
    gateway.push(&uplink, 7_000_000).await;
    let first = gateway.pull_resp().await;

    stranger.tx_ack(first.token, Some("NONE")).await;
    eventually("the forged acknowledgement to be told", async || {
        let list =
            world.client.clone().events.list_drops(v1::ListDropsRequest::default()).await.expect("a list");
        list.into_inner().drops.into_iter().find(|drop| drop.reason == "tx_ack_foreign")
    })
    .await;

    // The frame still belongs to its own gateway: that one refuses, and the second window is used.
    gateway.tx_ack(first.token, Some("TOO_LATE")).await;
    let second = gateway.pull_resp().await;
    assert_eq!(second.phy_payload, first.phy_payload);
    assert!(!world.states_seen(&item.id).contains(&DownlinkState::GatewayAcknowledged));
    gateway.tx_ack(second.token, Some("NONE")).await;
    world.update(&item.id, DownlinkState::GatewayAcknowledged).await;
}

// ---- what a crash leaves, codecs, counters of 1.1 ------------------------------------------------------------------------

/// AS-006.
#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_was_taken_survives_a_power_cut() {
    let mut world = World::start(Region::Eu868, 1).await;
    let mut device = world.abp(1).await;
    let item = world.enqueue(1, b"open").await;

    world.restart(End::Kill).await;

    let mut heard = Heard::default();
    // The network server is told again what waits soon after the start.
    for _ in 0..3 {
        let on_air = world.send_confirmed(&mut device, b"awake").await;
        heard = world.hear(&mut device, &on_air).await;
        if heard.payload.is_some() {
            break;
        }
    }
    assert_eq!(heard.payload, Some((10, b"open".to_vec())));
    world.update(&item.id, DownlinkState::GatewayAcknowledged).await;
    assert_eq!(world.items(1).await.len(), 1);
}

/// ACK-007.
#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_is_understood_after_a_power_cut() {
    let mut world = World::start(Region::Eu868, 1).await;
    let mut device = world.abp(1).await;
    let item = world.enqueue_as(1, b"open", confirmed()).await;
    let on_air = world.send(&mut device, b"awake").await;
    assert!(world.hear(&mut device, &on_air).await.confirmed);
    world.update(&item.id, DownlinkState::GatewayAcknowledged).await;

    world.restart(End::Kill).await;
    world.send(&mut device, b"opened").await;

    world.update(&item.id, DownlinkState::DeviceAcknowledged).await;
}

/// CODEC-002.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_made_bytes_by_the_devices_codec() {
    let mut world = World::start(Region::Eu868, 1).await;
    let script = "function decodeUplink(input) { return { data: { open: input.bytes[0] === 1 } }; }
        function encodeDownlink(input) { return { fPort: 15, bytes: [0xc0, input.data.open ? 1 : 0] }; }";
    let codec = v1::SetCodecRequest { id: "valve".into(), script: script.into() };
    world.client.codecs.set_codec(codec).await.expect("a codec that compiles");
    let mut device = world.abp(1).await;
    let with_codec = v1::Device { codec_id: "valve".into(), ..story::device(dev_eui(1)) };
    let request = v1::UpdateDeviceRequest { device: Some(with_codec) };
    world.client.devices.update_device(request).await.expect("an update");
    let request = EnqueueDownlinkRequest {
        dev_eui: name(1),
        content: Some(Content::ObjectJson(r#"{"open": true}"#.into())),
        ..EnqueueDownlinkRequest::default()
    };

    let item = world.client.downlinks.enqueue_downlink(request).await.expect("an item").into_inner().downlink;
    let item = item.expect("the item");
    assert_eq!((item.f_port, item.payload.as_slice()), (15, [0xc0, 1].as_slice()));
    world.update(&item.id, DownlinkState::Queued).await;
    let on_air = world.send(&mut device, &[1]).await;

    assert_eq!(world.hear(&mut device, &on_air).await.payload, Some((15, vec![0xc0, 1])));
    let uplink = world.uplink_of(1).await;
    assert_eq!((uplink.object_json.as_str(), uplink.errors.len()), (r#"{"open":true}"#, 0));
}

/// FCNT-012.
#[tokio::test(flavor = "multi_thread")]
async fn in_1_1_the_application_counts_apart_from_the_network() {
    let mut world = World::with_profile(profile_of(Region::Eu868, MacVersion::MacVersion110), 1).await;
    let mut device = world.otaa(1).await;
    world.join(&mut device).await;
    let mut counters = Vec::new();
    // The network speaks, the application, the network, the application.
    for payload in [None, Some(b"one"), None, Some(b"two")] {
        if let Some(payload) = payload {
            world.enqueue(1, payload).await;
        }
        let on_air = world.send_confirmed(&mut device, b"awake").await;
        let heard = world.hear(&mut device, &on_air).await;
        assert!(heard.ack);
        assert_eq!(heard.payload.is_some(), payload.is_some());
        counters.push(heard.fcnt);
    }

    // Where a payload is asked for, the network's number is reserved as well; a gap in it is legal.
    assert_eq!((counters[1], counters[3]), (0, 1), "AFCntDown");
    assert!(counters[0] == 0 && counters[2] > 0, "NFCntDown: {counters:?}");
    let state = world.state(1).await;
    assert_eq!(state.afcnt_down, 2);
    assert!(state.fcnt_down > counters[2]);
}

const FORWARDER: u64 = 0xf1;

/// A joined device (RX1 after 5 s) that one hand-driven forwarder hears.
async fn field() -> (World, Forwarder, VirtualDevice) {
    let world = World::with_profile(profile_of(Region::Eu868, MacVersion::MacVersion103), 0).await;
    story::register_gateway(&world.client, FORWARDER, Region::Eu868).await;
    let gateway = Forwarder::connect(world.loam().udp, FORWARDER).await;
    let mut device = world.otaa(1).await;
    let request = device.join_request(0);
    gateway.push(&request, 1_000_000).await;
    let accept = gateway.pull_resp().await;
    assert_eq!(window(&request, 1_000_000, &accept), Some(1));
    gateway.tx_ack(accept.token, Some("NONE")).await;
    device.take_join_accept(&accept.phy_payload).expect("an accept");
    (world, gateway, device)
}

fn window(uplink: &Uplink, tmst_us: u32, asked: &PullResp) -> Option<u8> {
    uplink.window_hit(tmst_us, asked.tmst_us, asked.freq_hz, &asked.data_rate)
}

fn confirmed() -> EnqueueDownlinkRequest {
    EnqueueDownlinkRequest { confirmed: true, ..EnqueueDownlinkRequest::default() }
}

fn now_us() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros();
    i64::try_from(now).expect("before the year 294,000")
}

fn uplink_in(event: &v1::Event) -> Option<&v1::Uplink> {
    match &event.kind {
        Some(v1::event::Kind::Uplink(uplink)) => Some(uplink),
        _ => None,
    }
}

/// An item goes forward only, and its last state is its only end.
fn assert_in_order(states: &[DownlinkState]) {
    let step = |state: &DownlinkState| match state {
        DownlinkState::Queued => 0,
        DownlinkState::Leased => 1,
        DownlinkState::Sent => 2,
        DownlinkState::GatewayAcknowledged => 3,
        DownlinkState::Cancelled
        | DownlinkState::Deferred
        | DownlinkState::DeviceAcknowledged
        | DownlinkState::Expired
        | DownlinkState::Failed
        | DownlinkState::Unknown
        | DownlinkState::Unspecified => 4,
    };
    assert!(states.is_sorted_by_key(step), "{states:?}");
    let ends = states.iter().filter(|state| step(state) == 4).count();
    assert!(ends <= 1, "{states:?}");
}
