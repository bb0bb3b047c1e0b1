//! Join-Requests that are not to be answered.

use std::collections::BTreeMap;

use loam_tests::story::{self, DEVICE, Stand, Stream, hex};
use loam_tests::{Client, DEADLINE};
use proto::v1;

use crate::{
    APP_KEY, JOIN_EUI, MODERN_PROFILE, OTHER_KEY, counts_agree, create_modern_profile, device_state, otaa,
    register_otaa,
};

/// JOIN-001, JOIN-002, JOIN-004, JOIN-006, JOIN-007, JOIN-020, BACKEND-008: nobody answers them, and only a genuine request uses a nonce.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_that_is_not_to_be_answered_uses_up_nothing() {
    let mut stand = Stand::set_up().await;
    let dev_eui = DEVICE + 7;
    create_modern_profile(&stand.client).await;
    register_otaa(&stand.client, dev_eui, story::PROFILE, &APP_KEY).await;
    register_otaa(&stand.client, dev_eui + 1, MODERN_PROFILE, &APP_KEY).await;
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
    // What the hint says helps.
    let (code, _, err) =
        stand.loam.cli(&["keys", "set", &format!("{:016x}", dev_eui + 2), "--app-key", &hex(&APP_KEY)]);
    assert_eq!(code, 0, "{err}");
    let mut with_key = otaa(dev_eui + 2, JOIN_EUI, &APP_KEY);
    stand.push(&with_key.join_request(0)).await;
    with_key.take_join_accept(&transmission(&mut stand).await).expect("an accept for this device");

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

/// JOIN-020, BACKEND-001: who is not registered costs a look, whoever knows a DevEUI is held to its rate, nothing becomes durable,
/// and a device that may join does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_joins_writes_nothing_and_keeps_nobody_out() {
    let mut stand = Stand::set_up().await;
    let dev_eui = DEVICE + 7;
    register_otaa(&stand.client, dev_eui, story::PROFILE, &APP_KEY).await;
    register_otaa(&stand.client, dev_eui + 1, story::PROFILE, &APP_KEY).await;
    // What the gateway's coming online writes is behind this.
    stand.uplink_arrives(b"before the flood").await;
    let head = head(&stand.client).await;

    // Nobody's: the join server is not asked.
    for number in 0..500_u64 {
        stand.push(&otaa(dev_eui + 100 + number, JOIN_EUI, &APP_KEY).join_request(0)).await;
        if number % 100 == 99 {
            story::drops_reach(&stand.client, "device_unknown", number + 1).await;
        }
    }
    assert_eq!(joins_asked(&stand).await, 0);

    // A stranger who knows a DevEUI, with a nonce of its own in each: 200 at once, then 20 a second.
    let mut impostor = otaa(dev_eui, JOIN_EUI, &OTHER_KEY);
    for number in 0..600_u16 {
        impostor.set_next_dev_nonce(number);
        stand.push(&impostor.join_request(0)).await;
        if number % 100 == 99 {
            story::drops_sum_to(&stand.client, 501 + u64::from(number)).await;
        }
    }
    let counted = story::drop_counts(&stand.client).await;
    assert!(counted["rate_limited"] >= 300, "{counted:?}");
    assert!(joins_asked(&stand).await <= 300, "{}", joins_asked(&stand).await);

    // The other device joins, and until then nothing was written.
    let mut device = otaa(dev_eui + 1, JOIN_EUI, &APP_KEY);
    assert_eq!(self::head(&stand.client).await, head);
    let status = keys_status(&stand.client, dev_eui).await;
    assert_eq!((status.dev_nonces_used, status.join_nonce, status.last_dev_nonce), (0, 0, None), "{status:?}");
    stand.push(&device.join_request(0)).await;
    device.take_join_accept(&transmission(&mut stand).await).expect("the first accept is for this device");
}

/// JOIN-007.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_is_disabled_gets_no_accept() {
    let mut stand = Stand::set_up().await;
    let dev_eui = DEVICE + 7;
    register_otaa(&stand.client, dev_eui, story::PROFILE, &APP_KEY).await;
    let join_eui = format!("{JOIN_EUI:016x}");
    let set = async |disabled| {
        let device = v1::Device { join_eui: join_eui.clone(), disabled, ..story::device(dev_eui) };
        let request = v1::UpdateDeviceRequest { device: Some(device) };
        stand.client.clone().devices.update_device(request).await.expect("a device is changed");
    };
    set(true).await;
    let mut device = otaa(dev_eui, JOIN_EUI, &APP_KEY);

    stand.push(&device.clone().join_request(0)).await;

    story::drops_reach(&stand.client, "device_disabled", 1).await;
    assert_eq!(keys_status(&stand.client, dev_eui).await.dev_nonces_used, 0);
    set(false).await;
    stand.push(&device.join_request(0)).await;
    device.take_join_accept(&transmission(&mut stand).await).expect("the first accept is for this device");
}

/// How often the join server was asked.
async fn joins_asked(stand: &Stand) -> u64 {
    let (_, metrics) = story::http_get(stand.loam.api, "/metrics").await;
    let count = metrics.lines().find_map(|line| line.strip_prefix("loam_join_seconds_count "));
    count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no count of joins in\n{metrics}"))
}

/// The number of the last event.
async fn head(client: &Client) -> u64 {
    let list = client.clone().events.list_consumers(v1::ListConsumersRequest {}).await.expect("a list");
    list.into_inner().head
}

/// The next frame the gateway is asked to send.
async fn transmission(stand: &mut Stand) -> Vec<u8> {
    let next = tokio::time::timeout(DEADLINE, stand.downlinks.recv()).await;
    next.expect("a downlink before the deadline").expect("the gateway goes on").phy_payload
}

async fn keys_status(client: &Client, dev_eui: u64) -> v1::GetKeysStatusResponse {
    let request = v1::GetKeysStatusRequest { dev_eui: format!("{dev_eui:016x}") };
    client.clone().devices.get_keys_status(request).await.expect("a status").into_inner()
}
