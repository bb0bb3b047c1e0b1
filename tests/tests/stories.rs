//! What becomes of an uplink, told with the real binary: copies, repetitions, replays, counters, MAC commands.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use loam_tests::forwarder::Forwarder;
use loam_tests::story;
use loam_tests::world::{World, dev_eui, gateway_eui, name, network_keys, profile_of};
use mac::crypto::{Direction, crypt_frm_payload};
use mac::ids::{DevAddr, FCntUp};
use mac::phy::UplinkFrame;
use proto::v1::{self, DownlinkState, MacVersion, Region, event::Kind};
use simulator::device::{Uplink, VirtualDevice};
use simulator::gateway::{TxAnswer, VirtualGateway};

/// DEDUP-001.
#[tokio::test(flavor = "multi_thread")]
async fn the_copies_of_three_gateways_are_one_uplink_with_three_receptions() {
    let mut world = World::start(Region::Eu868, 3).await;
    let mut device = world.abp(1).await;

    world.send(&mut device, b"21.5").await;

    let uplink = world.uplink_of(1).await;
    assert_eq!((uplink.fcnt_up, uplink.f_port, uplink.payload.as_slice()), (0, Some(1), b"21.5".as_slice()));
    let mut heard: Vec<&str> = uplink.receptions.iter().map(|r| r.gateway_eui.as_str()).collect();
    heard.sort_unstable();
    assert_eq!(heard, [1, 2, 3].map(|n| format!("{:016x}", gateway_eui(n))));
    assert!(uplink.receptions.iter().all(|reception| !reception.late));

    world.send(&mut device, b"21.6").await;
    assert_eq!(world.uplink_of(1).await.fcnt_up, 1);
    assert_eq!(world.counters_seen(1), [0, 1], "a copy became an uplink of its own");
}

/// DEDUP-001.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_after_the_window_completes_the_receptions_and_is_no_second_uplink() {
    let profile = profile_of(Region::Eu868, MacVersion::MacVersion103);
    let mut world = World::with_profile(profile, 3).await;
    let mut device = world.joined(1).await;
    let frame = device.uplink(0, Some((1, b"21.5")), false);

    world.carry_by(&[0, 1], frame.clone()).await;
    assert_eq!(world.uplink_of(1).await.receptions.len(), 2);
    world.carry_by(&[2], frame).await;

    let late = world
        .find(|event| match &event.kind {
            Some(Kind::Receptions(receptions)) => Some(receptions.clone()),
            _ => None,
        })
        .await;
    assert_eq!(late.fcnt_up, 1);
    let [reception] = late.receptions.as_slice() else { panic!("one reception: {late:?}") };
    assert_eq!(reception.gateway_eui, format!("{:016x}", gateway_eui(3)));
    assert!(reception.late);
    world.send(&mut device, b"21.6").await;
    world.uplink_of(1).await;
    assert_eq!(world.counters_seen(1), [0, 1, 2]);
}

/// FCNT-003, FCNT-005, ACK-010.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_confirmed_uplink_is_acknowledged_again_with_another_counter_and_not_delivered_again() {
    let mut world = World::start(Region::Eu868, 1).await;
    let mut device = world.abp(1).await;
    let frame = device.uplink(0, Some((1, b"on")), true);

    // The first acknowledgement is lost on air.
    let first = world.carry(frame.clone()).await;
    let lost = world.answer(&first).await;
    let repeated = world.carry(frame).await;
    let heard = world.hear(&mut device, &repeated).await;

    assert!(heard.ack);
    assert_eq!(heard.fcnt, 1, "a new FCntDown");
    assert_ne!(lost.transmission.phy_payload.get(6..8), Some([1, 0].as_slice()), "the lost one had another");
    world.send(&mut device, b"off").await;
    world.uplink_of(1).await;
    world.uplink_of(1).await;
    assert_eq!(world.counters_seen(1), [0, 1]);
    assert!(world.drops(1).await.is_empty());
}

/// FCNT-003, ACK-010: also when so much time has passed that nobody remembers the copies.
#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_is_recognised_after_its_copies_are_forgotten() {
    let mut world = World::start(Region::Eu868, 2).await;
    let mut device = world.abp(1).await;
    let item = world.enqueue(1, b"open").await;
    let frame = device.uplink(0, Some((1, b"on")), true);
    world.gateway(0).answer_next(TxAnswer::Silent);
    let first = world.carry_by(&[0], frame.clone()).await;
    world.answer(&first).await;
    // A gateway that says nothing is waited for longer than for a copy.
    world.update(&item.id, DownlinkState::Unknown).await;

    let repeated = world.carry_by(&[1], frame).await;

    assert!(world.hear(&mut device, &repeated).await.ack);
    world.send(&mut device, b"off").await;
    world.uplink_of(1).await;
    assert_eq!(world.counters_seen(1), [0, 1]);
    let is_late = |event: &v1::Event| matches!(event.kind, Some(Kind::Receptions(_)));
    assert!(!world.seen.iter().any(is_late), "it was taken for a copy");
}

/// FCNT-004.
#[tokio::test(flavor = "multi_thread")]
async fn a_frame_repeated_without_end_is_acknowledged_eight_times_and_told_once() {
    let mut world = World::start(Region::Eu868, 1).await;
    let mut device = world.abp(1).await;
    let frame = device.uplink(0, Some((1, b"on")), true);

    for _ in 0..8 {
        let on_air = world.carry(frame.clone()).await;
        assert!(world.hear(&mut device, &on_air).await.ack);
    }
    world.carry(frame.clone()).await;
    world.carry(frame).await;

    world.note("nb_trans_exceeded").await;
    world.refusal(1, "nb_trans_exceeded").await;
    let next = world.send_confirmed(&mut device, b"off").await;
    let heard = world.hear(&mut device, &next).await;
    assert_eq!(heard.fcnt, 8, "the excess took no counter");
    world.uplink_of(1).await;
    assert_eq!(world.counters_seen(1), [0, 1]);
    let notes = world.seen.iter().filter(|event| matches!(event.kind, Some(Kind::Error(_)))).count();
    assert_eq!(notes, 1);
}

/// FCNT-001, FCNT-007.
#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_frame_is_refused_as_a_replay_and_changes_nothing() {
    let mut world = World::start(Region::Eu868, 1).await;
    let mut device = world.abp(1).await;
    let recorded = world.send_confirmed(&mut device, b"open").await;
    world.hear(&mut device, &recorded).await;
    world.send(&mut device, b"closed").await;
    for _ in 0..2 {
        world.uplink_of(1).await;
    }
    let before = world.state(1).await;

    world.carry(recorded.uplink).await;

    let refusal = world.refusal(1, "fcnt_replayed").await;
    assert_eq!(refusal.fcnt, Some(0));
    assert!(!refusal.hint.is_empty());
    assert_eq!(world.state(1).await, before);
    world.send(&mut device, b"still closed").await;
    world.uplink_of(1).await;
    assert_eq!(world.counters_seen(1), [0, 1, 2]);
    assert!(world.is_silent(), "a replay was answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_devices_on_one_dev_addr_are_told_apart_by_their_keys() {
    let mut world = World::start(Region::Eu868, 1).await;
    let mut one = world.abp_at(1, 0x0100_0042).await;
    let mut other = world.abp_at(2, 0x0100_0042).await;

    world.send(&mut one, b"one").await;
    world.send(&mut other, b"other").await;
    let mut told = Vec::new();
    for _ in 0..2 {
        let uplink = world.find(|event| match &event.kind {
            Some(Kind::Uplink(uplink)) => Some((event.dev_eui.clone(), uplink.payload.clone())),
            _ => None,
        });
        told.push(uplink.await);
    }
    told.sort();

    assert_eq!(told, [(name(1), b"one".to_vec()), (name(2), b"other".to_vec())]);
    assert!(world.drops(1).await.is_empty());
}

// ---- counters ------------------------------------------------------------------------------------------------------

/// FCNT-002.
#[tokio::test(flavor = "multi_thread")]
async fn a_counter_rolls_over_its_low_half_and_is_told_whole() {
    let mut world = World::start(Region::Eu868, 1).await;
    let counters = v1::ActivateDeviceRequest { fcnt_up: Some(0xfffe), ..v1::ActivateDeviceRequest::default() };
    let mut device = world.activated(1, 0x0100_0001, counters).await;
    device.set_next_fcnt_up(0xffff);

    world.send(&mut device, b"last").await;
    assert_eq!(world.uplink_of(1).await.fcnt_up, 0xffff);
    world.send(&mut device, b"first").await;

    let uplink = world.uplink_of(1).await;
    assert_eq!((uplink.fcnt_up, uplink.payload.as_slice()), (0x1_0000, b"first".as_slice()));
    assert_eq!(world.state(1).await.fcnt_up, Some(0x1_0000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_uplink_may_carry_counter_1() {
    let mut world = World::start(Region::Eu868, 1).await;
    let mut device = world.abp(1).await;
    device.set_next_fcnt_up(1);

    world.send(&mut device, b"hello").await;

    assert_eq!(world.uplink_of(1).await.fcnt_up, 1);
}

/// FCNT-006.
#[tokio::test(flavor = "multi_thread")]
async fn a_counter_far_ahead_is_refused_up_to_1_0_3() {
    let mut world = World::start(Region::Eu868, 1).await;
    let mut device = world.abp(1).await;
    world.send(&mut device, b"here").await;
    world.uplink_of(1).await;

    device.set_next_fcnt_up(16_384);
    world.send(&mut device, b"far").await;

    assert_eq!(world.refusal(1, "fcnt_too_far").await.fcnt, Some(16_384));
    assert_eq!(world.state(1).await.fcnt_up, Some(0));
    device.set_next_fcnt_up(16_383);
    world.send(&mut device, b"near").await;
    assert_eq!(world.uplink_of(1).await.fcnt_up, 16_383);
}

/// FCNT-006.
#[tokio::test(flavor = "multi_thread")]
async fn a_counter_far_ahead_is_taken_from_1_0_4_on() {
    let profile = v1::Profile { rx_delay_s: 1, ..profile_of(Region::Eu868, MacVersion::MacVersion104) };
    let mut world = World::with_profile(profile, 1).await;
    let mut device = world.abp(1).await;
    world.send(&mut device, b"here").await;
    world.uplink_of(1).await;

    device.set_next_fcnt_up(30_000);
    world.send(&mut device, b"far").await;

    assert_eq!(world.uplink_of(1).await.fcnt_up, 30_000);
}

/// FCNT-007.
#[tokio::test(flavor = "multi_thread")]
async fn a_counter_starts_again_only_where_it_is_allowed_and_that_is_told() {
    let mut world = World::start(Region::Eu868, 1).await;
    let mut device = world.abp(1).await;
    device.set_next_fcnt_up(7);
    world.send(&mut device, b"before").await;
    world.uplink_of(1).await;

    device.set_next_fcnt_up(0);
    world.send(&mut device, b"refused").await;
    world.refusal(1, "fcnt_replayed").await;
    let allowed = v1::Device { allow_fcnt_reset: true, ..story::device(dev_eui(1)) };
    let request = v1::UpdateDeviceRequest { device: Some(allowed) };
    world.client.devices.update_device(request).await.expect("an update");
    device.set_next_fcnt_up(0);
    world.send(&mut device, b"taken").await;

    let uplink = world.uplink_of(1).await;
    assert_eq!((uplink.fcnt_up, uplink.payload.as_slice()), (0, b"taken".as_slice()));
    let note = world.note("fcnt_reset").await;
    assert!(note.message.contains('0'), "{note:?}");
    assert_eq!(world.counters_seen(1), [7, 0]);
}

// ---- frames that are short, foreign or the network's own ------------------------------------------------------------

/// PARSE-004.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_frame_is_an_uplink() {
    let mut world = World::start(Region::Eu868, 1).await;
    let mut device = world.abp(1).await;

    let frame = device.uplink(0, None, false);
    assert_eq!(frame.phy_payload.len(), 12);
    world.carry(frame).await;

    let uplink = world.uplink_of(1).await;
    assert_eq!((uplink.fcnt_up, uplink.f_port, uplink.payload.as_slice()), (0, None, b"".as_slice()));
    assert_eq!(world.state(1).await.fcnt_up, Some(0));
}

/// PARSE-009, MAC-044.
#[tokio::test(flavor = "multi_thread")]
async fn mac_commands_on_port_0_are_obeyed_and_never_delivered() {
    let mut world = World::start(Region::Eu868, 1).await;
    let mut device = world.abp(1).await;
    let mut commands = vec![LINK_CHECK_REQ];
    let dev_addr = device.dev_addr().expect("a session");
    let keys = network_keys(1);
    crypt_frm_payload(keys.nwk_s_enc.expose(), Direction::Up, dev_addr, 0, &mut commands);
    let frame = UplinkFrame { f_port: Some(0), frm_payload: commands, ..plain(dev_addr, 0) };

    let on_air = world.carry(sealed(&mut device, 1, frame)).await;

    let heard = world.hear(&mut device, &on_air).await;
    assert_eq!(heard.commands.first(), Some(&LINK_CHECK_ANS));
    let uplink = world.uplink_of(1).await;
    assert_eq!(uplink.f_port, Some(0));
    assert!(uplink.payload.is_empty() && uplink.encrypted_payload.is_empty() && uplink.object_json.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_of_another_region_is_refused_by_name() {
    let mut world = World::start(Region::Eu868, 1).await;
    let mut device = world.abp(1).await;
    let mut frame = device.uplink(0, Some((1, b"far from home")), false);
    frame.freq_hz = 903_900_000;

    world.carry(frame).await;

    let refusal = world.refusal(1, "wrong_region").await;
    assert_eq!(refusal.frequency_hz, 903_900_000);
    assert_eq!(world.state(1).await.fcnt_up, None);
    world.send(&mut device, b"home").await;
    world.uplink_of(1).await;
    assert_eq!(world.counters_seen(1), [1]);
}

// ---- MAC commands ---------------------------------------------------------------------------------------------------

/// MAC-001, MAC-010, MAC-011, MAC-033.
#[tokio::test(flavor = "multi_thread")]
async fn link_check_and_device_time_are_answered_in_the_order_they_were_asked() {
    let mut world = World::start(Region::Eu868, 3).await;
    let mut device = world.abp(1).await;
    device.requests = vec![LINK_CHECK_REQ, DEVICE_TIME_REQ];

    let on_air = world.send(&mut device, b"what time is it?").await;

    let heard = world.hear(&mut device, &on_air).await;
    let [LINK_CHECK_ANS, margin_db, gateways, DEVICE_TIME_ANS, seconds @ .., fraction] =
        heard.commands.as_slice()
    else {
        panic!("{:02x?}", heard.commands)
    };
    // SF7 is heard down to -7.5 dB, the best gateway has 7 dB.
    assert!((14..=15).contains(margin_db), "{margin_db}");
    assert_eq!(*gateways, 3);
    let seconds = u32::from_le_bytes(seconds.try_into().expect("four bytes"));
    let told_s = f64::from(seconds) + f64::from(*fraction) / 256.0;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
    // From the Unix to the GPS epoch, and the leap seconds since. The answer takes a while.
    let age_s = now - 315_964_800.0 + 18.0 - told_s;
    assert!((-1.0..5.0).contains(&age_s), "{age_s} s off");
}

/// MAC-033: the time a device is told is that of the end of its frame, not of the answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_told_the_time_of_the_end_of_its_frame() {
    let mut world = World::start(Region::Eu868, 1).await;
    let mut device = world.abp(1).await;
    device.requests = vec![DEVICE_TIME_REQ];
    let on_air = world.send(&mut device, b"").await;

    let heard = world.hear(&mut device, &on_air).await;

    let came_us = world.uplink_of(1).await.receptions.first().expect("a reception").received_at_us;
    let off_s = told_s(&heard.commands) - gps_s(came_us);
    assert!(off_s.abs() < 0.1, "{off_s} s off");
}

/// MAC-033, MAC-035: a gateway far away brings the frame late, which is no part of the time it was heard.
#[tokio::test(flavor = "multi_thread")]
async fn the_way_from_a_distant_gateway_is_no_part_of_the_time_a_device_is_told() {
    let mut world = World::start(Region::Eu868, 0).await;
    story::register_gateway(&world.client, 0xf1, Region::Eu868).await;
    let gateway = Forwarder::connect(world.loam().udp, 0xf1).await;
    let mut device = world.abp(1).await;
    let first = device.uplink(0, Some((1, b"hello")), true);
    gateway.push(&first, 1_000_000).await;
    let asked = gateway.pull_resp().await;
    // 250 ms there and 250 ms back.
    story::pause(Duration::from_millis(500)).await;
    gateway.tx_ack(asked.token, Some("NONE")).await;
    device.take_downlink(&asked.phy_payload).expect("for this device");
    world.uplink_of(1).await;

    device.requests = vec![DEVICE_TIME_REQ];
    let asks = device.uplink(0, Some((1, b"what time is it?")), false);
    gateway.push(&asks, 20_000_000).await;

    let answer = gateway.pull_resp().await;
    let heard = device.take_downlink(&answer.phy_payload).expect("for this device");
    let came_us = world.uplink_of(1).await.receptions.first().expect("a reception").received_at_us;
    let sent_s = told_s(&heard.commands) - gps_s(came_us);
    assert!((-0.35..-0.2).contains(&sent_s), "{sent_s} s from when it came");
}

/// MAC-018.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_asks_for_a_sign_of_life_gets_one() {
    let mut world = World::start(Region::Eu868, 1).await;
    let mut device = world.abp(1).await;
    let dev_addr = device.dev_addr().expect("a session");
    let asks = UplinkFrame { adr: true, adr_ack_req: true, ..plain(dev_addr, 0) };

    let on_air = world.carry(sealed(&mut device, 1, asks)).await;

    let heard = world.hear(&mut device, &on_air).await;
    assert!(!heard.ack, "nothing was confirmed");
}

/// MAC-024.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_asked_for_its_status_and_the_answer_is_an_event() {
    let profile = v1::Profile { device_status_interval_s: 3_600, ..story::profile(Region::Eu868) };
    let mut world = World::with_profile(profile, 1).await;
    let mut device = world.abp(1).await;

    let asked = world.send(&mut device, b"one").await;
    let heard = world.hear(&mut device, &asked).await;
    assert_eq!(heard.commands, [DEV_STATUS_REQ]);
    world.send(&mut device, b"two").await;

    let status = world
        .find(|event| match &event.kind {
            Some(Kind::DeviceStatus(status)) => Some(*status),
            _ => None,
        })
        .await;
    assert_eq!((status.battery, status.margin_db), (200, 7));
    let state = world.state(1).await;
    assert_eq!((state.battery, state.margin_db), (Some(200), Some(7)));
    // It is not asked again before the interval is over.
    let next = world.send_confirmed(&mut device, b"three").await;
    assert_eq!(world.hear(&mut device, &next).await.commands, b"");
}

/// RXWIN-011.
#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_a_downlink_wraps_with_the_gateways_counter() {
    let mut world = World::start(Region::Eu868, 1).await;
    let mut device = world.abp(1).await;
    let frame = device.uplink(0, Some((1, b"late in the hour")), true);

    let on_air = world.carry_at(&[0], frame, |_: &VirtualGateway| 0xffff_f000).await;

    let answer = world.answer(&on_air).await;
    let expected = if answer.window == 1 { 0x000f_3240 } else { 0x001e_7480 };
    assert_eq!(answer.transmission.tmst_us, Some(expected));
}

/// AS-004.
#[tokio::test(flavor = "multi_thread")]
async fn every_event_of_a_frame_carries_what_a_consumer_sorts_by() {
    let mut world = World::start(Region::Eu868, 1).await;
    let mut device = world.abp(1).await;

    world.send(&mut device, b"x").await;

    let event = world.find(|event| matches!(event.kind, Some(Kind::Uplink(_))).then(|| event.clone())).await;
    let Some(Kind::Uplink(uplink)) = &event.kind else { panic!("an uplink") };
    assert_eq!(event.application_id, story::APPLICATION);
    assert_eq!(event.device_name, format!("device {:x}", dev_eui(1)));
    assert_eq!(event.id, format!("{:016x}-{:08x}-up", uplink.session_id, 0));
    assert!(event.received_at_us > 0 && uplink.airtime_us > 0);
    let modulation = uplink.modulation.clone().expect("a modulation");
    assert_eq!(modulation.data_rate, Some(5));
    let Some(v1::modulation::Kind::Lora(lora)) = modulation.kind else { panic!("LoRa") };
    assert_eq!((lora.spreading_factor, lora.bandwidth_hz, lora.coding_rate.as_str()), (7, 125_000, "4/5"));
}

const LINK_CHECK_REQ: u8 = 0x02;
const LINK_CHECK_ANS: u8 = 0x02;
const DEV_STATUS_REQ: u8 = 0x06;
const DEVICE_TIME_REQ: u8 = 0x0d;
const DEVICE_TIME_ANS: u8 = 0x0d;

/// The time in a DeviceTimeAns, GPS seconds.
fn told_s(commands: &[u8]) -> f64 {
    let [DEVICE_TIME_ANS, s0, s1, s2, s3, fraction] = *commands else { panic!("{commands:02x?}") };
    f64::from(u32::from_le_bytes([s0, s1, s2, s3])) + f64::from(fraction) / 256.0
}

/// Unix microseconds as GPS seconds.
fn gps_s(unix_us: i64) -> f64 {
    Duration::from_micros(mac::gps::gps_from_unix_us(unix_us).unsigned_abs()).as_secs_f64()
}

fn plain(dev_addr: DevAddr, fcnt: u32) -> UplinkFrame {
    UplinkFrame {
        confirmed: false,
        dev_addr,
        adr: false,
        adr_ack_req: false,
        ack: false,
        class_b: false,
        fcnt: FCntUp::new(fcnt),
        fopts: Vec::new(),
        f_port: None,
        frm_payload: Vec::new(),
    }
}

/// A frame the device itself would not make, on the channel and with the windows of its next one.
fn sealed(device: &mut VirtualDevice, number: u64, frame: UplinkFrame) -> Uplink {
    let mut uplink = device.uplink(0, None, false);
    uplink.phy_payload = frame.seal(&network_keys(number), None).expect("a frame");
    uplink
}
