//! Codecs that fail.

use loam_tests::story::{self, DEV_ADDR, DEVICE, Stand, Stream};
use proto::v1;
use tonic::Code;

/// CODEC-004, CODEC-005: a codec that fails costs its own decoding and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_codec_that_fails_delivers_the_bytes_and_what_happened() {
    let mut stand = Stand::set_up().await;
    let codecs = [
        ("loops", "function decodeUplink(i) { for (;;) {} }", "50 ms"),
        ("throws", "function decodeUplink(i) { throw new Error('sensor on fire'); }", "sensor on fire"),
        ("allocates", "function decodeUplink(i) { return { data: { s: 'x'.repeat(0x3ffffff0) } }; }", "memory"),
        (
            "recurses",
            "function f(n) { return f(n + 1) + 1; } function decodeUplink(i) { return { data: { n: f(0) } }; }",
            "recurs",
        ),
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
            let (_, uplink) =
                arrived.iter().find(|(event, _)| event.dev_eui == name).expect("each device is heard");
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
