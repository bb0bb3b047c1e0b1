//! Joining over the air: versions, nonces, sessions that come and go, and what an operator sees of a refusal.

use loam_tests::world::{End, JOIN_EUI, World, dev_eui, name, profile_of};
use loam_tests::{eventually, story};
use mac::ids::{DevEui, JoinEui};
use mac::join_frame::JoinAccept;
use mac::region::RegionId;
use proto::v1::list_drops_response::Drop as Refusal;
use proto::v1::{self, DownlinkState, MacVersion, Region, event::Kind};
use simulator::device::{RootKeys, VirtualDevice};
use simulator::gateway::TxAnswer;

/// RXWIN-004, JOIN-009, FCNT-008.
#[tokio::test(flavor = "multi_thread")]
async fn a_1_0_3_device_joins_and_is_spoken_with() {
    joins_and_is_spoken_with(MacVersion::MacVersion103).await;
}

/// RXWIN-004, JOIN-009.
#[tokio::test(flavor = "multi_thread")]
async fn a_1_0_4_device_joins_and_is_spoken_with() {
    joins_and_is_spoken_with(MacVersion::MacVersion104).await;
}

/// RXWIN-004, JOIN-009, JOIN-010, MAC-037, CRYPTO-002, CRYPTO-004.
#[tokio::test(flavor = "multi_thread")]
async fn a_1_1_device_joins_and_is_spoken_with() {
    joins_and_is_spoken_with(MacVersion::MacVersion110).await;
}

async fn joins_and_is_spoken_with(version: MacVersion) {
    let mut world = World::with_profile(profile_of(Region::Eu868, version), 2).await;
    let mut device = world.otaa(1).await;

    let accept = world.join(&mut device).await;
    assert_eq!((accept.window, accept.delay_s), (1, 5));
    let said = world.read_accept(1, &accept);
    assert_eq!(said.dl_settings.opt_neg, version == MacVersion::MacVersion110);
    assert_eq!(said.rx_delay_s, 5);
    let join = world
        .find(|event| match &event.kind {
            Some(Kind::Join(join)) if event.dev_eui == name(1) => Some(join.clone()),
            _ => None,
        })
        .await;
    assert_eq!((join.mac_version(), join.dev_nonce), (version, 1));
    assert_eq!((join.join_eui, join.receptions.len()), (format!("{JOIN_EUI:016x}"), 2));
    assert_eq!(join.dev_addr, said.dev_addr.to_string());

    // Up, acknowledged; a 1.1 device says RekeyInd until it hears RekeyConf.
    let first = world.send_confirmed(&mut device, b"hello").await;
    let heard = world.hear(&mut device, &first).await;
    assert!(heard.ack);
    let rekey_conf = [0x0b, 0x01];
    assert_eq!(heard.commands, if version == MacVersion::MacVersion110 { &rekey_conf[..] } else { &[] });
    let uplink = world.uplink_of(1).await;
    assert_eq!((uplink.payload.as_slice(), uplink.raw_reason.as_str()), (b"hello".as_slice(), ""));
    assert_eq!((uplink.session_id, uplink.dev_addr), (join.session_id, join.dev_addr));

    // Down, and again up.
    let item = world.enqueue(1, b"open").await;
    let second = world.send(&mut device, b"anything for me?").await;
    let heard = world.hear(&mut device, &second).await;
    assert_eq!(heard.payload, Some((10, b"open".to_vec())));
    assert_eq!(heard.commands, b"", "RekeyConf was heard, so RekeyInd is not said again");
    world.update(&item.id, DownlinkState::GatewayAcknowledged).await;
    let state = world.state(1).await;
    assert_eq!((state.activation.as_str(), state.mac_version(), state.pending_sessions), ("otaa", version, 0));
    assert_eq!(state.fcnt_up, Some(1));
}

/// JOIN-011, REGION-023, RXWIN-002.
#[tokio::test(flavor = "multi_thread")]
async fn the_channels_of_the_profile_reach_the_device_with_the_accept() {
    let profile = v1::Profile {
        extra_channels_hz: vec![867_100_000, 867_300_000, 867_500_000],
        ..profile_of(Region::Eu868, MacVersion::MacVersion103)
    };
    let mut world = World::with_profile(profile, 1).await;
    let mut device = world.otaa(1).await;

    let accept = world.join(&mut device).await;
    assert!(world.read_accept(1, &accept).cf_list.is_some());
    // Channels 0 to 2 are the region's, the next ones the list's.
    let frame = device.uplink(4, Some((1, b"x")), true);
    assert_eq!(frame.freq_hz, 867_300_000);
    let on_air = world.carry(frame).await;

    let answer = world.answer(&on_air).await;
    let heard = device.take_downlink(&answer.transmission.phy_payload).expect("for this device");
    assert!(heard.ack);
    assert_eq!((answer.window, answer.transmission.freq_hz), (1, 867_300_000));
    assert_eq!(heard.commands, b"", "what the list said is not asked again");
    assert_eq!(world.uplink_of(1).await.frequency_hz, 867_300_000);
}

/// RXWIN-004, RXWIN-010.
#[tokio::test(flavor = "multi_thread")]
async fn a_join_accept_leaves_for_the_second_window_when_the_gateway_is_too_late_for_the_first() {
    let mut world = World::with_profile(profile_of(Region::Eu868, MacVersion::MacVersion103), 1).await;
    let mut device = world.otaa(1).await;
    world.gateway(0).answer_next(TxAnswer::Refuse("TOO_LATE"));

    let accept = world.join(&mut device).await;

    assert_eq!((accept.window, accept.delay_s), (2, 6));
    assert_eq!(
        (accept.transmission.freq_hz, accept.transmission.data_rate.as_str()),
        (869_525_000, "SF12BW125")
    );
}

// ---- sessions --------------------------------------------------------------------------------------------------------

/// JOIN-006.
#[tokio::test(flavor = "multi_thread")]
async fn the_old_session_lives_until_the_new_one_speaks() {
    let mut world = World::with_profile(profile_of(Region::Eu868, MacVersion::MacVersion103), 1).await;
    let mut device = world.joined(1).await;
    let mut old = device.clone();

    // An accept is on its way; whether the device has heard it nobody knows.
    world.join(&mut device).await;
    world.send(&mut old, b"still here").await;
    assert_eq!(world.uplink_of(1).await.payload, b"still here");
    let state = world.state(1).await;
    assert_eq!((state.pending_sessions, state.dev_addr), (1, old.dev_addr().expect("a session").to_string()));

    world.send(&mut device, b"here again").await;
    let uplink = world.uplink_of(1).await;
    assert_eq!((uplink.fcnt_up, uplink.payload.as_slice()), (0, b"here again".as_slice()));
    let state = world.state(1).await;
    assert_eq!(
        (state.pending_sessions, state.dev_addr),
        (0, device.dev_addr().expect("a session").to_string())
    );

    let dead = old.dev_addr().expect("a session").to_string();
    world.send(&mut old, b"a ghost").await;
    let refusal = refusal_where(&world, |drop| drop.dev_addr == dead).await;
    assert_eq!(refusal.reason, "unknown_dev_addr");
}

/// JOIN-003, JOIN-006: also across a power cut.
#[tokio::test(flavor = "multi_thread")]
async fn both_sessions_survive_a_kill_between_accept_and_first_uplink() {
    let mut world = World::with_profile(profile_of(Region::Eu868, MacVersion::MacVersion103), 1).await;
    let mut device = world.joined(1).await;
    let mut old = device.clone();
    world.join(&mut device).await;

    world.restart(End::Kill).await;

    world.send(&mut old, b"old").await;
    assert_eq!(world.uplink_of(1).await.payload, b"old");
    world.send(&mut device, b"new").await;
    assert_eq!(world.uplink_of(1).await.payload, b"new");
}

/// JOIN-005, JOIN-014.
#[tokio::test(flavor = "multi_thread")]
async fn the_join_nonce_rises_across_restarts() {
    let mut world = World::with_profile(profile_of(Region::Eu868, MacVersion::MacVersion103), 1).await;
    let mut device = world.otaa(1).await;
    let mut nonces = Vec::new();

    for end in [Some(End::Kill), Some(End::Terminate), None] {
        // The device itself refuses a nonce that does not rise.
        let accept = world.join(&mut device).await;
        nonces.push(world.read_accept(1, &accept).join_nonce.value());
        if let Some(end) = end {
            world.restart(end).await;
        }
    }

    assert!(nonces.is_sorted_by(|a, b| a < b), "{nonces:?}");
    assert_eq!(keys_status(&world).await.dev_nonces_used, 3);
}

/// JOIN-022: nobody has to join again because the server was away.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_every_joined_device_goes_on_without_a_join() {
    let mut world = World::with_profile(profile_of(Region::Eu868, MacVersion::MacVersion103), 1).await;
    let mut devices = Vec::new();
    for number in 1..=3 {
        devices.push((number, world.joined(number).await));
    }

    for end in [End::Terminate, End::Kill] {
        world.restart(end).await;
        for (number, device) in &mut devices {
            let fcnt = device.next_fcnt_up();
            let on_air = world.send_confirmed(device, b"still here").await;
            assert!(world.hear(device, &on_air).await.ack);
            assert_eq!(world.uplink_of(*number).await.fcnt_up, fcnt);
        }
    }

    let joins = world.seen.iter().filter(|event| matches!(event.kind, Some(Kind::Join(_)))).count();
    assert_eq!(joins, 3);
    for number in 1..=3 {
        assert!(world.drops(number).await.is_empty());
    }
}

/// MAC-038: a 1.1 session is there with RekeyInd, and one that the device has left for another one does not come back.
#[tokio::test(flavor = "multi_thread")]
async fn a_1_1_session_that_was_given_up_does_not_come_back() {
    let mut world = World::with_profile(profile_of(Region::Eu868, MacVersion::MacVersion110), 1).await;
    let mut device = world.otaa(1).await;
    world.join(&mut device).await;
    // Its first frame is recorded and never arrives; the device gives up and joins again.
    let mut given_up = device.clone();
    world.join(&mut device).await;
    let on_air = world.send_confirmed(&mut device, b"here").await;
    world.hear(&mut device, &on_air).await;
    let session = world.uplink_of(1).await.session_id;

    let dead = given_up.dev_addr().expect("a session").to_string();
    world.send(&mut given_up, b"with RekeyInd").await;

    let refusal = refusal_where(&world, |drop| drop.dev_addr == dead).await;
    assert_eq!(refusal.reason, "unknown_dev_addr");
    let state = world.state(1).await;
    assert_eq!((state.session_id, state.pending_sessions), (session, 0));
}

/// CRYPTO-005, CRYPTO-015: a device that could speak 1.1 is registered for 1.0.x with its NwkKey.
#[tokio::test(flavor = "multi_thread")]
async fn a_1_1_device_on_a_network_of_1_0_speaks_1_0() {
    let mut world = World::with_profile(profile_of(Region::Eu868, MacVersion::MacVersion103), 1).await;
    let nwk_key = *b"\x8a\x3f\x5c\x1e\x9b\x7d\x20\x46\xe1\xc8\xa9\x7f\x3b\x5d\x60\x24";
    let registered = v1::Device { join_eui: format!("{JOIN_EUI:016x}"), ..story::device(dev_eui(1)) };
    let keys = v1::RootKeys { app_key: story::hex(&nwk_key), nwk_key: String::new() };
    story::register(&world.client, registered, Some(keys)).await;
    let mut device = otaa(dev_eui(1), RootKeys { app_key: [0x77; 16], nwk_key: Some(nwk_key) });

    let accept = world.join(&mut device).await;

    let said = JoinAccept::open(&accept.transmission.phy_payload, &nwk_key).expect("a Join-Accept").accept;
    assert!(!said.dl_settings.opt_neg);
    let on_air = world.send_confirmed(&mut device, b"hello").await;
    let heard = world.hear(&mut device, &on_air).await;
    assert!(heard.ack && heard.commands.is_empty());
    let uplink = world.uplink_of(1).await;
    assert_eq!((uplink.payload.as_slice(), uplink.raw_reason.as_str()), (b"hello".as_slice(), ""));
}

// ---- nonces ----------------------------------------------------------------------------------------------------------

/// JOIN-002.
#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_join_request_gets_no_second_session() {
    let mut world = World::with_profile(profile_of(Region::Eu868, MacVersion::MacVersion103), 1).await;
    let mut device = world.otaa(1).await;
    let first = device.join_request(0);
    let on_air = world.carry(first.clone()).await;
    let accept = world.answer(&on_air).await;
    device.take_join_accept(&accept.transmission.phy_payload).expect("an accept");
    world.send(&mut device, b"one").await;
    world.uplink_of(1).await;
    world.join(&mut device).await;
    world.send(&mut device, b"two").await;
    let session = world.uplink_of(1).await.session_id;

    world.carry(first).await;

    world.refusal(1, "dev_nonce_used").await;
    let state = world.state(1).await;
    assert_eq!((state.session_id, state.pending_sessions), (session, 0));
    assert_eq!(keys_status(&world).await.dev_nonces_used, 2);
    let next = world.send_confirmed(&mut device, b"three").await;
    assert!(world.hear(&mut device, &next).await.ack, "the next downlink is this one: the replay got none");
    let joins = world.seen.iter().filter(|event| matches!(event.kind, Some(Kind::Join(_)))).count();
    assert_eq!(joins, 2);
}

/// JOIN-021.
#[tokio::test(flavor = "multi_thread")]
async fn the_copies_of_a_join_request_get_one_accept() {
    let mut world = World::with_profile(profile_of(Region::Eu868, MacVersion::MacVersion103), 3).await;
    let mut device = world.joined(1).await;

    let next = world.send_confirmed(&mut device, b"x").await;

    assert!(world.hear(&mut device, &next).await.ack, "the next downlink is this one: there was one accept");
    assert_eq!(keys_status(&world).await.dev_nonces_used, 1);
}

/// JOIN-021: also a copy that comes when the accept has left.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_copy_of_a_join_request_gets_no_accept_of_its_own() {
    let mut world = World::with_profile(profile_of(Region::Eu868, MacVersion::MacVersion103), 2).await;
    let mut device = world.otaa(1).await;
    let request = device.join_request(0);
    let on_air = world.carry_by(&[0], request.clone()).await;
    let accept = world.answer(&on_air).await;
    device.take_join_accept(&accept.transmission.phy_payload).expect("an accept");

    world.carry_by(&[1], request).await;

    let next = world.send_confirmed(&mut device, b"x").await;
    assert!(world.hear(&mut device, &next).await.ack, "the next downlink is this one: there was one accept");
    assert_eq!(keys_status(&world).await.dev_nonces_used, 1);
    world.uplink_of(1).await;
    let joins = world.seen.iter().filter(|event| matches!(event.kind, Some(Kind::Join(_)))).count();
    assert_eq!(joins, 1);
}

/// JOIN-001.
#[tokio::test(flavor = "multi_thread")]
async fn from_1_0_4_on_a_dev_nonce_has_to_rise() {
    let mut world = World::with_profile(profile_of(Region::Eu868, MacVersion::MacVersion104), 1).await;
    let mut device = world.otaa(1).await;
    device.set_next_dev_nonce(5);
    world.join(&mut device).await;

    device.set_next_dev_nonce(4);
    let late = device.join_request(0);
    world.carry(late).await;
    let refusal = world.refusal(1, "dev_nonce_not_rising").await;
    assert!(refusal.detail.contains('4') && refusal.detail.contains('5'), "{refusal:?}");

    device.set_next_dev_nonce(60_000);
    world.join(&mut device).await;
    assert_eq!(keys_status(&world).await.last_dev_nonce, Some(60_000));
}

// ---- refusals an operator can act on ---------------------------------------------------------------------------------------

/// JOIN-004, JOIN-007.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_named_and_leaves_nothing_behind() {
    let mut world = World::with_profile(profile_of(Region::Eu868, MacVersion::MacVersion103), 1).await;
    let mut device = world.otaa(1).await;
    let mut reversed = world.root_keys(1).app_key;
    reversed.reverse();

    for (app_key, hint) in [([0x55; 16], "loam keys set"), (reversed, "other byte order")] {
        let mut wrong = otaa(dev_eui(1), RootKeys { app_key, nwk_key: None });
        world.carry(wrong.join_request(0)).await;
        let refusal = refusal_where(&world, |drop| drop.hint.contains(hint)).await;
        assert_eq!((refusal.reason.as_str(), refusal.dev_eui), ("join_mic_mismatch", name(1)));
    }

    let state = world.state(1).await;
    assert_eq!((state.has_session, state.pending_sessions), (false, 0));
    let status = keys_status(&world).await;
    assert_eq!((status.dev_nonces_used, status.last_dev_nonce), (0, None));
    // The same nonce with the right key joins.
    assert_eq!(world.join(&mut device).await.window, 1);
}

/// BACKEND-001.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_device_is_shown_with_the_command_that_registers_it() {
    let world = World::with_profile(profile_of(Region::Eu868, MacVersion::MacVersion103), 1).await;
    let mut stranger = otaa(0x0011_2233_4455_6677, RootKeys { app_key: [7; 16], nwk_key: None });

    world.carry(stranger.join_request(0)).await;

    let refusal = refusal_where(&world, |drop| drop.reason == "device_unknown").await;
    assert_eq!(refusal.dev_eui, "0011223344556677");
    let command = format!("loam device create 0011223344556677 --join-eui {JOIN_EUI:016x}");
    assert!(refusal.hint.contains(&command), "{}", refusal.hint);
    let (code, out, err) = world.loam().cli(&["events", "drops"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("device_unknown") && out.contains(&command), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_asks_for_another_join_eui_is_told_apart() {
    let world = World::with_profile(profile_of(Region::Eu868, MacVersion::MacVersion103), 1).await;
    world.otaa(1).await;
    let root = world.root_keys(1);
    let mut device = VirtualDevice::otaa(DevEui::new(dev_eui(1)), JoinEui::new(0x99), RegionId::Eu868, root);

    world.carry(device.join_request(0)).await;

    world.refusal(1, "join_eui_mismatch").await;
    assert_eq!(keys_status(&world).await.dev_nonces_used, 0);
}

fn otaa(dev_eui: u64, root: RootKeys) -> VirtualDevice {
    VirtualDevice::otaa(DevEui::new(dev_eui), JoinEui::new(JOIN_EUI), RegionId::Eu868, root)
}

async fn keys_status(world: &World) -> v1::GetKeysStatusResponse {
    let request = v1::GetKeysStatusRequest { dev_eui: name(1) };
    world.client.clone().devices.get_keys_status(request).await.expect("a registered device").into_inner()
}

/// Waits for a refused frame of any device.
async fn refusal_where(world: &World, wanted: impl Fn(&Refusal) -> bool) -> Refusal {
    eventually("a refusal", async || {
        let list =
            world.client.clone().events.list_drops(v1::ListDropsRequest::default()).await.expect("a list");
        list.into_inner().drops.into_iter().find(&wanted)
    })
    .await
}
