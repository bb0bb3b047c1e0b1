//! Join-Requests that are not to be answered.

use std::collections::BTreeMap;

use loam_tests::story::{self, DEVICE, Stand, Stream, hex};
use loam_tests::{Client, DEADLINE};
use proto::v1;

use crate::{
    APP_KEY, JOIN_EUI, MODERN_PROFILE, OTHER_KEY, counts_agree, create_modern_profile, device_state, otaa,
    register_otaa,
};

/// JOIN-001, JOIN-002, JOIN-004, JOIN-006, JOIN-007, JOIN-020: nobody answers them, and only a genuine request uses a nonce.
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

/// The next frame the gateway is asked to send.
async fn transmission(stand: &mut Stand) -> Vec<u8> {
    let next = tokio::time::timeout(DEADLINE, stand.downlinks.recv()).await;
    next.expect("a downlink before the deadline").expect("the gateway goes on").phy_payload
}

async fn keys_status(client: &Client, dev_eui: u64) -> v1::GetKeysStatusResponse {
    let request = v1::GetKeysStatusRequest { dev_eui: format!("{dev_eui:016x}") };
    client.clone().devices.get_keys_status(request).await.expect("a status").into_inner()
}
