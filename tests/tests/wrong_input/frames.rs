//! Frames of LoRaWAN that are not to be taken, or not whole.

use std::collections::BTreeMap;

use loam_tests::Client;
use loam_tests::story::{self, DEV_ADDR, DEVICE, GATEWAY, Stand, Stream, hex};
use mac::region::DataRate;
use proto::v1::{self, event};
use simulator::device::VirtualDevice;
use tonic::Code;

use crate::{MODERN_PROFILE, counts_agree, create_modern_profile, device_state};

/// FCNT-001, FCNT-006, FCNT-016, CRYPTO-001, REGION-024: no frame changes anything before it is found genuine and new.
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
        assert_eq!(
            (drop.gateway_eui.as_str(), drop.frequency_hz),
            (&*format!("{GATEWAY:016x}"), uplink.freq_hz)
        );
        assert!(drop.hint.len() > 10, "{drop:?}");
        if reason != "unknown_dev_addr" {
            assert_eq!(drop.dev_eui, format!("{DEVICE:016x}"), "{reason} is bound to its device");
        }
        if fcnt.is_some() {
            assert_eq!(drop.fcnt, fcnt, "{reason}");
        }
    }

    // A person who asks for the device sees each, and what to do.
    let (code, told, err) = stand.loam.cli(&["events", "drops", "--device", &format!("{DEVICE:016x}")]);
    assert_eq!(code, 0, "{err}");
    for reason in expected.keys().filter(|reason| *reason != "unknown_dev_addr") {
        assert!(told.contains(&format!("\n{reason}: ")), "{reason} and its hint in {told}");
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

/// MAC-007, MAC-043: the application's bytes behind commands that are cut off are the application's all the same.
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

/// PARSE-020, REGION-013: a frame longer than its data rate carries is not taken from devices whose version says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_too_long_is_refused_up_and_down() {
    let mut stand = Stand::set_up().await;
    create_modern_profile(&stand.client).await;
    let moved = v1::Device { profile_id: MODERN_PROFILE.into(), ..story::device(DEVICE) };
    stand
        .client
        .devices
        .update_device(v1::UpdateDeviceRequest { device: Some(moved) })
        .await
        .expect("a device takes another profile");
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
    for len in [243, 1_000, 100_000] {
        let refused = stand.client.downlinks.enqueue_downlink(enqueue(len)).await.expect_err("too long");
        assert_eq!(refused.code(), Code::InvalidArgument, "{len}: {refused:?}");
        assert!(refused.message().contains("242") && refused.message().contains("payload"), "{refused:?}");
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
    stand.client.downlinks.enqueue_downlink(enqueue(242)).await.expect("it fits the fastest data rate");
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

async fn set_disabled(client: &Client, disabled: bool) {
    let device = v1::Device { disabled, ..story::device(DEVICE) };
    let request = v1::UpdateDeviceRequest { device: Some(device) };
    client.clone().devices.update_device(request).await.expect("a device is changed");
}
