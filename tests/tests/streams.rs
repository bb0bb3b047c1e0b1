//! What integrators get: streams that resume exactly, filters, and every road to the API.

use std::collections::HashMap;
use std::time::Duration;

use loam_tests::DEADLINE;
use loam_tests::story::{self, Stream};
use loam_tests::world::{End, World, dev_eui, name};
use proto::v1::watch_request::Start;
use proto::v1::{self, EventKind, Region, event::Kind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

/// AS-003, AS-004.
#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_resumes_exactly_after_a_restart_however_the_server_ended() {
    let mut world = World::start(Region::Eu868, 1).await;
    let mut device = world.abp(1).await;
    for payload in [b"one", b"two", b"six"] {
        world.send(&mut device, payload).await;
        world.uplink_of(1).await;
    }
    let mut stream = Stream::earliest(&world.client).await;
    stream.uplink().await;
    let cursor = stream.cursor.clone();

    for end in [End::Terminate, End::Kill] {
        let is_uplink = |event: &v1::Event| matches!(event.kind, Some(Kind::Uplink(_)));
        let behind = world.seen.iter().position(is_uplink).expect("three of them") + 1;
        let rest: Vec<String> = world.seen[behind..].iter().map(|event| event.id.clone()).collect();
        world.restart(end).await;
        let mut resumed = watch(&world, Start::Cursor(cursor.clone())).await;
        for id in &rest {
            assert_eq!(&resumed.event().await.id, id, "after {end:?}");
        }
        let fcnt_up = device.next_fcnt_up();
        world.send(&mut device, b"ten").await;
        assert_eq!(resumed.uplink().await.1.fcnt_up, fcnt_up);
        // The stream that was open at the end goes on as well, without a gap and without a repetition.
        assert_eq!(world.uplink_of(1).await.fcnt_up, fcnt_up);
    }
    assert_eq!(world.counters_seen(1), [0, 1, 2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_consumer_goes_on_behind_what_it_has_acknowledged() {
    let mut world = World::start(Region::Eu868, 1).await;
    let mut device = world.abp(1).await;
    for payload in [b"one", b"two", b"six"] {
        world.send(&mut device, payload).await;
        world.uplink_of(1).await;
    }
    let billing = v1::WatchRequest { consumer: "billing".into(), ..v1::WatchRequest::default() };

    // A new consumer begins with the earliest event. It reads two uplinks and acknowledges one.
    let mut stream = Stream::open(&world.client, billing.clone()).await;
    assert_eq!(stream.uplink().await.1.fcnt_up, 0);
    let after_first = stream.cursor.clone();
    assert_eq!(stream.uplink().await.1.fcnt_up, 1);
    let after_second = stream.cursor.clone();
    acknowledge(&world, &after_first).await;
    world.restart(End::Kill).await;
    let mut stream = Stream::open(&world.client, billing.clone()).await;
    assert_eq!(stream.uplink().await.1.fcnt_up, 1);

    // An acknowledgement that comes late moves nothing back.
    acknowledge(&world, &after_second).await;
    acknowledge(&world, &after_first).await;
    world.restart(End::Terminate).await;
    let mut stream = Stream::open(&world.client, billing).await;
    assert_eq!(stream.uplink().await.1.fcnt_up, 2);
    let list =
        world.client.events.list_consumers(v1::ListConsumersRequest {}).await.expect("a list").into_inner();
    let [consumer] = list.consumers.as_slice() else { panic!("{list:?}") };
    assert_eq!((consumer.name.as_str(), consumer.streams), ("billing", 1));
    assert_eq!(consumer.lag, list.head - consumer.position);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_starts_where_it_is_told() {
    let mut world = World::start(Region::Eu868, 1).await;
    let mut device = world.abp(1).await;
    let mut times_us = Vec::new();
    for payload in [b"one", b"two"] {
        world.send(&mut device, payload).await;
        world.uplink_of(1).await;
        times_us.push(world.seen.last().expect("an event").received_at_us);
    }

    let mut earliest = watch(&world, Start::Earliest(true)).await;
    let mut latest = watch(&world, Start::Latest(true)).await;
    let mut from_time = watch(&world, Start::ReceivedAtUs(times_us[1])).await;
    world.send(&mut device, b"six").await;

    assert_eq!(earliest.uplink().await.1.fcnt_up, 0);
    assert_eq!(from_time.uplink().await.1.fcnt_up, 1);
    assert_eq!(latest.uplink().await.1.fcnt_up, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_lets_through_what_it_names_and_nothing_else() {
    let mut world = World::start(Region::Eu868, 1).await;
    let other = v1::CreateApplicationRequest { id: "barn".into(), name: "Barn".into() };
    world.client.applications.create_application(other).await.expect("a new application");
    let mut first = world.abp(1).await;
    let mut second = world.abp(2).await;
    let moved = v1::Device {
        application_id: "barn".into(),
        tags: HashMap::from([("kind".into(), "scale".into()), ("row".into(), "7".into())]),
        ..story::device(dev_eui(2))
    };
    let moved = v1::UpdateDeviceRequest { device: Some(moved) };
    world.client.devices.update_device(moved).await.expect("an update");

    // The first device speaks on port 1, the second on port 2 with the last word.
    world.send(&mut first, b"one").await;
    world.uplink_of(1).await;
    world.carry(second.uplink(0, Some((2, b"two")), false)).await;
    world.uplink_of(2).await;

    let tags = HashMap::from([("kind".into(), "scale".into())]);
    let filters = [
        v1::WatchRequest { application_ids: vec!["barn".into()], ..v1::WatchRequest::default() },
        v1::WatchRequest { dev_euis: vec![name(2)], ..v1::WatchRequest::default() },
        v1::WatchRequest {
            f_ports: vec![2],
            kinds: vec![EventKind::Uplink.into()],
            ..v1::WatchRequest::default()
        },
        v1::WatchRequest { tags, ..v1::WatchRequest::default() },
    ];
    for filter in filters {
        let words = format!("{filter:?}");
        let mut stream =
            Stream::open(&world.client, v1::WatchRequest { start: Some(Start::Earliest(true)), ..filter })
                .await;
        let event = stream.event().await;
        let Some(Kind::Uplink(uplink)) = &event.kind else { panic!("{event:?} with {words}") };
        assert_eq!((event.dev_eui.clone(), uplink.f_port), (name(2), Some(2)), "{words}");
        assert_eq!(event.tags.get("row").map(String::as_str), Some("7"));
    }
    let start = Some(Start::Earliest(true));
    let kinds = vec![EventKind::Gateway.into()];
    let mut gateways =
        Stream::open(&world.client, v1::WatchRequest { start, kinds, ..v1::WatchRequest::default() }).await;
    assert!(matches!(gateways.event().await.kind, Some(Kind::Gateway(_))));

    // What can match nothing is refused instead of waited for.
    let nonsense = v1::WatchRequest { dev_euis: vec!["70b3".into()], ..v1::WatchRequest::default() };
    let status = world.client.events.watch(nonsense).await.expect_err("four digits are no DevEUI");
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(
        status.message().contains("dev_euis") && status.message().contains("16 hexadecimal digits"),
        "{status}"
    );
}

// ---- roads to the API ---------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_reaches_the_api_by_grpc_web_over_http_1() {
    let mut world = World::start(Region::Eu868, 1).await;

    let info = grpc_web(&world, "loam.v1.SystemService/GetInfo", &[]).await;
    assert!(info.starts_with("HTTP/1.1 200"), "{info}");
    assert!(info.to_lowercase().contains("content-type: application/grpc-web"), "{info}");
    assert!(info.contains("grpc-status:0"), "{info}");

    // Streams too: an event reaches the browser while the answer stays open.
    let mut device = world.abp(1).await;
    world.send(&mut device, b"seen in a browser").await;
    world.uplink_of(1).await;
    let start_earliest = [0x18, 0x01];
    let stream =
        grpc_web_until(&world, "loam.v1.EventService/Watch", &start_earliest, "seen in a browser").await;
    assert!(stream.starts_with("HTTP/1.1 200"), "{stream}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_lists_every_service() {
    let world = World::start(Region::Eu868, 0).await;
    let channel =
        tonic::transport::Endpoint::from_shared(format!("http://{}", world.loam().api)).expect("a URL");
    let mut client = ServerReflectionClient::new(channel.connect_lazy());

    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers =
        client.server_reflection_info(tokio_stream::iter([ask])).await.expect("reflection is open to all");
    let answer = answers.into_inner().message().await.expect("an answer").expect("one answer");

    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}")
    };
    let services: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["Application", "Codec", "Device", "Downlink", "Event", "Gateway", "Profile", "System"] {
        let service = format!("loam.v1.{name}Service");
        assert!(services.contains(&service.as_str()), "{service} is not in {services:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_is_told_that_the_server_is_healthy() {
    let world = World::start(Region::Eu868, 0).await;

    let answer = grpc_web(&world, "grpc.health.v1.Health/Check", &[]).await;

    let serving = "\u{8}\u{1}";
    assert!(answer.contains(serving) && answer.contains("grpc-status:0"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_key_nothing_is_told() {
    let world = World::start(Region::Eu868, 0).await;
    let mut stranger =
        loam_tests::Client::new(world.loam().api, "loam_0000000000000000000000000000000000000000");

    let status = stranger.system.get_info(v1::GetInfoRequest {}).await.expect_err("a key nobody made");

    assert_eq!(status.code(), tonic::Code::Unauthenticated);
    let status = stranger.events.watch(v1::WatchRequest::default()).await.expect_err("a key nobody made");
    assert_eq!(status.code(), tonic::Code::Unauthenticated);
}

async fn watch(world: &World, start: Start) -> Stream {
    Stream::open(&world.client, v1::WatchRequest { start: Some(start), ..v1::WatchRequest::default() }).await
}

async fn acknowledge(world: &World, cursor: &[u8]) {
    let request = v1::AcknowledgeRequest { consumer: "billing".into(), cursor: cursor.to_vec() };
    world.client.clone().events.acknowledge(request).await.expect("a cursor of this stream");
}

/// One call as a browser makes it; the whole answer as text.
async fn grpc_web(world: &World, method: &str, message: &[u8]) -> String {
    grpc_web_until(world, method, message, "grpc-status:").await
}

/// Like [`grpc_web`], but reads only until `wanted` came.
async fn grpc_web_until(world: &World, method: &str, message: &[u8], wanted: &str) -> String {
    let key =
        std::fs::read_to_string(world.data_dir().join("admin.key")).expect("the first start makes the key");
    let mut socket = tokio::net::TcpStream::connect(world.loam().api).await.expect("the API listens");
    let head = format!(
        "POST /{method} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/grpc-web+proto\r\nx-grpc-web: 1\r\n\
         authorization: Bearer {}\r\ncontent-length: {}\r\n\r\n",
        world.loam().api,
        key.trim(),
        message.len() + 5,
    );
    let mut request = head.into_bytes();
    request.push(0);
    request.extend(u32::try_from(message.len()).expect("short").to_be_bytes());
    request.extend_from_slice(message);
    socket.write_all(&request).await.expect("the API listens");
    let mut answer = Vec::new();
    let read = async {
        let mut part = [0; 4_096];
        loop {
            let len = socket.read(&mut part).await.expect("an answer");
            answer.extend_from_slice(&part[..len]);
            if len == 0 || String::from_utf8_lossy(&answer).contains(wanted) {
                return;
            }
        }
    };
    let in_time = tokio::time::timeout(DEADLINE.min(Duration::from_secs(10)), read).await.is_ok();
    let text = String::from_utf8_lossy(&answer).into_owned();
    assert!(in_time, "no `{wanted}` in time: {text}");
    text
}
